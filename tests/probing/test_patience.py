"""Ending a path by validation: what is fitted stays the same, and what is left out says so."""

from __future__ import annotations

import math

import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn

from layerprobe.probing.pipeline import probe_checkpoint
from layerprobe.probing.protocol import ProbeProtocol
from layerprobe.probing.selection import PastBest
from layerprobe.probing.solvers.logistic import Logistic
from layerprobe.probing.solvers.ridge import Ridge
from layerprobe.probing.solvers.solution import Status


def ends(patience: int, errors: list[float], losses: list[float]) -> int | None:
    """After how many heads the path ends."""
    figures = iter(zip(errors, losses, strict=True))
    past = PastBest(patience, lambda heads: tuple(torch.tensor([value]) for value in next(figures)))
    for count in range(1, len(errors) + 1):
        if past(torch.zeros(2, 3), torch.zeros(2)):
            return count
    return None


@pytest.mark.parametrize(
    ("patience", "errors", "losses", "count"),
    [
        (2, [0.5, 0.3, 0.3, 0.4, 0.2], [3, 2, 3, 4, 5], 4),
        (3, [0.5, 0.3, 0.3, 0.4, 0.2], [3, 2, 3, 4, 5], None),  # the lower error starts the count again
        (2, [0.5, 0.4, 0.3, 0.2, 0.1], [3, 4, 5, 6, 7], None),  # loss rises, error falls
        (2, [0.1, 0.2, 0.3, 0.4, 0.5], [7, 6, 5, 4, 3], None),  # error rises, loss falls
        (1, [0.1, 0.1], [1, 2], 2),
        (2, [0.1, 0.0, 0.0, 0.0, 0.0], [5, 4, 3, 2, 1], 4),  # no head can err less
        (1, [0.5, 0.5], [math.inf, math.inf], None),  # a class that train does not have says nothing
    ],
)
def test_both_error_and_loss_have_to_be_past_their_best(
    patience: int, errors: list[float], losses: list[float], count: int | None
) -> None:
    assert ends(patience, errors, losses) == count


def test_a_perfect_ranking_does_not_end_a_path_whose_loss_falls() -> None:
    figures = iter([(0.0, loss) for loss in (0.69, 0.5, 0.3, 0.1, 0.2, 0.3)])
    past = PastBest(2, lambda heads: tuple(torch.tensor([value]) for value in next(figures)), perfect=False)
    assert [past(torch.zeros(2, 3), torch.zeros(2)) for _ in range(6)] == [False] * 5 + [True]


def test_heads_that_rank_all_rightly_are_walked_until_their_loss_rises() -> None:
    g = torch.Generator().manual_seed(0)
    y = (torch.arange(600) % 10 == 0).long()
    x = torch.randn(600, 5, generator=g) + 12 * y[:, None]
    data = {split: [(x[i::3], y[i::3])] for i, split in enumerate(("train", "val", "test"))}
    (found,) = probe_checkpoint(
        nn.Identity(), data, ProbeProtocol(layers="input", selection="auc", l2=(1e-2, 1.0, 10.0, 30.0))
    )
    assert found.record.test_auc == 1
    assert found.record.l2 == 1e-2
    assert found.record.test_error == 0


@pytest.mark.parametrize("absent", [False, True])
@pytest.mark.parametrize(("n", "d"), [(120, 10), (40, 60)])
def test_a_path_that_is_ended_has_the_same_heads_up_to_there(n: int, d: int, absent: bool) -> None:
    g = torch.Generator().manual_seed(0)
    x, y = torch.randn(n, d, generator=g), torch.randint(3, (n,), generator=g)
    c = 4 if absent else 3
    l2 = torch.tensor([1e-3, 1.0, 1e-1, 1e-2], dtype=torch.float64)
    seen: list[torch.Tensor] = []

    def stop(weight: torch.Tensor, bias: torch.Tensor) -> bool:
        seen.append(weight)
        assert weight.shape == (c, d)
        assert bias.shape == (c,)
        return len(seen) == 3

    whole, part = Logistic().solve(x, y, c, l2), Logistic().solve(x, y, c, l2, stop=stop)
    assert part.status == (Status.SKIPPED, *[Status.CONVERGED] * 3)
    assert part.iterations[0] == 0
    torch.testing.assert_close(part.weight[1:], whole.weight[1:])
    torch.testing.assert_close(part.bias[1:], whole.bias[1:])
    assert part.weight[0, :3].isnan().all()
    assert part.objective[0].isnan()
    for head, index in zip(seen, (1, 2, 3), strict=True):
        torch.testing.assert_close(head, part.weight[index], rtol=1e-2, atol=1e-3)


def probed(patience: int | None, n_train: int = 200):
    x, y = (torch.from_numpy(part) for part in load_digits(return_X_y=True))
    x = x.float()
    places = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    parts = dict(zip(("train", "val", "test"), places.split([n_train, 800, len(x) - n_train - 800]), strict=True))
    data = {split: [(x[part], y[part])] for split, part in parts.items()}
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(64, 32), nn.ReLU())
    protocol = ProbeProtocol(path="full", patience=patience, solvers=(Logistic(), Ridge()), controls=("shuffled",))
    return list(probe_checkpoint(network, data, protocol))


def test_validation_ends_the_path_and_chooses_the_same_head() -> None:
    whole, ended = probed(None), probed(2)
    skipped = 0
    for one, other in zip(whole, ended, strict=True):
        paths = [{(r.solver, r.control, r.l2): r for r in result.path} for result in (one, other)]
        assert paths[0].keys() == paths[1].keys()
        left_out = [key for key, row in paths[1].items() if row.status == "skipped"]
        assert all(key[0] == "logistic" for key in left_out)
        assert not any(row.status == "skipped" for row in paths[0].values())
        skipped += len(left_out)
        for key, row in paths[1].items():
            if row.status == "skipped":
                assert math.isnan(row.val_error)
                assert not row.selected
            else:
                assert row.val_error == pytest.approx(paths[0][key].val_error, abs=0.002)
        assert (one.record.solver, one.record.l2) == (other.record.solver, other.record.l2)
        assert one.record.test_error == other.record.test_error
    assert skipped >= 4


def test_bad_patience_is_refused() -> None:
    with pytest.raises(ValueError, match="`patience` of the probe is 0"):
        ProbeProtocol(patience=0)
