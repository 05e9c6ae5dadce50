"""The pictures of XOR: what the network answers, and where a linear probe can separate its hidden states."""

import xml.etree.ElementTree as ET

import numpy as np
import pandas as pd
import pytest
import torch

from helpers import made_results as made
from layerprobe.report.picture_files import save
from layerprobe.report.toy.boundary_plane import LINES, boundary, project
from layerprobe.report.toy.decision_surface import decision_surface
from layerprobe.report.toy.hidden_plane import hidden_plane
from layerprobe.results.store import ProbeStore
from layerprobe.types import LayerResult

X = np.array([[0, 0], [0, 1], [1, 0], [1, 1]], dtype=float)
LABELS = [0, 1, 1, 0]
NO_LINES = pd.DataFrame(columns=LINES)


def ideal(x):
    return np.maximum(x @ np.array([[1.0, -1.0], [-1.0, 1.0]]), 0)


def frames(checkpoint="final", step=5000):
    about = {"checkpoint": checkpoint, "step": step}
    side = np.linspace(-0.5, 1.5, 9)
    grid = np.stack(np.meshgrid(side, side), axis=-1).reshape(-1, 2)
    inputs = pd.DataFrame({"x1": X[:, 0], "x2": X[:, 1], "label": LABELS})
    surface = pd.DataFrame({"x1": grid[:, 0], "x2": grid[:, 1], "output": ideal(grid).sum(1)}).assign(
        layer="output", **about
    )
    points = inputs.assign(output=ideal(X).sum(1), layer="output", **about)
    hidden = inputs.assign(h1=ideal(X)[:, 0], h2=ideal(X)[:, 1], layer="hidden", **about)
    return surface, points, hidden


def texts(chart, folder):
    _, drawing = save(chart, folder / "picture")
    return [node.text for node in ET.parse(drawing).iter() if node.tag.endswith(("text", "tspan")) and node.text]


def test_surface_shows_the_output_on_the_grid_and_at_the_samples(tmp_path):
    surface, points, _ = frames()
    chart = decision_surface(surface, points)
    sets = {len(rows): pd.DataFrame(rows) for rows in chart.to_dict()["datasets"].values()}
    assert sets[81]["output"].tolist() == surface["output"].tolist()
    assert np.allclose(sets[81]["x1"] + 0.125, surface["x1"])
    assert sets[4][["x1", "x2", "label"]].to_numpy().tolist() == [
        [*x, label] for x, label in zip(X, LABELS, strict=True)
    ]
    written = texts(chart, tmp_path)
    assert written.count("0.00") >= 2
    assert written.count("1.00") >= 2


def test_each_checkpoint_has_a_panel(tmp_path):
    both = [pd.concat(pair, ignore_index=True) for pair in zip(frames("initial", 0), frames(), strict=True)]
    lines = pd.DataFrame([("final", "hidden", 1.0, 1.0, -0.5)], columns=LINES)
    for chart in (decision_surface(both[0], both[1]), hidden_plane(both[2], lines)):
        assert len(chart.to_dict()["concat"]) == 2
        assert {"initial (untrained)", "final (step 5,000)"} <= set(texts(chart, tmp_path))


def test_states_that_coincide_share_a_label(tmp_path):
    _, _, hidden = frames()
    written = texts(hidden_plane(hidden, NO_LINES), tmp_path)
    assert {"(0, 0) (1, 1)", "(0, 1)", "(1, 0)"} <= set(written)


def test_states_of_both_labels_on_one_spot_stay_visible():
    _, _, hidden = frames("initial", 0)
    hidden[["h1", "h2"]] = [[0.0, 0.0], [0.001, 0.0], [1.0, 0.3], [0.0, 0.001]]
    rows = [row for rows in hidden_plane(hidden, NO_LINES).to_dict()["datasets"].values() for row in rows]
    spot = [(row["label"], row["size"]) for row in rows if "size" in row and row["h1"] < 0.5]
    assert [label for label, _ in spot] == [0, 1]
    assert spot[0][1] > 2 * spot[1][1]
    assert {row["inputs"] for row in rows if "inputs" in row} == {"(0, 0) (0, 1) (1, 1)", "(1, 0)"}


def test_a_probe_whose_line_is_out_of_view_says_so(tmp_path):
    _, _, hidden = frames()
    lines = pd.DataFrame([("final", "hidden", 1.0, 1.0, 9.0)], columns=LINES)
    assert "no line: the same answer everywhere in view" in " ".join(texts(hidden_plane(hidden, lines), tmp_path))


def test_many_samples_are_drawn_without_texts(tmp_path):
    surface, points, hidden = frames()
    many = [pd.concat([frame] * 10, ignore_index=True) for frame in (points, hidden)]
    assert not {"0.00", "1.00"} & set(texts(decision_surface(surface, many[0]), tmp_path))
    assert "(0, 1)" not in texts(hidden_plane(many[1], NO_LINES), tmp_path)


@pytest.mark.parametrize(
    "line", [(1.0, 1.0, -0.5), (1.0, 0.0, -0.5), (0.0, -2.0, 1.0), (1.0, 1.0, 0.3), (0.3, -1.0, 0.2)]
)
def test_the_line_is_drawn_from_edge_to_edge_of_the_panel(line):
    _, _, hidden = frames()
    lines = pd.DataFrame([("final", "hidden", *line)], columns=LINES)
    drawn = [rows for rows in hidden_plane(hidden, lines).to_dict()["datasets"].values() if len(rows[0]) == 2]
    ((a, b),) = drawn
    for end in (a, b):
        assert line[0] * end["h1"] + line[1] * end["h2"] + line[2] == pytest.approx(0, abs=1e-12)
        assert any(abs(end[axis] - edge) < 1e-12 for axis in ("h1", "h2") for edge in (-0.25, 1.25))
    assert a != b


def test_line_of_a_head_is_where_its_two_scores_are_equal():
    generator = torch.Generator().manual_seed(0)
    head = {name: torch.randn(2, generator=generator).numpy() for name in ("bias", "mean")}
    head |= {"weight": torch.randn(2, 2, generator=generator).numpy()}
    head |= {"scale": torch.rand(2, generator=generator).numpy() + 0.5}
    (w1, w2), bias = boundary(head)
    for _ in range(20):
        h = torch.randn(2, generator=generator).numpy()
        scores = head["weight"] @ ((h - head["mean"]) / head["scale"]) + head["bias"]
        assert w1 * h[0] + w2 * h[1] + bias == pytest.approx(float(scores[1] - scores[0]), abs=1e-5)


def test_lines_come_from_the_stores_heads_where_there_are_fitting_ones(tmp_path):
    _, _, hidden = frames()
    head = {"weight": np.array([[0.0, 0.0], [2.0, 2.0]]), "bias": np.array([0.0, -1.0])}
    head |= {"mean": np.zeros(2), "scale": np.ones(2)}
    store = ProbeStore(tmp_path)
    store.add(LayerResult(made.record(layer="hidden"), (), head, np.ones(4, dtype=bool)))
    store.add(made.result(layer="wide"))
    asked = pd.concat([hidden, hidden.assign(layer="wide"), hidden.assign(layer="absent")])
    assert project(asked, store.head)[1].to_numpy().tolist() == [["final", "hidden", 2.0, 2.0, -1.0]]
    with pytest.raises(ValueError, match="a head of 2 classes"):
        boundary(store.head("final", "wide"))
