"""The selected heads on disk, one file each: `heads/<checkpoint>/<depth>_<layer>.safetensors`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file, save_file

from layerprobe.files.errors import DamagedFileError, aside
from layerprobe.files.layer_files import layer_file, remove_files_of_layer
from layerprobe.files.lazy_mapping import AbstractFileMapping
from layerprobe.files.safe_names import files_of_layer, safe_name
from layerprobe.types import FeatureRecipe, LayerName, LayerResult

HEADS = "heads"
_ABOUT = ("checkpoint", "layer", "solver", "l2", "reducer", "reduction")
_RECIPE = "recipe"
_SUFFIX = ".safetensors"


def head_folder(directory: Path, checkpoint: str) -> Path:
    """The folder of a checkpoint's heads.

    Args:
        directory: The folder of the results.
        checkpoint: Name of the checkpoint.
    """
    return directory / HEADS / safe_name(checkpoint)


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
        DamagedFileError: Where its file is no whole Safetensors file.
    """
    return dict(HeadFile(find_head(directory, checkpoint, layer)))


def read_recipe(directory: Path, checkpoint: str, layer: LayerName) -> FeatureRecipe | None:
    """Read how the features of a head are made.

    Args:
        directory: The folder of the results.
        checkpoint: Name of the checkpoint.
        layer: Name of the layer.

    Returns:
        The recipe; None where there is no head, or the version that wrote it kept none or another one.

    Raises:
        DamagedFileError: Where the head's file is no whole Safetensors file.
    """
    for file in _heads_of(directory, checkpoint, layer):
        with damage_named(file), safe_open(file, "numpy") as opened:
            written = (opened.metadata() or {}).get(_RECIPE)
        if written is not None:
            with suppress(ValueError, TypeError):
                return FeatureRecipe(**json.loads(written))
    return None


@dataclass(frozen=True)
class HeadFile(AbstractFileMapping[np.ndarray]):
    """The arrays of a head on disk, read when one of them is first asked for.

    Attributes:
        file: Where they are.
    """

    file: Path

    def read(self) -> dict[str, np.ndarray]:
        """See `AbstractFileMapping.read`."""
        with damage_named(self.file):
            return load_file(self.file)

    def __bool__(self) -> bool:
        return True


def write_head(directory: Path, result: LayerResult) -> None:
    """Write a head, atomically, in place of an earlier one of the same layer.

    Args:
        directory: The folder of the results.
        result: The layer's result; of a failed layer, which has no head, the earlier head is removed.

    Raises:
        OSError: If it cannot be written.
    """
    record, folder = result.record, head_folder(directory, result.record.checkpoint)
    if not result.head:
        remove_files_of_layer(folder, record.layer, _SUFFIX)
        return
    arrays = {name: np.ascontiguousarray(values) for name, values in result.head.items()}
    about = {name: str(getattr(record, name)) for name in _ABOUT}
    if result.recipe is not None:
        about[_RECIPE] = json.dumps(asdict(result.recipe))
    with layer_file(folder, record.depth, record.layer, _SUFFIX) as temporary:
        save_file(arrays, temporary, metadata=about)


@contextmanager
def damage_named(file: Path) -> Iterator[None]:
    """Name the file where reading it fails.

    Args:
        file: The file.

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


def _heads_of(directory: Path, checkpoint: str, layer: LayerName) -> list[Path]:
    return files_of_layer(head_folder(directory, checkpoint), layer, _SUFFIX)
