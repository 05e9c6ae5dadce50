"""Every public chart is drawn and written by Altair however many rows it has."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import altair as alt
import pandas as pd
import pytest
import torch
from torch import nn

import layerprobe
from helpers import made_results as made
from layerprobe.api import charts
from layerprobe.report.picture_files import with_all_rows
from layerprobe.types import Answers, LayerResult, MetricRecord

LAYERS = ("0.resid_pre", "0.resid_mid", "1.resid_mid")
METRICS = [
    ("knn", "test", "error"), ("knn", "test", "error_difference"), ("few_shot", "test", "error"),
    ("v_information", "test", "v_information"), ("v_information", "test", "entropy"),
    ("mean_difference", "", "angle"), ("mean_difference", "", "random_angle"),
    ("erased", "test", "error"), ("first", "test", "reducer_error"), ("last", "test", "reducer_error"),
    ("selected", "in", "error"), ("selected", "in", "n_test"), ("selected", "far", "error"),
    ("selected", "far", "n_test"),
]  # fmt: skip
DRAWN = [
    name
    for name, made in inspect.getmembers(charts, inspect.isfunction)
    if str(made.__annotations__["return"]).startswith("alt.")
]
assert len(DRAWN) >= 10, DRAWN


@pytest.fixture
def two_rows() -> Iterator[None]:
    """Altair's limit of 5,000 rows at two."""
    with alt.data_transformers.enable("default", max_rows=2):
        yield


def layer(depth: int) -> LayerResult:
    found = made.result(depth=depth, layer=LAYERS[depth])
    metrics = [MetricRecord("final", 100, 2, depth, LAYERS[depth], *one, 60, 0.3, 0.2, 0.4) for one in METRICS]
    far = {"far": Answers(found.correct, "far")}
    return replace(found, metrics=tuple(metrics), samples="in", test_set="in", further=far)


@pytest.mark.parametrize("name", DRAWN)
def test_no_public_chart_stops_at_a_limit_of_rows(name: str, two_rows: None) -> None:
    results = layerprobe.ProbeResults([layer(i) for i in range(3)])
    given = {"a": results, "b": results} if name in ("transfer_map", "heat_map", "depth_curve") else results
    chart = getattr(layerprobe, name)(given)
    assert max(len(rows) for rows in chart.to_dict()["datasets"].values()) > 2


def test_layers_of_a_chart_share_the_values_of_their_table(monkeypatch: pytest.MonkeyPatch) -> None:
    tables = [pd.DataFrame({"x": [i]}) for i in range(2)]
    converted: list[pd.DataFrame] = []
    convert = alt.to_values
    monkeypatch.setattr(alt, "to_values", lambda table: converted.append(table) or convert(table))
    chart = with_all_rows(alt.layer(*(alt.Chart(tables[i]).mark_point() for i in (0, 1, 0, 1))))
    assert len(converted) == 2
    assert [part.data["values"] for part in chart.layer] == [[{"x": 0}], [{"x": 1}]] * 2


def test_what_cannot_be_drawn_says_why(tmp_path: Path) -> None:
    x, y = torch.randn(60, 4), torch.arange(60) % 2
    data = {"train": (x[:20], y[:20]), "val": (x[20:40], y[20:40]), "test": (x[40:], y[40:])}
    found = layerprobe.probe(nn.Identity(), data, l2=[0.1])
    beyond_linear = inspect.unwrap(layerprobe.beyond_linear)  # without the tests' check of types, which comes first
    with pytest.raises(TypeError, match="one network at a time"):
        beyond_linear({"a": found})
    lost = {split: (torch.full_like(inputs, torch.nan), targets) for split, (inputs, targets) in data.items()}
    failed = layerprobe.probe(nn.Identity(), lost, l2=[0.1])
    with pytest.raises(ValueError, match=r"no layer has a head \(NaN"):
        layerprobe.angle_map(failed)
    found.save(tmp_path / "saved")
    with pytest.raises(ValueError, match="Name their training sets"):
        layerprobe.transfer([tmp_path / "saved", tmp_path / "saved"])
