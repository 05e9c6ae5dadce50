"""Legend of checkpoints: how those of one run are told apart in every chart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import altair as alt
import pandas as pd

from layerprobe.report import style
from layerprobe.report.charts.curves import Look


@dataclass(frozen=True)
class CheckpointLines:
    """How the lines of some rows look.

    Attributes:
        colours: The colour of each row, for the field `colour`.
        colour: Encoding of that field. Without a scale, it keeps bands and lines out of the legend, which shows the
            points as they are.
        line: More encodings of the lines.
        points: More encodings of the points, which have the legend.
    """

    colours: pd.Series
    colour: alt.Color
    line: Mapping[str, Any]
    points: Mapping[str, Any]

    def look(self, tooltip: Sequence[alt.Tooltip]) -> Look:
        """The look of curves, a line for each checkpoint."""
        return Look(self.colour, ["caption:N"], self.line, {**self.points, "tooltip": tooltip})

    @classmethod
    def of(cls, frame: pd.DataFrame, width: int) -> CheckpointLines:
        """Choose by the captions of the checkpoints.

        Args:
            frame: Rows of `tidy_results`.
            width: Width of the chart in pixels.
        """
        checkpoints = frame.drop_duplicates("checkpoint")
        captions, look = checkpoints["caption"].tolist(), style.lines(checkpoints["untrained"].tolist())
        scale, legend = partial(alt.Scale, domain=captions), _legend(captions, width)
        return cls(
            frame["caption"].map(dict(zip(captions, look.colours, strict=True))),
            alt.Color("colour:N", scale=None),
            {"strokeDash": _literal(captions, look.dashes)},
            {
                "stroke": alt.Stroke("caption:N", scale=scale(range=look.colours), legend=legend),
                "fill": alt.Fill("caption:N", scale=scale(range=look.fills), legend=legend),
                "shape": alt.Shape("caption:N", scale=scale(range=look.shapes), legend=legend),
            },
        )


def _legend(captions: list[str], width: int) -> alt.Legend | None:
    if len(captions) == 1:
        return None
    column = 6.0 * max(map(len, captions)) + 40
    return alt.Legend(
        title=None,
        orient="top",
        direction="horizontal",
        columns=max(1, int(width // column)),
        columnPadding=18,
        offset=8,
    )


def _literal(captions: list[str], values: list[list[int]]) -> Any:
    """One value for each line, without a scale and its legend."""
    first, *others = zip(captions, values, strict=True)
    chosen = alt.when(alt.datum.caption == first[0]).then(alt.value(first[1]))
    for caption, value in others:
        chosen = chosen.when(alt.datum.caption == caption).then(alt.value(value))
    return chosen
