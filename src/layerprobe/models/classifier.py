"""Classifier: the training of networks that give a score for each class."""

from __future__ import annotations

from typing import Any, final

import pytorch_lightning as pl
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from layerprobe.formatting import described, first_line
from layerprobe.models.learner import AbstractLearner, OptimizerFactory, SchedulerFactory


@final
class Classifier(AbstractLearner):
    """Trains a network whose outputs are one score for each class (n c).

    The loss is a mean loss of scores and class indices, such as `torch.nn.CrossEntropyLoss`. Logs `train/loss`,
    `val/loss`, `val/error`, `test/loss` and `test/error`; an error is the share of samples whose highest score is not
    their class.
    """

    def objective(self, outputs: Any, targets: Any) -> Float[Tensor, ""]:
        """Compute the mean loss of a batch of scores, which are checked, since any network may be trained so.

        Raises:
            TypeError: If the network gives anything but scores, or targets are no class indices.
            ValueError: If a class has no score.
        """
        if not isinstance(outputs, Tensor) or outputs.ndim < 2:
            found = f"shape {tuple(outputs.shape)}" if isinstance(outputs, Tensor) else f"a {type(outputs).__name__}"
            raise TypeError(
                f"Training a classifier needs one score for each class (n c), {type(self.network).__name__} gave "
                f"{found}. Wrap the network in one that returns its scores, or write a LightningModule of your own."
            )
        try:
            return self.loss(outputs, targets)
        except (RuntimeError, TypeError) as error:
            fits = isinstance(targets, Tensor) and targets.shape == (len(outputs), *outputs.shape[2:])
            if fits and targets.dtype == torch.int64:
                raise  # out of memory, for one
            raise TypeError(
                "Training a classifier needs one class index for each sample (int64, shape (n,)), found "
                f"{described(targets)} ({first_line(error)}). Let the data module give such targets, or write a "
                "LightningModule of your own."
            ) from error
        except IndexError as error:
            wrong = int(targets.min()) if int(targets.min()) < 0 else int(targets.max())
            raise ValueError(
                f"{type(self.network).__name__} gives {outputs.shape[1]} scores, found the class {wrong}. "
                "Give it as many outputs as there are classes, such as +model.num_classes=N of torchvision's networks."
            ) from error

    def errors(self, outputs: Float[Tensor, "n c ..."], targets: Int[Tensor, "n ..."]) -> Float[Tensor, "n ..."]:
        """Tell which samples' highest score is not their class."""
        return (outputs.argmax(dim=1) != targets).float()


def trainable(network: Any, optimizer: OptimizerFactory, scheduler: SchedulerFactory | None) -> pl.LightningModule:
    """Make a LightningModule of a network: itself if it is one, else in a `Classifier` with cross-entropy.

    Raises:
        TypeError: If it is no network, or a LightningModule of the other package, `lightning`.
    """
    if isinstance(network, pl.LightningModule):
        return network
    kinds = {f"{kind.__module__.split('.')[0]}.{kind.__name__}" for kind in type(network).__mro__}
    if "lightning.LightningModule" in kinds:
        raise TypeError(
            f"{type(network).__name__} is a LightningModule of the package `lightning`, the trainer is one of "
            "`pytorch_lightning`: import pytorch_lightning in the class, or use layerprobe.probe(network, data)."
        )
    if not isinstance(network, nn.Module):
        raise TypeError(
            f"`model` gave a {type(network).__name__}, expected a network (torch.nn.Module). Name its class or a "
            "function that returns it in model._target_."
        )
    return Classifier(network, optimizer, scheduler, nn.CrossEntropyLoss())
