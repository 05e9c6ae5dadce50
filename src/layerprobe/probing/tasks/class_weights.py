"""Class weights: what a sample counts in the fit, by its class."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal, TypeAlias

import torch
from jaxtyping import Float, Int
from torch import Tensor

from layerprobe.formatting import listed

ClassWeight: TypeAlias = Literal["balanced"] | Mapping[int, float]
"""`balanced`, or what a sample of each class counts, by class index; a class that is not named counts 1."""


def check_class_weight(given: Any) -> None:
    """Refuse weights that cannot be.

    Raises:
        ValueError: Naming what is wrong.
    """
    if given is None or given == "balanced":
        return
    if not isinstance(given, Mapping):
        raise ValueError(
            f"`class_weight` of the task is {given!r}. Give balanced, or a weight for each class, such as "
            "{0: 1.0, 1: 5.0} (task.class_weight='{0: 1.0, 1: 5.0}' on the command line)."
        )
    for name, weight in given.items():
        if isinstance(name, bool) or not isinstance(name, int) or name < 0:
            raise ValueError(f"`class_weight` of the task names the class {name!r}. Give class indices: 0, 1, 2, …")
        if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 < weight < math.inf:
            raise ValueError(f"`class_weight` of the task gives class {name} the weight {weight!r}. Give one above 0.")


def class_weights(
    given: ClassWeight | None, targets: Int[Tensor, " n"], classes: Int[Tensor, " c"]
) -> Float[Tensor, " c"] | None:
    """Return what a training sample of each class counts, float64 on the targets' device; None where all are the same.

    `balanced` is scikit-learn's: n / (k · n_j) for the n_j samples of class j, with k classes that have any. Then every
    class has the same part in the loss.

    Raises:
        ValueError: Where a class is named that train does not have.
    """
    if given is None:
        return None
    if isinstance(given, str):
        counts = torch.bincount(targets, minlength=len(classes)).double()
        found = len(targets) / (counts.clamp_min(1) * (counts > 0).sum())
        return torch.where(counts > 0, found, 1.0)
    known = classes.tolist()
    if unknown := sorted(set(given) - set(known)):
        raise ValueError(
            f"`class_weight` of the task names the class {unknown[0]}, which train does not have. Its classes: "
            f"{listed([*map(str, known)], 10)}."
        )
    return torch.tensor([float(given.get(name, 1.0)) for name in known], dtype=torch.float64, device=targets.device)
