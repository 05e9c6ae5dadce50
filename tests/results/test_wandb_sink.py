"""A real offline run, read back from its log."""

import math
import os
import subprocess
import sys
import warnings
from pathlib import Path

import pandas as pd
import pytest

from helpers import made_results as made
from helpers import wandb_log
from layerprobe.results.arrow_tables import to_frame
from layerprobe.results.store import ProbeStore
from layerprobe.results.wandb_sink import TABLE, WandbSink, finish_run

wandb = pytest.importorskip("wandb")

LAYERS = ["input", "layer1.0.add", "fc#1"]
CHECKPOINTS = [("initial", 0), ("step=50.5", 50), ("final", 100)]
PNG = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000001000000010806000000"
    "1f15c4890000000d49444154789c6360606060000000050001a5f645400000000049454e44ae426082"
)


def start(directory: Path):
    run = wandb.init(
        mode="offline", project="test", dir=directory, config={"seed": 3}, settings=wandb.Settings(silent=True)
    )
    # What Lightning's logger defines.
    run.define_metric("trainer/global_step")
    run.define_metric("*", step_metric="trainer/global_step", step_sync=True)
    return run


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> ProbeStore:
    store = ProbeStore(tmp_path_factory.mktemp("run") / "probes")
    for name, step in CHECKPOINTS:
        for depth, layer in enumerate(LAYERS):
            bad = (name, layer) == ("step=50.5", "layer1.0.add")
            store.add(made.of((made.failed if bad else made.record)(name, step, depth, layer)))
    store.merge()
    return store


@pytest.fixture(scope="module")
def logged(store) -> wandb_log.Logged:
    figure = store.directory.parent / "depth_curve.png"
    figure.write_bytes(PNG)
    run = start(store.directory.parent)
    sink = WandbSink(run)
    results = store.results()
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        for name, _ in CHECKPOINTS:
            run.log({"train_loss": 1.0, "trainer/global_step": 7})
            sink.log_checkpoint(results[results["checkpoint"] == name])
        sink.log_figures([figure, figure.with_suffix(".svg")])
        sink.finish(results, store.directory)
    directory = Path(run.settings.sync_dir)
    finish_run()
    assert wandb.run is None
    return wandb_log.read_finished(directory)


def test_each_checkpoint_has_its_curve_over_depth(logged, store):
    for name, step in CHECKPOINTS:
        rows = store.results().query("checkpoint == @name and status == 'converged'")
        expected = [(depth, error, step) for depth, error in zip(rows["depth"], rows["test_error"], strict=True)]
        assert logged.rows("probe/depth", f"probe/test_error/{name}", "trainer/global_step") == expected


def test_each_layer_has_its_error_over_the_training_step(logged, store):
    for layer in LAYERS:
        rows = store.results().query("layer == @layer and status == 'converged'")
        expected = list(zip(rows["step"], rows["test_error"], strict=True))
        assert logged.rows("trainer/global_step", f"probe/{layer}/test_error") == expected


def test_nothing_else_is_in_the_history(logged):
    keys = {key for row in logged.history for key in row}
    curves = {f"probe/test_error/{name}" for name, _ in CHECKPOINTS}
    layers = {f"probe/{layer}/test_error" for layer in LAYERS}
    assert keys == curves | layers | {
        "probe/depth", "trainer/global_step", "train_loss", TABLE, "figures/depth_curve",
    }  # fmt: skip


def test_every_key_is_defined_by_its_exact_name(logged):
    assert logged.metrics["probe/depth"] == {"step": "", "sync": False, "hidden": True, "summary": {"none"}}
    for name, _ in CHECKPOINTS:
        defined = logged.metrics[f"probe/test_error/{name}".replace(".", r"\.")]
        assert defined == {"step": "probe/depth", "sync": True, "hidden": False, "summary": {"last"}}
    for layer in LAYERS:
        defined = logged.metrics[f"probe/{layer}/test_error".replace(".", r"\.")]
        assert defined == {"step": "trainer/global_step", "sync": True, "hidden": False, "summary": set()}


def test_the_definitions_reach_keys_with_dots(logged, store):
    for name, _ in CHECKPOINTS:
        errors = store.results().query("checkpoint == @name")["test_error"].dropna()
        assert logged.summary[f"probe/test_error/{name}"] == {"last": errors.iloc[-1]}
    assert "probe/depth" not in logged.summary


def test_summary_has_the_layer_that_validation_prefers_at_the_last_checkpoint(logged, store):
    final = store.results().query("checkpoint == 'final'")
    best = final.loc[final["val_error"].idxmin()]
    assert logged.summary["probe/best_layer"] == best["layer"] == "fc#1"
    assert logged.summary["probe/best_layer_test_error"] == best["test_error"]


def test_summary_has_the_final_error_of_each_layer(logged, store):
    final = store.results().query("checkpoint == 'final'")
    for layer, error in zip(final["layer"], final["test_error"], strict=True):
        assert logged.summary[f"probe/{layer}/test_error"] == error


def test_one_table_holds_the_records(logged, store):
    columns, rows = logged.table(TABLE)
    results = store.results()
    assert columns == list(results.columns)
    assert len(rows) == len(results)
    for found, expected in zip(rows, results.to_dict("records"), strict=True):
        for name, value in zip(columns, found, strict=True):
            wanted = expected[name]
            assert value is None if isinstance(wanted, float) and math.isnan(wanted) else value == wanted
    assert len(logged.rows(TABLE)) == 1


def test_one_artifact_holds_the_files_and_they_outlive_the_process(logged, store):
    ((_, paths),) = [found for found in logged.artifacts.values() if found[0] == "probes"]
    heads = {str(file.relative_to(store.directory)) for file in store.directory.rglob("*.safetensors")}
    assert set(paths) == heads | {"results.parquet", "results.csv", "path.parquet", "correct.parquet"}
    staged = list((logged.directory / "data").rglob("*"))
    assert len([file for file in staged if file.is_file()]) >= len(paths)
    assert "WANDB_DATA_DIR" not in os.environ


def test_figures_and_configuration(logged):
    picture = logged.summary["figures/depth_curve"]
    assert (picture["width"], picture["height"], picture["format"]) == (1, 1, "png")
    assert (logged.directory / "files" / picture["path"]).read_bytes() == PNG
    assert logged.config["seed"] == 3
    assert logged.exit_code == 0


def test_a_failed_job_is_marked_and_logging_after_the_end_warns_once(tmp_path):
    run = start(tmp_path)
    sink = WandbSink(run)
    finish_run(exit_code=1)
    finish_run(exit_code=1)
    assert wandb_log.read_finished(Path(run.settings.sync_dir)).exit_code == 1
    with pytest.warns(UserWarning, match="the run goes on"):
        sink.log_checkpoint(to_frame([made.record()]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sink.log_checkpoint(to_frame([made.record()]))
        sink.finish(to_frame([made.record()]), tmp_path)


def test_a_checkpoint_that_failed_altogether_logs_nothing(tmp_path):
    sink = WandbSink(None)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sink.log_checkpoint(to_frame([made.failed()]))
        sink.log_checkpoint(to_frame([]))


def test_everything_else_works_without_wandb(tmp_path):
    code = (
        "import sys; sys.modules['wandb'] = None\n"
        "from helpers import made_results as made\n"
        "from layerprobe.results.logged_metrics import layer_metrics\n"
        "from layerprobe.results.store import ProbeStore\n"
        "from layerprobe.results.wandb_mode import default_mode\n"
        "from layerprobe.results.wandb_sink import finish_run\n"
        f"with ProbeStore({str(tmp_path)!r}) as store: store.add(made.result())\n"
        "assert layer_metrics(store.results()); default_mode(); finish_run()\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=Path(made.__file__).parents[1], check=True, timeout=120)
    assert len(pd.read_parquet(tmp_path / "results.parquet")) == 1
