"""Heads' angles: of which heads, in which units, against which reference, and how they are drawn."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.linalg import subspace_angles

import layerprobe
from helpers import made_results as made
from layerprobe.files.errors import DamagedFileError
from layerprobe.report import style
from layerprobe.report.charts.angle_map import angle_map
from layerprobe.report.run_figures import angle_maps
from layerprobe.results.reader import Run
from layerprobe.results.store import ProbeStore
from layerprobe.types import LayerResult

CHECKPOINTS = (("initial", 0), ("final", 100))


def results(checkpoint: str = "final", step: int = 100, **others: object) -> layerprobe.ProbeResults:
    layers = [made.result(checkpoint, step, i, name, **others) for i, name in enumerate(("input", "conv", "relu"))]
    odd = made.result(checkpoint, step, 3, "pool", n_features=32, reduction="8x4x4 -> 8x2x2", **others)
    return layerprobe.ProbeResults([*layers, odd, made.of(made.failed(checkpoint, step, 4, "fc"))])


def turned(result: LayerResult, by: float) -> LayerResult:
    """The head of two classes with its direction turned by some degrees, in its features' own units."""
    weight, scale = result.head["weight"].astype(np.float64), result.head["scale"]
    line = (weight[1] - weight[0]) / scale
    across = np.random.default_rng(0).normal(size=line.shape)
    across -= line * (across @ line) / (line @ line)
    across *= np.linalg.norm(line) / np.linalg.norm(across)
    new = (np.cos(np.radians(by)) * line + np.sin(np.radians(by)) * across) * scale / 2
    return replace(result, head={**result.head, "weight": np.stack([-new, new])})


def cell(pairs: pd.DataFrame, one: str, other: str, by: str = "layer") -> pd.Series:
    found = pairs[(pairs[by] == one) & (pairs[f"other_{by}"] == other)]
    assert len(found) == 1
    return found.iloc[0]


def test_heads_of_several_classes_are_compared_in_their_features_own_units() -> None:
    given = results()
    found = cell(layerprobe.angles(given), "input", "relu")
    rows = [given.heads[name].direction for name in ("input", "relu")]
    expected = np.degrees(subspace_angles(*(each[:2].T for each in rows)))  # three rows that add up to nothing
    np.testing.assert_allclose([found.smallest, found.largest], [expected.min(), expected.max()], atol=1e-5)
    assert (found.dimensions, found.other_dimensions, found.n_features) == (2, 2, 64)
    assert found.random_low < found.random_angle < found.random_high
    assert np.isnan(found.cosine)
    same = cell(layerprobe.angles(given), "relu", "relu")
    assert same.angle == pytest.approx(0, abs=1e-5)
    assert same.nearness == pytest.approx(1)


def test_a_row_that_is_added_to_all_classes_changes_nothing() -> None:
    common = np.random.default_rng(0).normal(size=32).astype(np.float32)
    moved = [replace(r, head=shifted(r, common)) for r in given_heads()]
    columns = ["angle", "smallest", "largest"]
    first, second = (
        layerprobe.angles(one)[columns]
        for one in (layerprobe.ProbeResults(given_heads()), layerprobe.ProbeResults(moved))
    )
    np.testing.assert_allclose(first, second, atol=1e-4)


@pytest.mark.parametrize(("by", "angle"), [(30, 30), (90, 90), (150, 30), (180, 0)])
def test_the_direction_of_two_classes_has_a_sign(by: float, angle: float) -> None:
    given = results(n_classes=2)
    other = layerprobe.ProbeResults([turned(layer, by) for layer in given.layers if layer.head])
    found = cell(layerprobe.angles({"a": given, "b": other}, "checkpoints", layer="conv"), "a", "b", "checkpoint")
    assert found.cosine == pytest.approx(np.cos(np.radians(by)), abs=1e-6)
    assert found.angle == pytest.approx(angle, abs=1e-4)


def test_what_cannot_be_compared_says_why() -> None:
    pairs = layerprobe.angles(results())
    assert cell(pairs, "conv", "pool").reason == "8x4x2 features against 8x2x2 features"
    assert cell(pairs, "conv", "fc").reason == "fc at final has no head"
    assert np.isnan(cell(pairs, "conv", "pool").angle)
    few = layerprobe.ProbeResults([made.result(depth=i, layer=n, n_features=2) for i, n in enumerate(("conv", "relu"))])
    assert cell(layerprobe.angles(few), "conv", "relu").reason == "a head looks at all of the 2 dimensions"
    constant = [replace(r, head={**r.head, "weight": 0 * r.head["weight"]}) for r in given_heads()]
    assert "the head of input at final is constant" in set(layerprobe.angles(layerprobe.ProbeResults(constant)).reason)


def shifted(result: LayerResult, row: np.ndarray) -> dict[str, np.ndarray]:
    return {**result.head, "weight": result.head["weight"] + np.resize(row, result.record.n_features)}


def given_heads() -> list[LayerResult]:
    return [layer for layer in results().layers if layer.head]


def test_several_results_are_checkpoints_of_one_network() -> None:
    pairs = layerprobe.angles([results(), results()], "checkpoints", layer="conv")
    assert pairs["checkpoint"].unique().tolist() == ["1", "2"]
    assert pairs["nearness"].to_list() == pytest.approx([1, 1, 1, 1])


def test_wrong_words() -> None:
    with pytest.raises(ValueError, match="no layer 'cov'"):
        layerprobe.angles(results(), "checkpoints", layer="cov")
    with pytest.raises(ValueError, match="no checkpoint 'epoch_9'"):
        layerprobe.angles(results(), checkpoint="epoch_9")
    with pytest.raises(TypeError, match="does not have the heads"):
        layerprobe.angles(pd.DataFrame(results()))
    with pytest.raises(ValueError, match="nothing to draw: no two heads can be compared"):
        layerprobe.angle_map(layerprobe.ProbeResults(results().layers[:1]))


def drawn(chart: object) -> pd.DataFrame:
    return pd.DataFrame(max(chart.to_dict()["datasets"].values(), key=len))  # type: ignore[attr-defined]


def test_a_map_shows_what_can_be_compared_and_says_what_it_leaves_out() -> None:
    chart = layerprobe.angle_map(results())
    cells = drawn(chart)
    assert set(cells["layer"]) == {"input", "conv", "relu"}
    one = cell(cells, "input", "conv")
    found = cell(layerprobe.angles(results()), "input", "conv")
    assert one.text == f"{found.angle:.0f}°"
    assert one.value == pytest.approx(max(found.nearness, 0))
    assert one.far == (found.angle >= found.random_low)
    written = [layer for layer in chart.to_dict()["layer"] if layer["mark"]["type"] == "text"]
    styles = {layer["transform"][0]["filter"]: layer["mark"]["fontStyle"] for layer in written}
    assert styles == {"!datum.far": "normal", "datum.far": "italic"}
    assert {json.dumps(layer["encoding"]["color"]) for layer in written} == {
        json.dumps(written[0]["encoding"]["color"])
    }
    subtitle = " ".join(chart.to_dict()["title"]["subtitle"])
    assert "left out, with none to compare: pool, fc" in subtitle
    assert f"random 2 of 64 dimensions: {found.random_angle:.0f}°" in subtitle


def test_title_and_notes_of_a_small_map_fit_a_narrow_screen() -> None:
    title = layerprobe.angle_map(results()).to_dict()["title"]
    assert title["frame"] == "bounds", "they start at the left of the names"
    assert max(map(len, title["subtitle"])) <= 53


def test_a_note_of_more_than_a_line_is_broken_between_words() -> None:
    note = "left out, with none to compare: " + ", ".join(f"layer_{i}" for i in range(12))
    rows = style.packed(["first", note, "last"], 200)
    assert max(map(len, rows)) <= 53
    assert " ".join(rows).replace("; ", " ") == f"first {note} last"
    assert style.packed(["a", "b"], 200) == ["a; b"]


def test_a_damaged_head_is_named_and_leaves_the_others_on_the_map(tmp_path: Path, caplog) -> None:
    results().save(tmp_path / "probes")
    whole = drawn(angle_maps(Run.read(tmp_path))["angles_layers"])
    (file,) = (tmp_path / "probes" / "heads" / "final").glob("*_conv.*")
    content = file.read_bytes()
    for damaged in (b"", b"xx", content[: len(content) // 2], content.replace(b'"F32"', b'"Q32"')):
        caplog.clear()
        file.write_bytes(damaged)
        run = Run.read(tmp_path)
        with pytest.raises(DamagedFileError, match=r"001_conv\.safetensors is damaged .*Next step: move it away"):
            run.head("final", "conv")
        chart = angle_maps(run)["angles_layers"]
        assert "001_conv.safetensors is damaged" in caplog.text
        assert "the head of conv at final is damaged" in " ".join(chart.to_dict()["title"]["subtitle"])
        kept = whole[~whole["layer"].eq("conv") & ~whole["other_layer"].eq("conv")]
        assert drawn(chart)["value"].tolist() == kept["value"].tolist()
        assert set(layerprobe.angles(tmp_path)["reason"]) >= {"the head of conv at final is damaged"}


@pytest.mark.parametrize("weight", [np.full((3, 64), np.nan, np.float32), np.ones((3, 5), np.float32)])
def test_a_head_of_damaged_numbers_leaves_the_others_on_the_map(weight: np.ndarray, caplog) -> None:
    heads = given_heads()
    heads[1] = replace(heads[1], head={**heads[1].head, "weight": weight})
    chart = layerprobe.angle_map(layerprobe.ProbeResults(heads))
    assert "the head of conv at final is damaged" in " ".join(chart.to_dict()["title"]["subtitle"])
    assert "The head of conv at final cannot be compared" in caplog.text
    assert {"input", "relu"} == set(drawn(chart)["layer"])


def test_a_map_of_single_directions_shows_their_cosine() -> None:
    given = results(n_classes=2)
    other = layerprobe.ProbeResults([turned(layer, 120) for layer in given.layers if layer.head])
    cells = drawn(layerprobe.angle_map({"a": given, "b": other}, "checkpoints", layer="conv"))
    assert cell(cells, "a", "b", "checkpoint").text == "-0.50"


def test_a_run_has_both_maps(tmp_path: Path) -> None:
    with ProbeStore(tmp_path / "probes") as store:
        for name, step in CHECKPOINTS:
            for layer in results(name, step).layers:
                store.add(layer)
    charts = angle_maps(Run.read(tmp_path))
    assert set(charts) == {"angles_layers", "angles_checkpoints"}
    pairs = layerprobe.angles(tmp_path, "checkpoints")
    assert set(pairs["checkpoint"]) == {"initial", "final"}
    assert (pairs["layer"] == pairs["other_layer"]).all()
    assert len(layerprobe.angles(tmp_path, layer="conv", checkpoint="final")) == 1


def test_figures_are_drawn_of_many_layers_too() -> None:
    many = layerprobe.ProbeResults([made.result("final", 1, i, f"block{i}.relu") for i in range(60)])
    chart = angle_map(layerprobe.angles(many), "Many")
    assert chart.to_dict()["width"] <= 800
