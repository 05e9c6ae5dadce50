"""Time the recording of every layer against the plain forward pass, and see what memory it takes.

Plain passes and recordings are interleaved. Recording is timed with a callee that does nothing, and with the reducer,
whose own time is taken off: what is left is the cost of watching.
"""

from __future__ import annotations

import resource
import sys
import time
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import hydra
import pandas as pd
import torch
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from layerprobe.api.layer_list import layers as list_layers
from layerprobe.compat.torch import viewed
from layerprobe.config import register
from layerprobe.probing.capture.activations import LayerReader
from layerprobe.probing.capture.call_arguments import Arguments
from layerprobe.probing.capture.freeze import freeze
from layerprobe.probing.capture.granularity import Granularity
from layerprobe.probing.capture.layers import Layer
from layerprobe.probing.features.reducers import AbstractReducer, Reduction


@hydra.main(version_base="1.3", config_path="../../conf", config_name="benchmark/recording")
def main(cfg: DictConfig) -> None:
    torch.manual_seed(cfg.seed)
    network: nn.Module = hydra.utils.instantiate(cfg.model)
    (reducer,) = hydra.utils.instantiate(cfg.probe.reducers, _convert_="all").values()
    x = torch.randn(cfg.batch_size, *cfg.shape)
    rows = [
        timed(network, x, granularity, reducer, cfg.repeats) | kept(network, x, granularity, reducer, cfg.n_batches)
        for granularity in cfg.granularities
    ]
    frame = pd.DataFrame(rows)
    frame.to_csv(Path(HydraConfig.get().runtime.output_dir) / "recording.csv", index=False)
    table = Table(title=f"{cfg.model.name}, batch of {cfg.batch_size}, {torch.get_num_threads()} threads")
    table.add_column("")
    for row in rows:
        table.add_column(str(row["granularity"]), justify="right")
    for name in frame.columns[1:]:
        table.add_row(name, *(f"{row[name]:.4g}" for row in rows))
    Console().print(table)


def timed(
    network: nn.Module, x: Tensor, granularity: Granularity, reducer: AbstractReducer, repeats: int
) -> dict[str, Any]:
    """Times in seconds, and the ratios to the plain pass, of minima and of medians."""
    layers = list_layers(network, x, granularity=granularity).layers
    reductions = {layer: reducer.fit(layer.shape, 0) for layer in layers}
    reducing = 0.0

    def reduce(layer: Layer, activation: Tensor) -> None:
        nonlocal reducing
        start = time.perf_counter()
        reductions[layer](activation)
        reducing += time.perf_counter() - start

    with freeze(network) as frozen:
        read, given = LayerReader(frozen, layers), Arguments.of(x)
        ways: dict[str, Callable[[], object]] = {
            "plain": lambda: network(x),
            "record": lambda: read(given, lambda layer, activation: None),
            "record_and_reduce": lambda: read(given, reduce),
        }
        times: dict[str, list[float]] = {name: [] for name in (*ways, "reduce", "record_less_reduce")}
        for number in range(repeats + 1):
            for name, call in ways.items():
                reducing, start = 0.0, time.perf_counter()
                call()
                if number:  # the first round warms up
                    times[name].append(time.perf_counter() - start)
                    if name == "record_and_reduce":
                        times["reduce"].append(reducing)
                        times["record_less_reduce"].append(times[name][-1] - reducing)
    found: dict[str, Any] = {"granularity": granularity, "layers": len(layers)}
    for statistic, of in (("min", min), ("median", median)):
        found |= {f"{name} {statistic}, s": of(values) for name, values in times.items()}
        for name in ("record", "record_less_reduce"):
            found[f"{name} / plain, {statistic}"] = of(times[name]) / of(times["plain"])
    return found


def kept(
    network: nn.Module, x: Tensor, granularity: Granularity, reducer: AbstractReducer, n_batches: Sequence[int]
) -> dict[str, Any]:
    """Most bytes of activations alive at a time, and the growth of the process, for data of several sizes."""
    layers = list_layers(network, x, granularity=granularity).layers
    reductions = {layer: reducer.fit(layer.shape, 0) for layer in layers}
    found: dict[str, Any] = {}
    for number in n_batches:
        before, live = peak_resident(), _Live(reductions)
        with freeze(network) as frozen:
            read, given = LayerReader(frozen, layers), Arguments.of(x)
            for _ in range(number):
                read(given, live)
        found[f"activations alive at most, {number} batches, MB"] = live.most / 1e6
        found[f"features kept, {number} batches, MB"] = sum(part.nbytes for part in live.features) / 1e6
        found[f"process grown by, {number} batches, MB"] = (peak_resident() - before) / 1e6
    return found


class _Live:
    """Keeps features, and counts the bytes of the activations that were handed out and are still there."""

    def __init__(self, reductions: dict[Layer, Reduction]) -> None:
        self.reductions, self.features, self.most = reductions, list[Tensor](), 0
        self._alive: dict[int, int] = {}

    def __call__(self, layer: Layer, activation: Tensor) -> None:
        storage = activation.untyped_storage()
        key = storage.data_ptr()
        self._alive[key] = storage.nbytes()
        weakref.finalize(viewed(activation), self._alive.pop, key, None)
        self.most = max(self.most, sum(self._alive.values()))
        self.features.append(self.reductions[layer](activation))


def peak_resident() -> int:
    """Most memory that the process has had, in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


if __name__ == "__main__":
    register()
    main()
