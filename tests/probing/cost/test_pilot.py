from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from layerprobe.probing.capture.freeze import freeze
from layerprobe.probing.capture.layers import Layer
from layerprobe.probing.cost.pilot import Sample, fit_seconds, record_sample
from layerprobe.probing.discovery import discover_layers
from layerprobe.probing.features.reducers import Flatten
from layerprobe.probing.fitting import Ways
from layerprobe.probing.protocol import ProbeProtocol
from layerprobe.probing.resources import DEFAULTS, Resources
from layerprobe.probing.solvers.ridge import Ridge
from layerprobe.probing.solvers.solution import Solution
from layerprobe.types import SPLITS, Split

EVALUATIONS = 5


class Clock:
    """Time that passes where it is said to, and hardly elsewhere."""

    now = 100.0

    def __call__(self) -> float:
        self.now += 1e-9
        return self.now


@dataclass(frozen=True)
class Timed(Ridge):
    """Least squares, which takes a known time."""

    clock: Any = None
    each: tuple[float, float, float] = (1e-3, 1e-5, 1e-6)

    def solve(self, features: Any, *args: Any, **more: Any) -> Solution:
        n, d = features.shape
        a, b, c = self.each
        found = super().solve(features, *args, **more)
        self.clock.now += EVALUATIONS * len(found.gap) * (a + b * n + c * n * d)
        return replace(found, iterations=torch.full_like(found.iterations, EVALUATIONS))


def recorded(y: Tensor, protocol: ProbeProtocol) -> tuple[Sample, Ways]:
    network = nn.Sequential(nn.Linear(6, 40), nn.ReLU(), nn.Linear(40, 17), nn.ReLU(), nn.Linear(17, 3))
    x = torch.randn(len(y), 6, generator=torch.Generator().manual_seed(0))
    data: dict[Split, Any] = dict.fromkeys(SPLITS, (x, y))
    with freeze(network) as frozen:
        ways = discover_layers(frozen, data, protocol, DEFAULTS).ways
        return record_sample(frozen, data, protocol, DEFAULTS, ways), ways


def one(layer: Layer, n: int) -> int:
    return 1


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(time, "perf_counter", clock)
    return clock


SAMPLES = {"train": 50_000, "val": 1_000, "test": 1_000}
CLASSES = torch.arange(400) % 4


def protocol(clock: Clock, *each: float) -> ProbeProtocol:
    return ProbeProtocol(solvers=(Timed(clock=clock, each=each),), l2=(0.1, 1.0), reducers=(Flatten(),))


@pytest.mark.parametrize("each", [(1e-4, 1e-7, 1e-9), (0.02, 1e-4, 1e-6)], ids=["every layer", "two of them"])
def test_the_time_of_small_fits_is_taken_to_all_samples_and_layers(clock: Clock, each: tuple[float, ...]) -> None:
    sample, ways = recorded(CLASSES, protocol(clock, *each))
    found = fit_seconds(sample, ways, protocol(clock, *each), DEFAULTS, SAMPLES, 4, (), one)
    assert [layer.shape for layer in found] == [(6,), (40,), (40,), (17,), (17,), (3,)]
    a, b, c = each
    for layer, seconds in found.items():
        expected = 2 * EVALUATIONS * (a + b * 50_000 + c * 50_000 * layer.shape[0])
        assert seconds == pytest.approx(expected, rel=1e-3)


def test_classes_that_a_sample_lacks_and_threads_count_for_each_sample(clock: Clock) -> None:
    sweep = protocol(clock, 1e-3, 0.0, 1e-6)
    sample, ways = recorded(CLASSES, sweep)
    eight = fit_seconds(sample, ways, sweep, DEFAULTS, SAMPLES, 8, (), one)
    four_threads = fit_seconds(sample, ways, sweep, DEFAULTS, SAMPLES, 4, (), lambda layer, n: 4 if n > 1000 else 1)
    for layer in ways:
        work = 1e-6 * 50_000 * layer.shape[0]
        assert eight[layer] == pytest.approx(2 * EVALUATIONS * (1e-3 + 2 * work), rel=1e-3)
        assert four_threads[layer] == pytest.approx(2 * EVALUATIONS * (1e-3 + work / 4), rel=1e-3)


def test_samples_that_are_all_alike_are_planned_with(clock: Clock) -> None:
    sweep = protocol(clock, 1e-3, 0.0, 0.0)
    sample, ways = recorded(torch.zeros(400, dtype=torch.int64), sweep)
    found = fit_seconds(sample, ways, sweep, DEFAULTS, SAMPLES, 2, (), one)
    assert found == pytest.approx(dict.fromkeys(ways, 2 * EVALUATIONS * 1e-3))


def test_the_pilot_of_a_short_probe_is_shorter(clock: Clock) -> None:
    """A warm-up and three layers, twice each, of six that would have found the time to be fitted four times."""
    sweep = protocol(clock, 2e-3, 0.0, 0.0)
    sample, ways = recorded(CLASSES, sweep)
    start, fit = clock.now, 2 * EVALUATIONS * 2e-3
    found = fit_seconds(sample, ways, sweep, DEFAULTS, dict.fromkeys(SPLITS, 400), 4, (), one)
    assert clock.now - start == pytest.approx((1 + 3 * 2) * fit, rel=1e-3)
    assert found == pytest.approx(dict.fromkeys(ways, fit), rel=1e-3)


def test_a_layer_that_cannot_be_fitted_tells_nothing(clock: Clock, tmp_path: Path) -> None:
    sweep, nowhere = protocol(clock, 1e-3, 0.0, 0.0), Resources(spill_directory=str(tmp_path / "none"))
    sample, ways = recorded(CLASSES, sweep)
    found = fit_seconds(sample, ways, sweep, nowhere, SAMPLES, 4, {next(iter(ways)).name}, one)
    assert found == pytest.approx(dict.fromkeys(ways, 2 * EVALUATIONS * 1e-3), rel=1e-3)
