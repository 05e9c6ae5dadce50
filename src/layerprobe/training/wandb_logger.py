"""A logger for Weights & Biases that no training waits for or fails by, and that no kill takes a row from."""

from __future__ import annotations

import warnings
from argparse import Namespace
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

from pytorch_lightning.loggers import WandbLogger
from pytorch_lightning.utilities.rank_zero import rank_zero_only

from layerprobe.compat.lightning import forget_run, wandb_options
from layerprobe.results.wandb_history import WandbHistory
from layerprobe.results.wandb_start import start_or_go_offline

if TYPE_CHECKING:
    from wandb import Run


class SteadyWandbLogger(WandbLogger):
    """Lightning's `WandbLogger`, with a history that a run which goes on completes.

    Where wandb's own process has died, another one goes on; where that is no help, it says so once and the training
    goes on.
    """

    _failed = False
    _history: WandbHistory | None = None
    _hyper_parameters: dict[str, Any] | Namespace | None = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Take what Lightning's logger takes.

        Args:
            *args: As for `WandbLogger`.
            **kwargs: Likewise.
        """
        super().__init__(*args, **kwargs)
        wandb_options(self).pop("anonymous", None)  # wandb warns of it, even where nobody has chosen it

    @property
    def history(self) -> WandbHistory:
        """The history of the run, which is started where it has not been; only in the first process."""
        if self._history is None:
            self._history = WandbHistory(self.experiment, self._restart)
        return self._history

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace) -> None:
        """Log the configuration.

        Args:
            params: Values by name.
        """
        self._hyper_parameters = params
        super().log_hyperparams(params)

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Log metrics.

        Args:
            metrics: Values by name.
            step: The training step.
        """
        row: dict[str, Any] = {f"{self._prefix}-{name}" if self._prefix else name: metrics[name] for name in metrics}
        if step is not None and not wandb_options(self).get("sync_tensorboard"):
            row["trainer/global_step"] = step
        try:
            self.history.log(row, f"{step} {sorted(row)}")
        except Exception as error:  # wandb never ends a training, whatever it raises
            if not self._failed:
                warnings.warn(
                    f"could not log to Weights & Biases ({type(error).__name__}: {error}); training goes on without "
                    f"it, and the results are complete in the run's directory.",
                    stacklevel=2,
                )
            self._failed = True

    def _restart(self) -> Run:
        import wandb

        with suppress(Exception):  # of a process that is no more
            wandb.teardown()
        wandb.run = None
        forget_run(self)
        run = start_or_go_offline(partial(getattr, self, "experiment"), wandb_options(self))
        if self._hyper_parameters is not None:
            super().log_hyperparams(self._hyper_parameters)
        return run

    def __getstate__(self) -> dict[str, Any]:
        """What another process needs: it takes up the history for itself."""
        return super().__getstate__() | {"_history": None}
