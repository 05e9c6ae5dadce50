"""Transfer: heads of each training set on the test sets of others, as a table and as a map for each layer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
import yaml
from torch import Tensor, nn

import layerprobe
from layerprobe.report.charts.transfer_map import transfer_map
from layerprobe.report.dataset_transfer import Trained, transfer_table, transfers
from layerprobe.report.report_files import write_report
from layerprobe.report.run_comparison import compare

LAYERS = ("input", "a", "b")


def trained(train: str, samples: dict[str, str], error: float = 0.1, layers: tuple[str, ...] = LAYERS) -> Trained:
    rows = [
        {
            "layer": layer, "depth": LAYERS.index(layer), "test_set": name, "test_error": error + i / 10,
            "test_error_low": error, "test_error_high": 0.9, "n_test": 20 + i,
        }
        for layer in layers
        for i, name in enumerate(samples)
    ]  # fmt: skip
    return Trained(train, pd.DataFrame(rows), samples)


def test_a_test_set_goes_by_the_training_set_whose_own_it_is() -> None:
    found = transfer_table(
        [
            trained("cats", {"test": "C", "other": "D", "far": "F", "alone": "X"}),
            trained("dogs", {"test": "D", "cats": "C", "far": "F", "again": "D"}, 0.3, layers=("a", "b")),
        ]
    )
    assert list(zip(found["layer"], found["train"], found["test"], strict=True)) == [
        (layer, train, test)
        for layer in ("a", "b")
        for train in ("cats", "dogs")
        for test in ("cats", "dogs", "far")
    ]  # fmt: skip
    cells = found[found["layer"] == "b"].set_index(["train", "test"])["error"]
    assert cells.to_dict() == pytest.approx(
        {
            ("cats", "cats"): 0.1, ("cats", "dogs"): 0.2, ("cats", "far"): 0.3,
            ("dogs", "cats"): 0.4, ("dogs", "dogs"): 0.3, ("dogs", "far"): 0.5,
        }
    )  # fmt: skip
    assert found["same_samples"].all()


def test_seeds_are_averaged_and_other_samples_under_one_name_are_said() -> None:
    found = transfer_table(
        [
            trained("cats", {"test": "C", "far": "F"}, 0.1),
            trained("cats", {"test": "C", "far": "F"}, 0.2),
            trained("dogs", {"test": "D", "far": "G", "cats": "C"}, 0.3),
        ]
    )
    row = found[(found["layer"] == "a") & (found["train"] == "cats")].set_index("test")
    assert row["error"].to_dict() == pytest.approx({"cats": 0.15, "far": 0.25})
    assert set(row["n_runs"]) == {2}
    assert row[["low", "high"]].isna().all(axis=None)
    assert row["same_samples"].to_dict() == {"cats": True, "far": False}
    subtitle = transfer_map(found).to_dict()["title"]["subtitle"]
    assert "not the same samples in every row: far" in " ".join(subtitle)


def test_there_is_nothing_to_lay_out_without_a_common_test_set() -> None:
    for parts in (
        [],
        [trained("cats", {"test": "C", "far": "F"})],
        [trained("cats", {"test": "C"}), trained("dogs", {"test": "D"})],
    ):
        assert transfer_table(parts).empty
    with pytest.raises(ValueError, match="no two training sets have a test set in common"):
        transfer_map(transfer_table([]))


def test_a_map_has_a_panel_for_each_layer_and_at_most_twelve() -> None:
    layers = tuple(f"block.{i}" for i in range(30))
    rows = [
        {"train": a, "test": b, "depth": i, "layer": layer, "error": 0.1 + 0.4 * (a != b), "low": 0.05, "high": 0.2,
         "n_test": 50, "n_runs": 1, "same_samples": True}
        for i, layer in enumerate(layers) for a in "xy" for b in "xyz"
    ]  # fmt: skip
    table = pd.DataFrame(rows)
    chart = transfer_map(table).to_dict()
    drawn = pd.DataFrame(next(iter(chart["datasets"].values())))
    assert drawn["layer"].nunique() == 12
    assert set(drawn["layer"]) >= {layers[0], layers[-1]}
    assert "12 of 30 layers" in " ".join(chart["title"]["subtitle"])
    legends = [
        one["encoding"]["color"]["legend"]
        for one in chart["spec"]["layer"]
        if one["mark"]["type"] == "rect" and "color" in one["encoding"]
    ]
    assert [legend["orient"] for legend in legends] == ["bottom"], "beside two panels it would be cut on a tablet"
    assert drawn.loc[drawn["own"], ["train", "test"]].drop_duplicates().to_numpy().tolist() == [["x", "x"], ["y", "y"]]
    chosen = transfer_map(table, ["block.7"]).to_dict()
    assert {row["layer"] for row in next(iter(chosen["datasets"].values()))} == {"block.7"}
    with pytest.raises(ValueError, match=r"no layer 'block\.99'"):
        transfer_map(table, ["block.99"])


def made(shift: float, seed: int) -> dict[str, tuple[Tensor, Tensor]]:
    random = torch.Generator().manual_seed(seed)
    data = {}
    for split, n in (("train", 60), ("val", 30), ("test", 40)):
        x = torch.randn(n, 4, generator=random)
        data[split] = x + shift, (x[:, 0] > 0).long()
    return data


@pytest.fixture(scope="module")
def probed() -> dict[str, Any]:
    network = nn.Sequential(nn.Linear(4, 3), nn.Tanh())
    sets = {"near": made(0.0, 0), "far": made(1.5, 1)}
    tests = {name: data["test"] for name, data in sets.items()}
    return {
        name: layerprobe.probe(network, data, tests={n: t for n, t in tests.items() if n != name}, progress=False)
        for name, data in sets.items()
    }


def test_results_are_laid_out_and_drawn_from_python(probed: dict[str, Any]) -> None:
    table = layerprobe.transfer(probed)
    assert list(table[table["layer"] == "0"]["test"]) == ["near", "far"] * 2
    assert "near" in str(layerprobe.transfer_map(probed, ["0"]).to_dict())
    assert [p["test"] for p in table.to_dict("records")][:2] == ["near", "far"]
    lines = layerprobe.depth_curve(probed["near"]).to_dict()
    assert {row["caption"] for row in next(iter(lines["datasets"].values())) if "caption" in row} == {"test", "far"}
    with pytest.raises(ValueError, match="No two of 1 training sets were read on a common test set"):
        layerprobe.transfer({"near": probed["near"]})


def test_a_single_test_set_goes_by_its_own_name(tmp_path: Path) -> None:
    sets = {"a": made(0.0, 0), "b": made(1.5, 1)}
    tests = {name: data["test"] for name, data in sets.items()}
    results = {
        "a": layerprobe.probe(nn.Identity(), {**sets["a"], "test": tests}, progress=False),
        "b": layerprobe.probe(nn.Identity(), {**sets["b"], "test": {"b": tests["b"]}}, progress=False),
    }
    for name, each in results.items():
        each.save(tmp_path / name)
    for given in (results, {name: tmp_path / name for name in results}):
        table = layerprobe.transfer(given)
        rows = table[table["depth"] == 0]
        assert rows[["train", "test", "same_samples"]].to_numpy().tolist() == [["a", "b", True], ["b", "b", True]]


def test_a_report_of_runs_that_differ_in_their_data_has_the_map(tmp_path: Path, probed: dict[str, Any]) -> None:
    for name, results in probed.items():
        for seed in (0, 1):
            folder = tmp_path / "runs" / f"{name}_{seed}"
            results.save(folder / "probes")
            (folder / ".hydra").mkdir()
            config = {"seed": seed, "data": {"_target_": "x.Data", "shift": name, "tests": {"far": {"n": seed}}}}
            (folder / ".hydra" / "config.yaml").write_text(yaml.safe_dump(config))
            choices = {"hydra": {"runtime": {"choices": {"data": name}}, "overrides": {"task": [f"data={name}"]}}}
            (folder / ".hydra" / "hydra.yaml").write_text(yaml.safe_dump(choices))
    comparison = compare([tmp_path / "runs"])
    (setting, table), *others = transfers(comparison.runs).items()
    assert (setting, others) == ("", [])
    keys = ["layer", "train", "test"]
    alone = layerprobe.transfer(probed).set_index(keys)["error"].to_dict()
    assert table.set_index(keys)["error"].to_dict() == pytest.approx(alone)
    assert set(table["n_runs"]) == {2}
    assert list(table["train"].unique()) == ["far", "near"]
    files = [path.name for path in write_report(comparison, tmp_path / "report.html")]
    assert {"transfer.png", "transfer.svg"} <= set(files)
    assert 'id="transfer-0"' in (tmp_path / "report.html").read_text()


def test_names_that_are_short_alike_stay_apart() -> None:
    long = "data.noise=0.{}, seed free, 20 newsgroups of the first and of the second kind"
    names = [long.format(i) for i in (1, 2)]
    samples = {name: name for name in names}
    table = transfer_table([trained(name, {name: name, **samples}) for name in names])
    spec = transfer_map(table, ["a"]).to_dict()
    cells = pd.concat([pd.DataFrame(rows) for rows in spec["datasets"].values()])
    assert cells["train"].nunique() == cells["test"].nunique() == 2
