"""Fit the selected head once more, to train and validation together."""

from __future__ import annotations

from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from layerprobe.probing.features.row_blocks import AbstractRows, Features
from layerprobe.probing.features.scaler import Standardiser
from layerprobe.probing.fitting import Selected
from layerprobe.probing.heads import Heads
from layerprobe.probing.protocol import ProbeProtocol
from layerprobe.probing.solvers.gram import Spectrum
from layerprobe.probing.targets import Labels


class JoinedRows(AbstractRows):
    """One matrix below another.

    Args:
        first: The upper rows.
        second: The lower rows.
    """

    def __init__(self, first: Features, second: Float[Tensor, "v d"] | AbstractRows) -> None:
        self.first, self.second = first, second
        self.shape = (len(first) + len(second), first.shape[1])
        self.dtype, self.device = first.dtype, first.device

    def __getitem__(self, rows: slice) -> Float[Tensor, "k d"]:
        """See `AbstractRows.__getitem__`."""
        start, stop, _ = rows.indices(len(self))
        n = len(self.first)
        upper = self.first[min(start, n) : min(stop, n)]
        return torch.cat([upper, self.second[max(start - n, 0) : max(stop - n, 0)]])


def refit(
    chosen: Selected,
    train: Features,
    val: Float[Tensor, "v d"] | AbstractRows,
    labels: Labels,
    protocol: ProbeProtocol,
) -> Selected:
    """Use the validation split for fitting too, once it has chosen, as Kornblith et al. (2019) and CLIP do.

    The L2 value stays: the objective is a mean over samples, so it means the same for more of them.

    Args:
        chosen: The selected head.
        train: Its training features, standardised by it.
        val: Its validation features, standardised by it.
        labels: The targets.
        protocol: The sweep.

    Returns:
        The head fitted to both, its standardiser that of both, and its training error that on both. Where val has a
        class that train does not, the head as it was chosen.
    """
    targets = torch.cat([labels.splits["train"], labels.splits["val"]]).to(train.device)
    if not targets.is_floating_point() and bool((targets < 0).any()):
        return chosen
    both: Features = JoinedRows(train, val)
    if isinstance(train, Tensor) and isinstance(val, Tensor):
        both = torch.cat([train, val])
    standardiser = Standardiser.fit(both) if protocol.standardise else Standardiser.none(both)
    both = standardiser.applied(both)
    l2 = torch.tensor([chosen.candidate.l2], dtype=torch.float64)
    solver = chosen.fit.solver
    solution = protocol.task.fit(solver, both, targets, labels, l2, Spectrum.of(both))
    heads = Heads(solution.weight, solution.bias)
    error, _ = protocol.task.evaluate(heads, both, targets, solver)
    first = chosen.standardiser
    # Standardised twice: ((x - m₁)/s₁ - m₂)/s₂ = (x - (m₁ + s₁m₂))/(s₁s₂).
    composed = Standardiser(
        first.mean + first.scale * standardiser.mean,
        first.scale * standardiser.scale,
        first.constant & standardiser.constant,
    )
    return replace(chosen, heads=heads, standardiser=composed, train_error=float(error[0]), refitted=solution)
