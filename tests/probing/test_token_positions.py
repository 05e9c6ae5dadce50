"""The test error of each token position, with the span of a text among them, from one pass over the data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn

import layerprobe
from layerprobe import FirstToken, LastToken, SpanToken, TokenIndex
from layerprobe.api.results import ProbeResults
from layerprobe.probing.protocol import ProbeProtocol

N, LENGTHS = 120, (4, 7)


class Counted(nn.Module):
    """Mixes each token with the one before it, and pools; counts its calls."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.calls = nn.Linear(3, 4), nn.Linear(4, 4), 0

    def forward(self, tokens: Tensor, attention_mask: Tensor, **ignored: Tensor) -> Tensor:
        self.calls += 1
        x = self.first(tokens)
        return self.second(x + x.roll(1, dims=1)).mean(1)


def batch() -> tuple[dict[str, Tensor], Tensor]:
    """The class shows, with more or less noise, in the second token and in a part of the text that moves."""
    random = torch.Generator().manual_seed(0)
    targets = torch.arange(N) % 2
    lengths = torch.randint(*LENGTHS, (N,), generator=random)
    tokens = torch.randn(N, max(LENGTHS), 3, generator=random)
    place = 1 + torch.arange(N) % 3
    tokens[:, 1] += 0.8 * targets[:, None]
    tokens[torch.arange(N), place] += 2.5 * targets[:, None]
    places = torch.arange(max(LENGTHS))
    mask = (places < lengths[:, None]).long()
    span = ((places == place[:, None]) | (places == place[:, None] - 1)).long()
    return {"tokens": tokens, "attention_mask": mask, "span:key": span}, targets


def probed(reducer: Any, network: Counted | None = None, **options: Any) -> ProbeResults:
    network = network or Counted()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network.first.reset_parameters()
        network.second.reset_parameters()
    inputs, targets = batch()
    parts = {"train": slice(0, 60), "val": slice(60, 80), "test": slice(80, N)}
    data = {name: ({k: v[part] for k, v in inputs.items()}, targets[part]) for name, part in parts.items()}
    options |= {"layers": ["first", "second"], "l2": (1e-2, 1.0), "path": "full", "progress": False}
    return layerprobe.probe(network, data, reducer=reducer, **options)


POSITIONS = [FirstToken(), TokenIndex(1), SpanToken("key"), TokenIndex(-2), LastToken()]
NAMES = ["first token", "token 1", "last of key", "token -2", "last token"]


def test_each_position_is_what_a_probe_of_it_alone_comes_to() -> None:
    assert layerprobe.token_positions(first=2, last=2, spans=["key"]) == POSITIONS
    network = Counted()
    found = probed(POSITIONS, network, each_reducer=True)
    calls = network.calls
    probed([FirstToken()], alone := Counted())
    assert calls == alone.calls, "one pass over the data for all positions"
    metrics = found.metrics
    assert set(metrics["metric"]) == {"reducer_error", "reducer_val_error"}
    errors = metrics[metrics["metric"] == "reducer_error"]
    assert list(dict.fromkeys(errors["head"])) == NAMES
    assert set(errors["test_set"]) == {"test"}
    for name, reducer in zip(NAMES, POSITIONS, strict=True):
        single = probed([reducer])
        for layer in ("first", "second"):
            own = metrics[(metrics["head"] == name) & (metrics["layer"] == layer)].set_index("metric")
            expected = single.set_index("layer").loc[layer]
            error = own.loc["reducer_error"]
            wanted = expected[["test_error", "test_error_low", "test_error_high"]].to_numpy(dtype=float)
            np.testing.assert_array_equal(error[["value", "low", "high"]].to_numpy(dtype=float), wanted)
            assert own.loc["reducer_val_error", "value"] == expected["val_error"]
    first = errors[errors["layer"] == "first"].set_index("head")["value"]
    assert first["last of key"] < 0.2 < first["first token"], "the part that moves is where the class is"
    chosen = found.set_index("layer").loc["first"]
    assert chosen["reducer"] == "span_token"
    assert chosen["test_error"] == first["last of key"]


def test_without_asking_no_other_position_reads_test() -> None:
    assert probed(POSITIONS).metrics.empty


def test_the_map_has_a_cell_for_each_layer_and_position(tmp_path: Path) -> None:
    found = probed(POSITIONS, each_reducer=True)
    found.save(tmp_path)
    for source in (found, tmp_path):
        spec = layerprobe.position_map(source).to_dict()
        cells = max(map(pd.DataFrame, spec["datasets"].values()), key=len)
        errors = found.metrics[found.metrics["metric"] == "reducer_error"]
        wanted = errors[["layer", "head", "value"]].rename(columns={"head": "column"})
        joined = cells.merge(wanted, on=["layer", "column"], suffixes=("", "_wanted"))
        assert len(joined) == len(cells) == 2 * len(NAMES)
        np.testing.assert_array_equal(joined["value"], joined["value_wanted"])
        assert spec["layer"][0]["encoding"]["x"]["sort"] == NAMES
    with pytest.raises(ValueError, match=r"no errors by position\. Probe with several reducers"):
        layerprobe.position_map(probed([FirstToken()]))
    with pytest.raises(ValueError, match=r"no errors by position of 'first'.*There is: network"):
        layerprobe.position_map(found, "first")


def test_what_cannot_be_is_one_clear_error() -> None:
    with pytest.raises(ValueError, match=r"no span 'subject', there is key.*'data\.spans=\{subject: COLUMN\}'"):
        probed([SpanToken("subject")])
    with pytest.raises(ValueError, match="no token 3 in a sample of 2 tokens"):
        probed([SpanToken("key", 3)])
    with pytest.raises(ValueError, match="There is no token position"):
        layerprobe.token_positions(first=0, last=0)
    with pytest.raises(ValueError, match="`refit` fits the one head"):
        ProbeProtocol(reducers=POSITIONS, each_reducer=True, refit=True)
    with pytest.raises(ValueError, match="`reducers` of the probe is empty"):
        ProbeProtocol(reducers=[[]])
    assert ProbeProtocol(reducers=[FirstToken(), POSITIONS[1:]]).reducers == tuple(POSITIONS)
