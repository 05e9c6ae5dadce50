"""What heads answer and where they look, on the page."""

from __future__ import annotations

import base64
import json
import shutil
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

import layerprobe
from helpers import made_runs
from helpers.browser import opened
from helpers.digits import shuffled_digits
from layerprobe.report.head_charts import angle_products, angles_of, confusion_of
from layerprobe.report.page.document import page
from layerprobe.report.page.head_charts import head_charts
from layerprobe.report.page.page_data import page_data
from layerprobe.report.picture_files import specification
from layerprobe.report.run_comparison import Comparison, compare, side_by_side
from layerprobe.results.reader import Run


@pytest.fixture(scope="module")
def comparison(tmp_path_factory: pytest.TempPathFactory) -> Comparison:
    """A run of two layers that keeps scores, and one of other heads."""
    root, data = tmp_path_factory.mktemp("runs"), shuffled_digits(0, 300, 100, 100)
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(64, 64), nn.Tanh())
    for name, scores in (("a", True), ("b", False)):
        layerprobe.probe(network, data, l2=[0.1 if scores else 9.0], scores=scores, layers=["input", "0"]).save(
            root / name / "probes"
        )
    return compare([root])


def unpacked(found: dict[str, Any], one: dict[str, Any]) -> dict[str, Any]:
    return found["look"] | json.loads(zlib.decompress(base64.b64decode(one["spec"])))


def test_empty_cells_are_of_the_colour_of_the_paper_in_either_theme(comparison: Comparison) -> None:
    found, _ = head_charts(comparison, page_data(comparison))
    (spec, *_) = [unpacked(found, one) for one in found["maps"] if one["kind"] == "confusion"]
    empty, *drawn = [layer["mark"] for layer in spec["layer"] if layer["mark"]["type"] == "rect"]
    assert empty["fill"] == spec["config"]["background"] == {"expr": "dark ? '#141414' : 'white'"}
    assert not any("fill" in mark for mark in drawn)


def test_charts_are_those_of_the_run(comparison: Comparison) -> None:
    data = page_data(comparison)
    found, notes = head_charts(comparison, data)
    run, layers = comparison.runs[0], data.layer_names
    assert {(one["run"], one["kind"], one["layer"]) for one in found["maps"]} == {
        (0, "confusion", 0), (0, "confusion", 1), (0, "angles_layers", None), (1, "angles_layers", None),
    }  # fmt: skip
    for one in found["maps"]:
        own, layer = comparison.runs[one["run"]], one["layer"]
        chart = angles_of(own, "layers", "network") if layer is None else confusion_of(run, "network", layers[layer])
        assert chart is not None
        spec, expected = unpacked(found, one), specification(chart)
        assert spec["title"] == expected["title"]
        assert list(spec["datasets"].values()) == list(expected["datasets"].values())
    assert notes == []


def test_what_each_run_shows_first_stays_where_there_is_little_room(comparison: Comparison) -> None:
    data = page_data(comparison)
    (kept, notes), (_, also) = head_charts(comparison, data, most=3), head_charts(comparison, data, budget=1)
    best = data.layer_names.index(data.runs["best_layer"][0])
    assert [(one["run"], one["kind"], one["layer"]) for one in kept["maps"]] == [
        (0, "angles_layers", None), (1, "angles_layers", None), (0, "confusion", best),
    ]  # fmt: skip
    assert "3 charts are on this page" in notes[0]
    assert "1 charts are" in also[0]


def test_only_layers_that_have_a_file_are_tried(comparison: Comparison, monkeypatch: pytest.MonkeyPatch) -> None:
    run = comparison.runs[0]
    row = run.results.iloc[[1]]
    made = [row.assign(checkpoint=f"step_{i}", step=i + 1, layer=f"{j}", depth=j) for i, j in np.ndindex(20, 20)]
    many = side_by_side([replace(run, results=pd.concat([run.results, *made], ignore_index=True))])
    tried: list[tuple[str, str]] = []

    def counted(run: Run, checkpoint: str, layer: str) -> object:
        tried.append((checkpoint, layer))
        return confusion_of(run, checkpoint, layer)

    monkeypatch.setattr("layerprobe.report.page.head_charts.confusion_of", counted)
    found, notes = head_charts(many, page_data(many))
    assert sorted(tried) == [("network", "0"), ("network", "input")]
    assert [one["kind"] for one in found["maps"]].count("confusion") == 2
    assert [one["kind"] for one in found["maps"]].count("angles_layers") == 1
    assert notes == []
    large = side_by_side([replace(run, results=run.results.assign(n_classes=1000))])
    assert head_charts(large, page_data(large))[0]["maps"] == []
    assert len(tried) == 2


def test_charts_that_cannot_be_drawn_end_too(comparison: Comparison, tmp_path: Path, caplog) -> None:
    shutil.copytree(comparison.runs[0].directory, tmp_path / "a")
    for file in (*(tmp_path / "a").rglob("scores/*/*.parquet"), *(tmp_path / "a").rglob("heads/*/*")):
        file.write_bytes(b"")
    damaged = compare([tmp_path])
    for most, tried in ((60, 2), (1, 1)):
        caplog.clear()
        assert head_charts(damaged, page_data(damaged), most)[0]["maps"] == []
        assert caplog.text.count(".parquet is damaged (not a readable Parquet file") == tried


def test_all_maps_of_angles_share_what_they_may_take(comparison: Comparison) -> None:
    data, takes = page_data(comparison), angle_products(comparison.runs[0].results)
    found, notes = head_charts(comparison, data, products=1.5 * takes)
    assert [(one["run"], one["kind"]) for one in found["maps"]] == [
        (0, "angles_layers"), (0, "confusion"), (0, "confusion"),
    ]  # fmt: skip
    assert "3 charts are on this page" in notes[0]
    assert "1 more could be" in notes[0]


def test_runs_without_heads_have_no_such_section(tmp_path: Path) -> None:
    made_runs.write_run(tmp_path)
    assert 'id="heads"' not in page(compare([tmp_path]))


@pytest.mark.browser
def test_a_head_is_chosen_by_its_names_or_on_a_curve(comparison: Comparison, tmp_path: Path) -> None:
    file = tmp_path / "report.html"
    file.write_text(page(comparison))
    with opened(file) as shown:
        tab = shown.page
        tab.wait_for_selector("#confusion svg")
        assert tab.locator("#angles_checkpoints").count() == 0
        tab.select_option("#head-layer", label="0")
        tab.wait_for_function("() => document.querySelector('#confusion svg').textContent.includes('Answers at 0')")
        assert "head-layer=0" in tab.evaluate("() => location.hash")
        x, y = tab.evaluate(
            """() => {
              scrollTo(0, 0);
              const view = report.views.curves, box = document.querySelector("#curves svg").getBoundingClientRect();
              const [left, top] = view.origin(), pad = view.padding(), found = [];
              const walk = (mark, x, y) => {
                for (const item of mark.items ?? []) {
                  if (item.datum?.layer_text === "input" && item.datum.run === 0 && item.tooltip)
                    found.push([box.left + x + item.x, box.top + y + item.y]);
                  for (const inner of item.items ?? []) walk(inner, x + (item.x ?? 0), y + (item.y ?? 0));
                }
              };
              walk(view.scenegraph().root, left + pad.left, top + pad.top);
              return found[0];
            }"""
        )
        tab.mouse.click(x, y)
        tab.wait_for_function("() => document.querySelector('#confusion svg').textContent.includes('Answers at input')")
        address = tab.evaluate("() => location.href")
        assert "head-layer=input" in address
        tab.select_option("#head-run", label=comparison.names[1])
        tab.wait_for_function("() => document.querySelector('#confusion').hidden")
        assert not tab.locator("#angles_layers").is_hidden()
        tab.goto("about:blank")
        tab.goto(address)
        tab.wait_for_selector("html[data-ready]")
        assert tab.locator("#head-layer").evaluate("(select) => select.selectedOptions[0].text") == "input"
        assert "Answers at input" in str(tab.locator("#confusion svg").text_content())
        assert shown.complaints == []
