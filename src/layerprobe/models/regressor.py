"""Regressor: the training of networks that give a number."""

from __future__ import annotations

from typing import Literal, final

from jaxtyping import Float, Int
from torch import Tensor, nn
from torchmetrics import MeanMetric

from layerprobe.models.learner import AbstractLearner, OptimizerFactory, SchedulerFactory


@final
class Regressor(AbstractLearner):
    """Trains a network whose one output is to equal the class index.

    Logs `train/loss`, `val/loss`, `test/loss` and `test/solved`: 1 where the test loss is below `solved_below`, else 0,
    so that its mean over seeds is the rate of success.
    """

    def __init__(
        self,
        network: nn.Module,
        optimizer: OptimizerFactory,
        scheduler: SchedulerFactory | None,
        loss: nn.Module,
        solved_below: float = 0.01,
    ) -> None:
        """Take the parts.

        Args:
            network: Maps a batch to one number for each sample (n 1).
            optimizer: Builds the optimizer from named parameters.
            scheduler: Builds the learning-rate schedule from the optimizer; it steps once an epoch.
            loss: Mean loss of numbers and numbers, such as `torch.nn.MSELoss`.
            solved_below: Test loss below which the task counts as solved.
        """
        super().__init__(network, optimizer, scheduler, loss)
        self.solved_below = solved_below
        self.val_loss, self.test_loss = MeanMetric(), MeanMetric()

    def objective(self, outputs: Float[Tensor, "n 1"], targets: Int[Tensor, " n"]) -> Float[Tensor, ""]:
        """Compute the loss of a batch of numbers."""
        return self.loss(outputs.squeeze(1), targets.to(outputs.dtype))

    def track(
        self,
        split: Literal["val", "test"],
        outputs: Float[Tensor, "n 1"],
        targets: Int[Tensor, " n"],
        loss: Float[Tensor, ""],
    ) -> None:
        """Update and log the mean loss."""
        mean_loss = self.val_loss if split == "val" else self.test_loss
        mean_loss.update(loss, len(targets))
        self.log(f"{split}/loss", mean_loss, batch_size=len(targets))

    def on_test_epoch_end(self) -> None:
        """Log whether the task is solved."""
        self.log("test/solved", (self.test_loss.compute() < self.solved_below).float(), sync_dist=True)
