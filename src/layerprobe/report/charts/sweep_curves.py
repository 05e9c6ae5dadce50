"""The depth curves of a sweep: every job in one picture."""

from __future__ import annotations

import altair as alt
import pandas as pd

from layerprobe.report import style
from layerprobe.report.charts.curves import Look, curves, error_y
from layerprobe.report.error_column import TEST_ERROR, ErrorColumn

_WIDTH, _HEIGHT = 190, 170


def sweep_curves(
    results: pd.DataFrame, row: str, column: str, line: str, error: ErrorColumn = TEST_ERROR, title: str = ""
) -> alt.FacetChart:
    """Draw a panel for each value of two keys, and in it a line for each value of a third.

    A dashed rule is the error of the input, where it is probed.

    Args:
        results: The rows of all jobs at one checkpoint each, in the columns of `ProbeRecord`, and a column of texts for
            each of the three keys. Jobs that differ in other keys, such as the seed, are averaged, but not jobs on
            other data: those with other tasks, classes or numbers of samples are lines of their own.
        row: Key whose values are the rows of panels.
        column: Key whose values are the columns.
        line: Key whose values are the lines, in order of appearance from light to dark.
        error: The error that is drawn.
        title: What the picture is to show; by default what is drawn.
    """
    frame = _means(results.rename(columns={row: "row", column: "column", line: "line"}), error.column)
    lines = frame["line"].unique().tolist()
    scheme = alt.SchemeParams(name="viridis", extent=[0.85, 0.0])
    x = alt.X(
        "position:Q",
        axis=alt.Axis(title="layer, 0 is the input", tickMinStep=1, grid=False),
        scale=alt.Scale(nice=False),
    )
    y = error_y(error.title, alt.Scale(zero=True))
    name = line.split("/")[-1].split(".")[-1]
    colour = alt.Color(
        "line:O", sort=lines, scale=alt.Scale(scheme=scheme, domain=lines), legend=alt.Legend(title=name)
    )
    base = alt.Chart(frame)
    tips = [
        alt.Tooltip("layer:N"),
        alt.Tooltip("line:O", title=name),
        alt.Tooltip(f"{error.column}:Q", title=error.title, format=".2%"),
    ]
    dashed = base.mark_rule(color=style.QUIET, strokeDash=[4, 3], strokeWidth=1).encode(
        y="mean(input):Q", detail=["line:N", "problem:N"]
    )
    layers = curves(base, x, y, error.column, Look(colour, ["problem:N"], points={"tooltip": tips}))
    panel = alt.layer(dashed, *layers).properties(width=_WIDTH, height=_HEIGHT)

    def heads(key: str) -> alt.Header:
        return alt.Header(title=key.split("/")[-1].split(".")[-1])

    return (
        panel.facet(
            row=alt.Row("row:N", sort=frame["row"].unique().tolist(), header=heads(row)),
            column=alt.Column("column:N", sort=frame["column"].unique().tolist(), header=heads(column)),
        )
        .properties(
            title=alt.TitleParams(
                title or f"{error.title.capitalize()} over depth",
                subtitle=f"one linear head per layer, on {_samples(results, error)}; dashed: the error of the input",
            )
        )
        .configure(**style.theme())
    )


def _means(frame: pd.DataFrame, error: str) -> pd.DataFrame:
    """Average the jobs of one row, column, line and problem, layer by layer, and add the error of their `input`."""
    frame["problem"] = frame.groupby(["task", "n_classes", "n_train", "n_test"], sort=False).ngroup()
    keys = ["row", "column", "line", "problem"]
    frame["position"] = frame.groupby([*keys, "directory"], sort=False)["depth"].rank(method="dense") - 1
    frame = frame.dropna(subset=[error])
    means = frame.groupby([*keys, "position", "layer"], sort=False)
    frame = means.agg(**{error: (error, "mean"), "depth": ("depth", "min")}).reset_index()
    first = frame.loc[frame["depth"] == 0, [*keys, error]]
    return frame.merge(first.rename(columns={error: "input"}), on=keys, how="left")


def _samples(results: pd.DataFrame, error: ErrorColumn) -> str:
    """Say how many samples an error is a share of."""
    return f"{results[error.samples].max():,} {error.title.removesuffix(' error')} samples"
