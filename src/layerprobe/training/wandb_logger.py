"""A logger for Weights & Biases that no training waits for or fails by."""

from __future__ import annotations

import warnings
from collections.abc import Mapping

from pytorch_lightning.loggers import WandbLogger
from pytorch_lightning.utilities.rank_zero import rank_zero_only


class SteadyWandbLogger(WandbLogger):
    """Lightning's `WandbLogger`; where wandb's process has gone, it says so once and the training goes on."""

    _failed = False

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Log metrics.

        Args:
            metrics: Values by name.
            step: The training step.
        """
        try:
            super().log_metrics(metrics, step)
        except Exception as error:
            if not self._failed:
                warnings.warn(
                    f"could not log to Weights & Biases ({type(error).__name__}: {error}); training goes on without "
                    f"it, and the results are complete in the run's directory.",
                    stacklevel=2,
                )
            self._failed = True
