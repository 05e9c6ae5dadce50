"""Probes whose features find little room in memory, and wait on disk for their fit."""

from __future__ import annotations

from typing import Any
from unittest.mock import patch

from torch import Tensor, nn

from layerprobe.api.results import ProbeResults
from layerprobe.probing.batches import Data
from layerprobe.probing.budget import Budget
from layerprobe.probing.features.spill_file import SpillFile
from layerprobe.probing.pipeline import probe_checkpoint
from layerprobe.probing.protocol import ProbeProtocol

ROOM = 1 << 30
"""Bytes that are enough for whatever a test probes; a thousandth of them is not."""


def probed_with(features: int, network: nn.Module, data: Data, **protocol: Any) -> ProbeResults:
    """Probe a network, and make sure that features went to disk where they have less room than `ROOM`, and only there.

    Args:
        features: Bytes that features may take in memory.
        network: The network.
        data: The splits.
        protocol: Fields of the protocol.
    """
    written = 0
    write = SpillFile.write

    def counted(file: SpillFile, values: Tensor) -> int:
        nonlocal written
        written += values.nbytes
        return write(file, values)

    allowed = Budget(0, features, 0)
    with patch.object(SpillFile, "write", counted):
        results = ProbeResults(probe_checkpoint(network, data, ProbeProtocol(**protocol), allowed=allowed))
    assert written > features if features < ROOM else written == 0, f"{written} bytes on disk, {features} in memory"
    return results
