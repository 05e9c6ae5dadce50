"""Which axes of a layer run over the tokens of a sequence, and which places of a batch hold one."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor, nn

from layerprobe.probing.activations import record
from layerprobe.probing.frozen import frozen
from layerprobe.probing.inputs import Arguments, NetworkInputs
from layerprobe.probing.layers import Layer
from layerprobe.probing.nesting import map_tensors

log = logging.getLogger(__name__)


def attention_mask(inputs: Any) -> Tensor | None:
    """The entry `attention_mask` of inputs that are a mapping; None for any others."""
    return inputs.get("attention_mask") if isinstance(inputs, Mapping) else None


def token_mask(mask: Any) -> Bool[Tensor, "n t"] | None:
    """Check which places of a batch hold a token.

    Args:
        mask: Nonzero for a token, 0 for padding, `(n, t)`; None where there is no padding.

    Returns:
        The mask as booleans.

    Raises:
        TypeError: It is not a tensor of two axes.
        ValueError: A sample has no token.
    """
    if mask is None:
        return None
    if not isinstance(mask, Tensor) or mask.ndim != 2:
        found = f"shape {tuple(mask.shape)}" if isinstance(mask, Tensor) else f"a {type(mask).__name__}"
        raise TypeError(
            f"Token reducers need a mask of (samples, tokens), found {found}. "
            "Say with `mask` how to make one of a batch: `mask=lambda batch: batch[0]['ids'] != 0`."
        )
    held = mask.bool()
    if not held.any(1).all():
        row = int((~held.any(1)).nonzero()[0])
        raise ValueError(f"Sample {row} of a batch has no token: its mask is all 0. Leave empty samples out.")
    return held


def sequence_axes(
    network: nn.Module, inputs: NetworkInputs, mask: Tensor | None, layers: Iterable[Layer]
) -> dict[Layer, tuple[int, ...]]:
    """Find the axes of each layer that have a place for each token.

    The network runs frozen on two samples whose sequences are one token shorter: what then shrinks from t to t - 1
    runs over tokens. A size that is t by coincidence does not shrink. Of a network that takes one length only, every
    axis of size t counts. Without a mask, a layer of two axes is tokens by features.

    Args:
        network: The network that the layers were discovered in.
        inputs: The batch that they were discovered on.
        mask: Its tokens, `(n, t)`.
        layers: The layers.

    Returns:
        Axes of one sample's activation, for each layer; none for one that does not run over tokens.
    """
    layers = tuple(layers)
    if mask is None:
        return {layer: (0,) if len(layer.shape) == 2 else () for layer in layers}
    length = mask.shape[1]
    shapes: dict[Layer, tuple[int, ...]] = {}

    def note(layer: Layer, activation: Tensor) -> None:
        shapes[layer] = tuple(activation.shape)[1:]

    given = Arguments.of(inputs)
    few = given.take(range(min(2, given.batch_size)))
    other, change = (length - 1, _shortened) if length > 1 else (2, _doubled)

    def resize(tensor: Tensor) -> Tensor:
        is_sequence = few.holds_batch(tensor) and tensor.ndim > 1 and tensor.shape[1] == length
        return change(tensor) if is_sequence else tensor

    shorter = (*map_tensors(few.args, resize), map_tensors(few.kwargs, resize))
    call: NetworkInputs = shorter[-1] if few.kwargs else shorter[:-1]
    try:
        with frozen(network, seed=0):
            record(network, call, layers, note, same_shape=False)
    except Exception as error:  # whatever a network raises that takes one length only
        log.info("The network does not run on sequences of %d tokens (%s): axes are told by size", other, error)
        return {layer: tuple(i for i, size in enumerate(layer.shape) if size == length) for layer in layers}
    return {
        layer: tuple(
            i
            for i, (before, after) in enumerate(zip(layer.shape, shapes.get(layer, layer.shape), strict=True))
            if (before, after) == (length, other)
        )
        for layer in layers
    }


def _shortened(tensor: Tensor) -> Tensor:
    return tensor[:, :-1]


def _doubled(tensor: Tensor) -> Tensor:
    return torch.cat([tensor, tensor], dim=1)
