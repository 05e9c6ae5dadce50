"""Concept depth of many runs as tables, laid out like those of Jin et al. (2024)."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import asdict

import pandas as pd
from rich import box
from rich.table import Table
from rich.text import Text

from layerprobe.report.papers.concept_depth import DEPTHS, concept_depth, concept_layers

RUN = ("model", "precision", "noise", "data")
"""What tells runs apart."""


def concept_rows(runs: Sequence[tuple[Mapping[str, str], pd.DataFrame]]) -> pd.DataFrame:
    """Join the rows of `concept_layers` of every run, after the columns of `RUN`.

    Args:
        runs: For each run the values of `RUN`, and its results in the columns of `ProbeRecord`.
    """
    frames = [concept_layers(results).assign(**{name: about[name] for name in RUN}) for about, results in runs]
    rows = pd.concat([frame for frame in frames if not frame.empty], ignore_index=True)
    return rows[[*RUN, *(name for name in rows.columns if name not in RUN)]]


def concept_summary(runs: Sequence[tuple[Mapping[str, str], pd.DataFrame]]) -> pd.DataFrame:
    """Lay out one row for each run: accuracy, AUC and F1 at six depths, and the points of `ConceptDepth`.

    Returns:
        The columns of `RUN`, then `<depth>_acc`, `<depth>_auc`, `<depth>_f1` for each of `DEPTHS`, then the fields of
        `ConceptDepth`.
    """
    summaries = []
    for about, results in runs:
        layers = concept_layers(results)
        row: dict[str, object] = {name: about[name] for name in RUN}
        for name, share in DEPTHS.items():
            layer = layers.iloc[max(1, math.floor(share * len(layers) + 1e-9)) - 1]
            row |= {f"{name}_acc": layer["accuracy"], f"{name}_auc": layer["auc"], f"{name}_f1": layer["f1"]}
        summaries.append(row | asdict(concept_depth(results)))
    return pd.DataFrame(summaries)


def concept_table(summary: pd.DataFrame) -> Table:
    """Lay out a summary like the paper's table 3: a row for each run, accuracy / AUC / F1 at six depths."""
    table = _table("acc / AUC / F1 by depth")
    for name in ("", *DEPTHS):
        table.add_column(name, justify="right", no_wrap=True)
    for row in summary.to_dict("records"):
        cells = ["\n".join(_share(row[f"{depth}_{what}"]) for what in ("acc", "auc", "f1")) for depth in DEPTHS]
        table.add_row(_run(row, summary), "acc\nAUC\nF1", *cells, end_section=True)
    return table


def points_table(summary: pd.DataFrame) -> Table:
    """Lay out where each run jumps, converges and peaks, beside its baselines.

    Returns:
        The table for the terminal; depths are shares of the number of layers, "–" where there is none.
    """
    columns = {
        "jump": "jump_point", "converging\n(printed)": "converging_point", "converging\n(published)":
        "published_converging_point", "peak": "peak_accuracy", "at": "peak_depth", "majority": "majority_accuracy",
        "bag of\nwords": "bag_of_words_accuracy",
    }  # fmt: skip
    table = _table("Concept depth")
    for name in columns:
        table.add_column(name, justify="right", no_wrap=True)
    for row in summary.to_dict("records"):
        table.add_row(_run(row, summary), *(_share(row[key]) for key in columns.values()), end_section=True)
    return table


def _table(title: str) -> Table:
    """Make a table whose first column is the run: it is as wide as what the other columns leave."""
    table = Table(box=box.SIMPLE_HEAD, title=title, title_justify="left", pad_edge=False, collapse_padding=True)
    table.add_column("run", overflow="fold", min_width=16)
    return table


def _run(row: Mapping[Hashable, object], summary: pd.DataFrame) -> Text:
    """Say what tells a run from the others, one below the other."""
    shown = [name for name in RUN if name in ("model", "data") or summary[name].nunique() > 1]
    return Text("\n".join(str(row[name]) for name in shown))


def _share(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.3f}".removeprefix("0")
