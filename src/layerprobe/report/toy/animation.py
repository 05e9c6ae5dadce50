"""What a small network does to the plane while it is trained: a picture with a slider, and a GIF."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import altair as alt
import pandas as pd
import vl_convert
from PIL import Image
from safetensors.numpy import load_file

from layerprobe.report import style
from layerprobe.report.tidy import captions
from layerprobe.report.toy import panel
from layerprobe.report.toy.decision_surface import SCALE, cells
from layerprobe.report.toy.hidden_plane import ranges, spots
from layerprobe.report.toy.projection import in_the_plane
from layerprobe.report.toy.separating_line import across
from layerprobe.results.atomic import write_bytes
from layerprobe.results.decision_surface import read_plane_frames
from layerprobe.results.names import safe_name
from layerprobe.results.reader import Run

_GIF_SECONDS, _LAST_SECONDS = 0.6, 2.0
_MOST_FRAMES = 40


def film(run: Run, *, bound: bool = True, grid: int = 31) -> dict[str, Any] | None:
    """Lay out the output over the input's plane, and the samples at each small layer, with a slider for the checkpoint.

    Args:
        run: A run that kept frames (`surface.parquet`, `points.parquet`, `hidden.parquet`).
        bound: Whether a slider sets the parameter `frame`.
        grid: Points of the surface along an axis, at most.

    Returns:
        A Vega-Lite specification with the parameter `frame`; None where the run kept fewer than two frames.
    """
    frames = read_plane_frames(run.directory / "probes")
    if not frames:
        return None
    named = captions(next(iter(frames.values())))
    if len(named) < 2:
        return None
    kept = list(named)[:: -(-len(named) // _MOST_FRAMES)]
    kept = kept if kept[-1] == list(named)[-1] else [*kept, list(named)[-1]]
    number = {name: i for i, name in enumerate(kept)}
    frames = {name: _numbered(frame, number) for name, frame in frames.items()}
    panels = []
    if "surface" in frames and "points" in frames:
        panels.append(_answers(_coarse(frames["surface"], grid), frames["points"]))
    if "hidden" in frames:
        states, lines = in_the_plane(frames["hidden"], lambda *at: _head(run, *at))
        panels += [_states(group, lines, number, str(layer)) for layer, group in states.groupby("layer", sort=False)]
    texts = [named[name] for name in kept]
    slider = alt.binding_range(min=0, max=len(kept) - 1, step=1, name="checkpoint ") if bound else alt.Undefined
    frame = alt.param(name="frame", value=len(kept) - 1, bind=slider)
    chart = (
        alt.concat(*panels, columns=3, spacing=26)
        .properties(title=alt.TitleParams(alt.ExprRef(f"{texts}[frame]"), anchor="start"))
        .add_params(frame, alt.param(name="frames", value=len(kept)))
        .configure(**style.theme())
    )
    with alt.data_transformers.enable("default", max_rows=None):
        spec = chart.to_dict()
    spec["description"] = (
        f"What {run.directory.name} answers over the plane of its inputs, and its samples at layers of two or three "
        f"units with the line of the linear probe, at {len(kept)} checkpoints; a slider chooses one."
    )
    return spec


def write_film(run: Run, file: Path) -> Iterator[Path]:
    """Write the film as a GIF that runs for ever and rests at its end.

    Args:
        run: A run that kept frames.
        file: The file to write.

    Yields:
        The path, once it is written; nothing where the run kept fewer than two frames.
    """
    spec = film(run, bound=False)
    if spec is None:
        return
    (n,) = (parameter["value"] for parameter in spec["params"] if parameter["name"] == "frames")
    pictures = []
    for i in range(n):
        for parameter in spec["params"]:
            if parameter["name"] == "frame":
                parameter["value"] = i
        picture = Image.open(io.BytesIO(vl_convert.vegalite_to_png(spec, scale=1.5))).convert("RGB")
        pictures.append(picture.quantize(128, dither=Image.Dither.NONE))
    size = max(p.width for p in pictures), max(p.height for p in pictures)
    if any(p.size != size for p in pictures):
        pictures = [_on_white(p, size) for p in pictures]
    durations = [int(1000 * _GIF_SECONDS)] * (n - 1) + [int(1000 * _LAST_SECONDS)]
    content = io.BytesIO()
    first, *others = pictures
    first.save(content, "GIF", save_all=True, append_images=others, duration=durations, loop=0, disposal=2)
    write_bytes(file, content.getvalue())
    yield file


def _on_white(picture: Image.Image, size: tuple[int, int]) -> Image.Image:
    canvas = Image.new("RGB", size, "white")
    canvas.paste(picture.convert("RGB"))
    return canvas.quantize(128, dither=Image.Dither.NONE)


def _numbered(frame: pd.DataFrame, number: dict[str, int]) -> pd.DataFrame:
    frame = frame[frame["checkpoint"].isin(number)]
    return frame.assign(frame=frame["checkpoint"].map(number).astype("int64"))


def _coarse(surface: pd.DataFrame, grid: int) -> pd.DataFrame:
    for axis in ("x1", "x2"):
        values = sorted(set(surface[axis]))
        every = -(-(len(values) - 1) // (grid - 1)) if len(values) > grid else 1
        surface = surface[surface[axis].isin(values[::every])]
    return surface


def _answers(surface: pd.DataFrame, points: pd.DataFrame) -> alt.LayerChart | alt.FacetChart:
    grid, ends = cells(surface)
    low = {axis: float(grid[axis].min()) for axis in ("x1", "x2")}
    step = {axis: float((grid[f"{axis}_end"] - grid[axis]).iloc[0]) for axis in ("x1", "x2")}
    x = alt.X("x1:Q", scale=panel.span(low["x1"], ends["x1"]), axis=panel.axis("x1"))
    y = alt.Y("x2:Q", scale=panel.span(low["x2"], ends["x2"]), axis=panel.axis("x2"))
    legend = alt.Legend(title="output", gradientLength=120, titlePadding=8, values=[0, 0.5, 1])
    compact = grid[["x1", "x2", "output"]].assign(frame=surface["frame"])
    numbers = alt.CsvDataFormat(type="csv", parse=dict.fromkeys(("x1", "x2", "output", "frame"), "number"))
    text = compact.to_csv(index=False, float_format="%.4g", lineterminator="\n")
    background = (
        alt.Chart(alt.InlineData(values=text, format=numbers))
        .transform_filter("datum.frame == frame")
        .transform_calculate(x1_end=f"datum.x1 + {step['x1']}", x2_end=f"datum.x2 + {step['x2']}")
        .mark_rect(stroke=None, clip=True, aria=False)
        .encode(x=x, x2="x1_end:Q", y=y, y2="x2_end:Q", color=alt.Color("output:Q", scale=SCALE, legend=legend))
    )
    few = int(points.groupby("frame").size().max()) <= panel.LABELLED
    here = points[["frame", "x1", "x2", "label", "output"]].assign(size=130 if few else 30)
    samples = alt.Chart(here).transform_filter("datum.frame == frame").encode(x=x, y=y)
    texts = panel.written(samples, alt.Text("output:Q", format=".2f")) if few else []
    return panel.panel([background, panel.samples(samples, few), *texts], "what the network answers")


def _states(
    group: pd.DataFrame, lines: pd.DataFrame, number: dict[str, int], layer: str
) -> alt.LayerChart | alt.FacetChart:
    h1, h2 = ranges(group)
    ends = [
        across(line["w1"], line["w2"], line["bias"], h1, h2).assign(frame=number[line["checkpoint"]])
        for line in lines[lines["layer"] == layer].to_dict("records")
    ]
    x = alt.X("h1:Q", scale=panel.span(*h1), axis=panel.axis("h1", grid=True))
    y = alt.Y("h2:Q", scale=panel.span(*h2), axis=panel.axis("h2", grid=True))
    few = int(group.groupby("frame").size().max()) <= panel.LABELLED
    pixels = panel.SIDE / float(h1[1] - h1[0])
    if few:
        found = [
            [part.assign(frame=at) for part in spots(here, pixels)] for at, here in group.groupby("frame", sort=False)
        ]
        places, texts = (pd.concat(parts, ignore_index=True) for parts in zip(*found, strict=True))
    else:
        places, texts = group[["frame", "label", "h1", "h2"]].assign(size=30), pd.DataFrame()
    drawn = pd.concat(ends) if ends else pd.DataFrame(columns=["h1", "h2", "frame"])
    marks: list[alt.Chart] = []
    if len(drawn):
        line = alt.Chart(drawn).transform_filter("datum.frame == frame")
        marks.append(line.mark_line(color=style.TRAINED[1], strokeWidth=2, strokeDash=[6, 3]).encode(x=x, y=y))
    marks.append(panel.samples(alt.Chart(places).transform_filter("datum.frame == frame").encode(x=x, y=y), few))
    for dy in sorted(set(texts["dy"].tolist())) if few else ():
        side = alt.Chart(texts[texts["dy"] == dy]).transform_filter("datum.frame == frame").encode(x=x, y=y)
        marks += panel.written(side, alt.Text("inputs:N"), dy)
    return panel.panel(marks, layer)


def _head(run: Run, checkpoint: str, layer: str) -> Any:
    rows = run.results[(run.results["checkpoint"] == checkpoint) & (run.results["layer"] == layer)]
    if rows.empty:
        raise KeyError(layer)
    name = f"{int(rows['depth'].iloc[0]):03d}_{safe_name(layer)}.safetensors"
    file = run.directory / "probes" / "heads" / safe_name(checkpoint) / name
    if not file.is_file():
        raise KeyError(layer)
    return load_file(file)
