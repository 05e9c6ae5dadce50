"""Curves of directions and of erasure show the numbers of the metrics, beside what chance comes to."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

import layerprobe
from helpers import made_results as made
from layerprobe.report.run_figures import analysis_charts
from layerprobe.results.reader import Run
from layerprobe.results.store import ProbeStore
from layerprobe.types import LayerResult, MetricRecord

LAYERS = ("input", "conv", "fc")


def layer(depth: int, signed: bool, checkpoint: str = "final", step: int = 100) -> LayerResult:
    found = made.result(checkpoint, step, depth, LAYERS[depth])
    figures = [("mean_difference", "angle", 40 + depth), ("stability", "angle", 20 + depth)]
    figures += [("mean_difference", "score_angle", 10 + depth), ("mean_difference", "random_angle", 80)]
    if signed:
        figures += [("mean_difference", "cosine", -0.5), ("stability", "cosine", 0.9)]
    metrics = [
        MetricRecord(
            checkpoint, step, 0, depth, LAYERS[depth], head, "", metric, 60, float(value), value - 5.0, value + 5.0
        )
        for head, metric, value in figures
    ]
    erased = MetricRecord(checkpoint, step, 0, depth, LAYERS[depth], "erased", "test", "error", 60, 0.6, 0.5, 0.7)
    return replace(found, metrics=(*metrics, erased))


def results(signed: bool = False) -> layerprobe.ProbeResults:
    return layerprobe.ProbeResults([layer(i, signed) for i in range(3)])


def lines(chart: object) -> pd.DataFrame:
    found = [pd.DataFrame(rows) for rows in chart.to_dict()["datasets"].values()]  # type: ignore[attr-defined]
    return next(rows for rows in found if "line" in rows).set_index(["line", "layer"])["value"]


def test_angles_of_several_classes() -> None:
    found = lines(layerprobe.direction_curve(results()))
    assert found["fitted and difference of means", "conv"] == 41
    assert found["fitted to two halves of train", "fc"] == 22
    assert found["their scores on train", "input"] == 10
    assert len(found) == 9


def test_cosines_of_two_classes_keep_their_sign() -> None:
    chart = layerprobe.direction_curve(results(signed=True))
    assert lines(chart)["fitted and difference of means", "conv"] == -0.5
    bands = [pd.DataFrame(rows) for rows in chart.to_dict()["datasets"].values()]
    (band,) = (rows for rows in bands if "line" not in rows)
    np.testing.assert_allclose(band["high"], np.cos(np.radians(75)))
    np.testing.assert_allclose(band["low"], -np.cos(np.radians(75)))


def test_erasure_beside_the_curve_and_the_network() -> None:
    given = results()
    own = pd.DataFrame(
        {"layer": LAYERS, "error": 0.1, "error_low": 0.05, "error_high": 0.2, "erased_error": [0.1, 0.3, np.nan]}
    ).assign(erased_error_low=0.0, erased_error_high=0.4)
    found = lines(layerprobe.erasure_curve(given, own))
    assert found["linear head", "conv"] == given["test_error"][1]
    assert found["linear head, erased", "conv"] == 0.6
    assert found["the network's own output", "fc"] == 0.1
    assert found["the network's own output, erased", "conv"] == 0.3
    assert set(lines(layerprobe.erasure_curve(given)).index.get_level_values(0)) == {
        "linear head",
        "linear head, erased",
    }


def test_nothing_to_draw() -> None:
    plain = layerprobe.ProbeResults([made.result(layer="input")])
    with pytest.raises(ValueError, match="Ask for the analyses `mean_difference` and `stability`"):
        layerprobe.direction_curve(plain)
    with pytest.raises(ValueError, match="Ask for the analysis `erased`"):
        layerprobe.erasure_curve(plain)
    with pytest.raises(TypeError, match="does not have the metrics"):
        layerprobe.direction_curve(pd.DataFrame(plain))


def test_a_run_draws_those_that_were_asked_for(tmp_path) -> None:  # type: ignore[no-untyped-def]
    with ProbeStore(tmp_path / "probes") as store:
        for i in range(3):
            store.add(layer(i, signed=False))
            store.add(layer(i, signed=False, checkpoint="initial", step=0))
    assert set(analysis_charts(Run.read(tmp_path))) == {"direction_curve", "erasure_curve"}
    assert len(lines(layerprobe.direction_curve(tmp_path))) == 9
