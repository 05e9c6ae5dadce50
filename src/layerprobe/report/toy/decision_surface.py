"""What a network of two inputs answers, over the plane of its inputs.

The frames, one row for each point (`step` is the training step, `x1` and `x2` are the network's input):

    surface.parquet   checkpoint, step, layer, x1, x2, output            a grid over the input; `layer`: the output
    points.parquet    checkpoint, step, layer, x1, x2, label, output     the samples
    hidden.parquet    checkpoint, step, layer, x1, x2, h1, h2, (h3), label   the samples at a layer of 2 or 3 units

`output` is one number: the network's answer, which approaches `label` (0 or 1).
"""

from __future__ import annotations

import altair as alt
import numpy as np
import pandas as pd

from layerprobe.report.tidy import captions
from layerprobe.report.toy import panel

# Dark below, light above, grey between: told apart on a black-and-white print too.
SCALE = alt.Scale(domain=[0, 0.5, 1], range=["#3f7fc4", "#ebebeb", "#f7b05b"], interpolate="rgb", clamp=True)


def output_surface(surface: pd.DataFrame, points: pd.DataFrame) -> alt.ConcatChart:
    """Draw the samples over the network's output as the background's colour, a panel for each checkpoint.

    Args:
        surface: The output on a grid: checkpoint, step, layer, x1, x2, output.
        points: The samples: checkpoint, step, layer, x1, x2, label, output.

    Returns:
        The chart: blue where the output is near 0, grey at 0.5, orange near 1; white points for label 0 and black
        ones for label 1, each with the network's output.
    """
    few = bool(points.groupby("checkpoint").size().max() <= panel.LABELLED)
    panels = []
    for i, (checkpoint, caption) in enumerate(captions(surface).items()):
        grid, ends = cells(surface[surface["checkpoint"] == checkpoint])
        x = alt.X("x1:Q", scale=panel.span(grid["x1"].min(), ends["x1"]), axis=panel.axis("x1"))
        y = alt.Y("x2:Q", scale=panel.span(grid["x2"].min(), ends["x2"]), axis=panel.axis("x2", titled=i == 0))
        legend = alt.Legend(title="output", gradientLength=160, titlePadding=8, values=[0, 0.5, 1])
        background = (
            alt.Chart(grid)
            .mark_rect(stroke=None, clip=True, aria=False)
            .encode(x=x, x2="x1_end:Q", y=y, y2="x2_end:Q", color=alt.Color("output:Q", scale=SCALE, legend=legend))
        )
        here = points[points["checkpoint"] == checkpoint].assign(size=130 if few else 30)
        samples = alt.Chart(here).encode(x=x, y=y)
        texts = panel.written(samples, alt.Text("output:Q", format=".2f")) if few else []
        panels.append(panel.panel([background, panel.samples(samples, few), *texts], caption))
    note = "each sample with the network's output" if few else "the samples over the network's output"
    return panel.together(panels, "What the network answers", [note])


def cells(grid: pd.DataFrame) -> tuple[pd.DataFrame, dict[str, float]]:
    """Make a cell around each point of the grid.

    Args:
        grid: The points: x1, x2, output.

    Returns:
        The cells: output, x1, x1_end, x2, x2_end; and where the last ones end along each axis.
    """
    cells = pd.DataFrame({"output": grid["output"]})
    ends = {}
    for axis in ("x1", "x2"):
        half = _spacing(grid[axis]) / 2
        cells[axis], cells[f"{axis}_end"] = grid[axis] - half, grid[axis] + half
        ends[axis] = float(cells[f"{axis}_end"].max())
        # Cells overlap: edge to edge, their smoothed edges would let the page shine through as a mesh.
        cells[f"{axis}_end"] += 0.5 * half
    return cells, ends


def _spacing(values: pd.Series) -> float:
    distinct = np.unique(values.to_numpy(dtype=float))
    return float(np.diff(distinct).min()) if len(distinct) > 1 else 1.0
