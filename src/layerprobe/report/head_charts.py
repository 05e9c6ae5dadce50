"""Charts of the heads of one run: what one answers by class, and where several look."""

from __future__ import annotations

import logging
from contextlib import suppress

import pandas as pd

from layerprobe.files.errors import UnusableFileError
from layerprobe.report.angles import Over, head_angles
from layerprobe.report.charts.angle_map import angle_map, heading
from layerprobe.report.charts.confusion import confusion_chart
from layerprobe.report.picture_files import AnyChart
from layerprobe.results.reader import Run
from layerprobe.results.scores import confusion

log = logging.getLogger("layerprobe")

MOST_CLASSES = 100
"""Of more, neither is drawn."""
_MOST_PRODUCTS = 4e10


def confusion_of(run: Run, checkpoint: str, layer: str) -> AnyChart | None:
    """Draw the confusion matrix of a layer.

    None without scores of classes, or of more than 100 of them.
    """
    rows = run.results[(run.results["checkpoint"] == checkpoint) & (run.results["layer"] == layer)]
    if rows.empty or rows["n_classes"].max() > MOST_CLASSES:
        return None
    try:
        return confusion_chart(confusion(run.scores(checkpoint, layer)), f"Answers at {layer}, {checkpoint}")
    except UnusableFileError as error:
        log.warning("%s", error)
    except (KeyError, ValueError):
        pass  # none are kept, or they are of no classes
    return None


def angles_of(run: Run, over: Over, at: str, most: float = _MOST_PRODUCTS) -> AnyChart | None:
    """Draw where heads look, against one another.

    `at` is the checkpoint whose layers are compared, or the layer whose checkpoints. None where there is nothing to
    compare, of more than 100 classes, or where it would take more than `most` multiplications, by default some twenty
    seconds' worth; `layerprobe.angle_map` draws these, too.
    """
    heads = run.results[run.results["checkpoint" if over == "layers" else "layer"] == at]
    if len(heads) < 2 or heads["n_classes"].max() > MOST_CLASSES:
        return None
    if angle_products(heads) > most:
        return None
    with suppress(ValueError):
        return angle_map(head_angles(heads, run.head, over), heading(over, at, at))
    return None


def angle_products(heads: pd.DataFrame) -> float:
    """Count the multiplications of a map of angles: a singular value decomposition for every pair of heads."""
    return len(heads) ** 2 * float(heads["n_classes"].max()) ** 2 * float(heads["n_features"].max())
