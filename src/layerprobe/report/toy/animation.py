"""The animation of a small network during training: a picture with a slider, and a GIF."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import altair as alt
import pandas as pd
import vl_convert
from PIL import Image

from layerprobe.files.atomic import write_bytes
from layerprobe.report import style
from layerprobe.report.picture_files import specification
from layerprobe.report.tidy import captions
from layerprobe.report.toy.boundary_plane import project
from layerprobe.report.toy.decision_surface import surface_panel
from layerprobe.report.toy.hidden_plane import hidden_panel
from layerprobe.results.reader import Run

_GIF_SECONDS, _LAST_SECONDS = 0.6, 2.0
_MOST_FRAMES = 40
_GRID = 31
"""Points of the surface along an axis, at most."""


def animation(run: Run, *, bound: bool = True) -> dict[str, Any] | None:
    """Lay out the output over the input's plane, and the samples at each small layer, with a slider for the checkpoint.

    Unless it is `bound`, no slider sets the parameter `frame`.

    Returns:
        A Vega-Lite specification with the parameter `frame`; None where the run kept fewer than two frames.
    """
    frames = run.plane_frames()
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
        surface = _coarse(frames["surface"])
        panels.append(surface_panel(surface, frames["points"], "what the network answers"))
    if "hidden" in frames:
        states, lines = project(frames["hidden"], run.head)
        lines = _numbered(lines, number)
        panels += [
            hidden_panel(group, lines[lines["layer"] == layer], str(layer))
            for layer, group in states.groupby("layer", sort=False)
        ]
    texts = [named[name] for name in kept]
    slider = alt.binding_range(min=0, max=len(kept) - 1, step=1, name="checkpoint ") if bound else alt.Undefined
    frame = alt.param(name="frame", value=len(kept) - 1, bind=slider)
    chart = (
        alt.concat(*panels, columns=3, spacing=26)
        .properties(title=alt.TitleParams(alt.ExprRef(f"{texts}[frame]"), anchor="start"))
        .add_params(frame, alt.param(name="frames", value=len(kept)))
        .configure(**style.theme())
    )
    spec = specification(chart)
    spec["description"] = (
        f"What {run.directory.name} answers over the plane of its inputs, and its samples at layers of two or three "
        f"units with the line of the linear probe, at {len(kept)} checkpoints; a slider chooses one."
    )
    return spec


def write_gif(run: Run, file: Path) -> Iterator[Path]:
    """Write the animation as a GIF that runs for ever and rests at its end.

    Yields:
        The path, once it is written; nothing where the run kept fewer than two frames.
    """
    spec = animation(run, bound=False)
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


def _coarse(surface: pd.DataFrame) -> pd.DataFrame:
    for axis in ("x1", "x2"):
        values = sorted(set(surface[axis]))
        every = -(-(len(values) - 1) // (_GRID - 1)) if len(values) > _GRID else 1
        surface = surface[surface[axis].isin(values[::every])]
    return surface
