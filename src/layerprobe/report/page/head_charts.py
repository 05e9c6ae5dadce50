"""Confusion matrices and maps of principal angles for the page: ready charts, packed, of which a reader chooses one."""

from __future__ import annotations

import base64
import json
import logging
import zlib
from collections.abc import Callable, Iterator, Set
from functools import partial
from itertools import chain, product
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from layerprobe.compat.altair import unchecked
from layerprobe.files.safe_names import safe_name
from layerprobe.report.angles import Over, coordinates
from layerprobe.report.head_charts import MOST_CLASSES, angle_products, angles_of, confusion_of
from layerprobe.report.page.dark_theme import following_theme
from layerprobe.report.page.page_data import PageData
from layerprobe.report.picture_files import AnyChart, specification
from layerprobe.report.run_comparison import Comparison
from layerprobe.results.baselines import without_baselines
from layerprobe.results.heads import HEADS
from layerprobe.results.reader import Run
from layerprobe.results.scores import SCORES

log = logging.getLogger("layerprobe")

_MOST_PRODUCTS = 4e9
"""Multiplications of all maps of angles together, some seconds' worth."""


class _Wanted(NamedTuple):
    """A chart that the page could hold.

    Its kind is `confusion`, `angles_layers` (of one checkpoint) or `angles_checkpoints` (of one layer), and numbers
    are None where it is of all; `products` are multiplications that it takes.
    """

    place: tuple[bool, int, int]
    run: int
    kind: str
    checkpoint: int | None
    layer: int | None
    products: float
    draw: Callable[[], AnyChart | None]


def head_charts(
    comparison: Comparison, data: PageData, most: int = 60, budget: int = 400_000, products: float = _MOST_PRODUCTS
) -> tuple[dict[str, Any], list[str]]:
    """Draw and pack what heads answer and where they look.

    First come, for each run, the last checkpoint and the layer that validation prefers, as in the run's own figures;
    then the other layers and checkpoints, as many as there is room for.

    Args:
        comparison: The runs.
        data: What the page draws.
        most: Charts at most; each takes some hundredths of a second. Twice as many are tried.
        budget: Bytes at most.
        products: Multiplications of all maps of angles at most.

    Returns:
        `look` (what the specifications have in common) and `maps`: for each chart `run`, `kind`, `checkpoint`, `layer`
        (numbers; None stands for all) and `spec` (deflated, base64). And what was left out, in words.
    """
    packed: list[dict[str, Any]] = []
    look: dict[str, Any] = {}
    size, left, tried = 0, 0, 0
    wanted = chain.from_iterable(_of_run(i, run, data) for i, run in enumerate(comparison.runs))
    for one in sorted(wanted, key=lambda one: one.place):
        if len(packed) == most or tried == 2 * most or size >= budget or one.products > products:
            left += 1
            continue
        tried, products = tried + 1, products - one.products
        if (spec := _spec(one)) is not None:
            look = {name: spec.pop(name) for name in ("$schema", "config", "params")}
            text = base64.b64encode(zlib.compress(json.dumps(spec, separators=(",", ":")).encode(), 9)).decode()
            about = {"run": one.run, "kind": one.kind, "checkpoint": one.checkpoint, "layer": one.layer}
            packed.append(about | {"spec": text})
            size += len(text)
    note = (
        f"Of what heads answer and where they look, {len(packed)} charts are on this page, first those of the last "
        f"checkpoint and its best layer; {left} more could be: a page of fewer runs holds more of each"
    )
    return {"look": look, "maps": packed}, [note] if left and packed else []


@unchecked()  # nothing drawn here is the reader's choice: as in `specification`, it is not searched for mistakes
def _spec(wanted: _Wanted) -> dict[str, Any] | None:
    try:
        chart = wanted.draw()
    except Exception as error:  # whatever it is, the page has the rest
        log.warning("A chart of %s is not on the page: %s: %s", wanted.kind, type(error).__name__, error)
        return None
    return None if chart is None else following_theme(specification(chart))


def _of_run(i: int, run: Run, data: PageData) -> Iterator[_Wanted]:
    if not any(files.layers(run.probes) for files in (SCORES, HEADS)):
        return
    last, best = run.last_checkpoint, run.best_layer.layer
    rows = without_baselines(run.results)
    checkpoints = sorted(set(rows["checkpoint"]) & set(data.checkpoints), key=data.checkpoints.index, reverse=True)
    found = set(rows["layer"])
    layers = [name for name in data.layer_names if name in found]
    rows = run.results[run.results["n_classes"] <= MOST_CLASSES]
    products = _maps_of_angles(run, rows)
    asked: list[tuple[str, str | None, str | None]] = []
    asked += [
        ("angles_layers", checkpoint, None) for checkpoint in checkpoints if ("checkpoint", checkpoint) in products
    ]
    asked += [("angles_checkpoints", None, layer) for layer in layers if ("layer", layer) in products]
    classes = _with_files(rows[rows["task"].isin(["classification", ""])], SCORES.layers(run.probes))
    scored = set(zip(classes["checkpoint"], classes["layer"], strict=True))
    asked += [("confusion", *one) for one in product(checkpoints, layers) if one in scored]
    for n, (kind, checkpoint, layer) in enumerate(asked):
        chosen = checkpoint in (None, last) and layer in (None, best)
        key = ("layer", layer) if checkpoint is None else ("checkpoint", checkpoint)
        yield _Wanted(
            (not chosen, n, i),
            i,
            kind,
            None if checkpoint is None else data.checkpoints.index(checkpoint),
            None if layer is None else data.layer_names.index(layer),
            0.0 if kind == "confusion" else products[key],
            partial(_draw, run, kind, checkpoint, layer),
        )


def _maps_of_angles(run: Run, rows: pd.DataFrame) -> dict[tuple[str, str | None], float]:
    """Say what each map has that takes two heads of the same coordinates, by what is one in it and that one's name."""
    rows = _with_files(rows, HEADS.layers(run.probes))
    rows = rows.assign(
        of=list(map(coordinates, rows[["n_features", "n_features_full", "reduction"]].to_dict("records")))
    )
    found: dict[tuple[str, str | None], float] = {}
    for one in ("checkpoint", "layer"):
        for name, heads in run.results[run.results[one].isin(rows.loc[rows.duplicated([one, "of"]), one])].groupby(one):
            if (takes := angle_products(heads)) <= _MOST_PRODUCTS:
                found[one, str(name)] = takes
    return found


def _with_files(rows: pd.DataFrame, kept: Set[tuple[str, str]]) -> pd.DataFrame:
    safe = [rows[name].map({one: safe_name(one) for one in rows[name].unique()}) for name in ("checkpoint", "layer")]
    return rows[np.array([one in kept for one in zip(*safe, strict=True)], dtype=bool)]


def _draw(run: Run, kind: str, checkpoint: str | None, layer: str | None) -> AnyChart | None:
    if checkpoint is not None and layer is not None:
        return confusion_of(run, checkpoint, layer)
    over: Over = "layers" if kind == "angles_layers" else "checkpoints"
    return angles_of(run, over, str(checkpoint or layer), _MOST_PRODUCTS)
