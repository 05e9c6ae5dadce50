"""Discovery of what is probed at a checkpoint: its layers, and how features are made of each."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import cache

from layerprobe.probing.batches import Data, in_order
from layerprobe.probing.capture.freeze import Frozen
from layerprobe.probing.capture.layers import Layer, first_names, survey
from layerprobe.probing.capture.name_patterns import SHOWN, select
from layerprobe.probing.capture.token_axes import sequence_axes, token_masks
from layerprobe.probing.features.reducers import AbstractChannelReducer, shape_text
from layerprobe.probing.features.token_reducers import AbstractTokenReducer
from layerprobe.probing.fitting import Ways, feature_ways
from layerprobe.probing.protocol import ProbeProtocol
from layerprobe.probing.resources import Resources
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
        left_out: Names of what is no layer, and why.
    """

    ways: Ways
    n_outputs: int
    batch_size: int
    left_out: Mapping[LayerName, str]

    @property
    def n_features(self) -> list[int]:
        """Features of every way of every layer."""
        return [way.reduction.n_features for found in self.ways.values() for way in found]


def discover_layers(
    frozen: Frozen,
    data: Data,
    protocol: ProbeProtocol,
    resources: Resources,
    done: Collection[LayerName] = (),
) -> Discovery:
    """Find the layers of a network, on the first training batch.

    Args:
        frozen: The network.
        data: The splits.
        protocol: The sweep.
        resources: What it may take.
        done: Layers to leave out.

    Raises:
        ValueError: The train split is empty, or a pattern matches no layer.
    """
    seed = protocol.seeds[0]
    with frozen.fresh(seed), closing(in_order(data["train"], resources.batch_size, seed)) as batches:
        batch = next(batches, None)
    if batch is None:
        raise ValueError("The train split is empty. Probing needs samples in train, val and test.")
    inputs, sequence = protocol.inputs(batch), dict[Layer, dict[int, str]]()
    with frozen.fresh(seed):
        surveyed = survey(frozen, inputs, granularity=protocol.granularity)
        found = first_names(surveyed.choose(protocol.layers, protocol.exclude))
        layers = [layer for layer in found if layer.name not in done]
        if layers and any(isinstance(reducer, AbstractTokenReducer) for reducer in protocol.reducers):
            sequence = sequence_axes(frozen, inputs, token_masks(inputs, protocol.mask_of(batch)), layers)
    for reducer in protocol.reducers:
        if isinstance(reducer, AbstractChannelReducer):
            _check_channel_axes(reducer, found)
    targets = protocol.targets_of(batch, "train")
    ways = {layer: feature_ways(layer, protocol, sequence.get(layer, ())) for layer in layers}
    return Discovery(ways, n_outputs(targets), len(targets), surveyed.left_out)


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
        shown = ", ".join(f"{layer.name} ({shape_text(layer.shape)})" for layer in guessed[:SHOWN])
        more = f" and {len(guessed) - SHOWN} more" if len(guessed) > SHOWN else ""
        _warn_once(
            f"Nothing that the network does says which axis of these layers holds the channels: {shown}{more}. "
            f"{reducer.name} takes the first of three axes and more, the last of two. Say it with "
            f"reducer.{reducer.name}.channel_axis={{PATTERN: AXIS}}, in Python channel_axis={{'PATTERN': AXIS}}."
        )


@cache
def _warn_once(message: str) -> None:
    log.warning(message)
