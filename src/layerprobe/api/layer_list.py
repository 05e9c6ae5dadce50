"""The layers of a network as a list that can be read: which there are, and what is left out with the reason."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import pandas as pd
from torch import nn

from layerprobe.probing.capture.call_arguments import NetworkInputs
from layerprobe.probing.capture.default_device import own_device
from layerprobe.probing.capture.granularity import Granularity
from layerprobe.probing.capture.layers import Layer
from layerprobe.probing.capture.survey import freeze_initialised, left_out_lines, survey
from layerprobe.types import LayerName


@dataclass(frozen=True)
class LayerList:
    """The layers of a network, and what is left out.

    Attributes:
        layers: The layers in order of execution.
        left_out: Names of tensors and outputs that are no layers, and why.
    """

    layers: tuple[Layer, ...]
    left_out: Mapping[LayerName, str]

    @property
    def frame(self) -> pd.DataFrame:
        """A row for each layer (depth, layer, kind, shape of one sample, aliases), then one for each that is left out.

        Column `left_out` is the reason; empty for a layer.
        """
        rows: list[tuple[object, ...]] = [
            (layer.depth, layer.name, layer.kind, "x".join(map(str, layer.shape)), ", ".join(layer.aliases), "")
            for layer in self.layers
        ]
        rows += [(pd.NA, name, "", "", "", reason) for name, reason in self.left_out.items()]
        frame = pd.DataFrame(rows, columns=["depth", "layer", "kind", "shape", "aliases", "left_out"])
        return frame.astype({"depth": "Int64"})

    def __len__(self) -> int:
        """Count the layers."""
        return len(self.layers)

    def __str__(self) -> str:
        """Lay out the layers as a table, with a line for each reason why others are left out."""
        table = self.frame[self.frame["left_out"] == ""].drop(columns="left_out").to_string(index=False)
        lines = left_out_lines(self.left_out)
        return "\n".join([table, *(["", "Left out:", *(f"  {line}" for line in lines)] if lines else [])])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        frame = self.frame if self.left_out else self.frame.drop(columns="left_out")
        return str(frame.to_html(index=False, na_rep=""))


@own_device()
def layers(network: nn.Module, inputs: NetworkInputs, *, granularity: Granularity = "modules") -> LayerList:
    """List the layers that `probe` would probe, and what it would leave out with the reason.

    The network runs frozen, and is left exactly as it was.

    Args:
        network: Any network, on any device.
        inputs: A batch: a tensor, a tuple or list (called `network(*inputs)`) or a mapping (called
            `network(**inputs)`), with the samples along the first axis.
        granularity: `ops` for every intermediate tensor, `modules` for the outputs of modules, `blocks` for those of
            repeated blocks, `sites` for the residual stream, attention, heads and MLP of transformer blocks.

    Returns:
        The list: `print` shows it, `.frame` is a DataFrame.

    Raises:
        TypeError: The inputs are nothing that a network can be called with.
        ValueError: The inputs hold no batch, or the network cannot be run on some of its samples.
    """
    with freeze_initialised(network, inputs) as frozen:
        found = survey(frozen, inputs, granularity=granularity)
    return LayerList(found.layers, found.left_out)
