"""The papers' systems, each made small, from the command line to its picture."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from helpers.command import run
from helpers.made_images import make_image_folder

pytestmark = pytest.mark.slow(seconds=40)


def results(directory: Path) -> pd.DataFrame:
    return pd.read_parquet(directory / "probes" / "results.parquet")


@pytest.fixture(scope="module")
def few(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first 3,000 images of MNIST, and 500 of its test set: for errors on train."""
    root = tmp_path_factory.mktemp("few")
    raw = root / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for part, n in (("train", 3000), ("t10k", 500)):
        for kind, head, size in (("images-idx3", 16, 28 * 28), ("labels-idx1", 8, 1)):
            with (shared / "data" / "MNIST" / "raw" / f"{part}-{kind}-ubyte").open("rb") as file:
                content = file.read(head + n * size)
            (raw / f"{part}-{kind}-ubyte").write_bytes(content[:4] + n.to_bytes(4, "big") + content[8:])
    return root


def small(root: Path, *overrides: str) -> list[str]:
    """2,000 training images of MNIST, a few steps."""
    options = [f"data.root={root}", "data.train_size=2000", "data.val_size=1000", "logger=none", "hydra.run.dir=run"]
    return [*options, *overrides]


def test_the_skip_brings_back_what_depth_has_lost(few: Path, tmp_path: Path) -> None:
    steps, n_layers = {"0": 0.5, "5": 0.4}, 25
    (tmp_path / "curve.json").write_text(json.dumps({step: [error] * n_layers for step, error in steps.items()}))
    options = ["model.depth=24", "model.skip=[0,12]", "trainer.max_steps=5", "callbacks.probe.steps=[5]"]
    options += ["report.reference=curve.json"]
    output = run("train.py", "experiment=alain_bengio_skip128", *small(few, *options), cwd=tmp_path).stdout
    frame = results(tmp_path / "run")
    assert frame["checkpoint"].unique().tolist() == ["initial", "step_5"]
    assert frame.groupby("checkpoint").size().tolist() == [n_layers, n_layers]
    initial = frame[frame["checkpoint"] == "initial"].set_index("layer")["train_error"]
    assert initial["layers.12"] < 0.6 * initial["layers.11"]
    assert abs(initial["layers.12"] - initial["layers.1"]) < 0.05, "one layer after the skip is like one after layer 0"
    distance = pd.read_csv(tmp_path / "run" / "figures" / "reference.csv")
    assert len(distance) == 2 * n_layers
    assert distance["error"].tolist() == frame["train_error"].tolist()
    assert "percentage points" in output
    assert "Train error over depth" in (tmp_path / "run" / "figures" / "depth_curve.svg").read_text()


def test_a_reference_that_is_not_there_costs_nothing(few: Path, tmp_path: Path) -> None:
    options = small(few, "report.reference=nowhere.json")
    result = run("train.py", "experiment=alain_bengio_skip128", *options, cwd=tmp_path, check=False)
    assert result.returncode == 1
    assert "report.reference=nowhere.json cannot be read" in result.stderr
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_without_the_skip_the_signal_does_not_reach_the_end(few: Path, tmp_path: Path) -> None:
    options = ["model.depth=60", "report.figures=false", "trainer.max_steps=3", "callbacks.probe.steps=[3]"]
    options += ["callbacks.probe.before_training=false", "probe.layers=[layers.0,layers.5?]"]
    run("train.py", "experiment=deep_mlp", *small(few, *options), cwd=tmp_path)
    frame = results(tmp_path / "run")
    assert frame["checkpoint"].unique().tolist() == ["step_3"]
    last = frame.set_index("layer")["train_error"]
    assert last["layers.0"] < 0.2
    assert last[[f"layers.{k}" for k in range(50, 60)]].min() > 0.75


@pytest.mark.parametrize("activation", ["identity", "tanh"])
def test_a_layer_is_like_the_input_without_an_activation_and_only_then(
    shared: Path, tmp_path: Path, activation: str
) -> None:
    options = [
        f"data.root={shared / 'data'}",
        "data.train_size=8000",
        "data.val_size=1000",
        "logger=none",
        "report.figures=false",
        "hydra.run.dir=run",
    ]
    options += ["trainer.max_steps=50", f"model/activation={activation}", "callbacks.probe.before_training=false"]
    options += ["probe.layers=[input,layers.?]"]
    run("train.py", "experiment=linear_net", *options, cwd=tmp_path)
    frame = results(tmp_path / "run")
    frame = frame[frame["checkpoint"] == "final"].set_index("layer")
    hidden = frame.loc[[f"layers.{k}" for k in range(4)]]
    # Half a point is less than the interval: pixels that are constant on train stay out of the input's head alone.
    same = (hidden["test_error"] - frame.loc["input", "test_error"]).abs() < 0.005
    same &= (hidden["train_error"] - frame.loc["input", "train_error"]).abs() < 0.001
    assert same.all() if activation == "identity" else not same.any()


def test_activation_and_depth_end_in_one_picture(tmp_path: Path) -> None:
    output = run(
        "train.py", "experiment=activation_depth", "model.depth=1,3", "model/activation=identity,relu",
        "trainer.max_epochs=1", "probe.l2=[0.1]", "logger=none", "report.figures=false", "hydra.sweep.dir=sweep",
        cwd=tmp_path,
    ).stdout  # fmt: skip
    assert len(list((tmp_path / "sweep").glob("*/probes/results.parquet"))) == 8
    drawing = (tmp_path / "sweep" / "depth_curves.svg").read_text()
    for word in ("identity", "relu", "deep_mlp", "deep_convnet"):
        assert word in drawing
    assert "depth_curves.png" in output


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_image_folder(tmp_path_factory.mktemp("images"), train=16, val=8)


def test_resnet50_over_a_folder_of_images(images: Path, tmp_path: Path) -> None:
    (tmp_path / "curve.json").write_text(json.dumps({"layers": [str(i) for i in range(17)], "error": [0.5] * 17}))
    run(
        "probe.py", "experiment=resnet50_imagenet", f"data.root={images}", "data.train_size=null", "data.val_size=12",
        "model.weights=null", "probe.l2=[1e-2]", "logger=none", "report.reference=curve.json", "hydra.run.dir=run",
        "data.transform.size=64", "data.batch_size=8",
        cwd=tmp_path,
    )  # fmt: skip
    frame = results(tmp_path / "run")
    blocks = {1: 3, 2: 4, 3: 6, 4: 3}
    assert frame["layer"].tolist() == ["input", *(f"layer{i}.{j}.add" for i, n in blocks.items() for j in range(n))]
    assert frame["n_features"].tolist() == [3, *([256] * 3), *([512] * 4), *([1024] * 6), *([2048] * 3)]
    assert (frame["reducer"] == "channel_mean").all()
    assert frame.set_index("layer").loc["layer2.0.add", "test_error"] < 0.3 < frame["majority_error"].iloc[0]
    assert len(pd.read_csv(tmp_path / "run" / "figures" / "reference.csv")) == 17


def test_inception_over_a_folder_of_images(tmp_path: Path) -> None:
    images = make_image_folder(tmp_path / "images", train=2, val=1)
    run(
        "probe.py", "experiment=inception_imagenet", f"data.root={images}", "data.train_size=null", "data.val_size=3",
        "model.network.weights=null", "probe.l2=[1e-2]", "logger=none", "hydra.run.dir=run", "data.batch_size=3",
        cwd=tmp_path,
    )  # fmt: skip
    frame = results(tmp_path / "run").set_index("layer")
    assert len(frame) == 17
    assert frame["n_features"].max() == frame.loc["Mixed_6e", "n_features"] == 1000
    assert frame.loc["AuxLogits", "status"] == "converged"
    assert (tmp_path / "run" / "figures" / "depth_curve.png").exists()


def test_a_missing_folder_of_images_says_what_to_do(tmp_path: Path) -> None:
    options = ["experiment=resnet50_imagenet", "model.weights=null", "data.root=nowhere", "logger=none"]
    result = run("probe.py", *options, cwd=tmp_path, check=False)
    assert result.returncode == 1
    assert "data.root=DIR" in result.stderr
