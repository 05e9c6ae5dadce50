"""The selected heads on disk, one file each: `heads/<checkpoint>/<depth>_<layer>.safetensors`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

from layerprobe.atomic import atomic
from layerprobe.results.safe_names import safe_name
from layerprobe.types import LayerName, ProbeRecord

_ABOUT = ("checkpoint", "layer", "solver", "l2", "reducer", "reduction")


def head_folder(directory: Path, checkpoint: str) -> Path:
    """The folder of a checkpoint's heads.

    Args:
        directory: The folder of the results.
        checkpoint: Name of the checkpoint.
    """
    return directory / "heads" / safe_name(checkpoint)


def find_head(directory: Path, checkpoint: str, layer: LayerName) -> Path:
    """Find the file of a head.

    Args:
        directory: The folder of the results.
        checkpoint: Name of the checkpoint.
        layer: Name of the layer.

    Raises:
        KeyError: Where there is none: the layer was not probed, or failed.
    """
    if found := _heads_of(directory, checkpoint, layer):
        return found[0]
    raise KeyError(f"there is no head of layer '{layer}' at checkpoint '{checkpoint}' in {directory}")


def read_head(directory: Path, checkpoint: str, layer: LayerName) -> dict[str, np.ndarray]:
    """Read a head.

    Args:
        directory: The folder of the results.
        checkpoint: Name of the checkpoint.
        layer: Name of the layer.

    Returns:
        The arrays as they were written: `weight` (c d), `bias` (c), `mean` (d), `scale` (d).

    Raises:
        KeyError: Where there is none.
    """
    return load_file(find_head(directory, checkpoint, layer))


def write_head(directory: Path, record: ProbeRecord, head: Mapping[str, np.ndarray]) -> None:
    """Write a head, atomically, in place of an earlier one of the same layer.

    Args:
        directory: The folder of the results.
        record: The layer's result.
        head: Its arrays; none for a failed layer, whose earlier head is removed.

    Raises:
        OSError: If it cannot be written.
    """
    stale = _heads_of(directory, record.checkpoint, record.layer)
    if head:
        file = head_folder(directory, record.checkpoint) / f"{record.depth:03d}_{safe_name(record.layer)}.safetensors"
        arrays = {name: np.ascontiguousarray(values) for name, values in head.items()}
        with atomic(file) as temporary:
            save_file(arrays, temporary, metadata={name: str(getattr(record, name)) for name in _ABOUT})
        stale = [old for old in stale if old != file]
    for old in stale:
        old.unlink()


def _heads_of(directory: Path, checkpoint: str, layer: LayerName) -> list[Path]:
    name = re.compile(rf"\d+_{re.escape(safe_name(layer))}\.safetensors")
    return sorted(
        file for file in head_folder(directory, checkpoint).glob("*.safetensors") if name.fullmatch(file.name)
    )
