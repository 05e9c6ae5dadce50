"""How long this machine takes for each kind of work that fits are made of: measured, in a second or so."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from layerprobe.probing.features.disk import SpilledRows, SpillFile
from layerprobe.probing.features.oom import free_cache
from layerprobe.probing.features.row_blocks import blocks
from layerprobe.probing.features.scaler import StandardisedRows, Standardiser
from layerprobe.probing.solvers.cpu_threads import threads_for
from layerprobe.probing.solvers.cuda_graphs import Graphed
from layerprobe.probing.solvers.duality_gap import certify
from layerprobe.probing.solvers.l2_path import Path as L2Path
from layerprobe.probing.solvers.l2_path import Samples
from layerprobe.probing.solvers.logistic import Logistic
from layerprobe.probing.solvers.operation_counts import Operations
from layerprobe.probing.solvers.softmax_objective import Evaluation

_NARROW = 32

_WIDTH = 1 << 10
"""Features of a product of features with themselves, and of what is standardised, at most."""

_ENDS = (4, 24)
"""Iterations of the two fits that tell what one iteration takes and what comes before the first."""


@dataclass(frozen=True)
class _Sizes:
    """How large what is timed is, at most.

    Attributes:
        rows: Samples of a product.
        product: Samples × features × columns of one with few columns.
        matrix: Elements of it.
        square: Samples of a product of features with themselves.
        eigen: The matrix that is decomposed.
    """

    rows: int
    product: float
    matrix: int
    square: int
    eigen: int


_CPU = _Sizes(1 << 11, 4e8, 1 << 30, 1 << 11, 1 << 10)
_GPU = _Sizes(1 << 17, 1e11, 1 << 27, 1 << 15, 1 << 11)
"""What is smaller takes as long as it takes to be launched."""

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
    try:
        found: dict[str, float] = {}
        if kinds.scores or kinds.thin:
            found |= bench.evaluation()
        if kinds.scores or kinds.thin or kinds.steps or kinds.fits:
            found |= bench.iteration()
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
    finally:
        free_cache()  # what the largest product took is for features
    return Operations(**found)


class _Bench:
    def __init__(self, device: torch.device, width: int, columns: int) -> None:
        self.device, self.width, self.columns = device, width, columns
        self.on_gpu = device.type == "cuda"
        self.sizes = _GPU if self.on_gpu else _CPU
        self.generator = torch.Generator(device).manual_seed(0)

    def made(self, n: int, d: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.randn(n, d, generator=self.generator, device=self.device).to(dtype)

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
        if self.on_gpu:
            torch.cuda.synchronize(self.device)

    def rows(self, d: int, columns: int) -> int:
        return int(min(self.sizes.rows, max(256, self.sizes.product / (d * columns)), max(256, self.sizes.matrix / d)))

    def labels(self, n: int) -> Tensor:
        return (torch.arange(n) % self.columns).to(self.device)

    def evaluation(self) -> dict[str, float]:
        """One evaluation of the logistic objective at two widths: its time is samples × columns × (a + b·width)."""
        each: list[float] = []
        widths = (_NARROW, max(self.width, 4 * _NARROW))
        for d in widths:
            n = self.rows(d, self.columns)
            samples = Samples(self.made(n, d), self.labels(n), self.columns, torch.float32)
            evaluate: Callable[..., Evaluation] = samples.objective(torch.float32)
            if self.on_gpu:
                evaluate = Graphed(evaluate)
            heads, l2 = 0.01 * self.made(self.columns - 1, d + 1)[None], self.made(1, 1, torch.float64)[0].abs()
            run = partial(evaluate, heads, l2, with_curvature=self.columns <= 64)
            each.append(self.seconds(run) / (n * self.columns))
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

    def iteration(self) -> dict[str, float]:
        """Iterations of a problem with next to no samples and features, and on a GPU what comes before the first."""
        c = min(self.columns, 64)
        y = (torch.arange(2 * self.columns) % c).to(self.device)
        samples = Samples(self.made(len(y), 4), y, c, torch.float32)
        l2 = torch.ones(1, dtype=torch.float64, device=self.device)

        def fit(iterations: int) -> float:
            path = L2Path(samples, torch.ones(4, device=self.device), None, 0.0, -1.0, iterations, Logistic.memory)
            with threads_for(0.0):
                return self.seconds(lambda: path.follow(l2))

        few, many = _ENDS
        if not self.on_gpu:
            return {"steps": fit(many) / many}
        start, end = fit(few), fit(many)
        steps = max(end - start, 0.0) / (many - few)
        return {"steps": steps, "fits": max(start - few * steps, 0.0)}

    def square(self, dtype: torch.dtype) -> float:
        x = self.made(self.sizes.square, min(self.width, _WIDTH))
        return self.seconds(lambda: x.to(dtype).T @ x.to(dtype)) / (len(x) * x.shape[1] ** 2)

    def eigen(self, dtype: torch.dtype) -> float:
        d = min(self.width, self.sizes.eigen)
        x = self.made(2 * d, d, torch.float64 if self.on_gpu else dtype)  # as a GPU's are decomposed
        gram = x.T @ x
        return self.seconds(lambda: torch.linalg.eigh(gram)) / d**3

    def standardise(self) -> float:
        x = self.made(self.sizes.square, max(min(self.width, _WIDTH), _NARROW))
        return self.seconds(lambda: Standardiser.fit(x).apply_(x.clone())) / x.numel()

    def spill(self, directory: Path | None) -> dict[str, float]:
        """Rows written to disk as they are recorded, and read as they are fitted."""
        x = self.made(_CPU.rows, max(min(self.width, _WIDTH), _NARROW))
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
