"""Features for inference with a fitted head: from its network, or from what was recorded of the layer before."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from layerprobe.formatting import nearest
from layerprobe.probing.batches import in_order, inputs_of
from layerprobe.probing.budget import feature_budget, host_budget
from layerprobe.probing.capture.call_arguments import autocast_kind, device_of, floating_dtype
from layerprobe.probing.capture.freeze import Frozen, freeze
from layerprobe.probing.capture.hooks import Context
from layerprobe.probing.capture.layers import Layer
from layerprobe.probing.capture.pytree import tensors
from layerprobe.probing.capture.survey import survey
from layerprobe.probing.data_adapters import is_source, sources_of
from layerprobe.probing.features.cache import FeatureCache
from layerprobe.probing.features.reducers import AbstractReducer, FeatureWay, Reduction, Shape, shape_text
from layerprobe.probing.features.row_blocks import Features
from layerprobe.probing.passes import Passes
from layerprobe.probing.protocol import ProbeProtocol
from layerprobe.probing.resources import Resources
from layerprobe.probing.split_reader import first_batch
from layerprobe.types import FeatureRecipe, ProbeRecord, named_classes


@contextmanager
def recorded_features(
    network: nn.Module,
    inputs: Any,
    record: ProbeRecord,
    recipe: FeatureRecipe,
    *,
    mask: Any = None,
    batch_size: int | None = None,
) -> Iterator[Features]:
    """Run a network, and make features of one layer as they were made for its head.

    Args:
        network: The network; it is left exactly as it was.
        inputs: Its inputs as in a pair (inputs, targets); or a DataLoader or Dataset of such batches or samples, read
            in the order of the data set.
        record: The layer's record.
        recipe: How its features are made.
        mask: As `ProbeProtocol.mask` gives it, for all samples.
        batch_size: Samples in one forward pass; by default what the loader has, or 256.

    Yields:
        The features, not standardised; they may be in a file that goes with the block.

    Raises:
        ValueError: The network has no such layer, or another one under its name; a mask is missing, or cannot be used.
    """
    source, protocol = _source(network, inputs, record, recipe, mask)
    resources = Resources(batch_size)
    context: Context = nullcontext
    if recipe.autocast is not None:
        context = partial(torch.autocast, autocast_kind(device_of(network)), getattr(torch, recipe.autocast))
    with freeze(network, context=context) as frozen:
        layer = _find(frozen, source, protocol, batch_size, record, recipe)
        way = FeatureWay(reducer_of(record, recipe), fitted_reduction(layer.shape, record, recipe), record.seed)
        cache = FeatureCache(feature_budget(frozen.device, None, 0, 0), host=host_budget(frozen.device, None))
        with closing(cache):
            recorded = Passes(frozen, {"test": source}, protocol, resources).record({layer: (way,)}, cache)
            problems = {**recorded["test"].no_positions, **recorded["test"].problems}
            if problem := problems.get(layer.name):
                raise ValueError(
                    f"The layer {layer.name!r} cannot be read: {problem.replace(' of the test split', '')}."
                )
            with cache.layer(layer.name) as splits:
                yield splits["test"](way.reduction)


def layer_of(network: nn.Module, inputs: Any, record: ProbeRecord, recipe: FeatureRecipe) -> Layer:
    """Find the layer of a head in a network.

    Raises:
        ValueError: There are no inputs, or the network has no such layer, or another one under its name.
    """
    source, protocol = _source(network, inputs, record, recipe, None)
    with freeze(network) as frozen:
        return _find(frozen, source, protocol, None, record, recipe)


def reduced_features(
    given: Tensor, record: ProbeRecord, recipe: FeatureRecipe | None, mask: Any = None
) -> Float[Tensor, "n d"]:
    """Take what was recorded before as features: the reduced ones as they are, activations after their reduction.

    Args:
        given: Features (n d), or activations (n *shape) of the layer.
        record: The layer's record.
        recipe: How its features are made; None where that is not known.
        mask: Which tokens are no padding, for activations of a layer that has a token axis.

    Raises:
        ValueError: It is neither.
    """
    if given.ndim == 2 and given.shape[1] == record.n_features:
        return given.to(torch.promote_types(given.dtype, torch.float32))
    if recipe is not None and _fits(tuple(given.shape)[1:], record, recipe):
        if recipe.token_axes and mask is None:
            raise ValueError(
                f"The head of {record.layer!r} is of the {record.reduction}, and activations do not say which tokens "
                "are padding. Give `mask` (samples, tokens), all ones where there is none."
            )
        return fitted_reduction(tuple(given.shape)[1:], record, recipe)(given, _masks(mask))
    raise ValueError(
        f"The head of {record.layer!r} takes features (samples, {record.n_features}), or activations (samples, "
        f"{record.shape.replace('x', ', ')}) of its layer; found {tuple(given.shape)}. Give these, or the network "
        "and its inputs."
    )


def reducer_of(record: ProbeRecord, recipe: FeatureRecipe) -> AbstractReducer:
    """Make the reducer of a head anew.

    Raises:
        ValueError: Its class is not known, or its arguments are not.
    """
    known = named_classes(AbstractReducer)
    if record.reducer not in known:
        raise ValueError(
            f"The head of {record.layer!r} was fitted to features of the reducer {record.reducer!r}, which is not "
            f"known here. Import the module that defines it. {nearest(record.reducer, known)}"
        )
    if recipe.arguments is None:
        raise ValueError(
            f"The arguments of the reducer {record.reducer!r} are not plain values and were not kept. Make it a "
            "dataclass of numbers and words and probe again, or give features in place of the network."
        )
    found: AbstractReducer = known[record.reducer](**recipe.arguments)
    return found


def fitted_reduction(shape: Shape, record: ProbeRecord, recipe: FeatureRecipe) -> Reduction:
    """Fit the reducer of a head to a layer, as it was.

    Raises:
        ValueError: As `reducer_of`, or where it makes something else of the layer.
    """
    axes = {int(axis): str(name) for axis, name in recipe.token_axes}
    found = reducer_of(record, recipe).fit(shape, record.seed, axes, recipe.channel_axis)
    if found.description != record.reduction:
        raise ValueError(
            f"The head of {record.layer!r} was fitted to {record.reduction!r}, and its reducer {record.reducer!r} "
            f"makes {found.description!r} of the layer now. Probe again with this version, or give features."
        )
    return found


def _source(
    network: nn.Module, inputs: Any, record: ProbeRecord, recipe: FeatureRecipe, mask: Any
) -> tuple[Any, ProbeProtocol]:
    """Return the inputs as a split, and how it is read."""
    tokens = bool(recipe.token_axes)
    if tokens and recipe.own_mask and mask is None:
        raise ValueError(
            f"The layer {record.layer!r} was probed with masks of its own (`mask`), which say where its tokens are. "
            "Give those of these inputs with `mask`."
        )
    if mask is not None and not tokens:
        raise ValueError(f"The features of {record.layer!r} are not made of tokens: leave `mask` out.")
    if is_source(inputs):
        if mask is not None:
            raise ValueError("A mask cannot be given beside a DataLoader or Dataset. Give the inputs themselves.")
        source = sources_of({"test": inputs}, dtype=floating_dtype(network))["test"]
        return source, ProbeProtocol(
            inputs=inputs_of, targets=lambda batch: _unknown(inputs_of(batch)), seeds=(record.seed,)
        )
    given = {"inputs": inputs} if mask is None else {"inputs": inputs, "mask": mask}
    source = sources_of({"test": (given, _unknown(inputs))}, dtype=floating_dtype(network))["test"]
    return source, ProbeProtocol(
        inputs=lambda batch: batch[0]["inputs"],
        mask=None if mask is None else lambda batch: batch[0]["mask"],
        seeds=(record.seed,),
    )


def _unknown(inputs: Any) -> Tensor:
    """Return a target for each sample, of which nothing is made."""
    while isinstance(inputs, Mapping | tuple) and len(inputs):
        inputs = next(iter(inputs.values() if isinstance(inputs, Mapping) else inputs))
    found = inputs if hasattr(inputs, "__len__") else next(iter(tensors(inputs)), ())
    return torch.zeros(len(found), dtype=torch.int64)


def _find(
    frozen: Frozen,
    source: Any,
    protocol: ProbeProtocol,
    batch_size: int | None,
    record: ProbeRecord,
    recipe: FeatureRecipe,
) -> Layer:
    with frozen.fresh(record.seed), closing(in_order(source, batch_size, record.seed)) as batches:
        first = first_batch(protocol, batches, "test")
    if first is None:
        raise ValueError("There are no inputs. Give at least one sample.")
    with frozen.fresh(record.seed):
        found = survey(frozen, protocol.inputs(first[0]), granularity=recipe.granularity)
    by_name = {name: layer for layer in found.layers for name in layer.names}
    if record.layer not in by_name:
        reason = found.left_out.get(record.layer)
        why = f": {reason}" if reason else ""
        raise ValueError(
            f"The network has no layer {record.layer!r} (granularity {recipe.granularity!r}){why}. "
            f"{nearest(record.layer, by_name)} Give the network that the head was fitted to; "
            "layerprobe.layers(network, inputs) lists the layers of this one."
        )
    layer = by_name[record.layer].under(record.layer)
    if layer.kind != record.kind or not _fits(layer.shape, record, recipe):
        raise ValueError(
            f"The layer {record.layer!r} is a {layer.kind} of {shape_text(layer.shape)} in this network, and its head "
            f"was fitted to a {record.kind} of {record.shape}. Give the network that the head was fitted to, with "
            "inputs of the same shape."
        )
    return layer


def _fits(shape: Shape, record: ProbeRecord, recipe: FeatureRecipe) -> bool:
    """Tell whether activations have the shape that the head was fitted to, but for the number of tokens."""
    fitted = tuple(map(int, record.shape.split("x")))
    free = {int(axis) for axis, _ in recipe.token_axes}
    scalar = not shape and record.shape == "1"
    return scalar or (
        len(shape) == len(fitted)
        and all(a == b or i in free for i, (a, b) in enumerate(zip(shape, fitted, strict=True)))
    )


def _masks(mask: Any) -> Tensor | dict[str, Tensor] | None:
    if isinstance(mask, Mapping):
        return {name: torch.as_tensor(one) != 0 for name, one in mask.items()}
    return None if mask is None else torch.as_tensor(mask) != 0
