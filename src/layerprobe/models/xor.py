"""Networks for exclusive or: the smallest that computes it, and linear regression, which cannot."""

from __future__ import annotations

from collections import OrderedDict
from typing import final

from torch import nn

from layerprobe.models.learner import OptimizerFactory, SchedulerFactory
from layerprobe.models.regressor import Regressor


@final
class XorNetwork(nn.Sequential):
    """One hidden layer: `hidden_preact`, `hidden`, `output` (Dalvi, "A Fresh Look at Nonlinearity in Deep Learning").

    With two ReLU units and no biases, ReLU(x1 - x2) + ReLU(x2 - x1) is exact.

    The weights are drawn as `torch.nn.Linear` does, from the global generator.

    Args:
        width: Hidden units.
        bias: Whether both linear layers have one.
        activation: What stands between them; `torch.nn.Identity` leaves a linear network.

    Raises:
        ValueError: If there is no hidden unit.
    """

    def __init__(self, width: int, bias: bool, activation: nn.Module) -> None:
        if width < 1:
            raise ValueError(f"width={width}: the hidden layer needs at least one unit (model.width=2)")
        super().__init__(
            OrderedDict(
                hidden_preact=nn.Linear(2, width, bias=bias),
                hidden=activation,
                output=nn.Linear(width, 1, bias=bias),
            )
        )


def xor_mlp(
    width: int,
    bias: bool,
    activation: nn.Module,
    optimizer: OptimizerFactory,
    scheduler: SchedulerFactory | None,
    loss: nn.Module,
    solved_below: float = 0.01,
) -> Regressor:
    """Build the network for exclusive or and what trains it.

    Args:
        width: Hidden units.
        bias: Whether both linear layers have one.
        activation: What stands between them.
        optimizer: Builds the optimizer from named parameters.
        scheduler: Builds the learning-rate schedule from the optimizer.
        loss: Mean loss of numbers and numbers.
        solved_below: Test loss below which the task counts as solved.
    """
    return Regressor(XorNetwork(width, bias, activation), optimizer, scheduler, loss, solved_below)


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
