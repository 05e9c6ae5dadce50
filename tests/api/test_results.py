"""Results as a user of a notebook has them: a frame, a table, figures, files."""

from __future__ import annotations

import copy
import io
import os
import pickle
import re
import subprocess
import sys
from functools import partial
from pathlib import Path

import pandas as pd
import pytest
import torch
from rich.console import Console
from torch import Tensor, nn

import layerprobe
from helpers import made_results as made
from layerprobe.files.lazy_mapping import LazyMapping
from layerprobe.report.charts.depth_curve import depth_curve
from layerprobe.report.tables.results_table import results_table
from layerprobe.results.heads import read_arrays
from layerprobe.results.store import ProbeStore
from layerprobe.types import LayerResult


def data() -> dict[str, tuple[Tensor, Tensor]]:
    random = torch.Generator().manual_seed(0)
    x = {split: torch.randn(n, 5, generator=random) for split, n in (("train", 60), ("val", 30), ("test", 40))}
    return {split: (part, (part[:, 0] + part[:, 1] > 0).long()) for split, part in x.items()}


def network(seed: int = 1) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3))


@pytest.fixture(scope="module")
def found() -> layerprobe.ProbeResults:
    return layerprobe.probe(network(), data(), l2=[1e-2, 1e-1], progress=False)


def made_up(*layers: LayerResult) -> layerprobe.ProbeResults:
    return layerprobe.ProbeResults(layers or [made.result(), made.result(depth=1, layer="fc")])


def test_it_is_a_frame_and_what_is_made_of_it_an_ordinary_one(found: layerprobe.ProbeResults) -> None:
    assert isinstance(found, pd.DataFrame)
    assert found["test_error"].between(0, 1).all()
    plain = pd.DataFrame(found)
    for derived in (found[found["depth"] > 0], found.copy(), found.drop(columns="seconds"), found.head(2)):
        assert type(derived) is pd.DataFrame
    pd.testing.assert_frame_equal(pd.concat([found, found]), pd.concat([plain, plain]))
    for same in (pickle.loads(pickle.dumps(found)), copy.deepcopy(found)):
        pd.testing.assert_frame_equal(pd.DataFrame(same), plain)
    again = pickle.loads(pickle.dumps(found))
    x = data()["test"][0]
    assert torch.equal(again.heads["0"].predict(network(), x), found.heads["0"].predict(network(), x))


def test_it_prints_as_the_terminals_table(found: layerprobe.ProbeResults, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    file = io.StringIO()
    Console(file=file, width=100).print(results_table(pd.DataFrame(found)))
    assert repr(found).split() == str(found).split() == file.getvalue().split()
    assert "Test error by layer" in repr(found)
    html = found._repr_html_()
    assert html is not None
    cells = re.findall(r"<t[hd] [^>]*>(?:<strong>)?(.*?)(?:</strong>)?</t[hd]>", html)
    assert all(cell in repr(found) for cell in cells)
    assert {"depth", "layer", "l2", "status", "Tanh"} <= set(cells)
    assert html.count("<tr>") == len(found) + 1
    best = found.loc[found["val_error"].idxmin(), "test_error"]
    assert f"<strong>{100 * best:.1f}" in html


def test_names_of_layers_are_escaped() -> None:
    results = made_up(made.result(layer="a<b>&c"), made.result(depth=1, layer="fc"))
    assert "a<b>&c" in repr(results)
    assert "a&lt;b&gt;&amp;c" in (results._repr_html_() or "")


def test_what_has_been_changed_prints_as_any_frame() -> None:
    results = made_up()
    results["mine"] = [1, 2]
    assert "mine" in repr(results) and "mine" in (results._repr_html_() or "")
    empty = layerprobe.ProbeResults([])
    assert "Empty" in repr(empty) and empty.heads == {} and empty.path.empty and empty.correct.empty


def test_path_and_correct(found: layerprobe.ProbeResults) -> None:
    path = found.path
    assert path["layer"].unique().tolist() == found["layer"].tolist()
    assert path.groupby("layer")["l2"].nunique().eq(2).all()
    chosen = path[path["selected"]].set_index("layer")["l2"]
    assert chosen[found["layer"].tolist()].tolist() == found["l2"].tolist()
    assert found.correct.shape == (40, 4)
    assert (1 - found.correct.mean()).tolist() == pytest.approx(found["test_error"].tolist())


def test_saved_files_are_those_of_a_run(found: layerprobe.ProbeResults, tmp_path: Path) -> None:
    found.save(tmp_path / "probes")
    store = ProbeStore(tmp_path / "probes")
    pd.testing.assert_frame_equal(store.results(), pd.DataFrame(found))
    pd.testing.assert_frame_equal(store.path(), found.path)
    for place in (tmp_path, tmp_path / "probes", str(tmp_path)):
        again = layerprobe.load(place)
        pd.testing.assert_frame_equal(pd.DataFrame(again), pd.DataFrame(found))
        pd.testing.assert_frame_equal(again.correct, found.correct)
        pd.testing.assert_frame_equal(again.path, found.path)
        assert [layer.recipe for layer in again.layers] and again.layers[0].samples == found.layers[0].samples
    with pytest.raises(FileExistsError, match=r"holds results of the checkpoint 'network' already.*overwrite=True"):
        found.save(tmp_path / "probes")
    again.save(tmp_path / "probes", overwrite=True)  # over the files that its own heads are read from
    assert (layerprobe.load(tmp_path).heads["2"].weight == found.heads["2"].weight).all()


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run of two checkpoints, the last one with a layer that failed."""
    with ProbeStore(tmp_path / "run" / "probes") as store:
        for checkpoint, step in (("initial", 0), ("final", 100)):
            for depth, layer in enumerate(("input", "conv", "fc")):
                store.add(made.result(checkpoint, step, depth, layer))
        store.add(made.of(made.failed("final", 100, 3, "broken")))
    return tmp_path / "run"


def test_a_run_gives_its_last_checkpoint_or_another(run: Path) -> None:
    last = layerprobe.load(run)
    assert set(last["checkpoint"]) == {"final"}
    assert last["layer"].tolist() == ["input", "conv", "fc", "broken"]
    assert list(last.heads) == ["input", "conv", "fc"] and list(last.correct) == ["input", "conv", "fc"]
    first = layerprobe.load(run, "initial")
    assert set(first["checkpoint"]) == {"initial"}
    with pytest.raises(ValueError, match=r"no checkpoint 'inital'\. Did you mean initial or final\?"):
        layerprobe.load(run, "inital")
    with pytest.raises(KeyError, match="There is no head of the layer 'broken': not finite"):
        last.heads["broken"]
    with pytest.raises(ValueError, match=r"does not say how its features are made"):
        last.heads["fc"].predict(network(), data()["test"][0])


def test_a_run_that_is_cut_short_is_read_as_far_as_it_is(run: Path) -> None:
    store = ProbeStore(run / "probes")
    store.add(made.result("later", 200, 0, "input"))
    assert set(layerprobe.load(run)["checkpoint"]) == {"final"}, "the last whole one"
    assert layerprobe.load(run, "later").heads["input"].weight.shape == (3, 64)


def test_what_is_no_run_is_told_what_is(run: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"does not exist\. Give the directory of a run"):
        layerprobe.load(tmp_path / "none")
    with pytest.raises(FileNotFoundError, match=r"holds 1 runs: .*run. Give one of them"):
        layerprobe.load(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="holds no results"):
        layerprobe.load(tmp_path / "empty")
    (run / "probes" / "results.parquet").write_bytes(b"no table")
    with pytest.raises(FileNotFoundError, match=r"not a readable Parquet file.*Next step"):
        layerprobe.load(run)


def specification(chart: object) -> dict[str, object]:
    return chart.to_dict()  # type: ignore[attr-defined]


def test_the_plot_is_the_figure_of_a_run(run: Path) -> None:
    last = layerprobe.load(run)
    assert specification(last.plot()) == specification(depth_curve(pd.DataFrame(last)))
    assert specification(last.plot(error="train")) != specification(last.plot())
    whole = ProbeStore(run / "probes").results()
    assert specification(layerprobe.depth_curve(run)) == specification(depth_curve(whole))
    with pytest.raises(ValueError, match="no layer has a test error"):
        layerprobe.depth_curve(pd.DataFrame({"a": [1]}))
    with pytest.raises(FileNotFoundError, match="does not exist"):
        layerprobe.heat_map(run / "none")


def captions(chart: object) -> list[str]:
    (rows,) = [rows for rows in specification(chart)["datasets"].values() if "caption" in rows[0]]  # type: ignore[attr-defined]
    return list(dict.fromkeys(row["caption"] for row in rows))


def test_several_results_are_lines_and_columns_by_their_names(run: Path) -> None:
    several = {"untrained": layerprobe.load(run, "initial"), "trained": layerprobe.load(run)}
    for chart in (layerprobe.depth_curve, layerprobe.heat_map):
        assert captions(chart(several)) == ["untrained", "trained"]
        assert captions(chart(list(several.values()))) == ["1", "2"]
        assert captions(chart({"one": run, "two": several["trained"]})) == ["one · initial", "one · final", "two"]


def test_two_networks_are_compared_in_pairs_where_they_can(found: layerprobe.ProbeResults, tmp_path: Path) -> None:
    other = layerprobe.probe(network(7), data(), l2=[1e-2, 1e-1], progress=False)
    other.save(tmp_path)
    for second in (other, tmp_path):
        table = layerprobe.compare(found, second)
        assert table["layer"].tolist() == ["input", "0", "1", "2"]
        assert set(table["samples"]) == {"same"}
        assert table["first_error"].tolist() == found["test_error"].tolist()
        assert table["second_error"].tolist() == other["test_error"].tolist()
        only = (found.correct & ~other.correct).sum()
        assert table["only_first"].tolist() == only.tolist()
    assert table["p"].iloc[0] == 1
    same = layerprobe.compare(found, found)
    assert not same["differs"].any() and (same["p"] == 1).all()
    with pytest.raises(ValueError, match=r"layers of the first \(input, 0, 1, 2\) and those of the second \(fc\)"):
        layerprobe.compare(found, made_up(made.result(layer="fc")))
    with pytest.raises(TypeError, match="A DataFrame does not say which samples"):
        layerprobe.compare(found, pd.DataFrame(found))


def test_the_list_of_layers_shows_in_a_notebook() -> None:
    html = layerprobe.layers(network(), data()["test"][0])._repr_html_()
    assert html.startswith("<table") and "Tanh" in html and "NaN" not in html and "left_out" not in html


def test_results_are_read_printed_and_drawn_without_torch(run: Path) -> None:
    code = (
        "import sys, layerprobe\n"
        "results = layerprobe.load(sys.argv[1])\n"
        "assert not {'altair', 'torch', 'pytorch_lightning'} & set(sys.modules)\n"
        "repr(results), results._repr_html_(), results.path, results.correct\n"
        "assert 'altair' not in sys.modules\n"
        "results.plot(), layerprobe.heat_map(results), layerprobe.compare(results, results)\n"
        "results.save(sys.argv[1] + '/again')\n"
        "assert not {'torch', 'pytorch_lightning', 'wandb', 'transformers'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code, str(run)], check=True, timeout=120, env={**os.environ, "COLUMNS": "80"})


def test_arrays_of_a_head_are_read_when_they_are_asked_for(run: Path) -> None:
    file = next((run / "probes").glob("heads/*/*"))
    head = LazyMapping(partial(read_arrays, file), exists=True)
    file.unlink()
    assert head
    with pytest.raises(FileNotFoundError):
        _ = head["weight"]
