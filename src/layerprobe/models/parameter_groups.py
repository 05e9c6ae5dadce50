"""Optimizers that treat some parameters differently."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from fnmatch import fnmatchcase
from typing import Any

from torch import nn
from torch.optim import Optimizer


def decay_only(
    named_parameters: Iterable[tuple[str, nn.Parameter]],
    patterns: Sequence[str],
    optimizer: Callable[[list[dict[str, Any]]], Optimizer],
    weight_decay: float,
) -> Optimizer:
    """Build an optimizer that decays only the parameters whose names match.

    In `torch.optim.SGD`, with and without momentum, decay adds `weight_decay * w` to the gradient, which is the
    gradient of the penalty ½·weight_decay·‖w‖².

    Args:
        named_parameters: All parameters to train, with their names.
        patterns: Globs of names, such as `fc1.*`; case counts.
        optimizer: Builds the optimizer from groups of named parameters.
        weight_decay: Decay of the matching parameters; the others have none.

    Returns:
        The optimizer, the matching parameters as its first group.

    Raises:
        ValueError: If a pattern matches no parameter.
    """
    parameters = list(named_parameters)
    names = [name for name, _ in parameters]
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise ValueError(f"the pattern {pattern!r} matches no parameter; there are: {', '.join(names)}")
    matching = [(name, p) for name, p in parameters if any(fnmatchcase(name, pattern) for pattern in patterns)]
    chosen = {name for name, _ in matching}
    others = [(name, p) for name, p in parameters if name not in chosen]
    groups = [{"params": matching, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]
    return optimizer([group for group in groups if group["params"]])
