"""The one file that a layer has in the folder of its checkpoint."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from layerprobe.files.atomic import atomic
from layerprobe.files.safe_names import files_of_layer, layer_file_name


@contextmanager
def layer_file(folder: Path, depth: int, layer: str, suffix: str) -> Iterator[Path]:
    """Write the file of a layer, atomically, in place of earlier ones, whatever their depth was.

    Args:
        folder: The folder; made if missing.
        depth: Depth of the layer.
        layer: Name of the layer.
        suffix: What the file's name ends in.

    Yields:
        Where to write it.

    Raises:
        OSError: If it cannot be written; the earlier ones stay.
    """
    file = folder / layer_file_name(depth, layer, suffix)
    with atomic(file) as temporary:
        yield temporary
    remove_files_of_layer(folder, layer, suffix, but=file)


def remove_files_of_layer(folder: Path, layer: str, suffix: str, but: Path | None = None) -> None:
    """Remove the files of a layer.

    Args:
        folder: The folder; it may be missing.
        layer: Name of the layer.
        suffix: What their names end in.
        but: One that stays.
    """
    for file in files_of_layer(folder, layer, suffix):
        if file != but:
            file.unlink()
