"""Pictures over training: frames, the edge-on view of three units, the GIF."""

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from helpers import made_results as made
from layerprobe.report.tidy import few_checkpoints
from layerprobe.report.toy.animation import animation, write_gif
from layerprobe.report.toy.boundary_plane import boundary, project
from layerprobe.results.reader import Run
from layerprobe.results.store import ProbeStore
from layerprobe.types import LayerResult

X = np.array([[0, 0], [0, 1], [1, 0], [1, 1]], dtype=float)
LABELS = [0, 1, 1, 0]
CHECKPOINTS = [("initial", 0), ("step_5", 5), ("final", 9)]


def head(units, seed=0):
    generator = torch.Generator().manual_seed(seed)
    tensors = {
        "weight": torch.randn(2, units, generator=generator), "bias": torch.randn(2, generator=generator),
        "mean": torch.randn(units, generator=generator), "scale": torch.rand(units, generator=generator) + 0.5,
    }  # fmt: skip
    return {name: tensor.numpy() for name, tensor in tensors.items()}


def states(units, layer="hidden", seed=0):
    h = np.random.default_rng(seed).normal(size=(len(CHECKPOINTS), 4, units))
    frames = []
    for (name, step), at in zip(CHECKPOINTS, h, strict=True):
        columns = {f"h{i + 1}": at[:, i] for i in range(units)}
        about = {"checkpoint": name, "step": step, "layer": layer, "x1": X[:, 0], "x2": X[:, 1], "label": LABELS}
        frames.append(pd.DataFrame(about | columns))
    return pd.concat(frames, ignore_index=True)


@pytest.fixture
def run(tmp_path):
    probes = tmp_path / "run" / "probes"
    store = ProbeStore(probes)
    for name, step in CHECKPOINTS:
        for depth, units in ((1, 2), (2, 3)):
            record = made.record(name, step, depth, f"units{units}", n_classes=2)
            store.add(LayerResult(record, (), head(units, step), np.ones(4, dtype=bool)))
    store.merge()
    hidden = pd.concat([states(2, "units2"), states(3, "units3")], ignore_index=True)
    hidden.to_parquet(probes / "hidden.parquet")
    side = np.linspace(-0.5, 1.5, 61)
    grid = np.stack(np.meshgrid(side, side), axis=-1).reshape(-1, 2)
    surface = [
        pd.DataFrame({"x1": grid[:, 0], "x2": grid[:, 1], "output": grid.sum(1) * step / 20}).assign(
            checkpoint=name, step=step, layer="output"
        )
        for name, step in CHECKPOINTS
    ]
    pd.concat(surface, ignore_index=True).to_parquet(probes / "surface.parquet")
    points = hidden[hidden["layer"] == "units2"].assign(output=0.5, layer="output")
    points.to_parquet(probes / "points.parquet")
    return Run.read(tmp_path / "run")


def test_three_units_are_seen_edge_on():
    hidden, probe = states(3), head(3)
    flat, lines = project(hidden, lambda *_: probe)
    normal, bias = boundary(probe)
    distance = (hidden[["h1", "h2", "h3"]].to_numpy() @ normal + bias) / np.linalg.norm(normal)
    by_checkpoint = dict(zip(lines["checkpoint"], lines["bias"], strict=True))
    seen = (flat["h1"] + flat["checkpoint"].map(by_checkpoint)).tolist()
    assert seen == pytest.approx(distance.tolist())
    assert lines[["w1", "w2"]].drop_duplicates().to_numpy().tolist() == [[1.0, 0.0]]
    for _, group in flat.groupby("checkpoint"):
        original = hidden.loc[group.index, ["h1", "h2", "h3"]].to_numpy()
        seen = group[["h1", "h2"]].to_numpy()
        # A right-angled view: no distance grows, and the second axis is the widest that is left.
        assert np.linalg.norm(seen[0] - seen[1]) <= np.linalg.norm(original[0] - original[1]) + 1e-9
        unit = normal / np.linalg.norm(normal)
        centred = original - original.mean(0)
        rest = centred - np.outer(centred @ unit, unit)
        assert seen[:, 1].var() == pytest.approx(np.linalg.eigvalsh(rest.T @ rest / 4)[-1])


def test_two_units_and_layers_without_a_head_stay_as_they_are():
    def absent(*_):
        raise KeyError

    flat, lines = project(states(2), lambda *_: head(2))
    pd.testing.assert_frame_equal(flat, states(2))
    normal, bias = boundary(head(2))
    assert lines[["w1", "w2", "bias"]].iloc[0].tolist() == pytest.approx([*normal, bias])
    flat, lines = project(states(3), absent)
    assert lines.empty
    assert flat[["h1", "h2"]].notna().all().all()


def test_states_that_coincide_do_not_break_the_view():
    hidden = states(3).assign(h1=1.0, h2=1.0, h3=1.0)
    flat, _ = project(hidden, lambda *_: head(3))
    assert np.isfinite(flat[["h1", "h2"]].to_numpy()).all()


def test_a_film_has_a_panel_for_each_layer_and_a_frame_for_each_checkpoint(run):
    spec = animation(run)
    assert [panel["title"]["text"] for panel in spec["concat"]] == ["what the network answers", "units2", "units3"]
    (slider,) = [p["bind"] for p in spec["params"] if "bind" in p]
    assert (slider["min"], slider["max"]) == (0, 2)
    assert "3 checkpoints" in spec["description"]


def test_the_gif_shows_each_checkpoint_and_rests_at_the_end(run, tmp_path):
    (file,) = write_gif(run, tmp_path / "animation.gif")
    with Image.open(file) as picture:
        assert picture.n_frames == 3
        seconds, shown = [], set()
        for i in range(3):
            picture.seek(i)
            seconds.append(picture.info["duration"])
            shown.add(picture.convert("RGB").tobytes())
    assert seconds == [600, 600, 2000]
    assert len(shown) == 3


def test_a_run_without_frames_has_no_film(tmp_path):
    store = ProbeStore(tmp_path / "probes")
    store.add(made.result())
    store.merge()
    assert animation(Run.read(tmp_path)) is None
    assert list(write_gif(Run.read(tmp_path), tmp_path / "animation.gif")) == []


def test_few_frames_keep_first_and_last():
    frame = pd.DataFrame({"checkpoint": [f"step_{i}" for i in range(20)], "step": range(20)})
    assert few_checkpoints(frame)["step"].tolist() == [0, 6, 13, 19]
    assert len(few_checkpoints(frame.head(3))) == 3
