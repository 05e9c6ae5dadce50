"""The sink of results to a live Weights & Biases run; what goes wrong there never reaches the training."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import sys
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from layerprobe.compat.wandb import artifacts_in_log
from layerprobe.results.arrow_tables import SCHEMA_VERSION
from layerprobe.results.best import best_layer
from layerprobe.results.logged_metrics import layer_metrics
from layerprobe.results.wandb_history import WandbGuard, WandbHistory, close_histories

if TYPE_CHECKING:
    from wandb import Run

log = logging.getLogger("layerprobe")

TABLE = "probe_results"
"""Key of the table: no "/", which would give its artifact a random name."""

_STEP = "trainer/global_step"
_DEPTH = "probe/depth"
_KEPT = (".parquet", ".csv", ".safetensors", ".svg")


class WandbSink:
    """Sends checkpoints' results to a run as charts, and the whole as a table, pictures and an artifact.

    Every key is defined by its exact name: that wins over the logger's own `*`, a second pattern does not.

    Args:
        run: A run of `wandb.init`, or `WandbLogger.experiment`; or its history, which survives a kill.
    """

    def __init__(self, run: Run | WandbHistory) -> None:
        self._history = run if isinstance(run, WandbHistory) else WandbHistory(run)
        self._guarded = WandbGuard()

    @property
    def _run(self) -> Run:
        return self._history.run

    def log_checkpoint(self, frame: pd.DataFrame, metrics: pd.DataFrame | None = None) -> None:
        """Log one checkpoint: its curve over depth, and each layer's test error at its training step.

        The curve is history rows of `probe/depth` and `probe/test_error/<checkpoint>`, so that runs overlay in one
        chart; the layers are one row of `probe/<layer>/test_error`, and of `probe/<layer>/<analysis>/test_error` where
        an analysis was compared with the linear head. Every row has its own `trainer/global_step`. The keys of further
        test sets end in `<checkpoint>/<test set>` and `<layer>/<test set>/test_error`.
        """
        with self._guarded("log a checkpoint"):
            points = layer_metrics(frame, metrics)
            if not points:
                return
            rows = frame[frame["test_error"].notna()].sort_values("depth", kind="stable")
            step = {_STEP: int(rows["step"].iloc[0])}
            self._history.define(_DEPTH, hidden=True, summary="none")
            names = rows["test_set"] if "test_set" in rows else pd.Series("test", index=rows.index)
            for name, curve_rows in rows.groupby(names, sort=False):
                further = "" if name == names.iloc[0] else f"/{name}"
                curve = f"probe/test_error/{rows['checkpoint'].iloc[0]}{further}"
                self._history.define(curve, step_metric=_DEPTH, step_sync=True, summary="last")
                for depth, error in zip(curve_rows["depth"], curve_rows["test_error"], strict=True):
                    self._log({_DEPTH: int(depth), curve: float(error), **step})
            for key in points:
                self._history.define(key, step_metric=_STEP, step_sync=True)
            self._log({**points, **step})

    def log_figures(self, figures: Sequence[Path]) -> None:
        """Log the PNG files among pictures as `figures/<stem>`."""
        with self._guarded("log the figures"):
            import wandb

            pictures = [file for file in figures if file.suffix == ".png"]
            if pictures:
                content = _digest(file.read_bytes() for file in pictures)
                self._history.log_made(
                    lambda: {f"figures/{file.stem}": wandb.Image(str(file)) for file in pictures}, f"figures {content}"
                )

    def finish(self, results: pd.DataFrame, directory: Path) -> None:
        """Log what there is at the end of the run: one table, and one artifact of the results' files.

        Call it once: each call makes another version of the table and of the artifact.

        Args:
            results: Results of all checkpoints, in the columns of `ProbeRecord`.
            directory: The store's folder; its Parquet, CSV, SVG and head files go into the artifact `probes-<run id>`.
        """
        with self._guarded("log the table and the artifact"):
            import wandb

            columns: list[str | int] = list(results.columns)
            rows = _plain_rows(results)
            self._history.attempt(lambda run: self._log_artifact(run, results, Path(directory)))
            with self._data_in_run_directory(), artifacts_in_log(self._run):
                self._history.log_made(
                    lambda: {TABLE: wandb.Table(columns=columns, data=rows)},
                    f"{TABLE} {_digest([json.dumps(rows).encode()])}",
                )

    def _log_artifact(self, run: Run, results: pd.DataFrame, directory: Path) -> None:
        """Log the files; the same content again is no new version."""
        import wandb

        self._summarise(run, results)
        artifact = wandb.Artifact(
            f"probes-{run.id}",
            type="probes",
            metadata={"schema": SCHEMA_VERSION, "checkpoints": results["checkpoint"].unique().tolist()},
        )
        with self._data_in_run_directory(), artifacts_in_log(self._run):
            for file in _files(directory):
                artifact.add_file(str(file), name=file.relative_to(directory).as_posix())
            run.log_artifact(artifact)

    def _summarise(self, run: Run, results: pd.DataFrame) -> None:
        """Name the layer that validation prefers at the last checkpoint, for tables and scatter plots of runs."""
        best = best_layer(results)
        if best.layer:
            run.summary.update({"probe/best_layer": best.layer, "probe/best_layer_test_error": best.test_error})

    def _log(self, row: dict[str, Any]) -> None:
        """Log a row unless an earlier process of the run has logged the same values."""
        self._history.log(row, json.dumps(row))

    @contextmanager
    def _data_in_run_directory(self) -> Iterator[None]:
        """Stage tables and artifacts beside the run's log, where they survive until `wandb sync`."""
        if "WANDB_DATA_DIR" in os.environ:
            yield
            return
        os.environ["WANDB_DATA_DIR"] = str(Path(self._run.dir).parent.absolute() / "data")
        try:
            yield
        finally:
            del os.environ["WANDB_DATA_DIR"]


def finish_run(exit_code: int = 0, preempted: bool = False) -> None:
    """End the process's current run, so that the next job gets one of its own.

    Another exit code than 0 marks it as failed; a preempted one goes on later under the same id.
    """
    wandb = sys.modules.get("wandb")
    if wandb is None or getattr(wandb, "run", None) is None:
        return
    try:
        run = wandb.run
        if preempted:
            run.mark_preempting()
        close_histories(lambda run: run.finish(exit_code=exit_code))
        if wandb.run is not None:
            wandb.run.finish(exit_code=exit_code)
        if run.settings.mode == "online":
            log.info(
                "Should anything be missing on Weights & Biases: wandb sync --include-online %s",
                os.path.relpath(run.settings.sync_dir),
            )
    except Exception as error:  # likewise
        warnings.warn(f"Weights & Biases did not finish its run ({type(error).__name__}: {error})", stacklevel=2)


def _digest(contents: Iterable[bytes]) -> str:
    return hashlib.sha256(b"".join(contents)).hexdigest()


def _plain_rows(frame: pd.DataFrame) -> list[Iterable[Any]]:
    """Turn rows into Python values; NaN becomes None, which JSON can hold."""
    columns = [frame[name].astype(object).where(frame[name].notna(), None).tolist() for name in frame.columns]
    return [list(row) for row in zip(*columns, strict=True)]


def _files(directory: Path) -> list[Path]:
    found = (file for file in directory.rglob("*") if file.suffix in _KEPT and not file.name.startswith("."))
    return sorted(file for file in found if file.relative_to(directory).parts[0] not in ("parts", "scores"))
