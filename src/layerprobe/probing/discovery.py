"""Discovery of what is probed at a checkpoint: its layers, and how features are made of each."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import cache

from jaxtyping import Shaped
from torch import Tensor

from layerprobe.formatting import listed
from layerprobe.probing.batches import Data, in_order
from layerprobe.probing.capture.default_device import programs_device
from layerprobe.probing.capture.freeze import Frozen
from layerprobe.probing.capture.layers import Layer, first_names
from layerprobe.probing.capture.name_patterns import SHOWN, select
from layerprobe.probing.capture.survey import Survey, survey
from layerprobe.probing.capture.token_axes import sequence_axes
from layerprobe.probing.features.reducers import AbstractChannelReducer, shape_text
from layerprobe.probing.fitting import Ways, feature_ways, fitted_features
from layerprobe.probing.protocol import ProbeProtocol
from layerprobe.probing.resources import Resources
from layerprobe.probing.split_reader import by_tokens, first_batch, masks_of
from layerprobe.probing.targets import n_outputs
from layerprobe.types import LayerName

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Discovery:
    """What the first training batch shows of a network.

    Attributes:
        ways: The layers that a protocol asks for in the order of depth, and every way to make features of each.
        n_outputs: Classes, labels or values among the batch's targets.
        batch_size: Samples of the batch.
        survey: What the network has, whether it is asked for or not.
        sequence: Which axes of a layer run over tokens, with the names of their masks, where that was looked for.
        every: Where processes share the batches, the layers of all of them, which each pass reads.
    """

    ways: Ways
    n_outputs: int
    batch_size: int
    survey: Survey
    sequence: Mapping[LayerName, Mapping[int, str]]
    every: Ways = field(default_factory=dict)

    @property
    def n_features(self) -> list[int]:
        """Features of every way of every layer."""
        return [way.reduction.n_features for found in self.ways.values() for way in found]

    def dealt(self, n: int) -> list[Discovery]:
        """Deal the layers out in n parts of about as many features for heads, whose fits take about as long.

        Layer by layer, from the one with the most features to the one with the fewest, each goes to the part that has
        the fewest so far. Neighbours of one size, which are about as hard, go to different parts.
        """
        width = {layer: fitted_features(found) for layer, found in self.ways.items()}
        parts: list[list[Layer]] = [[] for _ in range(n)]
        for layer in sorted(width, key=lambda layer: -width[layer]):
            min(parts, key=lambda part: sum(width[other] for other in part)).append(layer)
        return [replace(self, ways={layer: self.ways[layer] for layer in self.ways if layer in part}) for part in parts]


def discover_layers(
    frozen: Frozen,
    data: Data,
    protocol: ProbeProtocol,
    resources: Resources,
    done: Collection[LayerName] = (),
) -> Discovery:
    """Find the layers of a network, on the first training batch that has samples.

    Raises:
        ValueError: The train split is empty, or a pattern matches no layer.
    """
    seed = protocol.seeds[0]
    with frozen.fresh(seed), closing(in_order(data["train"], resources.batch_size, seed)) as batches:
        first = first_batch(protocol, batches, "train")
    if first is None:
        raise ValueError("The train split is empty. Probing needs samples in train, val and test.")
    batch, targets = first
    with programs_device():
        inputs = protocol.inputs(batch)
    with frozen.fresh(seed):
        surveyed = survey(frozen, inputs, granularity=protocol.granularity)
        layers = _chosen(surveyed, protocol, done)
        sequence: Mapping[Layer, Mapping[int, str]] = {}
        if layers and by_tokens(protocol):
            sequence = sequence_axes(frozen, inputs, masks_of(protocol, inputs, batch)[0], layers)
    return _discovery(surveyed, {layer.name: axes for layer, axes in sequence.items()}, targets, layers, protocol)


def discovered(
    found: Survey,
    sequence: Mapping[LayerName, Mapping[int, str]],
    targets: Shaped[Tensor, "n ..."],
    protocol: ProbeProtocol,
    done: Collection[LayerName] = (),
) -> Discovery | None:
    """Find what `discover_layers` would find, from what is known of a network already.

    Returns:
        The discovery; None where it is not known of each layer which axes run over tokens.

    Raises:
        ValueError: A pattern matches no layer.
    """
    layers = _chosen(found, protocol, done)
    if by_tokens(protocol) and any(layer.name not in sequence for layer in layers):
        return None
    return _discovery(found, sequence, targets, layers, protocol)


def _chosen(found: Survey, protocol: ProbeProtocol, done: Collection[LayerName]) -> list[Layer]:
    every = first_names(found.choose(protocol.layers, protocol.exclude))
    for reducer in protocol.reducers:
        if isinstance(reducer, AbstractChannelReducer):
            _check_channel_axes(reducer, every)
    return [layer for layer in every if layer.name not in done]


def _discovery(
    found: Survey,
    sequence: Mapping[LayerName, Mapping[int, str]],
    targets: Tensor,
    layers: Sequence[Layer],
    protocol: ProbeProtocol,
) -> Discovery:
    axes = sequence if by_tokens(protocol) else {}
    ways = {layer: feature_ways(layer, protocol, axes.get(layer.name, ())) for layer in layers}
    return Discovery(ways, n_outputs(targets), len(targets), found, sequence)


def _check_channel_axes(reducer: AbstractChannelReducer, layers: Sequence[Layer]) -> None:
    """Warn of layers of which nothing says which axis holds their channels.

    Raises:
        ValueError: Where a pattern of channel axes matches no layer.
    """
    if isinstance(reducer.channel_axis, Mapping):
        select([layer.names for layer in layers], tuple(reducer.channel_axis), ())
    guessed = [
        layer for layer in layers if reducer.is_guess(layer.shape, reducer.axis_of(layer.names, layer.channel_axis))
    ]
    if guessed:
        shown = listed([f"{layer.name} ({shape_text(layer.shape)})" for layer in guessed], SHOWN)
        _warn_once(
            f"Nothing that the network does says which axis of these layers holds the channels: {shown}. "
            f"{reducer.name} takes the first of three axes and more, the last of two. Say it with "
            f"reducer.{reducer.name}.channel_axis={{PATTERN: AXIS}}, in Python channel_axis={{'PATTERN': AXIS}}."
        )


@cache
def _warn_once(message: str) -> None:
    log.warning(message)
