"""Regressor: the training of networks that give a number."""

from __future__ import annotations

from typing import final

from jaxtyping import Float, Int
from torch import Tensor, nn

from layerprobe.models.learner import AbstractLearner, OptimizerFactory, SchedulerFactory


@final
class Regressor(AbstractLearner):
    """Trains a network whose one output is to equal the class index.

    Logs `train/loss`, `val/loss`, `test/loss` and `test/solved`: 1 where the test loss is below `solved_below`, else 0,
    so that its mean over seeds is the rate of success.

    Args:
        network: Maps a batch to one number for each sample (n 1).
        optimizer: Builds the optimizer from named parameters.
        scheduler: Builds the learning-rate schedule from the optimizer; it steps once an epoch.
        loss: Mean loss of numbers and numbers, such as `torch.nn.MSELoss`.
        solved_below: Test loss below which the task counts as solved.
    """

    def __init__(
        self,
        network: nn.Module,
        optimizer: OptimizerFactory,
        scheduler: SchedulerFactory | None,
        loss: nn.Module,
        solved_below: float = 0.01,
    ) -> None:
        super().__init__(network, optimizer, scheduler, loss)
        self.solved_below = solved_below

    def objective(self, outputs: Float[Tensor, "n 1"], targets: Int[Tensor, " n"]) -> Float[Tensor, ""]:
        """Compute the loss of a batch of numbers."""
        return self.loss(outputs.squeeze(1), targets.to(outputs.dtype))

    def errors(self, outputs: Float[Tensor, "n 1"], targets: Int[Tensor, " n"]) -> None:
        """Return nothing: a number is not right or wrong."""

    def on_test_epoch_end(self) -> None:
        """Log whether the task is solved."""
        self.log("test/solved", (self.test_loss.compute() < self.solved_below).float(), sync_dist=True)
