"""Reducers: from an activation of any shape to one feature vector for each sample."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, TypeAlias

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from layerprobe.probing.capture.name_patterns import matches

Shape = tuple[int, ...]
TokenAxes: TypeAlias = Sequence[int] | Mapping[int, str]
"""Axes of one sample that run over tokens; in a mapping, each with the name of the mask of its sequence."""

Masks: TypeAlias = Tensor | Mapping[str, Tensor] | None
"""Which places of a batch's sequences hold a token: one mask for all, one for each name, or none without padding."""


def shape_text(shape: Shape) -> str:
    """Write a shape as `32x28x28`; a scalar is `1`."""
    return "x".join(map(str, shape)) or "1"


@dataclass(frozen=True)
class Reduction:
    """A reducer fitted to one layer: the same function for every batch, split and checkpoint.

    Attributes:
        n_features: Length of the feature vector.
        description: What is done, for the record. Two reductions with one description are one and the same.
        function: Maps activations to features.
        axes: Axes of one sample that run over tokens; their size may differ from batch to batch.
        choose: Takes those axes away first: maps activations and the masks of their tokens to activations.
        masks: Which sequence each of those axes runs over: the name of its mask, empty where there is one at most.
        positions: How many positions of the layer a feature vector holds one after the other; 1 where it is of all.
            Heads are fitted to the latter alone.
    """

    n_features: int
    description: str
    function: Callable[[Float[Tensor, " n *shape"]], Float[Tensor, "n d"]]
    axes: tuple[int, ...] = ()
    choose: Callable[[Tensor, Masks], Tensor] | None = None
    masks: tuple[str, ...] = ()
    positions: int = 1

    @property
    def fitted(self) -> bool:
        """Whether heads are fitted to the features; otherwise analyses alone read them."""
        return self.positions == 1

    def fits(self, found: Shape, fitted: Shape) -> bool:
        """Tell whether activations of a shape can be reduced, by a reduction that was fitted to another one."""
        return len(found) == len(fitted) and all(
            a == b or i in self.axes for i, (a, b) in enumerate(zip(found, fitted, strict=True))
        )

    def __call__(
        self, activations: Float[Tensor, " n *shape"], mask: Bool[Tensor, "n t"] | Mapping[str, Tensor] | None = None
    ) -> Float[Tensor, "n d"]:
        """Reduce a batch, to float32 at least; the result never shares memory with `activations`."""
        if self.choose is not None:
            activations = self.choose(activations, mask)
        wide = activations.to(torch.promote_types(activations.dtype, torch.float32))
        features = self.function(wide)
        shares = features.untyped_storage().data_ptr() == activations.untyped_storage().data_ptr()
        return features.clone() if shares else features


class AbstractReducer(ABC):
    """Makes feature vectors of a layer's activations."""

    name: ClassVar[str]
    is_random: ClassVar[bool] = False
    """Whether the probe's seed changes the features."""

    @abstractmethod
    def fit(self, shape: Shape, seed: int, sequence: TokenAxes = (), channel_axis: int | None = None) -> Reduction:
        """Fix what is done to activations of this shape.

        Args:
            shape: Shape of one sample's activation.
            seed: The probe's seed.
            sequence: Which of its axes run over tokens; of use to token reducers only. In a mapping, each has the name
                of the mask of its sequence.
            channel_axis: Which of them the network treats as channels; None where that is not known.
        """


@dataclass(frozen=True)
class FeatureWay:
    """One way to make features of a layer."""

    reducer: AbstractReducer
    reduction: Reduction
    seed: int


class AbstractChannelReducer(AbstractReducer):
    """Keeps channels apart, and averages over the other axes.

    Attributes:
        channel_axis: Axis of the channels in one sample's activation: by default the one that the network treats as
            such, in each layer; where nothing says so, 0 for three axes and more (images) and the last for two (tokens
            by features). A number holds for every layer, a mapping from patterns of names for the layers that match,
            the first that does.
    """

    channel_axis: int | Mapping[str, int] | None

    def axis_of(self, names: Sequence[str], found: int | None) -> int | None:
        """Return the channel axis of a layer, as it was asked for or found; None where it is not known."""
        if not isinstance(self.channel_axis, Mapping):
            return found if self.channel_axis is None else self.channel_axis
        for pattern, axis in self.channel_axis.items():
            if any(matches(name, pattern) for name in names):
                return axis
        return found

    def is_guess(self, shape: Shape, axis: int | None) -> bool:
        """Tell whether the features depend on the channel axis, which is not known and not plain from the shape."""
        if axis is not None or len({self.fit(shape, 0, channel_axis=i).description for i in range(len(shape))}) < 2:
            return False
        return not (len(shape) > 2 and len(set(shape[1:])) == 1 and shape[0] != shape[1])


@dataclass(frozen=True)
class Flatten(AbstractReducer):
    """Every unit of the layer is a feature."""

    name: ClassVar[str] = "flatten"

    def fit(self, shape: Shape, seed: int, sequence: TokenAxes = (), channel_axis: int | None = None) -> Reduction:
        """See `AbstractReducer.fit`."""
        size = math.prod(shape)
        return Reduction(size, f"flatten {shape_text(shape)} -> {size}", lambda x: x.reshape(len(x), -1))


@dataclass(frozen=True)
class AveragePool(AbstractChannelReducer):
    """Average neighbouring units until the layer fits a budget of features.

    Space (or time) is pooled as finely as the budget allows, the same factor along each axis; channels are kept. Where
    the channels alone exceed the budget, neighbouring channels are averaged too.

    Attributes:
        max_features: The budget.
        channel_axis: See `AbstractChannelReducer`.
    """

    max_features: int = 1024
    channel_axis: int | Mapping[str, int] | None = field(default=None, hash=False)
    name: ClassVar[str] = "average_pool"

    def __post_init__(self) -> None:
        _positive("max_features", self.max_features)

    def fit(self, shape: Shape, seed: int, sequence: TokenAxes = (), channel_axis: int | None = None) -> Reduction:
        """See `AbstractReducer.fit`."""
        if math.prod(shape) <= self.max_features:
            return Flatten().fit(shape, seed)
        axis, said = channel_axis_of(shape, self.axis_of((), channel_axis))
        channels, space = shape[axis], shape[:axis] + shape[axis + 1 :]
        pooled = shrunk(space, max(self.max_features // channels, 1))
        kept = min(channels, self.max_features)

        def pool(x: Tensor) -> Tensor:
            x = x.movedim(axis + 1, 1)
            for i, size in enumerate(pooled):
                x = average_along(x, i + 2, size)
            return average_along(x, 1, kept).reshape(len(x), -1)

        size = kept * math.prod(pooled)
        target = (*pooled[:axis], kept, *pooled[axis:])
        return Reduction(size, f"average {shape_text(shape)} -> {shape_text(target)}{said}", pool)


@dataclass(frozen=True)
class ChannelMean(AbstractChannelReducer):
    """One feature for each channel: its mean over space (or time), as Alain & Bengio (2018) do for ResNet-50.

    Attributes:
        channel_axis: See `AbstractChannelReducer`.
    """

    channel_axis: int | Mapping[str, int] | None = field(default=None, hash=False)
    name: ClassVar[str] = "channel_mean"

    def fit(self, shape: Shape, seed: int, sequence: TokenAxes = (), channel_axis: int | None = None) -> Reduction:
        """See `AbstractReducer.fit`."""
        if len(shape) < 2:
            return Flatten().fit(shape, seed)
        axis, said = channel_axis_of(shape, self.axis_of((), channel_axis))
        others = tuple(i + 1 for i in range(len(shape)) if i != axis)
        description = f"mean {shape_text(shape)} -> {shape[axis]}{said}"
        return Reduction(shape[axis], description, lambda x: x.mean(dim=others))


@dataclass(frozen=True)
class RandomSubset(AbstractReducer):
    """A fixed random choice of units, as Alain & Bengio (2018) do for Inception v3.

    Layers of one size share the choice, at every checkpoint.

    Attributes:
        n_features: How many units are kept.
    """

    n_features: int = 1000
    name: ClassVar[str] = "random_subset"
    is_random: ClassVar[bool] = True

    def __post_init__(self) -> None:
        _positive("n_features", self.n_features)

    def fit(self, shape: Shape, seed: int, sequence: TokenAxes = (), channel_axis: int | None = None) -> Reduction:
        """See `AbstractReducer.fit`."""
        size = math.prod(shape)
        if size <= self.n_features:
            return Flatten().fit(shape, seed)
        generator = torch.Generator().manual_seed(seed)
        chosen = torch.randperm(size, generator=generator)[: self.n_features].sort().values
        return Reduction(
            self.n_features,
            f"subset {shape_text(shape)} -> {self.n_features} (seed {seed})",
            lambda x: x.reshape(len(x), -1).index_select(1, chosen.to(x.device)),
        )


def _positive(name: str, value: int) -> None:
    if value < 1:
        raise ValueError(f"{name} must be at least 1, found {value}. Give the number of features to keep.")


def channel_axis_of(shape: Shape, axis: int | None) -> tuple[int, str]:
    """Return the channel axis, and what a description says of it: nothing where it is the usual one."""
    usual = 0 if len(shape) != 2 else 1
    if axis is None:
        return usual, ""
    if not -len(shape) <= axis < len(shape):
        raise ValueError(f"channel_axis {axis} is not an axis of a layer of shape {shape_text(shape)}.")
    axis %= len(shape)
    return axis, "" if axis == usual else f" (channel axis {axis})"


def shrunk(space: Shape, budget: int) -> Shape:
    """Find the finest grid of at most `budget` cells with one factor for all axes."""
    low, high = 0.0, 1.0
    for _ in range(40):
        middle = (low + high) / 2
        if math.prod(max(1, int(s * middle)) for s in space) <= budget:
            low = middle
        else:
            high = middle
    return tuple(max(1, int(s * low)) for s in space)


def average_along(x: Tensor, axis: int, size: int) -> Tensor:
    """Average neighbours along an axis until it has a size."""
    if x.shape[axis] == size:
        return x
    before, after = x.shape[:axis], x.shape[axis + 1 :]
    beside = math.prod(after)
    if size > 1 and beside > 3 and x.device.type == "cpu" and x.is_contiguous():
        # Taken for channels, what lies behind the axis need not be copied; the order of a sum is the same. Of fewer
        # than four channels, the copy is the faster way.
        rows = x.view(-1, x.shape[axis], 1, beside).permute(0, 3, 1, 2)
        return F.adaptive_avg_pool2d(rows, (size, 1)).permute(0, 2, 3, 1).reshape(*before, size, *after)
    moved = x.movedim(axis, -1)
    flat = moved.reshape(1, -1, moved.shape[-1])
    return F.adaptive_avg_pool1d(flat, size).reshape(*moved.shape[:-1], size).movedim(-1, axis)
