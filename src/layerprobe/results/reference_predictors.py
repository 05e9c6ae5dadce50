"""Reference predictors on disk, a layer in one file: `references/<checkpoint>/<depth>_<layer>.safetensors`."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import asdict
from functools import partial
from pathlib import Path

import numpy as np
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from layerprobe.files.layer_files import LayerFiles
from layerprobe.results.heads import damage_named
from layerprobe.types import FeatureRecipe, FittedReference, LayerName, LayerResult

REFERENCES = LayerFiles("references", ".safetensors")


def write_references(directory: Path, result: LayerResult) -> None:
    """Write the references of a layer, atomically, in place of earlier ones, which are removed where it has none."""
    arrays: dict[str, np.ndarray] = {}
    about: dict[str, str] = {}
    for name, reference in result.references.items():
        arrays |= {f"{name}/{part}": np.ascontiguousarray(values) for part, values in reference.arrays.items()}
        recipe = None if reference.recipe is None else asdict(reference.recipe)
        made = {field: getattr(reference, field) for field in _PLAIN}
        about[name] = json.dumps({**made, "recipe": recipe})
    REFERENCES.put(directory, result.record, partial(save_file, arrays, metadata=about) if about else None)


_PLAIN = ("reducer", "reduction", "n_features", "train_features")


def read_references(directory: Path, checkpoint: str, layer: LayerName) -> dict[str, FittedReference]:
    """Read the references of a layer.

    Returns:
        The references, by the name of their analysis; empty where none were kept. Those of another version that are
        not understood are left out.

    Raises:
        DamagedFileError: Where the file is no whole Safetensors file.
    """
    found = {}
    for file in REFERENCES.find(directory, checkpoint, layer):
        with damage_named(file):
            arrays = load_file(file)
            with safe_open(file, "numpy") as opened:
                about = opened.metadata() or {}
        for name, written in about.items():
            parts = {key.partition("/")[2]: values for key, values in arrays.items() if key.startswith(f"{name}/")}
            with suppress(ValueError, TypeError, KeyError):
                made = json.loads(written)
                recipe = None if made["recipe"] is None else FeatureRecipe(**made["recipe"])
                found[name] = FittedReference(parts, **{field: made[field] for field in _PLAIN}, recipe=recipe)
    return found
