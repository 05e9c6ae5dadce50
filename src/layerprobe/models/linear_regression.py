"""Linear regression, as a network without a hidden layer."""

from __future__ import annotations

from collections import OrderedDict
from typing import final

from torch import nn

from layerprobe.models.learner import OptimizerFactory, SchedulerFactory
from layerprobe.models.regressor import Regressor


@final
class LinearRegression(nn.Sequential):
    """One number as a linear function of the input: the layer `output`.

    The weights are drawn as `torch.nn.Linear` does, from the global generator.

    Args:
        n_inputs: Numbers in an input.
        bias: Whether the function is affine.
    """

    def __init__(self, n_inputs: int, bias: bool) -> None:
        super().__init__(OrderedDict(output=nn.Linear(n_inputs, 1, bias=bias)))


def xor_linear(
    bias: bool,
    optimizer: OptimizerFactory,
    scheduler: SchedulerFactory | None,
    loss: nn.Module,
    solved_below: float = 0.01,
) -> Regressor:
    """Build linear regression for exclusive or: it cannot succeed.

    Its best mean squared error is 1/4 with a bias (0.5 everywhere) and 1/3 without (Dalvi, "A Fresh Look at
    Nonlinearity in Deep Learning").

    Args:
        bias: Whether the function is affine.
        optimizer: Builds the optimizer from named parameters.
        scheduler: Builds the learning-rate schedule from the optimizer.
        loss: Mean loss of numbers and numbers.
        solved_below: Test loss below which the task counts as solved.
    """
    return Regressor(LinearRegression(2, bias), optimizer, scheduler, loss, solved_below)
