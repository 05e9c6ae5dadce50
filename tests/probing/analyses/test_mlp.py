"""Against a plain loop with torch.optim and autograd, from the same draws."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from layerprobe.probing.analyses import trained_networks
from layerprobe.probing.analyses.mlp import MLP, Perceptrons
from layerprobe.probing.features.row_blocks import JoinedRows
from layerprobe.probing.tasks.classification import Classification
from layerprobe.probing.tasks.multi_label import MultiLabel
from layerprobe.probing.tasks.regression import Regression

DRAWS = 7


def _data(task, n=160, d=5):
    draws = torch.Generator().manual_seed(0)
    x = torch.randn(n, d, generator=draws, dtype=torch.float64)
    if task.name == "classification":
        return x, (x[:, 0] * x[:, 1] > 0).long() + (x[:, 2] > 1).long()
    y = torch.stack([x[:, 0] * x[:, 1], x[:, 2]], 1)
    return x, (y > 0).long() if task.name == "multi_label" else y


def _plain(x, y, val, settings, loss, wrong):
    """One network after the other, as anybody would write it."""
    x_val, y_val = val
    outputs = int(y.max()) + 1 if y.ndim == 1 else y.shape[1]
    weights = Perceptrons.drawn(settings.seeds, (x.shape[1], settings.width, outputs), x, _draws()).parts
    results = []
    for i in range(settings.seeds):
        draws = _draws()
        Perceptrons.drawn(settings.seeds, (x.shape[1], settings.width, outputs), x, draws)
        network = nn.Sequential(nn.Linear(x.shape[1], settings.width), nn.ReLU(), nn.Linear(settings.width, outputs))
        network.double()
        with torch.no_grad():
            for parameter, drawn in zip(network.parameters(), weights, strict=True):
                parameter.copy_(drawn[i].T.reshape(parameter.shape))
        optimizer = torch.optim.Adam(network.parameters(), settings.learning_rate)
        best, since, kept, at, step = (math.inf, math.inf), 0, None, 0, 0
        while since < settings.patience and step < settings.steps:
            for rows in torch.randperm(len(x), generator=draws).split(settings.batch_size):
                squares = sum(layer.weight.square().sum() for layer in (network[0], network[2]))
                objective = loss(network(x[rows]), y[rows]) + settings.l2 / 2 * squares
                optimizer.zero_grad()
                objective.backward()
                optimizer.step()
                step += 1
                if step % 10 and step < settings.steps:
                    continue
                with torch.no_grad():
                    scores = network(x_val)
                    found = wrong(scores, y_val), float(loss(scores, y_val))
                since += 1
                if found < best:
                    best, since, at = found, 0, step
                    kept = [parameter.detach().clone() for parameter in network.parameters()]
                if since >= settings.patience or step == settings.steps:
                    break
        results.append((best, at, kept))
    return results


def _draws():
    return torch.Generator().manual_seed(DRAWS)


CASES = {
    "classification": (
        Classification(),
        nn.functional.cross_entropy,
        lambda scores, y: float((scores.argmax(1) != y).double().mean()),
    ),
    "multi_label": (
        MultiLabel(),
        lambda scores, y: nn.functional.binary_cross_entropy_with_logits(scores, y.double()),
        lambda scores, y: float(((scores > 0) != (y == 1)).double().mean()),
    ),
    "regression": (
        Regression(),
        lambda scores, y: (scores - y).square().sum(1).mean() / 2,
        lambda scores, y: float(((scores - y).square().mean(0) / y.var(0, correction=0)).mean()),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_networks_are_those_of_a_plain_loop(name, layer_data, monkeypatch):
    monkeypatch.setattr(trained_networks, "TRIED", 10)
    task, loss, wrong = CASES[name]
    x, y = _data(task)
    settings = MLP(width=8, l2=0.01, learning_rate=0.02, batch_size=32, steps=95, patience=3, seeds=3)
    layer = layer_data(task, (x[:100], y[:100]), (x[100:], y[100:]), seed=DRAWS)
    networks, figures, steps = settings.trained(layer)
    assert len(set(steps)) > 1, "networks that stop at different times are what is to be told apart"
    y, y_val = (layer.labels.splits[split] for split in ("train", "val"))
    for i, (best, at, kept) in enumerate(_plain(x[:100], y, (x[100:], y_val), settings, loss, wrong)):
        assert steps[i] == at
        assert figures[i] == pytest.approx(best)
        for ours, theirs in zip(networks.parts, kept, strict=True):
            torch.testing.assert_close(ours[i], theirs.view(-1, ours.shape[2]) if theirs.ndim == 1 else theirs.T)


def test_again_and_from_rows_that_are_read_as_they_are_needed(layer_data):
    x, y = _data(Classification())
    x = x.float()
    settings = MLP(width=8, steps=30, seeds=2)
    state = torch.get_rng_state()
    val = x[100:], y[100:]
    first = settings.trained(layer_data(Classification(), (x[:100], y[:100]), val))
    again = settings.trained(layer_data(Classification(), (JoinedRows(x[:40], x[40:100]), y[:100]), val))
    assert first[1:] == again[1:]
    assert all(torch.equal(a, b) for a, b in zip(first[0].parts, again[0].parts, strict=True))
    assert torch.equal(state, torch.get_rng_state())


def test_weights_of_no_finite_loss_are_never_the_best(layer_data):
    x, y = _data(Classification())
    lost = layer_data(Classification(), (x[:100], y[:100]), (torch.full_like(x[100:], math.nan), y[100:]))
    assert set(MLP(width=8, steps=30).trained(lost)[1]) == {(math.inf, math.inf)}
    with pytest.raises(ArithmeticError, match="no network has a finite loss on validation"):
        MLP(width=8, steps=30).fit(lost)


@pytest.mark.parametrize(
    "wrong", [{"width": 0}, {"seeds": 0}, {"patience": 0}, {"l2": -1.0}, {"learning_rate": 0.0}], ids=str
)
def test_what_cannot_be_trained_is_refused(wrong):
    (name,) = wrong
    with pytest.raises(ValueError, match=f"`{name}`"):
        MLP(**wrong)
