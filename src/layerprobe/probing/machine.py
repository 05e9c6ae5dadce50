"""How long this machine takes for each kind of work that fits are made of: measured, in a second or so."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from layerprobe.probing.matrix import blocks
from layerprobe.probing.solvers.duality import certify
from layerprobe.probing.solvers.logistic import Logistic
from layerprobe.probing.solvers.operations import Operations
from layerprobe.probing.solvers.path import Path as L2Path
from layerprobe.probing.solvers.path import Samples
from layerprobe.probing.solvers.threads import threads_for
from layerprobe.probing.spill import SpilledRows, SpillFile
from layerprobe.probing.standardise import StandardisedRows, Standardiser

_NARROW = 32
_ROWS = 2048
_PRODUCT = 4e8
"""Samples × features × columns of the products that are timed, at most."""

_LARGEST = 1024
"""Largest matrix that is decomposed to see how long that takes."""

_ENOUGH = 0.05
"""Seconds after which a measurement is not repeated."""


def measure(
    kinds: Operations, width: int, columns: int, device: torch.device, spill_directory: Path | None = None
) -> Operations:
    """Time one of each kind of work, by running the code that does it on random numbers.

    Args:
        kinds: What is of interest: where a count is 0, nothing is measured.
        width: Features of the widest layer.
        columns: Columns of thin products: the classes.
        device: Where fits run.
        spill_directory: Where features would be kept that do not fit into memory.

    Returns:
        Seconds for one of each, 0 where nothing was measured. Disks are measured by what the system's cache takes and
        gives: a spill of more than the free memory is slower.
    """
    bench = _Bench(device, max(width, 1), max(columns, 2))
    found: dict[str, float] = {}
    if kinds.scores or kinds.thin:
        found |= bench.evaluation()
        found["steps"] = bench.step()
    elif kinds.steps:
        found["steps"] = bench.step()
    if kinds.scores_double or kinds.thin_double:
        found |= bench.certificate()
    if kinds.square:
        found["square"] = bench.square(torch.float32)
    if kinds.square_double:
        found["square_double"] = bench.square(torch.float64)
    if kinds.eigen:
        found["eigen"] = bench.eigen(torch.float32)
    if kinds.eigen_double:
        found["eigen_double"] = bench.eigen(torch.float64)
    if kinds.elements:
        found["elements"] = bench.standardise()
    if kinds.writes:
        found |= bench.spill(spill_directory)
    return Operations(**found)


class _Bench:
    def __init__(self, device: torch.device, width: int, columns: int) -> None:
        self.device, self.width, self.columns = device, width, columns
        self.generator = torch.Generator().manual_seed(0)

    def made(self, n: int, d: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.randn(n, d, generator=self.generator).to(self.device, dtype)

    def seconds(self, run: Callable[[], object]) -> float:
        """The shortest of a few runs after one that pays for what happens once."""
        run()
        times: list[float] = []
        while len(times) < 5 and sum(times) < _ENOUGH:
            self._wait()
            start = time.perf_counter()
            run()
            self._wait()
            times.append(time.perf_counter() - start)
        return min(times)

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def rows(self, d: int, columns: int) -> int:
        return int(min(_ROWS, max(256, _PRODUCT / (d * columns))))

    def labels(self, n: int) -> Tensor:
        return (torch.arange(n) % self.columns).to(self.device)

    def evaluation(self) -> dict[str, float]:
        """One evaluation of the logistic objective at two widths: its time is samples × columns × (a + b·width)."""
        each: list[float] = []
        widths = (_NARROW, max(self.width, 4 * _NARROW))
        for d in widths:
            n = self.rows(d, self.columns)
            samples = Samples(self.made(n, d), self.labels(n), self.columns, torch.float32)
            objective = samples.objective(torch.float32)
            heads, l2 = 0.01 * self.made(self.columns - 1, d + 1)[None], self.made(1, 1, torch.float64)[0].abs()
            each.append(self.seconds(partial(objective, heads, l2, self.columns <= 64)) / (n * self.columns))
        return _line("scores", "thin", widths, each)

    def certificate(self) -> dict[str, float]:
        """One certificate at two widths, likewise."""
        each: list[float] = []
        widths = (_NARROW, max(self.width, 4 * _NARROW))
        for d in widths:
            n = self.rows(d, 4 * self.columns)
            x, y, l2 = self.made(n, d), self.labels(n), torch.ones(1, dtype=torch.float64, device=self.device)
            weight, bias = self.made(self.columns, d, torch.float64)[None], l2.new_zeros(1, self.columns)
            each.append(self.seconds(partial(certify, x, y, weight, bias, l2)) / (n * self.columns))
        return _line("scores_double", "thin_double", widths, each)

    def step(self) -> float:
        """Iterations of a problem with next to no samples and features."""
        n, iterations = 2 * self.columns, 20
        c = min(self.columns, 64)
        x, y = self.made(n, 4), (torch.arange(n) % c).to(self.device)
        samples = Samples(x, y, c, torch.float32)
        path = L2Path(samples, torch.ones(4, device=self.device), None, 0.0, -1.0, iterations, Logistic.memory)
        l2 = torch.ones(1, dtype=torch.float64, device=self.device)
        with threads_for(0.0):
            return self.seconds(lambda: path.follow(l2)) / iterations

    def square(self, dtype: torch.dtype) -> float:
        d = min(self.width, _LARGEST)
        x = self.made(_ROWS, d)
        return self.seconds(lambda: x.to(dtype).T @ x.to(dtype)) / (_ROWS * d * d)

    def eigen(self, dtype: torch.dtype) -> float:
        d = min(self.width, _LARGEST)
        x = self.made(2 * d, d, dtype)
        gram = x.T @ x
        return self.seconds(lambda: torch.linalg.eigh(gram)) / d**3

    def standardise(self) -> float:
        x = self.made(_ROWS, max(min(self.width, _LARGEST), _NARROW))
        return self.seconds(lambda: Standardiser.fit(x).apply_(x.clone())) / x.numel()

    def spill(self, directory: Path | None) -> dict[str, float]:
        """Rows written to disk as they are recorded, and read as they are fitted."""
        x = self.made(_ROWS, max(min(self.width, _LARGEST), _NARROW))
        file = SpillFile(directory)
        try:
            rows = SpilledRows(file, x.shape[1], x.dtype, x.dtype, self.device)
            start = time.perf_counter()
            for part in x.split(256):
                rows.append(part)
            writes = (time.perf_counter() - start) / x.numel()
            read = StandardisedRows(rows, Standardiser.fit(x))
            reads = self.seconds(lambda: [float(part[0, 0]) for part in blocks(read, 256 * x.shape[1])]) / x.numel()
        finally:
            file.close()
        return {"writes": writes, "reads": reads}


def _line(fixed: str, rising: str, at: tuple[int, int], seconds: list[float]) -> dict[str, float]:
    """The line through two measurements, no part of it below 0."""
    slope = max((seconds[1] - seconds[0]) / (at[1] - at[0]), 0.0)
    return {rising: slope, fixed: max(seconds[0] - slope * at[0], 0.0)}
