"""Channel axes: which axis of each tensor of a forward pass a network treats as channels.

A convolution, a normalisation, a linear layer, a pooling or a weight for each channel says which axis of its input and
output it works on. From there the axis is followed, forwards and backwards, through whatever leaves the axes where they
are, permutes them, or reshapes others. Each tensor has the axis that the nearest of these says.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from heapq import heapify, heappop, heappush
from typing import Any, TypeAlias

import torch
from torch import Tensor

from layerprobe.probing.capture.aliasing import Identities
from layerprobe.probing.capture.pytree import tensors

Node: TypeAlias = tuple[Any, ...]
"""A tensor as it is laid out: its key with shape and strides, in which a view with permuted axes differs."""

_LAST = frozenset({
    "linear", "embedding", "bilinear", "multi_head_attention_forward", "lstm", "gru", "rnn_tanh", "rnn_relu",
})  # fmt: skip
"""Functions with channels along the last axis."""

_SECOND = frozenset({"batch_norm", "group_norm", "instance_norm", "local_response_norm", "prelu", "interpolate"})
"""Functions with channels along the axis after that of the samples."""

_SPATIAL = re.compile(r"(conv|conv_transpose|\w*pool)([123])d(_with_indices)?")
"""Functions over one to three last axes, with channels before them."""

_NORMS = frozenset({"layer_norm", "rms_norm"})
_ELEMENTWISE = frozenset({"add", "sub", "mul", "div"})
_PERMUTING = frozenset({"permute", "transpose", "swapaxes", "swapdims", "movedim", "moveaxis", "t"})
_TRANSPOSING = frozenset({"T", "H", "mT", "mH", "adjoint"})
_RESHAPING = frozenset({
    "reshape", "view", "flatten", "unflatten", "squeeze", "unsqueeze", "view_as", "reshape_as", "ravel", "expand_as",
})  # fmt: skip
_REARRANGING = _LAST | frozenset({
    "matmul", "mm", "bmm", "addmm", "baddbmm", "einsum", "tensordot", "outer", "cdist", "stack", "unbind", "unfold",
    "fold", "rot90", "pixel_shuffle", "pixel_unshuffle", "fft", "scaled_dot_product_attention",
})  # fmt: skip
"""Functions after which an axis may be another one."""

_PRODUCED, _WEIGHTED, _CONSUMED, _STEP = 0.0, 0.5, 1.5, 1.0
"""How far evidence is: that of what makes a tensor comes before that of what uses it, or of what is one step away."""


@dataclass(frozen=True)
class _Given:
    """What a function was called with."""

    inputs: list[tuple[Node, tuple[int, ...]]]
    axis: int | None
    order: tuple[int, ...] | None


class ChannelEvidence:
    """Collects what the functions of one forward pass say of channel axes."""

    def __init__(self, identities: Identities, is_constant: Callable[[Tensor], bool]) -> None:
        self._identities = identities
        self._is_constant = is_constant
        self._evidence: list[tuple[float, int, Node, int]] = []
        self._edges: dict[Node, list[tuple[Node, dict[int, int]]]] = defaultdict(list)

    def node(self, tensor: Tensor) -> Node | None:
        """Return the tensor as it is laid out now; None for one that has no axes to choose from."""
        key = self._identities.key(tensor) if tensor.ndim > 1 else None
        return None if key is None else (key, tuple(tensor.shape), tensor.stride())

    def before(self, name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> _Given:
        """Note a function's arguments, which it may change in place."""
        given = [*tensors(args), *tensors(kwargs)]
        constant = [self._is_constant(tensor) for tensor in given]
        varying = [tensor for tensor, fixed in zip(given, constant, strict=True) if not fixed]
        weights = [tuple(tensor.shape) for tensor, fixed in zip(given, constant, strict=True) if fixed]
        inputs = [(node, tuple(tensor.shape)) for tensor in varying if (node := self.node(tensor)) is not None]
        axis = _evidence(name, inputs[0][1], weights, args, kwargs) if inputs else None
        if axis is not None:
            for node, shape in inputs[:1]:
                self._note(_CONSUMED, node, axis % len(shape))
        if name == "embedding":
            axis = -1
        order = _order(name, varying[0], args, kwargs) if varying else None
        return _Given(inputs, axis, order)

    def after(self, name: str, given: _Given, result: object) -> None:
        """Note what a function makes of them."""
        made = [(node, tuple(tensor.shape)) for tensor in tensors(result) if (node := self.node(tensor)) is not None]
        if given.axis is not None:
            for node, shape in made[:1]:
                self._note(_WEIGHTED if name in _ELEMENTWISE else _PRODUCED, node, given.axis % len(shape))
        for node, shape in made:
            for source, before in given.inputs:
                axes = _same_axes(name, before, shape, given.order)
                if axes and source != node:
                    self._edges[source].append((node, axes))
                    self._edges[node].append((source, {after: axis for axis, after in axes.items()}))

    def axes(self) -> dict[Node, int]:
        """Return the channel axis of each tensor that it is known of."""
        queue, known, number = list(self._evidence), dict[Node, int](), len(self._evidence)
        heapify(queue)
        while queue:
            far, _, node, axis = heappop(queue)
            if node in known:
                continue
            known[node] = axis
            for other, axes in self._edges[node]:
                if other not in known and axis in axes:
                    heappush(queue, (far + _STEP, number, other, axes[axis]))
                    number += 1
        return known

    def _note(self, far: float, node: Node, axis: int) -> None:
        self._evidence.append((far, len(self._evidence), node, axis))


def _evidence(
    name: str,
    shape: tuple[int, ...],
    weights: Sequence[tuple[int, ...]],
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
) -> int | None:
    """Find the axis of its first varying input, and of its output, that a function treats as channels."""
    if name in _NORMS:
        normalised = kwargs["normalized_shape"] if "normalized_shape" in kwargs else args[1]
        return -1 if isinstance(normalised, int) or len(normalised) == 1 else None
    if name in _SECOND:
        return 1
    if name == "embedding":
        return None  # of ids; its output has one
    if name in _LAST or (name in ("matmul", "addmm", "mm") and any(len(weight) == 2 for weight in weights)):
        return -1
    if spatial := _SPATIAL.fullmatch(name):
        axis = len(shape) - int(spatial[2]) - 1
        return axis if axis >= 0 else None
    if name in _ELEMENTWISE and len(weights) == 1:
        wide = [axis - len(weights[0]) for axis, size in enumerate(weights[0]) if size > 1]
        if len(wide) == 1 and len(weights[0]) <= len(shape) and shape[wide[0]] == weights[0][wide[0]]:
            return wide[0]
    return None


def _order(name: str, tensor: Tensor, args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[int, ...] | None:
    """Find which axis each axis of a permuted tensor was, from a tensor of as many axes, all of different size."""
    if name in _TRANSPOSING:
        axes = list(range(tensor.ndim))
        return tuple(axes[::-1] if name in ("T", "H") else [*axes[:-2], *axes[:-3:-1]])
    if name not in _PERMUTING or not args or args[0] is not tensor:
        return None
    permuted = getattr(torch.empty(tuple(range(1, tensor.ndim + 1)), device="meta"), name)(*args[1:], **kwargs)
    return tuple(size - 1 for size in permuted.shape)


def _same_axes(
    name: str, before: tuple[int, ...], after: tuple[int, ...], order: tuple[int, ...] | None
) -> dict[int, int]:
    """Say where the axes of an argument are in the result; only those that are known."""
    if order is not None:
        return {axis: place for place, axis in enumerate(order)}
    if name in _PERMUTING | _TRANSPOSING | _REARRANGING:
        return {}
    if name in _RESHAPING:
        return _kept(before, after)
    return {axis: axis for axis in range(len(before))} if len(before) == len(after) else {}


def _kept(before: tuple[int, ...], after: tuple[int, ...]) -> dict[int, int]:
    """Find the axes that a reshape keeps: the shapes fall into stretches of equal size; some are one axis each."""
    left = [axis for axis, size in enumerate(before) if size != 1]
    right = [axis for axis, size in enumerate(after) if size != 1]
    kept: dict[int, int] = {}
    i = j = 0
    while i < len(left) and j < len(right):
        start = i, j
        a, b = before[left[i]], after[right[j]]
        while a != b:
            if a < b:
                i += 1
                if i == len(left):
                    return kept
                a *= before[left[i]]
            else:
                j += 1
                if j == len(right):
                    return kept
                b *= after[right[j]]
        if (i, j) == start:
            kept[left[i]] = right[j]
        i, j = i + 1, j + 1
    ones = [[axis for axis, size in enumerate(shape) if size == 1] for shape in (before, after)]
    return kept | (dict(zip(*ones, strict=True)) if len(ones[0]) == len(ones[1]) == 1 else {})
