"""Fit of one layer: every head on train, one chosen on validation."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import TypeAlias

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from layerprobe.probing.capture.layers import Layer
from layerprobe.probing.features.oom import with_room
from layerprobe.probing.features.position_reducer import Positions
from layerprobe.probing.features.reducers import (
    AbstractChannelReducer,
    AbstractReducer,
    FeatureWay,
    Reduction,
    TokenAxes,
)
from layerprobe.probing.features.row_blocks import AbstractRows, Features, JoinedRows
from layerprobe.probing.features.scaler import StandardisedRows, Standardiser
from layerprobe.probing.head_path import HeadPath
from layerprobe.probing.heads import Heads
from layerprobe.probing.protocol import ProbeProtocol
from layerprobe.probing.selection import PATIENCE, PastBest, select, with_certified_best
from layerprobe.probing.solvers.moments import ClassSums
from layerprobe.probing.solvers.ridge import Ridge
from layerprobe.probing.solvers.solver import AbstractSolver
from layerprobe.probing.solvers.spectrum import Spectrum
from layerprobe.probing.targets import Labels
from layerprobe.probing.tasks.class_weights import class_weights
from layerprobe.probing.tasks.task import Measured, PathFit

Ways: TypeAlias = Mapping[Layer, Sequence[FeatureWay]]
"""The ways to make features of each layer, in the order of depth."""

TrainTake: TypeAlias = Callable[[Reduction], Features | ClassSums]
"""Hands over what is known of the training samples: their features, or the sums that least squares needs."""

FeatureTake: TypeAlias = Callable[[Reduction], Features]
"""Hands over the features of a split."""


def feature_ways(layer: Layer, protocol: ProbeProtocol, sequence: TokenAxes = ()) -> tuple[FeatureWay, ...]:
    """List every distinct way; a reducer that changes nothing, or that no seed changes, counts once."""
    ways: dict[str, FeatureWay] = {}
    for seed in protocol.seeds:
        for reducer in protocol.reducers:
            reduction = reducer.fit(layer.shape, seed, sequence, channel_axis(reducer, layer))
            ways.setdefault(reduction.description, FeatureWay(reducer, reduction, seed))
    return (*ways.values(), *_positions_way(layer, protocol, sequence))


def _positions_way(layer: Layer, protocol: ProbeProtocol, sequence: TokenAxes) -> Iterator[FeatureWay]:
    """Return the positions of a layer, where an analysis asks for them and it has some."""
    if protocol.positions:
        reducer = Positions(protocol.positions)
        reduction = reducer.fit(layer.shape, protocol.seeds[0], sequence, positions_axis(layer, protocol))
        if not reduction.fitted:
            yield FeatureWay(reducer, reduction, protocol.seeds[0])


def positions_axis(layer: Layer, protocol: ProbeProtocol) -> int | None:
    """Choose the channel axis of a layer's positions: what a reducer of the sweep is told, or what is known."""
    own = (channel_axis(each, layer) for each in protocol.reducers if isinstance(each, AbstractChannelReducer))
    return next(own, layer.channel_axis)


def channel_axis(reducer: AbstractReducer, layer: Layer) -> int | None:
    """Return the channel axis that a reducer is told of a layer; None where it asks for none, or it is not known."""
    return reducer.axis_of(layer.names, layer.channel_axis) if isinstance(reducer, AbstractChannelReducer) else None


def fitted_features(ways: Sequence[FeatureWay]) -> int:
    """Count the features that heads are fitted to, of all ways."""
    return sum(way.reduction.n_features for way in ways if way.reduction.fitted)


def unfitted_features(ways: Sequence[FeatureWay]) -> int:
    """Count the features that analyses alone read."""
    return sum(way.reduction.n_features for way in ways if not way.reduction.fitted)


def features_of(ways: Sequence[FeatureWay]) -> int:
    """Count the features that are fitted at a time, at most."""
    return max(way.reduction.n_features for way in ways if way.reduction.fitted)


@dataclass(frozen=True, eq=False)
class Fitted:
    """What fitting leaves behind of one set of labels, beside its paths.

    Attributes:
        head: The selected head, as a path of one.
        chosen: The same before it was fitted once more, if it was.
        train: Training features, standardised by `chosen`; None where nothing asks for them any more.
        val: Validation features, likewise.
    """

    head: HeadPath
    chosen: HeadPath
    train: Features | None = None
    val: Float[Tensor, "v d"] | AbstractRows | None = None


def fit_layer(
    train: TrainTake,
    val: FeatureTake | None,
    ways: Sequence[FeatureWay],
    labels: Mapping[str, Labels],
    protocol: ProbeProtocol,
    what: str,
) -> tuple[dict[str, list[HeadPath]], dict[str, Fitted]]:
    """Fit reducers × solvers × L2 values × seeds, for the true labels and every control at once, and choose.

    Labels go by the name of their control, `none` for the true ones. `val` is None where there is one head and nothing
    to choose.

    Returns:
        For each set of labels every path, in the order of fitting, and the selected head; there is none where all
        diverged.
    """
    paths: dict[str, list[HeadPath]] = {name: [] for name in labels}
    kept: dict[str, tuple[Features, Features | None]] = {}
    for way in (way for way in ways if way.reduction.fitted):
        samples, standardiser = _standardised(train(way.reduction), protocol, what)
        val_features = None if val is None else standardiser.applied(val(way.reduction))
        fit = partial(_fit_way, way=way, standardiser=standardiser, labels=labels, protocol=protocol, earlier=paths)
        if isinstance(samples, ClassSums):
            found = with_room(partial(fit, samples), val_features, what=what)
        else:
            found = with_room(fit, samples, val_features, what=what)
        for name, some in found.items():
            paths[name] += some
            wanted = protocol.refit or (protocol.analyses and name == "none")
            if wanted and not isinstance(samples, ClassSums) and select(paths[name]) in some:
                kept[name] = samples, val_features
    heads = {}
    for name, every in paths.items():
        chosen = select(every)
        if chosen is None or chosen.best is None:
            continue
        head = chosen = chosen[chosen.best]
        if protocol.refit:
            again = partial(refit, chosen, labels=labels[name], protocol=protocol)
            head = with_room(again, *kept[name], what=f"{what}, once more")
        heads[name] = Fitted(head, chosen, *kept.get(name, ())) if protocol.analyses else Fitted(head, chosen)
    return paths, heads


def _standardised(
    samples: Features | ClassSums, protocol: ProbeProtocol, what: str
) -> tuple[Features | ClassSums, Standardiser]:
    if isinstance(samples, ClassSums):
        return samples, samples.standardiser
    fit_standardiser = Standardiser.fit if protocol.standardise else Standardiser.none
    standardiser = with_room(fit_standardiser, samples, what=what).to(samples.device)
    return standardiser.applied(samples), standardiser


def _fit_way(
    samples: Features | ClassSums,
    val_features: Float[Tensor, "v d"] | AbstractRows | None,
    way: FeatureWay,
    standardiser: Standardiser,
    labels: Mapping[str, Labels],
    protocol: ProbeProtocol,
    earlier: Mapping[str, Sequence[HeadPath]],
) -> dict[str, list[HeadPath]]:
    """Fit solvers × L2 values to samples whose features are made in one way.

    Returns:
        The paths of each set of labels; the training error is known of those alone that are better than all before.
    """
    paths: dict[str, list[HeadPath]] = {name: [] for name in labels}
    spectrum = None if isinstance(samples, ClassSums) else cache(partial(Spectrum.of, samples))
    for solver in protocol.solvers:
        for name, variant in labels.items():
            targets = variant.splits["train"].to(samples.device)
            l2 = torch.tensor(protocol.l2_values(len(targets), protocol.task.n_classes(variant)), dtype=torch.float64)
            evaluate = None
            if val_features is not None:
                truth = variant.splits["val"].to(val_features.device)
                evaluate = Validation(protocol, val_features, truth, solver)
            rough = protocol.path == "chosen" and evaluate is not None and len(l2) > 1
            patience = protocol.patience or (PATIENCE if rough else None)
            stop = None
            if patience is not None and evaluate is not None:
                perfect = protocol.selection in ("error", "balanced_error")
                stop = PastBest(patience, evaluate.chosen_by, perfect)
            if isinstance(samples, ClassSums):
                assert isinstance(solver, Ridge)
                weights = class_weights(protocol.task.class_weight, variant.splits["train"], variant.outputs)
                solution = solver.from_sums(samples, variant.outputs, l2, weights)
            else:
                assert spectrum is not None
                asked = PathFit(samples, l2, spectrum, stop, rough)
                solution = protocol.task.fit(solver, asked, targets, variant)
            heads = Heads(solution.weight, solution.bias)
            validation, figures = None, ()
            if evaluate is not None:
                errors, losses, figures = (tuple(part.tolist()) for part in evaluate(heads))
                validation = errors, losses
            path = HeadPath(
                way, solver, standardiser, tuple(l2.tolist()), solution, validation, protocol.selection, figures
            )
            path = path if evaluate is None else with_certified_best(path, evaluate)
            if select([*earlier[name], *paths[name], path]) is path and not isinstance(samples, ClassSums):
                assert path.best is not None
                train_error, _ = protocol.task.evaluate(path.heads[path.best], samples, targets, solver)
                path = replace(path, train_error=float(train_error[0]))
            paths[name].append(path)
    return paths


@dataclass(frozen=True)
class Validation:
    """The validation split, as what says how good heads are."""

    protocol: ProbeProtocol
    features: Features
    targets: Shaped[Tensor, "v ..."]
    solver: AbstractSolver

    def __call__(self, heads: Heads) -> tuple[Float[Tensor, " p"], Float[Tensor, " p"], Float[Tensor, " f"]]:
        """Measure error and loss of each head, and the other figure that chooses; none where error or loss does."""
        task = self.protocol.task
        errors, losses = task.evaluate(heads, self.features, self.targets, self.solver)
        figure = task.figures.get(self.protocol.selection)
        found = (
            []
            if figure is None
            else [figure(self.solver, heads[i].scores(self.features), self.targets) for i in range(len(heads.weight))]
        )
        return errors, losses, torch.tensor(found, dtype=torch.float64)

    def chosen_by(self, heads: Heads) -> tuple[Float[Tensor, " p"], Float[Tensor, " p"]]:
        """Return what each head is chosen by, and its loss."""
        errors, losses, figures = self(heads)
        return {"error": errors, "loss": losses}.get(self.protocol.selection, figures), losses


def check_selection(labels: Labels, protocol: ProbeProtocol) -> None:
    """Refuse to choose heads by what the validation split does not give, whatever their scores are.

    Raises:
        ValueError: Where no head would have the figure that `selection` names.
    """
    if "val" not in labels.splits:
        return
    truth, c = labels.splits["val"], len(labels.outputs)
    silent = Heads(torch.zeros(1, c, 1), torch.zeros(1, c))  # finite scores, the same for all samples
    by, _ = Validation(protocol, torch.zeros(len(truth), 1), truth, protocol.solvers[0]).chosen_by(silent)
    refused = f"`selection` is {protocol.selection}, which the validation split does not give: it holds "
    if not bool((truth >= 0).any() or truth.is_floating_point()):
        raise ValueError(
            f"{refused}no sample of a class that train has. Number its classes as those of train, or give other "
            "validation samples."
        )
    if bool(by.isnan().any()):
        raise ValueError(
            f"{refused}samples that are all of one class. Give validation samples of several classes (of a label, some "
            "that have it and some that do not), or set selection=error."
        )


def refit(
    chosen: HeadPath,
    train: Features,
    val: Float[Tensor, "v d"] | AbstractRows,
    labels: Labels,
    protocol: ProbeProtocol,
) -> HeadPath:
    """Use the validation split for fitting too, once it has chosen, as Kornblith et al. (2019) and CLIP do.

    The L2 value stays: the objective is a mean over samples, so it means the same for more of them. Both splits'
    features are standardised by the head.

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
    second = Standardiser.fit(both) if protocol.standardise else Standardiser.none(both)
    both = second.applied(both)
    solution = protocol.task.fit(chosen.solver, PathFit.of(both, chosen.l2), targets, labels)
    error, _ = protocol.task.evaluate(Heads(solution.weight, solution.bias), both, targets, chosen.solver)
    # Standardised twice: ((x - m₁)/s₁ - m₂)/s₂ = (x - (m₁ + s₁m₂))/(s₁s₂).
    first = chosen.standardiser.to(both.device)
    composed = Standardiser(
        first.mean + first.scale * second.mean, first.scale * second.scale, first.constant & second.constant
    )
    return replace(chosen, solution=solution, standardiser=composed, train_error=float(error[0]), refitted=True)


def measure(
    head: HeadPath, features: Features, targets: Shaped[Tensor, "n ..."], protocol: ProbeProtocol, what: str
) -> Measured:
    """Read a split that had no part in fitting or choosing.

    Features are as the reducer made them, not standardised.

    Returns:
        What the head comes to there; without an interval where the split is all that there is.
    """

    def read(rows: Features) -> Measured:
        standardised = StandardisedRows(rows, head.standardiser.to(rows.device))
        return protocol.task.measure(head.heads.to(rows.device), standardised, targets.to(rows.device), head.solver)

    found = with_room(read, features, what=what)
    return replace(found, low=math.nan, high=math.nan) if protocol.population else found
