"""Names of checkpoints and layers: safe as names of files, printable in charts."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import pandas as pd

_LONGEST = 96


def safe_name(name: str) -> str:
    """Turn any name into one that every file system takes; different names stay different.

    Args:
        name: Name of a checkpoint or a layer, such as "layer1.0.conv1#2".

    Returns:
        The name itself where it is harmless; else a readable part of it and a hash of the whole.
    """
    plain = re.sub(r"[^A-Za-z0-9._#=+-]", "_", name)[:_LONGEST].lstrip(".") or "_"
    if plain == name:
        return name
    return f"{plain}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def layer_file_name(depth: int, layer: str, suffix: str) -> str:
    """Name the file of a layer in the folder of its checkpoint.

    Args:
        depth: The layer's depth.
        layer: Name of the layer.
        suffix: What the name ends in, the dot with it.
    """
    return f"{depth:03d}_{safe_name(layer)}{suffix}"


def files_of_layer(folder: Path, layer: str, suffix: str) -> list[Path]:
    """Find the files of a layer in the folder of its checkpoint, whatever its depth was.

    Args:
        folder: The folder; it may be missing.
        layer: Name of the layer.
        suffix: What their names end in.
    """
    name = re.compile(rf"\d+_{re.escape(safe_name(layer) + suffix)}")
    return sorted(file for file in folder.glob(f"*{suffix}") if name.fullmatch(file.name))


def layers_with_files(folder: Path, suffix: str) -> set[tuple[str, str]]:
    """List the layers that have a file, of all checkpoints at once.

    Args:
        folder: The folder with a folder for each checkpoint; it may be missing.
        suffix: What the files' names end in.

    Returns:
        `safe_name` of the checkpoint and of the layer of each.
    """
    return {
        (file.parent.name, file.name.partition("_")[2].removesuffix(suffix)) for file in folder.glob(f"*/*{suffix}")
    }


def printable(name: str) -> str:
    """Turn any name into one line that can be drawn, and stand inside an expression of Vega.

    Returns:
        The name; a blank for each line break and unusual blank, and "\ufffd" for each sign that has no shape.
    """
    if name.isprintable():
        return name
    return "".join(c if c.isprintable() else " " if c.isspace() else "\ufffd" for c in name)


def with_printable_names(rows: pd.DataFrame) -> pd.DataFrame:
    """Return a copy of rows in which the names of checkpoints and layers can be printed."""
    return rows.assign(
        **{column: rows[column].map(printable).astype(rows[column].dtype) for column in ("checkpoint", "layer")}
    )
