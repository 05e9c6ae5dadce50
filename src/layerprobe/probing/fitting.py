"""Fit every head of one layer on train and choose one on validation."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TypeAlias

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from layerprobe.probing.capture.layers import Layer
from layerprobe.probing.features.oom import with_room
from layerprobe.probing.features.reducers import AbstractChannelReducer, AbstractReducer, Reduction, TokenAxes
from layerprobe.probing.features.row_blocks import AbstractRows, Features
from layerprobe.probing.features.scaler import StandardisedRows, Standardiser
from layerprobe.probing.heads import Heads
from layerprobe.probing.patience import PastBest
from layerprobe.probing.protocol import ProbeProtocol
from layerprobe.probing.recording import Recording
from layerprobe.probing.selection import Candidate, select
from layerprobe.probing.solvers.gram import Spectrum
from layerprobe.probing.solvers.solution import Solution, Status
from layerprobe.probing.solvers.solver import AbstractSolver
from layerprobe.probing.targets import Labels
from layerprobe.probing.tasks.task import AbstractTask, Measured
from layerprobe.types import LayerName


@dataclass(frozen=True)
class FeatureWay:
    """One way to make features of a layer."""

    reducer: AbstractReducer
    reduction: Reduction
    seed: int


Ways: TypeAlias = Mapping[Layer, Sequence[FeatureWay]]
"""The ways to make features of each layer, in the order of depth."""


def features_of(ways: Sequence[FeatureWay]) -> int:
    """Features that are fitted at a time, at most."""
    return max(way.reduction.n_features for way in ways)


def feature_ways(layer: Layer, protocol: ProbeProtocol, sequence: TokenAxes = ()) -> tuple[FeatureWay, ...]:
    """Every distinct way; a reducer that changes nothing, or that no seed changes, counts once.

    Args:
        layer: The layer.
        protocol: The sweep.
        sequence: Which of its axes run over tokens, with the names of their masks.
    """
    ways: dict[str, FeatureWay] = {}
    for seed in protocol.seeds:
        for reducer in protocol.reducers:
            axis = (
                reducer.axis_of(layer.names, layer.channel_axis)
                if isinstance(reducer, AbstractChannelReducer)
                else None
            )
            reduction = reducer.fit(layer.shape, seed, sequence, axis)
            ways.setdefault(reduction.description, FeatureWay(reducer, reduction, seed))
    return tuple(ways.values())


@dataclass(frozen=True)
class Fit:
    """One path: a way to make features and a solver, with what validation says of each head."""

    way: FeatureWay
    solver: AbstractSolver
    solution: Solution
    candidates: tuple[Candidate, ...]


@dataclass(frozen=True)
class Selected:
    """The head that validation chose, with all that is needed to measure it.

    Attributes:
        fit: The path that it stands on.
        index: Its place on the path.
        heads: The head.
        standardiser: Training statistics of its features.
        train_error: Its error on train.
        refitted: Its fit to train and validation together; None where there was none.
    """

    fit: Fit
    index: int
    heads: Heads
    standardiser: Standardiser
    train_error: float
    refitted: Solution | None = None

    @property
    def candidate(self) -> Candidate:
        """What validation says of it."""
        return self.fit.candidates[self.index]

    @property
    def status(self) -> Status:
        """How its fit ended."""
        return self.fit.solution.status[self.index] if self.refitted is None else self.refitted.status[0]

    @property
    def gap(self) -> float:
        """How far it is from its optimum at most."""
        return float(self.fit.solution.gap[self.index] if self.refitted is None else self.refitted.gap[0])

    def measure(self, features: Features, targets: Shaped[Tensor, "n ..."], task: AbstractTask) -> Measured:
        """Read a split that had no part in fitting or choosing.

        Args:
            features: Features as the reducer made them, not standardised.
            targets: The split's targets, as in `Labels`.
            task: What is predicted.

        Returns:
            What the head comes to there.
        """
        device = features.device
        standardised = StandardisedRows(features, self.standardiser.to(device))
        return task.measure(self.heads.to(device), standardised, targets.to(device), self.fit.solver)


@dataclass
class Sweep:
    """All fits of one layer to one set of labels.

    Attributes:
        fits: Every path, in the order of fitting.
        selected: The best head so far; None where every head diverged.
        kept: Its features of train and validation, standardised, where it is to be fitted once more.
    """

    fits: list[Fit] = field(default_factory=list)
    selected: Selected | None = None
    kept: tuple[Features, Float[Tensor, "v d"] | AbstractRows] | None = None

    def is_beaten_by(self, candidate: Candidate) -> bool:
        """Whether validation prefers a head to the best so far."""
        return self.selected is None or select([self.selected.candidate, candidate]) == 1


def sweep_layer(
    layer: LayerName,
    ways: Sequence[FeatureWay],
    train: Recording,
    val: Recording | None,
    labels: Mapping[str, Labels],
    protocol: ProbeProtocol,
) -> dict[str, Sweep]:
    """Fit reducers × solvers × L2 values × seeds, for the true labels and every control at once.

    Args:
        layer: Name of the layer.
        ways: Its ways to make features.
        train: Recording of the training split; the layer's features are taken out of it.
        val: Recording of the validation split; likewise. None where there is one head and nothing to choose.
        labels: One set of labels for each name (`none` for the true ones).
        protocol: The sweep.

    Returns:
        A sweep for each set of labels.
    """
    sweeps = {name: Sweep() for name in labels}
    for way in ways:
        features = train.take(layer, way.reduction)
        fit_standardiser = Standardiser.fit if protocol.standardise else Standardiser.none
        standardiser = with_room(fit_standardiser, features, what=layer).to(features.device)
        features = standardiser.applied(features)
        val_features = None if val is None else standardiser.applied(val.take(layer, way.reduction))
        fit_way = partial(_fit_way, way=way, standardiser=standardiser, labels=labels, protocol=protocol, best=sweeps)
        for name, sweep in with_room(fit_way, features, val_features, what=layer).items():
            sweeps[name].fits += sweep.fits
            if sweep.selected is not None:
                sweeps[name].selected, sweeps[name].kept = sweep.selected, sweep.kept
    return sweeps


def _fit_way(
    features: Features,
    val_features: Float[Tensor, "v d"] | AbstractRows | None,
    way: FeatureWay,
    standardiser: Standardiser,
    labels: Mapping[str, Labels],
    protocol: ProbeProtocol,
    best: Mapping[str, Sweep],
) -> dict[str, Sweep]:
    """Fit solvers × L2 values to features made in one way.

    Returns:
        A sweep for each set of labels; a head is selected only where validation prefers it to the best so far.
    """
    sweeps = {name: Sweep() for name in labels}
    spectrum = Spectrum.of(features)
    for solver in protocol.solvers:
        for name, variant in labels.items():
            sweep, targets = sweeps[name], variant.splits["train"].to(features.device)
            n_classes = protocol.task.n_classes(variant)
            l2 = torch.tensor(protocol.l2_values(len(targets), n_classes), dtype=torch.float64)
            evaluate, stop = None, None
            if val_features is not None:
                evaluate = partial(
                    protocol.task.evaluate,
                    features=val_features,
                    targets=variant.splits["val"].to(features.device),
                    solver=solver,
                )
                stop = None if protocol.patience is None else PastBest(protocol.patience, evaluate)
            solution = protocol.task.fit(solver, features, targets, variant, l2, spectrum, stop)
            heads = Heads(solution.weight, solution.bias)
            figures = None if evaluate is None else evaluate(heads)
            fit, index = judged(way, solver, solution, l2, figures)
            sweep.fits.append(fit)
            if index is None or not (sweep if sweep.selected else best[name]).is_beaten_by(fit.candidates[index]):
                continue
            train_error, _ = protocol.task.evaluate(heads[index], features, targets, solver)
            sweep.selected = Selected(fit, index, heads[index], standardiser, float(train_error[0]))
            if protocol.refit and val_features is not None:
                sweep.kept = features, val_features
    return sweeps


def judged(
    way: FeatureWay,
    solver: AbstractSolver,
    solution: Solution,
    l2: Float[Tensor, " p"],
    figures: tuple[Float[Tensor, " p"], Float[Tensor, " p"]] | None,
) -> tuple[Fit, int | None]:
    """Put what validation says beside every head of a path.

    Args:
        way: How the features were made.
        solver: What fitted the path.
        solution: The path.
        l2: Its L2 values.
        figures: Error and loss of every head on validation; None where there is one head and nothing to choose.

    Returns:
        The fit, and the place of its best head; None where every head diverged.
    """
    errors, losses = ([math.nan] * len(l2),) * 2 if figures is None else (part.tolist() for part in figures)
    candidates = tuple(
        Candidate(math.nan if ended in (Status.DIVERGED, Status.SKIPPED) else error, loss, strength)
        for ended, error, loss, strength in zip(solution.status, errors, losses, l2.tolist(), strict=True)
    )
    index = select(candidates)
    if figures is None and solution.status[0] is not Status.DIVERGED:
        index = 0
    return Fit(way, solver, solution, candidates), index
