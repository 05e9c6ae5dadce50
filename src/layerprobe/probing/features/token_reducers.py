"""Token reducers: which token of each sample of a sequence stands for it.

A layer that has the sequence axis keeps all its other axes, flattened. An attention map has that axis twice, as query
and as key, and is reduced along both: its last token is what the last token pays to itself, for each head. A layer
without the axis (a pooled output) is flattened whole; one with more or fewer tokens than the masks is left out.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from layerprobe.formatting import count_text
from layerprobe.probing.capture.token_axes import SPAN
from layerprobe.probing.features.reducers import AbstractReducer, Flatten, Masks, Reduction, Shape, TokenAxes


class AbstractTokenReducer(AbstractReducer):
    """Makes one vector of the tokens of a sample; padding, on whichever side, never counts.

    Attributes:
        span: Name of a part of each text, whose tokens alone count; empty for all tokens.
    """

    span: str = ""

    @property
    @abstractmethod
    def phrase(self) -> str:
        """What is taken, such as "last token"."""

    @abstractmethod
    def pick(self, tokens: Float[Tensor, "n t *rest"], mask: Bool[Tensor, "n t"]) -> Float[Tensor, " n *rest"]:
        """Reduce the tokens of each sample to one value; the mask has at least one in each row.

        Raises:
            ValueError: Where a sample does not have the token that is wanted.
        """

    def fit(self, shape: Shape, seed: int, sequence: TokenAxes = (), channel_axis: int | None = None) -> Reduction:
        """See `AbstractReducer.fit`."""
        if not sequence:
            return Flatten().fit(shape, seed)
        axes = tuple(sorted(sequence, reverse=True))
        kept = math.prod(size for i, size in enumerate(shape) if i not in axes)
        named = "x".join("T" if i in axes else str(size) for i, size in enumerate(shape))

        masks = tuple(sequence[axis] if isinstance(sequence, Mapping) else "" for axis in axes)

        def choose(x: Tensor, given: Masks) -> Tensor:
            for axis, name in zip(axes, masks, strict=True):
                x = x.movedim(axis + 1, 1)
                mask = given.get(name) if isinstance(given, Mapping) else given
                held = held_tokens(x, mask, name)
                x = self.pick(x, held & held_tokens(x, _of_span(self.span, given), self.span) if self.span else held)
            return x

        description = f"{self.phrase} of {named} -> {kept}"
        return Reduction(kept, description, lambda x: x.reshape(len(x), -1), axes, choose, masks)


class AbstractOneToken(AbstractTokenReducer):
    """Takes one token of each sample.

    Attributes:
        index: Which, padding not counted: 0 for the first, -1 for the last.
    """

    index: int

    def pick(self, tokens: Float[Tensor, "n t *rest"], mask: Bool[Tensor, "n t"]) -> Float[Tensor, " n *rest"]:
        """See `AbstractTokenReducer.pick`."""
        places = _places(mask, self.index)
        return tokens[torch.arange(len(tokens), device=tokens.device), places]


@dataclass(frozen=True)
class LastToken(AbstractOneToken):
    """The last token that is no padding, as Jin et al. (2024) do."""

    name: ClassVar[str] = "last_token"
    phrase: ClassVar[str] = "last token"
    index: int = field(default=-1, init=False, repr=False)


@dataclass(frozen=True)
class FirstToken(AbstractOneToken):
    """The first token that is no padding, such as BERT's `[CLS]`."""

    name: ClassVar[str] = "first_token"
    phrase: ClassVar[str] = "first token"
    index: int = field(default=0, init=False, repr=False)


@dataclass(frozen=True)
class MeanToken(AbstractTokenReducer):
    """The mean over the tokens that are no padding."""

    name: ClassVar[str] = "mean_token"
    phrase: ClassVar[str] = "mean token"

    def pick(self, tokens: Float[Tensor, "n t *rest"], mask: Bool[Tensor, "n t"]) -> Float[Tensor, " n *rest"]:
        """See `AbstractTokenReducer.pick`."""
        wide = torch.promote_types(tokens.dtype, torch.float32)
        counted = mask.view(*mask.shape, *[1] * (tokens.ndim - 2))
        # Not a product with the mask: padding may hold -inf, as masked attention scores do.
        total = torch.where(counted, tokens, tokens.new_zeros(())).sum(1, dtype=wide)
        return total / counted.sum(1)


@dataclass(frozen=True)
class TokenIndex(AbstractOneToken):
    """The token at one place, padding not counted.

    Attributes:
        index: 0 for the first token, -1 for the last.
    """

    index: int
    name: ClassVar[str] = "token_index"

    @property
    def phrase(self) -> str:
        """What is taken."""
        return f"token {self.index}"


@dataclass(frozen=True)
class SpanToken(AbstractOneToken):
    """A token of a named part of each text, such as the last one of the subject of a statement.

    Attributes:
        span: The part's name, one of `data.spans`.
        index: Which of its tokens, 0 for the first and -1 for the last.
    """

    span: str = field()
    index: int = -1
    name: ClassVar[str] = "span_token"

    @property
    def phrase(self) -> str:
        """What is taken."""
        return f"{_ENDS.get(self.index, f'token {self.index}')} of {self.span}"


_ENDS = {0: "first", -1: "last"}


def token_positions(first: int = 1, last: int = 1, spans: Sequence[str] = ()) -> list[AbstractTokenReducer]:
    """List token reducers in the order of the text: the first tokens, the last one of each span, the last tokens.

    Args:
        first: How many of the first tokens, each by itself.
        last: How many of the last ones, likewise.
        spans: Names of parts of each text.

    Returns:
        The reducers, for `reducers` of a protocol with `each_reducer`.

    Raises:
        ValueError: If there is none.
    """
    found: list[AbstractTokenReducer] = [
        *[FirstToken() if i == 0 else TokenIndex(i) for i in range(first)],
        *map(SpanToken, spans),
        *[LastToken() if i == 1 else TokenIndex(-i) for i in range(last, 0, -1)],
    ]
    if not found:
        raise ValueError("There is no token position. Give first, last or spans: reducer.positions.last=4")
    return found


def _of_span(span: str, given: Masks) -> Tensor:
    known = given if isinstance(given, Mapping) else {}
    if (found := known.get(SPAN + span)) is None:
        there = ", ".join(name.removeprefix(SPAN) for name in known if name.startswith(SPAN)) or "none"
        raise ValueError(
            f"The data have no span {span!r}, there is {there}. Say where it is in each text: "
            f"'data.spans={{{span}: COLUMN}}' or [START,END]; of your own inputs, an entry {SPAN + span!r}."
        )
    return found


def held_tokens(tokens: Float[Tensor, "n t *rest"], mask: Tensor | None, name: str) -> Bool[Tensor, "n t"]:
    """Return which places hold a token: all, where there is no mask.

    Raises:
        ValueError: The mask is of another sequence.
    """
    if mask is None:
        return tokens.new_ones(tokens.shape[:2], dtype=torch.bool)
    if mask.shape != tokens.shape[:2]:
        raise ValueError(
            f"The mask {name or 'given'} is of {tuple(mask.shape)} samples and tokens, and a layer has "
            f"{tuple(tokens.shape[:2])}. Give the mask of the sequence that the layer runs over."
        )
    return mask.to(tokens.device)


def _places(mask: Bool[Tensor, "n t"], index: int) -> Int[Tensor, " n"]:
    """Find where the index-th token of each sample is.

    With c the running count of tokens, which no padding raises, token i is the first place where c = i + 1.
    """
    count = mask.cumsum(1)
    length = count[:, -1]
    wanted = index + 1 if index >= 0 else length + index + 1
    found = (count == torch.as_tensor(wanted, device=mask.device).view(-1, 1)) & mask
    if not found.any(1).all():
        shortest = int(length.min())
        raise ValueError(
            f"There is no token {index} in a sample of {count_text(shortest, 'token')}. "
            "Choose an index that every sample has, or reducer=last_token."
        )
    return found.int().argmax(1)
