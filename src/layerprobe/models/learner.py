"""Learner: the training steps and the logging that all tasks share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from typing import Literal, TypeAlias

import pytorch_lightning as pl
from jaxtyping import Float, Int, Shaped
from pytorch_lightning.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torchmetrics import MeanMetric

NamedParameters: TypeAlias = Iterable[tuple[str, nn.Parameter]]
OptimizerFactory: TypeAlias = Callable[[NamedParameters], Optimizer]
SchedulerFactory: TypeAlias = Callable[[Optimizer], LRScheduler]
Batch: TypeAlias = tuple[Shaped[Tensor, "n ..."], Int[Tensor, " n"]] | list[Tensor]


class AbstractLearner(pl.LightningModule, ABC):
    """Trains an injected network on batches of (input, class index).

    The optimizer is built when training starts.

    Args:
        network: The network to train; `forward` is its call and nothing else.
        optimizer: Builds the optimizer from `network.named_parameters()`.
        scheduler: Builds the learning-rate schedule from the optimizer; it steps once an epoch.
        loss: Mean loss of a batch, from outputs and targets.
    """

    def __init__(
        self,
        network: nn.Module,
        optimizer: OptimizerFactory,
        scheduler: SchedulerFactory | None,
        loss: nn.Module,
    ) -> None:
        super().__init__()
        self.network = network
        self.loss = loss
        self._build_optimizer = optimizer
        self._build_scheduler = scheduler
        self.val_loss, self.val_error = MeanMetric(), MeanMetric()
        self.test_loss, self.test_error = MeanMetric(), MeanMetric()

    @abstractmethod
    def objective(self, outputs: Float[Tensor, "n ..."], targets: Int[Tensor, " n"]) -> Float[Tensor, ""]:
        """Compute the mean loss of a batch."""

    @abstractmethod
    def errors(self, outputs: Float[Tensor, "n ..."], targets: Int[Tensor, " n"]) -> Float[Tensor, " n"] | None:
        """Return 1 for each wrong sample of a batch, 0 for each right one; None where the loss is the only figure."""

    def forward(self, inputs: Shaped[Tensor, "n ..."]) -> Float[Tensor, "n ..."]:
        """Call the network."""
        return self.network(inputs)

    def training_step(self, batch: Batch, batch_idx: int) -> Float[Tensor, ""]:
        """Compute the loss of a batch and log it at every `log_every_n_steps`-th step of the trainer."""
        inputs, targets = batch
        loss = self.objective(self(inputs), targets)
        if self._is_logging_step():
            self.log("train/loss", loss, batch_size=len(targets))
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Evaluate a batch of the validation split."""
        self._evaluate("val", batch)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Evaluate a batch of the test split."""
        self._evaluate("test", batch)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Build the optimizer and, where there is one, the schedule that steps once an epoch."""
        optimizer = self._build_optimizer(self.network.named_parameters())
        if self._build_scheduler is None:
            return optimizer
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": self._build_scheduler(optimizer), "interval": "epoch"},
        }

    def _is_logging_step(self) -> bool:
        # A call of `log` costs more than a step of a small network, and Lightning drops the value between these steps.
        interval = self.trainer.log_every_n_steps  # type: ignore[attr-defined]
        return interval > 0 and (self.global_step + 1) % interval == 0

    def _evaluate(self, split: Literal["val", "test"], batch: Batch) -> None:
        inputs, targets = batch
        outputs = self(inputs)
        mean_loss, mean_error = getattr(self, f"{split}_loss"), getattr(self, f"{split}_error")
        mean_loss.update(self.objective(outputs, targets), len(targets))
        self.log(f"{split}/loss", mean_loss, batch_size=len(targets))
        if (errors := self.errors(outputs, targets)) is not None:
            mean_error.update(errors)
            self.log(f"{split}/error", mean_error, batch_size=len(targets), prog_bar=True)
