from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from layerprobe.probing.capture.call_arguments import NetworkInputs
from layerprobe.probing.capture.granularity import Granularity
from layerprobe.probing.capture.layers import Layer, first_names
from layerprobe.probing.capture.survey import freeze_initialised, survey


def discover(
    network: nn.Module,
    inputs: NetworkInputs,
    *,
    granularity: Granularity | str = "ops",
    include: str | Sequence[str] = ("*",),
    exclude: str | Sequence[str] = (),
) -> tuple[Layer, ...]:
    """The layers of a network in order of execution, each under the first of its names that is wanted."""
    with freeze_initialised(network, inputs) as frozen:
        return first_names(survey(frozen, inputs, granularity=granularity).choose(include, exclude))
