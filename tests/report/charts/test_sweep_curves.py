"""The picture of a sweep: a panel for each pair of values, a line for each third one."""

from __future__ import annotations

import pandas as pd
import pytest

from helpers import made_results as made
from layerprobe.report.charts.sweep_curves import sweep_curves
from layerprobe.report.error_column import TRAIN_ERROR
from layerprobe.report.picture_files import save


@pytest.fixture
def sweep() -> pd.DataFrame:
    """Two models × three activations × two depths × two seeds; the networks have as many layers as they are deep."""
    frames = []
    for model in ("mlp", "convnet"):
        for activation in ("relu", "identity", "tanh"):
            for depth in (2, 10):
                for seed in (0, 1):
                    layers = ["input", *(f"layers.{i}" for i in range(depth))]
                    frame = made.results(layers, [("final", 100)], test_error=0.1 + 0.02 * seed, train_error=0.05)
                    where = {"model": model, "model/activation": activation, "model.depth": str(depth)}
                    frames.append(frame.assign(**where, directory=f"{model}{activation}{depth}{seed}"))
    return pd.concat(frames, ignore_index=True)


def keys() -> tuple[str, str, str]:
    return "model", "model/activation", "model.depth"


def test_every_layer_of_every_setting_is_drawn_averaged_over_seeds(sweep):
    spec = sweep_curves(sweep, *keys()).to_dict()
    (rows,) = (rows for rows in spec["datasets"].values() if "position" in rows[0])
    drawn = pd.DataFrame(rows)
    assert len(drawn) == 2 * 3 * (3 + 11)
    assert drawn["test_error"].to_numpy() == pytest.approx(0.11)
    assert drawn["input"].to_numpy() == pytest.approx(0.11)
    assert drawn.groupby("line")["position"].max().to_dict() == {"2": 2, "10": 10}
    assert spec["facet"]["row"]["sort"] == ["mlp", "convnet"]
    assert spec["facet"]["column"]["sort"] == ["relu", "identity", "tanh"]


def test_the_drawing_names_what_is_compared(sweep, tmp_path):
    _, drawing = save(sweep_curves(sweep, *keys(), error=TRAIN_ERROR, title="Why"), tmp_path / "sweep")
    text = drawing.read_text()
    for word in ("Why", "identity", "convnet", "activation", "depth", "train error", "60 train samples"):
        assert word in text


def test_a_failed_layer_leaves_its_place_out(sweep):
    sweep.loc[sweep["layer"] == "layers.0", "test_error"] = float("nan")
    spec = sweep_curves(sweep, *keys()).to_dict()
    (rows,) = (rows for rows in spec["datasets"].values() if "position" in rows[0])
    drawn = pd.DataFrame(rows)
    assert "layers.0" not in set(drawn["layer"])
    assert drawn.loc[drawn["layer"] == "layers.1", "position"].unique().tolist() == [2]


def test_jobs_on_other_data_are_not_averaged(sweep):
    sweep.loc[sweep["directory"].str.endswith("1"), ["n_test", "test_error"]] = [99, 0.5]
    spec = sweep_curves(sweep, *keys()).to_dict()
    (rows,) = (rows for rows in spec["datasets"].values() if "position" in rows[0])
    drawn = pd.DataFrame(rows)
    assert sorted(drawn["test_error"].unique()) == pytest.approx([0.1, 0.5])
    assert (drawn["input"] == drawn["test_error"]).all()


def test_without_the_input_no_rule_stands_for_it(sweep):
    spec = sweep_curves(sweep[sweep["depth"] > 0], *keys()).to_dict()
    (rows,) = (rows for rows in spec["datasets"].values() if "position" in rows[0])
    assert pd.DataFrame(rows)["input"].isna().all()
