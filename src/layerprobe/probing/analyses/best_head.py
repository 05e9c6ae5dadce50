"""Heads that an analysis fits: a whole path, of which the best on validation is brought to its certificate."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import TypeAlias

import torch
from jaxtyping import Float, Int
from torch import Tensor

from layerprobe.probing.analyses.analysis import LayerData
from layerprobe.probing.features.row_blocks import Features
from layerprobe.probing.head_path import HeadPath
from layerprobe.probing.heads import Heads
from layerprobe.probing.selection import PATIENCE, PastBest, with_certified_best
from layerprobe.probing.solvers.solver import AbstractSolver

Evaluate: TypeAlias = Callable[[Heads], tuple[Float[Tensor, " p"], Float[Tensor, " p"]]]
"""On validation, what heads are chosen by, the lowest first, and their mean loss."""


def best_head(
    layer: LayerData, solver: AbstractSolver, features: Features, targets: Int[Tensor, " n"], evaluate: Evaluate | None
) -> HeadPath:
    """Fit the head of the sweep's L2 values for some samples, chosen as a layer's is, as a path of one.

    Features are standardised, targets places in `Labels.outputs`. Without `evaluate`, which asks validation, the L2
    value is that of the selected head.

    Raises:
        ArithmeticError: Where every head diverged.
    """
    l2 = layer.head.l2 if evaluate is None else layer.l2
    values, stop = torch.tensor(l2, dtype=torch.float64), None if evaluate is None else PastBest(PATIENCE, evaluate)
    rough = evaluate is not None and len(l2) > 1
    solution = solver.solve(features, targets, len(layer.labels.outputs), values, None, stop, rough)
    if evaluate is None:  # there is one value and nothing to choose, whether or not its leave-one-out error is known
        solution = replace(solution, left_out=None)
    path = replace(
        layer.head, solver=solver, l2=l2, solution=solution, validation=None, selection="error", figures=(),
        train_error=math.nan,
    )  # fmt: skip
    if evaluate is not None:
        figures, losses = evaluate(path.heads)
        path = replace(path, validation=(tuple(figures.tolist()), tuple(losses.tolist())))
        path = with_certified_best(path, lambda heads: (*evaluate(heads), torch.empty(0, dtype=torch.float64)))
    if path.best is None:
        raise ArithmeticError(f"every head of {len(targets)} samples diverged")
    return path[path.best]
