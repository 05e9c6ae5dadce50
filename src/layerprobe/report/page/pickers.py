"""The pickers of the page: parameters that every view listens to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import altair as alt

from layerprobe.report import style
from layerprobe.report.config_differences import SEED
from layerprobe.report.page.page_data import ConfigKey, PageData

PICKERS = "#pickers"
_MOST_BANDS = 6


def pickers(data: PageData, bound: bool = True) -> list[alt.Parameter]:
    """Make the parameters.

    Args:
        data: What the page draws.
        bound: Whether a form sets them; without, a view can be drawn to a file.

    Returns:
        `colour` and `swept` (fields of a key), `checkpoint_<i>` (whether it is shown), `layer` (a number), `intervals`
        and `controls` (whether they are drawn), `chosen` (numbers of runs; none stands for all); and as constants
        `values_of`, `colours_of` and `names_of`, by the field of a key.
    """
    keys = data.keys
    fields, names = [key.field for key in keys], [key.name for key in keys]
    swept = next((key.field for key in keys if key.name != SEED and len(key.values) > 1), keys[-1].field)

    def select(name: str, label: str, options: Sequence[Any], labels: Sequence[str], value: Any) -> alt.Parameter:
        binding = alt.binding_select(options=list(options), labels=list(labels), name=label, element=PICKERS)
        return alt.param(name=name, value=value, bind=binding if bound else alt.Undefined)

    def check(name: str, label: str, value: bool) -> alt.Parameter:
        binding = alt.binding_checkbox(name=label, element=PICKERS)
        return alt.param(name=name, value=value, bind=binding if bound else alt.Undefined)

    # What each run came to; where that is not among the checkpoints, the last of all.
    ends = set(data.runs["last"]) & set(data.checkpoints) or set(data.checkpoints[-1:])
    return [
        alt.param(name="values_of", value={key.field: list(key.values) for key in keys}),
        alt.param(name="colours_of", value={key.field: _colours(key) for key in keys}),
        alt.param(name="names_of", value=dict(zip(fields, names, strict=True))),
        alt.param(name="chosen", value=[]),
        select("colour", "colour ", fields, names, fields[0]),
        select("swept", "best layer over ", fields, names, swept),
        select("layer", "L2 path of layer ", range(len(data.layer_names)), data.layer_names, _layer(data)),
        *(check(f"checkpoint_{i}", name, name in ends) for i, name in enumerate(data.checkpoints)),
        check("intervals", "95% intervals", len(data.runs) <= _MOST_BANDS),
        check("controls", "controls (majority, shuffled, control task, untrained)", _fits(data)),
    ]


def shown(data: PageData) -> str:
    """Return the condition that a row's checkpoint is one of those that are shown."""
    flags = ", ".join(f"checkpoint_{i}" for i in range(len(data.checkpoints)))
    return f"[{flags}][datum.checkpoint]"


CHOSEN = "!length(chosen) || indexof(chosen, datum.run) >= 0"
"""The condition that the table's boxes do not leave a run out."""


def group_scale() -> dict[str, Any]:
    """Return scales of colour, dash and shape for the values of the chosen key, the same whatever is brushed."""
    domain = {"expr": "values_of[colour]"}
    n = max(len(style.TRAINED), _MOST_SHADES)
    return {
        "color": alt.Scale(domain=domain, range=[{"expr": f"colours_of[colour][{i}]"} for i in range(n)]),
        "dash": alt.Scale(domain=domain, range=[list(dash) for dash in style.DASHES]),
        "shape": alt.Scale(domain=domain, range=list(style.SHAPES)),
    }


def group_legend(width: int) -> alt.Legend:
    """Return the legend of colour and dash, below a view of this width in pixels."""
    # As long as the longest dash pattern, so that two patterns differ in the legend too.
    return alt.Legend(
        title=None, symbolLimit=16, orient="bottom", columns=max(1, width // 160), symbolType="stroke",
        symbolSize=900, symbolStrokeWidth=2,
    )  # fmt: skip


def checkpoint_shape(data: PageData, *, legend: bool) -> alt.Shape:
    """Return the encoding of a point's shape, which tells the checkpoint.

    Args:
        data: What the page draws.
        legend: Whether the view has a legend of the shapes, where there are several checkpoints.
    """
    shapes = alt.Legend(title=None, orient="bottom", symbolFillColor=style.QUIET, symbolStrokeColor=style.QUIET)
    return alt.Shape(
        "checkpoint_name:N",
        scale=alt.Scale(domain=list(data.checkpoints), range=list(style.SHAPES)),
        legend=shapes if legend and len(data.checkpoints) > 1 else None,
    )


_MOST_SHADES = 12


def _colours(key: ConfigKey) -> list[str]:
    """Colours for the values of a key; more than seven numbers go from dark to light, more texts repeat."""
    n = len(key.values)
    if n <= len(style.TRAINED) or n > _MOST_SHADES:
        return [style.TRAINED[i % len(style.TRAINED)] for i in range(_MOST_SHADES)]
    return [_VIRIDIS[round(i * (len(_VIRIDIS) - 1) / (n - 1))] for i in range(n)] + ["#000000"] * (_MOST_SHADES - n)


_VIRIDIS = (
    "#440154", "#482173", "#433e85", "#38598c", "#2d708e", "#25858e", "#1e9b8a", "#2ab07f", "#52c569", "#86d549",
    "#a5ab1c", "#c4a000",
)  # fmt: skip


def _fits(data: PageData) -> bool:
    """Whether the controls leave the curves some height."""
    last = data.rows[data.rows["checkpoint"] == len(data.checkpoints) - 1]
    return bool(data.rows["majority"].max() <= 2.5 * last["high"].fillna(last["error"]).max())


def _layer(data: PageData) -> int:
    """The layer that most runs have as their best one."""
    best = data.runs.loc[data.runs["best_layer"] != "", "best_layer"].mode()
    return data.layer_names.index(best.iloc[0]) if len(best) else 0
