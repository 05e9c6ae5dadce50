"""Exact linear classifier probes on every layer of a neural network."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from layerprobe.api import probe as probe
    from layerprobe.layer_list import layers as layers
    from layerprobe.probing.capture.activations import activations as activations
    from layerprobe.probing.features.reducers import AveragePool as AveragePool
    from layerprobe.probing.features.reducers import ChannelMean as ChannelMean
    from layerprobe.probing.features.reducers import Flatten as Flatten
    from layerprobe.probing.features.reducers import RandomSubset as RandomSubset
    from layerprobe.probing.protocol import ProbeProtocol as ProbeProtocol
    from layerprobe.probing.solvers.logistic import Logistic as Logistic
    from layerprobe.probing.solvers.ridge import Ridge as Ridge
    from layerprobe.probing.tasks.classification import Classification as Classification
    from layerprobe.probing.tasks.multi_label import MultiLabel as MultiLabel
    from layerprobe.probing.tasks.regression import Regression as Regression
    from layerprobe.training.callback import ProbeCallback as ProbeCallback

_HOME = {
    "probe": "layerprobe.api",
    "layers": "layerprobe.layer_list",
    "activations": "layerprobe.probing.capture.activations",
    "ProbeCallback": "layerprobe.training.callback",
    "ProbeProtocol": "layerprobe.probing.protocol",
    "AveragePool": "layerprobe.probing.features.reducers",
    "ChannelMean": "layerprobe.probing.features.reducers",
    "Flatten": "layerprobe.probing.features.reducers",
    "RandomSubset": "layerprobe.probing.features.reducers",
    "Logistic": "layerprobe.probing.solvers.logistic",
    "Ridge": "layerprobe.probing.solvers.ridge",
    "Classification": "layerprobe.probing.tasks.classification",
    "MultiLabel": "layerprobe.probing.tasks.multi_label",
    "Regression": "layerprobe.probing.tasks.regression",
}

__all__ = [*_HOME, "__version__"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used: Lightning takes seconds, and not every use needs it."""
    if name not in _HOME:
        raise AttributeError(f"module 'layerprobe' has no attribute {name!r}; it has {', '.join(__all__)}")
    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    """The public names."""
    return list(__all__)
