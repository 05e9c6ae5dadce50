"""Frames of the input's plane that a run of a small network keeps at each checkpoint: `surface`, `points`, `hidden`."""

from __future__ import annotations

import logging
from pathlib import Path

import pandas as pd

from layerprobe.files.errors import DamagedFileError
from layerprobe.files.parquet import read_parquet

NAMES = ("surface", "points", "hidden")
"""The output over a grid of the input's plane, at the samples, and the samples at each layer of two or three units."""

log = logging.getLogger("layerprobe")


def read_plane_frames(directory: Path) -> dict[str, pd.DataFrame]:
    """Read the frames that there are, by name; a damaged one is left out, with a warning that names its file."""
    found = {}
    for name in NAMES:
        file = directory / f"{name}.parquet"
        try:
            found[name] = read_parquet(file).to_pandas()
        except FileNotFoundError:
            continue
        except DamagedFileError as error:
            log.warning(
                "%s It is left out of pictures and animations; the results are not affected. A run that starts over "
                "with rerun=all writes it again.",
                error,
            )
    return found
