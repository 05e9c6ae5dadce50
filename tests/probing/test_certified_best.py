"""A path that is walked roughly: what is reported is proved, and the rest says what it is."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from helpers.reference import made, softmax_objective, softmax_regression
from layerprobe.probing.features.reducers import Flatten, RandomSubset
from layerprobe.probing.features.row_blocks import AbstractRows
from layerprobe.probing.pipeline import probe_checkpoint
from layerprobe.probing.protocol import L2_GRID, ProbeProtocol
from layerprobe.probing.solvers.logistic import Logistic
from layerprobe.probing.solvers.ridge import Ridge
from layerprobe.probing.solvers.solution import Solution, Status
from layerprobe.probing.tasks.multi_label import MultiLabel

L2 = torch.tensor(L2_GRID, dtype=torch.float64)
PROBLEMS = {
    "mixed": lambda: made(300, 20, 3, 0.5),
    "nearly separable": lambda: made(300, 20, 3, 2.0, decay=0.5),
    "separable": lambda: made(200, 20, 3, 8.0),
    "two classes": lambda: made(300, 20, 2, 0.5),
    "more features than samples": lambda: made(60, 150, 3, 0.3),
    "a class without samples": lambda: made(300, 20, 3, 0.5),
}


class Rows(AbstractRows):
    """Rows that are not in memory in one piece."""

    def __init__(self, rows: Tensor) -> None:
        self.rows, self.shape, self.dtype, self.device = rows, tuple(rows.shape), rows.dtype, rows.device

    def __getitem__(self, rows: slice) -> Tensor:
        return self.rows[rows].clone()


def walked(problem: str, l2: Tensor = L2) -> tuple[np.ndarray, np.ndarray, Solution]:
    x, y = PROBLEMS[problem]()
    classes = int(y.max()) + 1 + (problem == "a class without samples")
    return x, y, Logistic().solve(torch.as_tensor(x), torch.as_tensor(y), classes, l2, rough=True)


@pytest.mark.parametrize("problem", PROBLEMS)
def test_every_gap_is_a_bound_and_what_is_asked_for_is_certified(problem: str) -> None:
    x, y, rough = walked(problem)
    assert rough.certify is not None
    wanted = [i for i in (3, 7, 8) if rough.status[i] is Status.ROUGH]
    exact = rough.certify(wanted)
    assert all(exact.status[i] is Status.CONVERGED and exact.gap[i] <= 1e-5 for i in wanted)
    for i, (before, after) in enumerate(zip(rough.status, exact.status, strict=True)):
        if i not in wanted:
            assert before is after
            assert torch.equal(rough.weight[i], exact.weight[i])
            assert before is (Status.ROUGH if rough.gap[i] > 1e-5 else Status.CONVERGED)
    if problem == "a class without samples":
        assert not exact.weight[:, 3].any()
        return
    for i in (0, 3, 8, 11):
        best = softmax_regression(x, y, int(y.max()) + 1, float(L2[i]), 1e-9)[2]
        for found in (rough, exact):
            ours = softmax_objective(found.weight[i].numpy(), found.bias[i].numpy(), x, y, float(L2[i]))
            assert ours == pytest.approx(float(found.objective[i]), rel=1e-5)
            assert ours / best - 1 >= -1e-6
            assert (ours - best) / ours <= float(found.gap[i]) + 1e-6


def test_a_solution_stays_what_it_is_when_values_are_brought_further() -> None:
    _, _, rough = walked("mixed")
    assert rough.certify is not None
    kept = rough.weight.clone(), rough.gap.clone(), rough.status
    rough.certify(range(len(L2)))
    assert torch.equal(rough.weight, kept[0])
    assert torch.equal(rough.gap, kept[1])
    assert rough.status == kept[2]


def test_all_values_certified_later_are_the_full_path() -> None:
    x, y, rough = walked("mixed")
    assert rough.certify is not None
    full = Logistic().solve(torch.as_tensor(x), torch.as_tensor(y), 3, L2)
    exact = rough.certify(range(len(L2)))
    assert exact.status == full.status == (Status.CONVERGED,) * len(L2)
    assert exact.certify is None
    torch.testing.assert_close(exact.objective, full.objective, rtol=2e-5, atol=0)
    assert int(rough.iterations.sum()) < 0.7 * int(full.iterations.sum())


def test_evaluations_are_counted_together() -> None:
    x, y = (torch.as_tensor(part) for part in made(300, 20, 3, 0.5))
    found = Logistic(max_iterations=4).solve(x, y, 3, L2[:1], rough=True)
    assert found.certify is not None
    ended = found.certify([0])
    assert ended.status == (Status.STALLED,)
    assert ended.iterations[0] <= 6


def test_no_penalty_and_repeated_values() -> None:
    l2 = torch.tensor([0.0, 1e-2, 1e-2, 1.0], dtype=torch.float64)
    _, _, rough = walked("mixed", l2)
    assert rough.certify is not None
    assert rough.certify([0, 1, 2]).status[:3] == (Status.CONVERGED,) * 3


def data(n: int = 160, n_val: int = 120, classes: int = 3, labels: int = 0) -> dict:
    x, y = made(n + 2 * n_val, 24, classes, 0.6)
    x, y = torch.as_tensor(x), torch.as_tensor(y)
    if labels:
        directions = torch.randn(24, labels, generator=torch.Generator().manual_seed(1))
        noise = torch.randn(len(x), labels, generator=torch.Generator().manual_seed(2))
        y = (x @ directions + 3 * noise > 0).long()
    parts = zip(("train", "val", "test"), x.split([n, n_val, n_val]), y.split([n, n_val, n_val]), strict=True)
    return {split: list(zip(a.split(40), b.split(40), strict=True)) for split, a, b in parts}


def probed(samples: dict | None = None, **changes):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(24, 32), nn.ReLU())
    return list(probe_checkpoint(network, samples or data(), ProbeProtocol(layers="1", **changes)))


def rows_of(result, **of):
    return [row for row in result.path if all(getattr(row, key) == value for key, value in of.items())]


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"seeds": (0, 1), "reducers": (RandomSubset(10), Flatten())},
        {"solvers": (Logistic(), Ridge()), "controls": ("shuffled",)},
        {"patience": 1},
        {"task": MultiLabel()},
        {"refit": True},
    ],
    ids=["default", "seeds and reducers", "solvers and controls", "patience", "several labels", "refit"],
)
def test_the_reported_head_and_its_neighbours_are_certified(changes: dict) -> None:
    samples = data(labels=3) if "task" in changes else data()
    found, full = probed(samples, **changes), probed(samples, path="full", **{**changes, "patience": None})
    rough = 0
    for one, all_ in zip(found, full, strict=True):
        assert one.record.status == "converged"
        assert one.record.gap <= 1e-5
        paths: dict = {}
        for row in one.path:
            paths.setdefault((row.reducer, row.solver, row.seed, row.control), []).append(row)
        exact = {(r.reducer, r.solver, r.seed, r.control, r.l2): r for r in all_.path}
        for key, path in paths.items():
            # The best of each path, not only of all.
            usable = [i for i, row in enumerate(path) if not math.isnan(row.val_error)]
            best = min(usable, key=lambda i: (path[i].val_error, path[i].val_loss, -path[i].l2))
            assert all(path[i].status == "converged" for i in usable if abs(i - best) <= 1), key
            for row in path:
                rough += row.status == "rough"
                assert row.status in ("converged", "rough", "skipped")
                assert (row.status != "rough") or (1e-5 < row.gap < 0.1 and "path=full" in row.message)
                optimum = exact[*key, row.l2].objective
                if row.status != "skipped":
                    assert row.objective * (1 - row.gap) <= optimum * (1 + 1e-5)
                    assert row.objective >= optimum * (1 - 2e-5)
        assert not any(row.status in ("rough", "skipped") for row in all_.path)
        # No head of the table is better than the one that is reported.
        usable = [row for row in one.path if row.control == "none" and not math.isnan(row.val_error)]
        best = min(usable, key=lambda row: (row.val_error, row.val_loss, -row.l2))
        assert best.selected
        assert (best.val_error, best.l2) == (one.record.val_error, one.record.l2)
    assert rough


def without_time(results) -> list:
    return [(dataclasses.replace(result.record, seconds=0.0), result.path) for result in results]


def test_it_is_the_same_every_time_and_whatever_the_batches() -> None:
    first, again = (without_time(probed()) for _ in range(2))
    assert repr(first) == repr(again)
    whole = {split: [tuple(map(torch.cat, zip(*part, strict=True)))] for split, part in data().items()}
    # Another batch size changes the last bits of features.
    for (record, path), (other, rows) in zip(first, without_time(probed(whole)), strict=True):
        assert (other.l2, other.val_error, other.test_error) == (record.l2, record.val_error, record.test_error)
        assert [row.status for row in rows] == [row.status for row in path]


def test_rows_that_are_read_in_blocks_end_alike() -> None:
    x, y = (torch.as_tensor(part) for part in made(300, 20, 3, 0.5))
    whole, read = (Logistic().solve(rows, y, 3, L2, rough=True) for rows in (x, Rows(x)))
    assert whole.status == read.status
    torch.testing.assert_close(whole.weight, read.weight, rtol=1e-3, atol=1e-4)


def test_one_value_is_certified_at_once() -> None:
    for result in probed(l2=[1e-2]):
        assert [row.status for row in result.path] == ["converged"]


def test_an_unknown_way_is_refused() -> None:
    protocol = ProbeProtocol()
    object.__setattr__(protocol, "path", "half")
    with pytest.raises(ValueError, match=r"`path` of the probe is 'half'\. There is: chosen, full"):
        protocol.__post_init__()
