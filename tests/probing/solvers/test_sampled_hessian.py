"""Hessian of sampled rows: the mean is the Hessian, and steps with it end at the certified optimum."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from weakref import WeakSet

import pytest
import torch
import torch.nn.functional as F
from sklearn.linear_model import LogisticRegression
from torch.profiler import ProfilerActivity, profile

from layerprobe.probing.features.row_blocks import AbstractRows
from layerprobe.probing.features.scaler import Standardiser
from layerprobe.probing.solvers import l2_path, newton, sampled_hessian
from layerprobe.probing.solvers.l2_path import Continuation, Samples
from layerprobe.probing.solvers.lbfgs import Pairs, Point
from layerprobe.probing.solvers.logistic import Logistic
from layerprobe.probing.solvers.sampled_hessian import (
    SampledHessian,
    doubts,
    inclusion_chances,
    sample_sizes,
    solved,
    square_lengths,
    worth_sampling,
)
from layerprobe.probing.solvers.softmax_objective import SoftmaxObjective
from layerprobe.probing.solvers.solution import Status
from layerprobe.probing.solvers.solver import of_mean_one
from layerprobe.probing.solvers.spectrum import Spectrum

WEIGHTS = torch.tensor([0.5, 1.0, 3.0], dtype=torch.float64)


def problem(n: int, d: int, c: int, noise: float) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    y = torch.randint(c, (n,), generator=generator)
    x = torch.randn(c, d, generator=generator)[y] + noise * torch.randn(n, d, generator=generator)
    return Standardiser.fit(x).apply_(x), y


@pytest.mark.parametrize("weights", [None, WEIGHTS])
@pytest.mark.parametrize("size", [300, 120])
@pytest.mark.parametrize("at", [torch.clone, lambda head: 0.8 * head], ids=["here", "nearby"])
def test_the_mean_is_the_hessian(weights: torch.Tensor | None, size: int, at: Any) -> None:
    x, y = problem(300, 4, 3, 1.5)
    counts = None if weights is None else of_mean_one(weights, y)
    g = torch.Generator().manual_seed(1)
    head, vector = (torch.randn(3, 5, generator=g, dtype=torch.float64) for _ in range(2))
    sample = torch.ones(len(y), dtype=torch.float64) if counts is None else counts[y]

    def loss(flat: torch.Tensor) -> torch.Tensor:
        w = flat.view(3, 5)
        each = F.cross_entropy(x.double() @ w[:, :-1].T + w[:, -1], y, reduction="none")
        return (each * sample).mean()

    hessian = torch.autograd.functional.hessian(loss, head.flatten())
    expected = (hessian @ vector.flatten()).view(3, 5)
    chances = doubts(x, y, at(head), square_lengths(x, torch.float64), counts)
    draws = [SampledHessian(x, y, head, chances, size, counts, g) @ vector for _ in range(1 if size == 300 else 150)]
    spread = 1e-12 if size == 300 else 0.04 * float(expected.norm())
    torch.testing.assert_close(torch.stack(draws).mean(0), expected, rtol=0, atol=spread)


@pytest.mark.parametrize("size", [1, 40, 150, 199])
def test_chances_are_shares_of_the_traces_up_to_one(size: int) -> None:
    traces = torch.rand(200, generator=torch.Generator().manual_seed(0), dtype=torch.float64) ** 8
    chances = inclusion_chances(traces, size)
    assert float(chances.sum()) == pytest.approx(size)
    assert float(chances.max()) <= 1
    drawn = chances < 1
    ratios = chances[drawn] / traces[drawn]
    torch.testing.assert_close(ratios, ratios[:1].expand_as(ratios))
    assert not drawn.all() or size < 40
    assert bool((chances[~drawn] == 1).all())


@pytest.mark.parametrize(
    ("n", "d", "c", "itemsize", "worth"),
    [
        (10_000, 512, 10, 4, False), (16_384, 512, 10, 4, True), (50_000, 4096, 10, 4, True),
        (50_000, 2048, 64, 4, True), (50_000, 512, 100, 4, False), (1_200_000, 2048, 1000, 4, False),
        (50_000, 25_088, 10, 4, False), (50_000, 9000, 10, 8, False),
        (16_400, 24, 400, 4, False), (50_000, 4096, 9000, 4, False),
    ],
)  # fmt: skip
def test_where_it_is_worth_it(n: int, d: int, c: int, itemsize: int, worth: bool) -> None:
    first, most = sample_sizes(n, d, c, itemsize)
    assert worth_sampling(n, d, c, itemsize) == worth
    assert first <= most <= n // 4
    assert itemsize * (2 * d + 3 * c) * most <= 1 << 28, "two copies of the rows, and three numbers for each class"


def peak(make: Callable[[], Any], file: Path) -> tuple[Any, int]:
    """What is made, and the most bytes of tensors that making it held at a time."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as found:
        made = make()
    found.export_chrome_trace(str(file))
    events = [event for event in json.loads(file.read_text())["traceEvents"] if event["name"] == "[memory]"]
    steps = [event["args"]["Bytes"] for event in sorted(events, key=lambda event: event["ts"])]
    return made, max(itertools.accumulate(steps))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("d", "c"), [(256, 10), (32, 128), (100, 400)])
def test_a_sample_takes_no_more_than_is_counted(d: int, c: int, dtype: torch.dtype, tmp_path: Path) -> None:
    x, y = problem(16_000, d, c, 1.0)
    head, vector = torch.zeros(c, d + 1, dtype=dtype), torch.ones(c, d + 1, dtype=dtype)
    alike, generator = torch.ones(len(y)), torch.Generator().manual_seed(0)
    hessian, drawn = peak(lambda: SampledHessian(x, y, head, alike, 2000, None, generator), tmp_path / "made.json")
    held = sum(value.nbytes for value in vars(hessian).values() if isinstance(value, torch.Tensor))
    counted = dtype.itemsize * (2 * d + 3 * c) * hessian.size
    assert held < drawn <= counted
    assert held + peak(lambda: hessian @ vector, tmp_path / "applied.json")[1] <= counted


class Read(AbstractRows):
    """Rows that are not in memory, and how many are read at a time."""

    def __init__(self, rows: torch.Tensor) -> None:
        self.rows, self.shape, self.dtype, self.device = rows, (len(rows), rows.shape[1]), rows.dtype, rows.device
        self.read: list[int] = []

    def __getitem__(self, rows: slice) -> torch.Tensor:
        self.read.append(len(self.rows[rows]))
        return self.rows[rows].clone()


def test_scores_are_made_of_as_many_rows_as_there_is_room_for(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = problem(64, 32, 8, 1.0)
    rows, head = Read(x), torch.zeros(8, 33)
    monkeypatch.setattr(sampled_hessian, "BLOCK", 1024)
    chances = doubts(rows, y, head, torch.ones(64), None)
    SampledHessian(rows, y, head, chances, 16, None, torch.Generator().manual_seed(0))
    assert rows.read == [32, 32, 64], "blocks of features, and then the rows that were drawn"


def test_samples_without_any_doubt_are_drawn_alike() -> None:
    torch.testing.assert_close(inclusion_chances(torch.zeros(50), 5), torch.full((50,), 0.1, dtype=torch.float64))


def test_conjugate_gradients_end_where_there_is_no_curvature() -> None:
    matrix = torch.diag(torch.tensor([4.0, 1.0, 0.5, 2.0], dtype=torch.float64))
    right = torch.ones(1, 4, dtype=torch.float64)
    found, products = solved(lambda v: v @ matrix, lambda v: v, right, 1e-12, 10)
    torch.testing.assert_close(found @ matrix, right)
    assert products == 4
    assert solved(lambda v: v @ matrix, lambda v: v, right, 0.0, 2)[1] == 2
    flat, products = solved(lambda v: 0 * v, lambda v: v, right, 0.0, 10)
    assert torch.equal(flat, right)
    assert products == 1


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Products of each step with a Hessian of sampled rows."""
    products: list[int] = []

    def counted(*system: Any) -> tuple[torch.Tensor, int]:
        found = solved(*system)
        products.append(found[1])
        return found

    monkeypatch.setattr(l2_path, "solved", counted)
    return products


@pytest.fixture
def beyond_newton(monkeypatch: pytest.MonkeyPatch) -> None:
    """No head is small enough for the whole Hessian."""
    monkeypatch.setattr(newton, "SAMPLE_BYTES", 0)


@pytest.mark.parametrize(("c", "weights"), [(3, None), (3, WEIGHTS), (2, None)])
def test_its_steps_end_at_the_optimum(c: int, weights: torch.Tensor | None, taken: list[int]) -> None:
    n, d = 16_500, 12
    x, y = problem(n, d, c, 3.0)
    l2 = torch.tensor([1e-6, 1e-3, 1.0], dtype=torch.float64)
    spectrum, counts = Spectrum.of(x), None if weights is None else of_mean_one(weights, y)
    samples = Samples(x, y, c, torch.float32, spectrum.vectors, counts)
    path = Continuation(samples, 5e-6, 100, spectrum.values, None, spectrum.rest, 20)
    heads, _ = path.follow(l2)
    assert taken
    expected = Logistic(tolerance=1e-10).solve(x, y, c, l2, weights=weights)  # by Newton with the whole Hessian
    assert set(expected.status) == {Status.CONVERGED}
    objective = samples.objective(torch.float64)
    found = objective(heads, l2, False).objective
    torch.testing.assert_close(found, expected.objective, rtol=1e-5, atol=0)
    taken.clear()
    refined, _ = path.refine(heads, l2, 1e-11)
    assert taken
    torch.testing.assert_close(objective(refined, l2, False).objective, expected.objective, rtol=2e-10, atol=0)


@pytest.mark.usefixtures("beyond_newton")
def test_its_steps_end_where_scikit_learn_does(taken: list[int]) -> None:
    x, y = problem(16_500, 8, 3, 2.0)
    found = Logistic(tolerance=1e-9).solve(x, y, 3, torch.tensor([1e-4], dtype=torch.float64))
    assert taken
    assert found.status == (Status.CONVERGED,)
    model = LogisticRegression(C=1 / (1e-4 * len(y)), tol=1e-10, solver="newton-cg").fit(x.double().numpy(), y.numpy())
    weight, bias = torch.tensor(model.coef_), torch.tensor(model.intercept_)
    objective = F.cross_entropy(x.double() @ weight.T + bias, y) + 1e-4 / 2 * weight.square().sum()
    assert found.objective.item() == pytest.approx(objective.item(), rel=1e-9)


def with_long_rows(d: int, k: int, times: float, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Classes that overlap, and some samples whose features are larger by a factor."""
    generator = torch.Generator().manual_seed(seed)
    n = 16_384
    y = torch.randint(3, (n,), generator=generator)
    x = torch.randn(3, d, generator=generator)[y] + 3 * torch.randn(n, d, generator=generator)
    x[torch.randperm(n, generator=generator)[:k]] *= times
    return Standardiser.fit(x).apply_(x), y


@pytest.mark.usefixtures("beyond_newton")
def test_its_steps_spare_evaluations(taken: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the spectrum is that of few samples, and so no metric for the others."""
    x, y = with_long_rows(200, 20, 100, 0)
    l2 = torch.tensor([1e-4, 1e-2], dtype=torch.float64)
    with_steps = Logistic().solve(x, y, 3, l2)
    assert taken
    taken.clear()
    monkeypatch.setattr(l2_path, "worth_sampling", lambda *_: False)
    without = Logistic().solve(x, y, 3, l2)
    assert not taken
    assert {*with_steps.status, *without.status} == {Status.CONVERGED}
    assert int(with_steps.iterations.sum()) < 0.6 * int(without.iterations.sum())
    torch.testing.assert_close(with_steps.objective, without.objective, rtol=1e-5, atol=0)


@pytest.mark.usefixtures("beyond_newton")
def test_lbfgs_takes_over_from_a_step_that_leads_upwards(taken: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a sample lies so far out that no quadratic describes the loss along a step."""
    x, y = with_long_rows(12, 4, 10_000, 2)
    evaluate, minimise = SoftmaxObjective.__call__, l2_path.minimise
    last, rises = [0.0], []

    def evaluated(self: SoftmaxObjective, *given: Any) -> Any:
        found = evaluate(self, *given)
        last[:] = found.objective.tolist()
        return found

    def taking_over(start: Point, *others: Any) -> Any:
        rises.append(min(last) / start.objective)
        return minimise(start, *others)

    monkeypatch.setattr(SoftmaxObjective, "__call__", evaluated)
    monkeypatch.setattr(l2_path, "minimise", taking_over)
    found = Logistic().solve(x, y, 3, torch.tensor([1e-2, 1e-4], dtype=torch.float64))
    assert taken
    assert max(rises) > 1.01, "the last step led upwards, and L-BFGS goes on from where it began"
    assert found.status == (Status.CONVERGED,) * 2
    assert float(found.gap.max()) <= 1e-5


@pytest.mark.usefixtures("beyond_newton")
@pytest.mark.parametrize(("shortest", "alone"), [(l2_path._SHORTEST, True), (1.0, False)])
def test_of_a_step_that_leads_upwards_a_part_is_tried(
    taken: list[int], monkeypatch: pytest.MonkeyPatch, shortest: float, alone: bool
) -> None:
    """Where some samples lie further out, half of a step or a quarter leads down, and L-BFGS has nothing to do."""
    x, y = with_long_rows(12, 16, 100, 3)
    starts, minimise = [], l2_path.minimise

    def taking_over(start: Point, *others: Any) -> Any:
        starts.append(start)
        return minimise(start, *others)

    monkeypatch.setattr(l2_path, "minimise", taking_over)
    monkeypatch.setattr(l2_path, "_SHORTEST", shortest)
    found = Logistic().solve(x, y, 3, torch.tensor([1e-2, 1e-4], dtype=torch.float64))
    assert taken
    assert (not starts) == alone
    assert found.status == (Status.CONVERGED,) * 2


@pytest.mark.usefixtures("beyond_newton")
def test_no_system_searches_what_those_before_have_found(taken: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """Outputs of a random layer, whose Gram matrix tells little of the samples that are in doubt."""
    generator = torch.Generator().manual_seed(0)
    x = (torch.randn(16_500, 40, generator=generator) @ torch.randn(40, 200, generator=generator)).relu()
    noisy = x + 0.3 * torch.randn(x.shape, generator=generator)
    y = (noisy @ torch.randn(200, 3, generator=generator)).argmax(1)
    x, l2 = Standardiser.fit(x).apply_(x), torch.tensor([1e-2, 1e-3, 1e-4, 1e-5], dtype=torch.float64)
    found = Logistic().solve(x, y, 3, l2)
    products = sum(taken)
    taken.clear()
    monkeypatch.setattr(Continuation, "_remember", lambda *_: None)
    without = Logistic().solve(x, y, 3, l2)
    assert {*found.status, *without.status} == {Status.CONVERGED}
    torch.testing.assert_close(found.objective, without.objective, rtol=1e-5, atol=0)
    assert products < 0.7 * sum(taken), (products, sum(taken))


def path_of(x: torch.Tensor | AbstractRows, y: torch.Tensor, c: int) -> Continuation:
    spectrum = Spectrum.of(x)
    return Continuation(
        Samples(x, y, c, torch.float32, spectrum.vectors), 5e-6, 100, spectrum.values, None, spectrum.rest, 20
    )


def test_one_hessian_is_held_at_a_time_and_what_it_costs_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Their scores cost half an evaluation, once; where rows are read from disk, they and each draw cost a reading."""
    c, held, at_once, asked = 60, WeakSet[SampledHessian](), [], []
    x, y = problem(16_500, 20, c, 3.0)

    class Held(SampledHessian):
        def __init__(self, *given: Any) -> None:
            held.add(self)
            at_once.append(len(held))
            super().__init__(*given)

    monkeypatch.setattr(l2_path, "SampledHessian", Held)
    spent = []
    for rows in (x, Read(x)):
        path = path_of(rows, y, c)
        objective, l2 = path.samples.objective(torch.float32), torch.tensor([1e-3], dtype=torch.float64)
        start = path._point(path.zero, objective(path.zero[None], l2, True), 0, 1e-3)
        asked.clear()

        def counted(*given: Any, with_curvature: bool, objective: Any = objective) -> Any:
            asked.append(with_curvature)
            return objective(*given, with_curvature)

        pairs, draws = Pairs(20, path.zero), l2_path._Draws(*sample_sizes(len(y), 20, c))
        pairs.move(l2)
        end, cost = path._newton(counted, start, 1e-3, 1e-6, 100, pairs, draws)
        assert end.gap <= 1e-6
        spent.append(cost)
    assert set(at_once) == {1}
    assert len(asked) > 2
    assert spent[1] - spent[0] == pytest.approx(0.5 + len(asked), abs=1)


def test_a_guess_that_is_no_number_is_not_the_best() -> None:
    x, y = problem(16_500, 12, 3, 3.0)
    path = path_of(x, y, 3)
    head, _ = path.fitting()(torch.stack([torch.full_like(path.zero, torch.nan), path.zero]), 1e-3, 1e-4, 50)
    assert bool(head.isfinite().all())
