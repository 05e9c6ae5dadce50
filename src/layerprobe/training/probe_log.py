"""Log of probing: hands the results of each checkpoint to the loggers of a run."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import pandas as pd
from pytorch_lightning.loggers import Logger, MLFlowLogger, WandbLogger
from pytorch_lightning.utilities.rank_zero import rank_zero_only

from layerprobe.compat.lightning import wandb_options
from layerprobe.results.logged_metrics import layer_metrics
from layerprobe.results.store import ProbeStore
from layerprobe.results.wandb_mode import start_or_go_offline
from layerprobe.results.wandb_sink import WandbSink
from layerprobe.training.continued_loggers import SteadyWandbLogger


def start_runs(loggers: Sequence[Logger]) -> None:
    """Start the runs of the loggers; one of Weights & Biases goes offline where its server cannot be used."""
    for logger in loggers:
        if isinstance(logger, WandbLogger):
            start_or_go_offline(partial(getattr, logger, "experiment"), wandb_options(logger))
        if isinstance(logger, SteadyWandbLogger) and rank_zero_only.rank == 0:  # type: ignore[attr-defined]
            _ = logger.history


class ProbeLog:
    """Logs checkpoints as they are probed; never changes the loggers' own steps."""

    def __init__(self, loggers: Sequence[Logger]) -> None:
        start_runs(loggers)
        self._sinks = [
            WandbSink(logger.history if isinstance(logger, SteadyWandbLogger) else logger.experiment)
            for logger in loggers
            if isinstance(logger, WandbLogger)
        ]
        self._others = [logger for logger in loggers if not isinstance(logger, WandbLogger)]

    def checkpoint(self, frame: pd.DataFrame, metrics: pd.DataFrame | None = None, *, new: bool = True) -> None:
        """Log each layer's test error at one checkpoint.

        One that is not `new` goes only to loggers that recognise what they have.
        """
        for sink in self._sinks:
            sink.log_checkpoint(frame, metrics)
        if not new:
            return
        for logger in self._others:
            if points := layer_metrics(frame, metrics):
                if isinstance(logger, MLFlowLogger):
                    # MLflow takes no "#": a second call of a layer is written `name-1`, as no module is called.
                    points = {re.sub(r"[^\w.\- :/]", "-", key, flags=re.ASCII): value for key, value in points.items()}
                logger.log_metrics(points, step=int(frame["step"].iloc[0]))

    def finish(self, store: ProbeStore) -> None:
        """Log the whole: one table and one artifact, where the logger can hold them."""
        for sink in self._sinks:
            sink.finish(store.results(), store.directory)

    def figures(self, files: Sequence[Path]) -> None:
        """Log pictures, where the logger can hold them."""
        for sink in self._sinks:
            sink.log_figures(files)
