"""Training of networks that name a class."""

from __future__ import annotations

from typing import Literal, final

from jaxtyping import Float, Int
from torch import Tensor, nn
from torchmetrics import MeanMetric

from layerprobe.models.learner import AbstractLearner, OptimizerFactory, SchedulerFactory


@final
class Classifier(AbstractLearner):
    """Trains a network whose outputs are one score for each class.

    Logs `train/loss`, `val/loss`, `val/error`, `test/loss` and `test/error`; an error is the share of samples whose
    highest score is not their class.
    """

    def __init__(
        self,
        network: nn.Module,
        optimizer: OptimizerFactory,
        scheduler: SchedulerFactory | None,
        loss: nn.Module,
    ) -> None:
        """Take the parts.

        Args:
            network: Maps a batch to scores (n c).
            optimizer: Builds the optimizer from named parameters.
            scheduler: Builds the learning-rate schedule from the optimizer; it steps once an epoch.
            loss: Mean loss of scores and class indices, such as `torch.nn.CrossEntropyLoss`.
        """
        super().__init__(network, optimizer, scheduler, loss)
        self.val_loss, self.val_error = MeanMetric(), MeanMetric()
        self.test_loss, self.test_error = MeanMetric(), MeanMetric()

    def objective(self, outputs: Float[Tensor, "n c"], targets: Int[Tensor, " n"]) -> Float[Tensor, ""]:
        """Compute the loss of a batch of scores."""
        return self.loss(outputs, targets)

    def track(
        self,
        split: Literal["val", "test"],
        outputs: Float[Tensor, "n c"],
        targets: Int[Tensor, " n"],
        loss: Float[Tensor, ""],
    ) -> None:
        """Update and log the mean loss and the error."""
        mean_loss = self.val_loss if split == "val" else self.test_loss
        error = self.val_error if split == "val" else self.test_error
        mean_loss.update(loss, len(targets))
        error.update((outputs.argmax(dim=1) != targets).float())
        self.log(f"{split}/loss", mean_loss, batch_size=len(targets))
        self.log(f"{split}/error", error, batch_size=len(targets), prog_bar=True)
