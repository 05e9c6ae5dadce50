"""The decision surface of a network of two inputs: its output over the plane of the inputs.

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
_SCALE = alt.Scale(domain=[0, 0.5, 1], range=["#3f7fc4", "#ebebeb", "#f7b05b"], interpolate="rgb", clamp=True)


def decision_surface(surface: pd.DataFrame, points: pd.DataFrame) -> alt.ConcatChart:
    """Draw the samples over the network's output as the background's colour, a panel for each checkpoint.

    Args:
        surface: The output on a grid: checkpoint, step, layer, x1, x2, output.
        points: The samples: checkpoint, step, layer, x1, x2, label, output.

    Returns:
        The chart: blue where the output is near 0, grey at 0.5, orange near 1; white points for label 0 and black
        ones for label 1, each with the network's output.
    """
    panels = [
        surface_panel(
            surface[surface["checkpoint"] == checkpoint], points[points["checkpoint"] == checkpoint], caption,
            titled=i == 0,
        )
        for i, (checkpoint, caption) in enumerate(captions(surface).items())
    ]  # fmt: skip
    note = "each sample with the network's output" if panel.are_few(points) else "the samples over the network's output"
    return panel.side_by_side(panels, "What the network answers", [note])


def surface_panel(
    surface: pd.DataFrame, points: pd.DataFrame, caption: str, *, titled: bool = True
) -> alt.LayerChart | alt.FacetChart:
    """Draw one panel, of one checkpoint; or of an animation, where the rows have a column `frame`.

    Args:
        surface: The output on a grid: x1, x2, output.
        points: The samples: checkpoint, x1, x2, label, output.
        caption: What stands above it.
        titled: Whether the vertical axis has a title.
    """
    cells, width, ends = _cells(surface)
    x = alt.X("x1:Q", scale=panel.exact_scale(cells["x1"].min(), ends["x1"]), axis=panel.axis("x1"))
    y = alt.Y("x2:Q", scale=panel.exact_scale(cells["x2"].min(), ends["x2"]), axis=panel.axis("x2", titled=titled))
    legend = alt.Legend(title="output", gradientLength=160, titlePadding=8, values=[0, 0.5, 1])
    background = (
        panel.at_frame(cells)
        .transform_calculate(x1_end=f"datum.x1 + {width['x1']}", x2_end=f"datum.x2 + {width['x2']}")
        .mark_rect(stroke=None, clip=True, aria=False)
        .encode(x=x, x2="x1_end:Q", y=y, y2="x2_end:Q", color=alt.Color("output:Q", scale=_SCALE, legend=legend))
    )
    few = panel.are_few(points)
    kept = [name for name in ("frame", "x1", "x2", "label", "output") if name in points]
    samples = panel.at_frame(points[kept].assign(size=130 if few else 30)).encode(x=x, y=y)
    texts = panel.text_with_halo(samples, alt.Text("output:Q", format=".2f")) if few else []
    return panel.panel([background, panel.samples(samples, few), *texts], caption)


def _cells(grid: pd.DataFrame) -> tuple[pd.DataFrame, dict[str, float], dict[str, float]]:
    """Lay a cell around each grid point: its lower corner, and the cells' width and upper end along each axis."""
    cells = grid[[name for name in ("frame", "x1", "x2", "output") if name in grid]].copy()
    width, ends = {}, {}
    for axis in ("x1", "x2"):
        spacing = _spacing(grid[axis])
        cells[axis] = grid[axis] - spacing / 2
        ends[axis] = float(cells[axis].max() + spacing)
        # Cells overlap: edge to edge, their smoothed edges would let the page shine through as a mesh.
        width[axis] = 1.25 * spacing
    return cells, width, ends


def _spacing(values: pd.Series) -> float:
    distinct = np.unique(values.to_numpy(dtype=float))
    return float(np.diff(distinct).min()) if len(distinct) > 1 else 1.0
