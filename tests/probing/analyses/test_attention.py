"""Attention pooling: the weights of a plain loop, a marked token that the mean cannot read, no gain on noise."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import layerprobe
from helpers.small_memory import ROOM, probed_with
from layerprobe.probing import layer_analyses
from layerprobe.probing.analyses import trained_networks
from layerprobe.probing.analyses.analysis import LayerPositions
from layerprobe.probing.analyses.attention import Attention
from layerprobe.probing.capture.freeze import freeze
from layerprobe.probing.discovery import discover_layers
from layerprobe.probing.features.position_reducer import Positions, standardiser_of
from layerprobe.probing.features.row_blocks import JoinedRows
from layerprobe.probing.features.token_reducers import MeanToken
from layerprobe.probing.protocol import ProbeProtocol
from layerprobe.probing.resources import DEFAULTS
from layerprobe.probing.tasks.classification import Classification
from layerprobe.probing.tasks.multi_label import MultiLabel
from layerprobe.probing.tasks.regression import Regression

N, T, D = 160, 5, 4


def _sequences(dtype=torch.float64):
    draws = torch.Generator().manual_seed(0)
    x = torch.randn(N, T, D, generator=draws, dtype=dtype)
    lengths = torch.randint(1, T + 1, (N,), generator=draws)
    there = torch.arange(T) < lengths[:, None]
    return torch.cat([x * there[:, :, None], there[:, :, None].to(dtype)], 2), there


def _targets(task, x, there):
    best = x[:, :, 0].masked_fill(~there, -math.inf).argmax(1)
    y = x[torch.arange(N), best, 1:3]
    if task.name == "classification":
        return (y[:, 0] > 0).long() + (y[:, 1] > 0.5).long()
    return (y > 0).long() if task.name == "multi_label" else y


class _Pool(nn.Module):
    def __init__(self, query, outputs):
        super().__init__()
        self.query, self.head = nn.Parameter(query.clone()), nn.Linear(D, outputs).double()
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, x, there):
        pooled = []
        for sample, held in zip(x, there, strict=True):
            kept = sample[held]
            weights = torch.softmax(kept @ self.query / math.sqrt(D), 0)
            pooled.append((weights[:, None] * kept).sum(0))
        return self.head(torch.stack(pooled))


LOSSES = {
    "classification": (nn.functional.cross_entropy, lambda s, y: float((s.argmax(1) != y).double().mean())),
    "multi_label": (
        lambda s, y: nn.functional.binary_cross_entropy_with_logits(s, y.double()),
        lambda s, y: float(((s > 0) != (y == 1)).double().mean()),
    ),
    "regression": (
        lambda s, y: (s - y).square().sum(1).mean() / 2,
        lambda s, y: float(((s - y).square().mean(0) / y.var(0, correction=0)).mean()),
    ),
}


@pytest.mark.parametrize("task", [Classification(), MultiLabel(), Regression()], ids=lambda task: task.name)
def test_pools_are_those_of_a_plain_loop(task, layer_data, monkeypatch):
    monkeypatch.setattr(trained_networks, "TRIED", 4)
    loss, wrong = LOSSES[task.name]
    rows, there = _sequences()
    x = rows[:, :, :D]
    y = _targets(task, x, there)
    settings = Attention(positions=T, l2=0.02, learning_rate=0.05, batch_size=32, steps=30, patience=2, seeds=2)
    layer = layer_data(task, (x[:100, 0], y[:100]), (x[100:, 0], y[100:]), seed=3)
    layer = replace(layer, positions=LayerPositions(rows[:100].flatten(1), rows[100:].flatten(1), T))
    y, y_val = (layer.labels.splits[split] for split in ("train", "val"))
    pools, figures, steps = settings.trained(layer)
    for i in range(settings.seeds):
        draws = torch.Generator().manual_seed(3)
        query = 0.1 * torch.randn(2, D, 1, generator=draws, dtype=torch.float64)[i, :, 0]
        pool = _Pool(query, len(layer.labels.outputs))
        optimizer = torch.optim.Adam(pool.parameters(), settings.learning_rate)
        best, kept, at, step = (math.inf, math.inf), [], 0, 0
        while step < settings.steps and step - at < 2 * 4:
            for batch in torch.randperm(100, generator=draws).split(32):
                squares = pool.query.square().sum() + pool.head.weight.square().sum()
                objective = loss(pool(x[batch], there[batch]), y[batch]) + settings.l2 / 2 * squares
                optimizer.zero_grad()
                objective.backward()
                optimizer.step()
                step += 1
                if step % 4 == 0 or step == settings.steps:
                    with torch.no_grad():
                        scores = pool(x[100:], there[100:])
                    found = wrong(scores, y_val), float(loss(scores, y_val))
                    if found < best:
                        best, at = found, step
                        weight, bias = (part.detach().clone() for part in pool.head.parameters())
                        kept = [pool.query.detach().clone()[:, None], weight.T, bias[None]]
                if step == settings.steps or step - at >= 2 * 4:
                    break
        assert steps[i] == at
        assert figures[i] == pytest.approx(best)
        for ours, theirs in zip(pools.parts, kept, strict=True):
            torch.testing.assert_close(ours[i], theirs, atol=1e-9, rtol=1e-7)


def test_positions_are_the_tokens_that_there_are():
    tokens = torch.arange(2 * 5 * 3, dtype=torch.float32).view(2, 5, 3)
    mask = torch.tensor([[0, 1, 1, 0, 0], [1, 1, 1, 1, 1]]).bool()
    tokens[~mask] = math.inf
    reduction = Positions(3).fit((5, 3), 0, {0: "mask"})
    found = reduction(tokens, {"mask": mask}).view(2, 3, 4)
    assert (reduction.n_features, reduction.positions) == (12, 3)
    assert torch.equal(found[0, :2, :3], tokens[0, 1:3])
    assert found[0, :, 3].tolist() == [1, 1, 0]
    assert not found[0, 2].any()
    expected = [tokens[1, :2].mean(0), tokens[1, 2:4].mean(0), tokens[1, 4]]
    assert torch.equal(found[1, :, :3], torch.stack(expected))
    other = reduction(tokens[:, :2], {"mask": mask[:, :2]}).view(2, 3, 4)
    assert other[:, :, 3].tolist() == [[1, 0, 0], [1, 1, 0]]


def test_positions_are_space_where_there_are_no_tokens():
    images = torch.randn(2, 3, 4, 4)
    whole = Positions(16).fit((3, 4, 4), 0)(images).view(2, 16, 4)
    assert torch.equal(whole[:, :, :3], images.flatten(2).mT)
    pooled = Positions(4).fit((3, 4, 4), 0)(images).view(2, 4, 4)
    torch.testing.assert_close(pooled[:, :, :3], nn.functional.avg_pool2d(images, 2).flatten(2).mT)
    sound = torch.randn(2, 16, 98)
    channels_first = Positions(98).fit((16, 98), 0, {0: ""}, 0)
    assert channels_first.description == "positions 16x98 -> 98 of 16 (channel axis 0)"
    assert torch.equal(channels_first(sound).view(2, 98, 17)[:, :, :16], sound.mT)
    assert Positions(98).fit((16, 98), 0, {0: ""}, -1).axes == Positions(98).fit((16, 98), 0, {0: "mask"}, 0).axes
    assert Positions(98).fit((16, 98), 0, {0: ""}).axes == (0,)
    last = Positions(16).fit((4, 4, 3), 0, (), 2)(images.permute(0, 2, 3, 1)).view(2, 16, 4)
    assert torch.equal(last, whole)
    assert {
        Positions(4).fit(shape, 0, axes).positions for shape, axes in (((7,), ()), ((2, 5, 5), (1, 2)), ((1, 3), ()))
    } == {1}


def test_channels_are_standardised_over_the_positions_that_there_are():
    rows, there = _sequences(torch.float32)
    flat = rows.flatten(1)
    found = standardiser_of(JoinedRows(flat[:30], flat[30:]), T).applied(flat.clone()).view(N, T, D + 1)
    kept = rows[:, :, :D][there]
    torch.testing.assert_close(found[:, :, :D][there], (kept - kept.mean(0)) / kept.std(0, correction=0))
    assert torch.equal(found[:, :, D], there.float())


class _Tokens(nn.Module):
    def forward(self, x):
        return x * 1.0


def _marked(signal: float, n: int = 1300, length: int = 6) -> dict[str, Any]:
    """Sequences, one token of which is marked; its second channel has the sign of the class, times `signal`."""
    draws = torch.Generator().manual_seed(1)
    x = torch.randn(n, length, 6, generator=draws)
    y, marked = torch.randint(0, 2, (n,), generator=draws), torch.randint(0, length, (n,), generator=draws)
    x[:, :, 0] = 0.1 * x[:, :, 0]
    x[torch.arange(n), marked, 0] = 3.0
    x[torch.arange(n), marked, 1] = signal * (2.0 * y - 1) + (1 - signal) * x[torch.arange(n), marked, 1]
    ends = np.cumsum([0, 600, 200, 500])
    return {s: (x[a:b], y[a:b]) for s, a, b in zip(("train", "val", "test"), ends, ends[1:], strict=False)}


QUICK = Attention(learning_rate=0.05, steps=400, patience=2, seeds=2)


def _found(results, metric, layer="input"):
    (row,) = results.metrics.query("head == 'attention' and metric == @metric and layer == @layer").itertuples()
    return row


def test_one_marked_token_decides():
    results = layerprobe.probe(_Tokens(), _marked(1.0), layers="input", analyses=QUICK, reducer="mean_token")
    assert results["test_error"].item() > 0.25, "the mean cannot tell which token is marked"
    assert _found(results, "error").value < 0.02
    assert _found(results, "error_difference").low > 0.2


def test_noise_gains_nothing():
    results = layerprobe.probe(_Tokens(), _marked(0.0), layers="input", analyses=QUICK, reducer="mean_token")
    assert _found(results, "error_difference").low <= 0
    assert abs(_found(results, "error").value - 0.5) < 0.06


def test_the_linear_head_is_the_same_beside_it_and_on_disk():
    short = {split: (x[:200], y[:200]) for split, (x, y) in _marked(1.0).items()}

    def run(room, *analyses):
        found = probed_with(room, _Tokens(), short, layers="input", reducers=(MeanToken(),), analyses=analyses)
        return found["test_error"].item(), found["n_features"].item(), found.metrics

    quick = replace(QUICK, steps=20)
    alone, beside, on_disk = run(ROOM), run(ROOM, quick), run(1 << 12, quick)
    assert alone[:2] == beside[:2] == on_disk[:2] == (alone[0], 6)
    values = [found[2].query("metric != 'seconds'")["value"].tolist() for found in (beside, on_disk)]
    assert values[0]
    assert values[0] == values[1]


def test_a_layer_without_positions_has_no_figures_and_is_named_once(caplog):
    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(72, 3))
    draws = torch.Generator().manual_seed(0)
    x, y = torch.randn(90, 1, 8, 8, generator=draws), torch.randint(0, 3, (90,), generator=draws)
    data = {split: (x[i : i + 30], y[i : i + 30]) for i, split in ((0, "train"), (30, "val"), (60, "test"))}
    with caplog.at_level("INFO", "layerprobe"):
        results = layerprobe.probe(network, data, analyses=replace(QUICK, steps=5))
    assert not results["message"].str.contains("attention").any()
    assert set(results.metrics["layer"]) == {"input", "0"}
    assert sum("2: has no positions for attention" in message for message in caplog.messages) == 1


class _TwoTexts(nn.Module):
    """An encoder with a mask, and a decoder whose inputs have none."""

    def __init__(self):
        super().__init__()
        self.encoder, self.decoder, self.out = nn.Embedding(20, 6), nn.Embedding(20, 6), nn.Linear(6, 3)

    def forward(self, input_ids, attention_mask, decoder_input_ids):
        held = attention_mask[:, :, None]
        read = (self.encoder(input_ids) * held).sum(1) / held.sum(1).clamp_min(1)
        return self.out((self.decoder(decoder_input_ids) + read[:, None]).mean(1))


def _two_texts():
    draws = torch.Generator().manual_seed(0)
    lengths = torch.randint(1, 6, (120,), generator=draws)
    inputs = {
        "input_ids": torch.randint(20, (120, 5), generator=draws),
        "attention_mask": (torch.arange(5) < lengths[:, None]).long(),
        "decoder_input_ids": torch.randint(20, (120, 4), generator=draws),
    }
    return inputs, torch.randint(0, 3, (120,), generator=draws)


def _parts(inputs, y):
    places = {"train": slice(60), "val": slice(60, 90), "test": slice(90, 120)}
    return {split: ({name: x[rows] for name, x in inputs.items()}, y[rows]) for split, rows in places.items()}


def test_tokens_without_a_mask_take_the_analysis_alone_its_figures(tmp_path):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = _TwoTexts().eval()
    layers = ["encoder", "decoder"]
    plain = layerprobe.probe(network, _parts(*_two_texts()), layers=layers)
    for _ in range(2):  # made, and found
        quick = replace(QUICK, steps=5)
        results = layerprobe.probe(network, _parts(*_two_texts()), layers=layers, analyses=quick, keep=tmp_path)
        assert results["status"].tolist() == plain["status"].tolist() == ["converged"] * 2
        assert results["test_error"].tolist() == plain["test_error"].tolist()
        assert not results["message"][0]
        assert "attention: no mask says which of its tokens are padding" in results["message"][1]
        assert set(results.metrics["layer"]) == {"encoder"}


def _empty(inputs):
    inputs["attention_mask"][93] = 0


def _of_four_axes(inputs):
    inputs["attention_mask"] = inputs["attention_mask"][:, None, None]


@pytest.mark.parametrize(
    ("spoil", "reason"), [(_empty, "Sample 3 of a batch has no token"), (_of_four_axes, "a mask of")]
)
def test_a_mask_that_cannot_be_read_takes_the_analysis_alone_its_figures(spoil, reason):
    class Masked(_TwoTexts):
        def forward(self, input_ids, attention_mask, decoder_input_ids):
            return super().forward(input_ids, attention_mask.flatten(1), decoder_input_ids)

    inputs, y = _two_texts()
    spoil(inputs)
    network, quick = Masked().eval(), replace(QUICK, steps=5)
    (message,) = layerprobe.probe(network, _parts(inputs, y), layers="encoder", analyses=quick)["message"]
    assert "attention: " in message
    assert reason in message
    if spoil is _empty:
        with pytest.raises(ValueError, match="has no token"):
            layerprobe.probe(network, _parts(inputs, y), layers="encoder", reducer="mean_token")


def _mask_of_val(batch):
    n = len(batch[0])
    return torch.ones(n, 6 + (n == 40))


@pytest.mark.parametrize(("reducer", "spoilt", "mask", "reason"), [
    ("first_token", (slice(2, 3), slice(1, 2)), None, "NaN or infinite activations, first in train sample 2"),
    ("average_pool", slice(0), _mask_of_val, "The mask given is of (40, 7) samples and tokens"),
])  # fmt: skip
def test_what_positions_alone_read_takes_no_head(reducer, spoilt, mask, reason):
    data = {split: (x[:n], y[:n]) for (split, (x, y)), n in zip(_marked(1.0).items(), (100, 40, 60), strict=True)}
    data["train"][0][spoilt] = math.inf
    run = partial(layerprobe.probe, _Tokens(), data, layers="input", reducer=reducer, mask=mask)
    results, plain = run(analyses=replace(QUICK, steps=5)), run()
    assert results["status"].item() == "converged"
    assert results["test_error"].item() == plain["test_error"].item()
    assert f"attention: {reason}" in results["message"].item()


def test_a_fault_in_standardising_positions_takes_no_head(monkeypatch):
    def fails(*_, **__):
        raise RuntimeError("no room")

    monkeypatch.setattr(layer_analyses, "standardiser_of", fails)
    data = {split: (x[:40], y[:40]) for split, (x, y) in _marked(1.0).items()}
    results = layerprobe.probe(_Tokens(), data, layers="input", reducer="mean_token", analyses=QUICK)
    assert results["status"].item() == "converged"
    assert results["message"].item().endswith("attention: RuntimeError: no room")


def test_layers_are_dealt_out_by_what_heads_are_fitted_to():
    network = nn.Sequential(nn.Conv1d(2, 3, 3), nn.Flatten(), nn.Linear(18, 40), nn.Linear(40, 30)).eval()
    data = {split: (torch.randn(9, 2, 8), torch.arange(9) % 3) for split in ("train", "val", "test")}
    parts = []
    for analyses in ((), (Attention(),)):
        protocol = ProbeProtocol(analyses=analyses)
        with freeze(network) as frozen:
            found = discover_layers(frozen, data, protocol, DEFAULTS)
        parts.append([[layer.name for layer in part.ways] for part in found.dealt(2)])
    assert parts[0] == parts[1]


@pytest.mark.parametrize("wrong", [{"positions": 1}, {"seeds": 0}, {"learning_rate": 0.0}], ids=str)
def test_what_cannot_be_trained_is_refused(wrong):
    (name,) = wrong
    with pytest.raises(ValueError, match=f"`{name}`"):
        Attention(**wrong)
