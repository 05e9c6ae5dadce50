"""The selected heads on disk, one file each: `heads/<checkpoint>/<depth>_<layer>.safetensors`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict
from functools import partial
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file, save_file

from layerprobe.files.errors import DamagedFileError, aside
from layerprobe.files.layer_files import LayerFiles
from layerprobe.types import FeatureRecipe, LayerName, LayerResult

HEADS = LayerFiles("heads", ".safetensors")
_ABOUT = ("checkpoint", "layer", "solver", "l2", "reducer", "reduction")
_RECIPE = "recipe"


def find_head(directory: Path, checkpoint: str, layer: LayerName) -> Path:
    """Find the file of a head.

    Raises:
        KeyError: Where there is none: the layer was not probed, or failed.
    """
    if found := HEADS.find(directory, checkpoint, layer):
        return found[0]
    raise KeyError(f"there is no head of layer '{layer}' at checkpoint '{checkpoint}' in {directory}")


def read_recipe(directory: Path, checkpoint: str, layer: LayerName) -> FeatureRecipe | None:
    """Read how the features of a head are made.

    Returns:
        The recipe; None where there is no head, or the version that wrote it kept none or another one.

    Raises:
        DamagedFileError: Where the head's file is no whole Safetensors file.
    """
    for file in HEADS.find(directory, checkpoint, layer):
        with damage_named(file), safe_open(file, "numpy") as opened:
            written = (opened.metadata() or {}).get(_RECIPE)
        if written is not None:
            with suppress(ValueError, TypeError):
                return FeatureRecipe(**json.loads(written))
    return None


def read_arrays(file: Path) -> dict[str, np.ndarray]:
    """Read a head.

    Returns:
        The arrays as they were written: `weight` (c d), `bias` (c), `mean` (d), `scale` (d).

    Raises:
        DamagedFileError: Where it is no whole Safetensors file.
    """
    with damage_named(file):
        return load_file(file)


def outputs_of(head: Mapping[str, np.ndarray]) -> np.ndarray:
    """Return what the scores of a head are of: class indices, or the numbers of labels or values."""
    return head.get("classes", np.arange(len(head["bias"])))


def write_head(directory: Path, result: LayerResult) -> None:
    """Write a layer's head, atomically, in place of an earlier one, which is removed where the layer failed."""
    arrays = {name: np.ascontiguousarray(values) for name, values in result.head.items()}
    about = {name: str(getattr(result.record, name)) for name in _ABOUT}
    if result.recipe is not None:
        about[_RECIPE] = json.dumps(asdict(result.recipe))
    HEADS.put(directory, result.record, partial(save_file, arrays, metadata=about) if arrays else None)


@contextmanager
def damage_named(file: Path) -> Iterator[None]:
    """Name the file where reading it fails.

    Raises:
        DamagedFileError: Where it is no whole Safetensors file.
    """
    try:
        yield
    except FileNotFoundError:
        raise  # removed meanwhile
    except (SafetensorError, LookupError, TypeError, ValueError, OSError) as error:
        raise DamagedFileError(
            file, str(error), f"Next step: move it away ({aside(file)}), and probe its checkpoint again."
        ) from error
