"""Token axes: which axes of a layer run over the tokens of a sequence, and which places of a batch hold one."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor, nn

from layerprobe.probing.capture.activations import record
from layerprobe.probing.capture.call_arguments import Arguments, NetworkInputs
from layerprobe.probing.capture.freeze import Frozen
from layerprobe.probing.capture.layers import Layer
from layerprobe.probing.capture.pytree import map_tensors, named_tensors

log = logging.getLogger(__name__)

_MASK = "attention_mask"
_DECODER = "decoder"
SPAN = "span:"
"""What the names of inputs begin with that say which tokens are a named part of the text, nonzero in `(n, t)`."""
_ENDING = re.compile(r"_?(attention_mask|padding_mask|mask|input_ids|inputs_embeds|input_features|ids|tokens)$")
"""What the names of inputs and masks end in, after what says which sequence they are of."""
_RESIZED = " of another length"
"""What the name of a mask is followed by, where an axis runs over more or fewer tokens than it has places."""


def attention_masks(inputs: Any) -> dict[str, Tensor]:
    """Find the entries `attention_mask`, `decoder_attention_mask` and the like of inputs, by where they are."""
    found = {".".join(path): tensor for path, tensor in named_tensors(inputs, state=True)}
    masks = {name: tensor for name, tensor in found.items() if name.rpartition(".")[2].endswith(_MASK)}
    stems = {_stem(name) for name in found.keys() - masks.keys()}
    stems |= {_DECODER} if "labels" in found else set()
    # Others are of no sequence: a `global_attention_mask` says which tokens are looked at by all.
    return {
        name: tensor
        for name, tensor in masks.items()
        if name.rpartition(".")[2] == _MASK or (_stem(name) in stems and tensor.ndim == 2)
    }


def token_masks(inputs: Any, given: Any) -> dict[str, Bool[Tensor, "n t"]]:
    """Check the masks of a batch.

    Args:
        inputs: What the network is called with.
        given: A mask, a mapping of names of inputs to masks, or None where there is no padding.

    Returns:
        The masks as booleans, by name; one alone is called as it is among the inputs, or "".

    Raises:
        TypeError: One is not a tensor of two axes.
        ValueError: A sample has no token.
    """
    if isinstance(given, Mapping):
        return {str(name): held for name, mask in given.items() if (held := token_mask(mask)) is not None}
    held = token_mask(given)
    if held is None:
        return {}
    own = (".".join(path) for path, tensor in named_tensors(inputs, state=True) if tensor is given)
    return {next(own, ""): held}


def masks_of_inputs(inputs: Any, given: Any) -> dict[str, Tensor]:
    """Find the mask of each input of a batch that has one, by where the input is.

    One that is given alone is that of all inputs of its shape.
    """
    masks = given if isinstance(given, Mapping) else {"": given}
    found = {".".join(path): tensor for path, tensor in named_tensors(inputs, state=True)}
    of = {name: masks.get(_mask_of(name, masks) if isinstance(given, Mapping) else "") for name in found}
    return {
        name: mask
        for name, mask in of.items()
        if isinstance(mask, Tensor) and mask.ndim == 2 and found[name].shape[:2] == mask.shape
    }


def span_masks(inputs: Any) -> dict[str, Bool[Tensor, "n t"]]:
    """Find the entries of inputs that say where named parts of a text are, by their last names."""
    found = {path[-1]: tensor for path, tensor in named_tensors(inputs, state=True) if path}
    return {name: tensor.bool() for name, tensor in found.items() if name.startswith(SPAN)}


def token_mask(mask: Any) -> Bool[Tensor, "n t"] | None:
    """Check which places of a batch hold a token: a mask `(n, t)`, 0 for padding; None where there is none.

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


def no_mask(name: str) -> str:
    """Say why a layer has no features whose tokens come from an input without a mask, or are not those of a mask."""
    if name.endswith(_RESIZED):
        mask = name.removesuffix(_RESIZED)
        return (
            f"its tokens are more or fewer than those of {mask or 'the mask'}, since the network adds some (a class "
            "token, a prompt) or leaves some out, and nothing says which of them are padding. Give their mask too: "
            f"mask=lambda batch: {{{mask or 'input_ids'!r}: …, 'longer': torch.nn.functional.pad(…, (1, 0), value=1)}} "
            "where one is added in front"
        )
    return (
        f"no mask says which of its tokens are padding: they come from {name}, and the masks that there are belong to "
        "other tokens. Give its mask among the inputs (decoder_input_ids with decoder_attention_mask), or a mapping of "
        "masks: mask=lambda batch: {'input_ids': …, 'decoder_input_ids': …}"
    )


@dataclass
class _Sequence:
    """Inputs that have a place for each token of one sequence.

    Attributes:
        name: That of its mask; of an input, where it has none.
        length: Number of places.
        inputs: Names of the inputs, the mask among them.
    """

    name: str
    length: int
    inputs: list[str]


def sequence_axes(
    frozen: Frozen, inputs: NetworkInputs, masks: Mapping[str, Tensor], layers: Iterable[Layer]
) -> dict[Layer, dict[int, str]]:
    """Find the axes of each layer that have a place for each token, and which sequence the tokens are of.

    For each sequence among the inputs the network runs frozen on two samples, of which this one is a token shorter and
    the others are as long as before: what then shrinks from t to t - 1 runs over its tokens, whatever else is t long.
    What changes its size in another way runs over more or fewer tokens, such as these and a class token: its mask is
    one of its length that no input has, if there is one. Of a network that takes one length only, every axis
    of size t counts, unless several sequences are t long. Inputs belong to the mask that is called alike
    (`decoder_input_ids` to `decoder_attention_mask`); token ids that can be shortened by themselves are a sequence of
    their own, without a mask. Without any mask, a layer of two axes is tokens by features, all of which count. The
    masks, `(n, t)` each, are those of the batch that the layers were discovered on.

    Returns:
        For each layer, the axes of one sample's activation that run over tokens, with the name of their mask; a name
        that is no mask's where there is none. No axis for a layer that does not run over tokens.
    """
    layers = tuple(layers)
    if not masks:
        return {layer: {0: ""} if len(layer.shape) == 2 else {} for layer in layers}
    given = Arguments.of(inputs)
    few = given.take(range(min(2, given.batch_size)))
    axes: dict[Layer, dict[int, str]] = {layer: {} for layer in layers}
    resized: dict[tuple[Layer, int], str] = {}
    for sequence, found in _sequences(frozen, few, masks, layers):
        for layer, own in found.items():
            for axis, size in own.items():
                if size == sequence.length:
                    axes[layer][axis] = _either(axes[layer].get(axis), sequence.name)
                else:
                    resized[layer, axis] = sequence.name
    for (layer, axis), name in resized.items():
        axes[layer].setdefault(axis, name + _RESIZED)
    if not any(_stem(name).rpartition(".")[2] == _DECODER for found in axes.values() for name in found.values()):
        for layer in _of_silent_decoder(frozen.network, few, layers):
            axes[layer] = dict.fromkeys(axes[layer], "the decoder's inputs, which the network makes by itself")
    return axes


def _either(before: str | None, name: str) -> str:
    """Name two sequences that an axis may be of as one, which has no mask."""
    return name if before is None or before == name else f"{before or 'one sequence'} or {name or 'another'}"


def _sequences(
    frozen: Frozen, few: Arguments, masks: Mapping[str, Tensor], layers: Sequence[Layer]
) -> Iterator[tuple[_Sequence, Mapping[Layer, Mapping[int, int]]]]:
    """Return each sequence among the inputs with the axes of the layers that run over it, and their sizes."""
    tensors = {".".join(path): tensor for path, tensor in few.named() if few.holds_batch(tensor) and tensor.ndim > 1}
    masked, alone = _of_inputs(tensors, masks)
    found: list[tuple[_Sequence, Mapping[Layer, Mapping[int, int]]]] = []
    for sequence in masked:
        others = [name for name in sequence.inputs if name != sequence.name and _stem(name) != _stem(sequence.name)]
        tried = [
            (one, axes)
            for name in others
            if _may_be_tokens(tensors[name])
            and (axes := _shrinking(frozen, few, one := _Sequence(name, sequence.length, [name]), layers)) is not None
            and any(sequence.length in own.values() for own in axes.values())
        ]
        if len(tried) + (sequence.name in sequence.inputs) < len(sequence.inputs) or len(tried) > 1:
            for one, axes in tried:
                sequence.inputs.remove(one.name)
                found.append((one, axes))
    together: dict[tuple[str, int], _Sequence] = {}
    for sequence in alone:
        axes = _shrinking(frozen, few, sequence, layers)
        if axes is not None:
            found.append((sequence, axes))
        else:
            alike = _stem(sequence.name), sequence.length
            together.setdefault(alike, _Sequence(sequence.name, sequence.length, [])).inputs.extend(sequence.inputs)
    for sequence in together.values():
        axes = _shrinking(frozen, few, sequence, layers) if len(sequence.inputs) > 1 else None
        if axes is not None:
            found.append((sequence, axes))
    rest: list[_Sequence] = []
    for sequence in masked:
        axes = _shrinking(frozen, few, sequence, layers)
        if axes is None:
            rest.append(sequence)
        else:
            found.append((sequence, axes))
    yield from found
    sized = {(layer, i): n for layer in layers for i, n in enumerate(layer.shape)}
    kept = {(layer, i) for one, axes in found for layer, of in axes.items() for i, n in of.items() if n == one.length}
    resized = {(layer, i) for _, axes in found for layer, of in axes.items() for i in of} - kept
    for one in rest:  # of one length only, or of a length that no input has: axes are told by size
        places = {at for at, n in sized.items() if n == one.length} - kept
        if not one.inputs:
            places = places & resized or places
        yield one, {layer: {i: one.length for of, i in places if of == layer} for layer in layers}


def _of_inputs(tensors: Mapping[str, Tensor], masks: Mapping[str, Tensor]) -> tuple[list[_Sequence], list[_Sequence]]:
    """List the sequences that have a mask, each with the inputs that belong to it, and those of other inputs."""
    masked = [_Sequence(name, mask.shape[1], [name] if name in tensors else []) for name, mask in masks.items()]
    alone: list[_Sequence] = []
    for name, tensor in tensors.items():
        if name in masks:
            continue
        own = _mask_of(name, masks)
        fitting = next((one for one in masked if one.name == own and one.length == tensor.shape[1]), None)
        if name.rpartition(".")[2] == "labels" and (of_decoder := _decoder([*masked, *alone])):
            of_decoder.inputs += [name] * (of_decoder.length == tensor.shape[1])
        elif fitting is not None:
            fitting.inputs.append(name)
        elif own is None and _is_decoder(name):
            same = _decoder(alone)
            if same is not None and same.length == tensor.shape[1]:
                same.inputs.append(name)
            else:
                alone.append(_Sequence(name, tensor.shape[1], [name]))
        elif _may_be_tokens(tensor):
            alone.append(_Sequence(name, tensor.shape[1], [name]))
    return masked, alone


def _shrinking(
    frozen: Frozen, few: Arguments, sequence: _Sequence, layers: Sequence[Layer]
) -> dict[Layer, dict[int, int]] | None:
    """Find the axes whose size changes with the length of one sequence, each with its size before.

    Those of that length run over its tokens, the others over more or fewer. None where the network does not run
    on another length of it. Two tokens and fewer are doubled: a single one would be stretched to fit beside others.
    """
    shapes: dict[Layer, tuple[int, ...]] = {}
    length = sequence.length
    other, change = (length - 1, _shortened) if length > 2 else (2 * length, _doubled)

    def note(layer: Layer, activation: Tensor) -> None:
        shapes[layer] = tuple(activation.shape)[1:]

    resized = {id(tensor) for path, tensor in few.named() if ".".join(path) in sequence.inputs}
    if not resized:
        return None

    def resize(tensor: Tensor) -> Tensor:
        return change(tensor) if id(tensor) in resized else tensor

    args, kwargs = map_tensors((few.args, few.kwargs), resize)
    try:
        with frozen.fresh(seed=0):
            record(frozen, kwargs or args, layers, note, same_shape=False)
    except Exception as error:  # whatever a network raises that takes one length only
        log.debug("The network does not run on %d tokens of %s (%s)", other, sequence.name or "its input", error)
        return None
    return {
        layer: {
            i: before
            for i, (before, after) in enumerate(zip(layer.shape, shapes.get(layer, layer.shape), strict=True))
            if before != after and (before != length or after == other)
        }
        for layer in layers
    }


def _of_silent_decoder(network: nn.Module, few: Arguments, layers: Sequence[Layer]) -> list[Layer]:
    """Find layers behind the encoder of a network that makes its decoder's inputs from those of the encoder."""
    if any(_is_decoder(".".join(path)) for path, _ in few.named()):
        return []
    paths = {module: path for path, module in network.named_modules()}
    for module in paths:
        if getattr(getattr(module, "config", None), "is_encoder_decoder", False) and hasattr(module, "get_encoder"):
            inside = f"{paths.get(module.get_encoder(), '')}."
            own = [layer for layer in layers if f"{layer.taps[0].site.module}.".startswith(inside)]
            end = max((layer.depth for layer in own), default=0)
            return [layer for layer in layers if layer not in own and layer.depth > end]
    return []


def _stem(name: str) -> str:
    """Return what an input and its mask have in common: `decoder` in `decoder_input_ids`, `decoder_attention_mask`."""
    above, dot, last = name.rpartition(".")
    return above + dot + _ENDING.sub("", last)


def _mask_of(name: str, masks: Iterable[str]) -> str | None:
    """Choose the mask that an input belongs to by its name: that with the longest stem in common."""
    stem = _stem(name)

    def fits(of: str) -> bool:
        return of in ("", stem) or (of.endswith(".") and stem.startswith(of)) or stem.startswith(f"{of}_")

    if _is_decoder(name):
        masks = [mask for mask in masks if _is_decoder(mask)]
    return max((mask for mask in masks if fits(_stem(mask))), key=lambda mask: len(_stem(mask)), default=None)


def _is_decoder(name: str) -> bool:
    return name.rpartition(".")[2].startswith(_DECODER)


def _decoder(sequences: Iterable[_Sequence]) -> _Sequence | None:
    return next((one for one in sequences if _is_decoder(one.name)), None)


def _may_be_tokens(tensor: Tensor) -> bool:
    """Tell whether a tensor may hold token ids, or a vector for each token."""
    return tensor.ndim == (3 if tensor.is_floating_point() else 2)


def _shortened(tensor: Tensor) -> Tensor:
    return tensor[:, :-1]


def _doubled(tensor: Tensor) -> Tensor:
    return torch.cat([tensor, tensor], dim=1)
