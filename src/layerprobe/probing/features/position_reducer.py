"""Reducer to positions of a layer: its tokens, or places in space or time, one after the other in a row of features."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar, final

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from layerprobe.probing.features.reducers import (
    AbstractReducer,
    Flatten,
    Masks,
    Reduction,
    Shape,
    TokenAxes,
    average_along,
    channel_axis_of,
    shape_text,
    shrunk,
)
from layerprobe.probing.features.row_blocks import Features, placed_blocks
from layerprobe.probing.features.scaler import Standardiser
from layerprobe.probing.features.token_reducers import held_tokens


@final
@dataclass(frozen=True)
class Positions(AbstractReducer):
    """Every position of a sample: its channels, and 1; all 0 where the sample has fewer.

    Positions are tokens where one axis of the layer runs over them, padding not counted, and otherwise all axes but
    that of the channels; where no mask says which axis is that of tokens, it is not the channels' either. A layer of
    one axis has none, nor has one whose tokens meet one another, such as an attention map: it is flattened.

    Attributes:
        n: Positions, at most. Of a sample that has more, neighbours are averaged.
    """

    n: int
    name: ClassVar[str] = "positions"

    def fit(self, shape: Shape, seed: int, sequence: TokenAxes = (), channel_axis: int | None = None) -> Reduction:
        """See `AbstractReducer.fit`."""
        axis, said = channel_axis_of(shape, channel_axis) if shape else (0, "")
        guessed = channel_axis is not None and not any(_names(sequence)) and [*sequence] == [axis]
        sequence = () if guessed else sequence
        if len(sequence) == 1:
            return self._of_tokens(shape, sequence)
        space = shape[:axis] + shape[axis + 1 :]
        pooled = space if math.prod(space) <= self.n else shrunk(space, self.n)
        found = math.prod(pooled)
        if sequence or found < 2:
            return Flatten().fit(shape, seed)

        def pool(x: Tensor) -> Tensor:
            x = x.movedim(axis + 1, -1)
            for i, size in enumerate(pooled):
                x = average_along(x, i + 1, size)
            x = x.reshape(len(x), found, -1)
            return torch.cat([x, x.new_ones(len(x), found, 1)], 2).flatten(1)

        size = found * (shape[axis] + 1)
        description = f"positions {shape_text(shape)} -> {shape_text(pooled)} of {shape[axis]}{said}"
        return Reduction(size, description, pool, positions=found)

    def _of_tokens(self, shape: Shape, sequence: TokenAxes) -> Reduction:
        (axis,), (mask_name,) = sequence, _names(sequence)
        channels = math.prod(shape) // shape[axis]
        named = "x".join("T" if i == axis else str(size) for i, size in enumerate(shape))

        def choose(x: Tensor, given: Masks) -> Tensor:
            x = x.movedim(axis + 1, 1)
            held = held_tokens(x, given.get(mask_name) if isinstance(given, Mapping) else given, mask_name)
            return _gathered(x.flatten(2) if x.ndim > 2 else x[:, :, None], held, self.n)

        description = f"positions {named} -> {self.n} of {channels}"
        return Reduction(
            self.n * (channels + 1), description, lambda x: x.flatten(1), (axis,), choose, (mask_name,), self.n
        )


def _names(sequence: TokenAxes) -> tuple[str, ...]:
    """Return the names of the masks of token axes; an empty name where there is none."""
    return tuple(sequence.values()) if isinstance(sequence, Mapping) else ("",) * len(sequence)


def _gathered(x: Float[Tensor, "n t d"], held: Bool[Tensor, "n t"], places: int) -> Float[Tensor, "n p e"]:
    """Gather tokens in order without padding: the i-th of l goes to place i, or ⌊i·p / l⌋ where l is above p."""
    rank, length = held.cumsum(1) - 1, held.sum(1, keepdim=True)
    place = torch.where(length > places, rank * places // length, rank)
    row = places * torch.arange(len(x), device=x.device)[:, None] + place
    wide = torch.promote_types(x.dtype, torch.float32)
    sums = torch.zeros(len(x) * places, x.shape[2], dtype=wide, device=x.device)
    counts = torch.zeros(len(x) * places, 1, dtype=wide, device=x.device)
    sums.index_add_(0, row[held], x[held].to(wide))
    counts.index_add_(0, row[held], counts.new_ones(int(length.sum()), 1))
    found = torch.cat([sums / counts.clamp_min(1), counts.clamp_max(1)], 1)
    return found.view(len(x), places, -1)


def standardiser_of(features: Features, positions: int) -> Standardiser:
    """Standardise each channel by its mean and variance over all positions that there are.

    Returns:
        The standardiser of rows, which leaves alone what says whether there is such a position.
    """
    d = features.shape[1] // positions - 1

    def each() -> Iterator[Tensor]:
        for _, block in placed_blocks(features):
            part = block.view(-1, d + 1)
            yield part[part[:, d] != 0, :d].double()

    n = sum(len(part) for part in each())
    mean = torch.stack([part.sum(0) for part in each()]).sum(0) / n
    variance = torch.stack([(part - mean).square_().sum(0) for part in each()]).sum(0) / n
    found = Standardiser.of(mean, variance, features.dtype)
    left = (found.mean.new_zeros(1), found.scale.new_ones(1), found.constant.new_zeros(1))
    parts = (torch.cat([part, alone]).repeat(positions) for part, alone in zip(
        (found.mean, found.scale, found.constant), left, strict=True
    ))  # fmt: skip
    return Standardiser(*parts)
