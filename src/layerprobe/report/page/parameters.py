"""The parameters of the page, which every view listens to, and the form that a reader sets them with."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import altair as alt

from layerprobe.report import style
from layerprobe.report.charts.curves import MARKED
from layerprobe.report.config_differences import SEED
from layerprobe.report.page.page_data import ConfigKey, PageData
from layerprobe.report.tidy import AT_RANDOM, evenly

MOST_LINES = 12
"""Runs, or settings, up to which each has a line of its own; more are means with a band."""
CROWD = 100
"""Runs above which each is a faint mark among others."""
MOST_BANDS = 6
"""Lines up to which each has its interval as a band."""
_LINES = (("few", "means, if of more than a dozen runs"), ("runs", "each run"), ("means", "means"))
_MOST_SHADES = 12
_MOST_NAMED = 3
"""Checkpoints that a title names at most."""


@dataclass(frozen=True)
class Picker:
    """A control of the page's form; its value is that of the parameter of its name.

    Options have a value and a text each; there are none for a box to tick.
    """

    name: str
    label: str
    value: Any
    options: tuple[tuple[Any, str], ...] = ()


def pickers(data: PageData) -> list[Picker]:
    """Make the form: which runs are coloured how, which checkpoints, layer and data are shown.

    Returns:
        `colour` and `swept` (fields of a key), `layer` (a number), `problem` (its name; empty for all), `lines`
        (`runs`, `means`, or `few` for means of more than a dozen runs), `measure` (`error`, or the field of what is
        drawn over depth in its place), `checkpoint_<i>` (whether it is shown), `intervals`, `controls` and `readers`
        (whether they are drawn). What leaves no choice is left out.
    """
    keys = tuple((key.field, key.name) for key in data.keys)
    # Beside the key that colours another one, where there is one.
    told = [key.field for key in data.keys if key.name != SEED and len(key.values) > 1 and key.field.startswith("key")]
    swept = [*told[:2], *(key.field for key in data.keys if key.name != SEED and len(key.values) > 1), keys[-1][0]]
    # What each run came to, beyond its start if any did; where that is not among the checkpoints, the last of all.
    ends = set(data.runs["last"]) & set(data.checkpoints) or set(data.checkpoints[-1:])
    ends = ends - set(AT_RANDOM) or ends
    problems = tuple((name, name) for name in dict.fromkeys(data.runs["problem"]))
    found = [
        Picker("colour", "colour", keys[0][0], keys),
        Picker("swept", "best layer over", swept[1 if len(told) > 1 else 0], keys),
        Picker("problem", "data", "", (("", "all"), *problems)),
        Picker("measure", "curves of", "error", (("error", "test error"), *((m.field, m.name) for m in data.measures))),
        Picker("layer", "L2 path of layer", _layer(data), tuple(enumerate(data.layer_names))),
        Picker("lines", "lines", "few", _LINES),
        *(Picker(f"checkpoint_{i}", name, name in ends) for i, name in enumerate(data.checkpoints)),
        Picker("intervals", "95% intervals", len(data.runs) <= MOST_BANDS),
        Picker("controls", f"controls ({data.constant}, shuffled, control task, untrained)", _fits(data)),
        Picker("readers", "references (other readers of the layers)", len(data.runs) <= MOST_BANDS),
    ]  # fmt: skip
    one = {"colour", "swept", "lines"} if len(data.runs) == 1 else set()
    one |= {"problem"} if len(problems) < 2 else set()
    one |= {"readers"} if data.readers.empty else set()
    one |= {"layer"} if data.swept_paths.empty else set()
    one |= {"measure"} if not data.measures else set()
    return [picker for picker in found if picker.name not in one]


def parameters(data: PageData) -> list[alt.Parameter]:
    """Make the parameters of a view: those of the pickers, and what the rest of the page tells it.

    Returns:
        The pickers; `chosen` (numbers of runs; none stands for all) and `pointed` (the run that the mouse is on, or
        -1); and as constants `values_of`, `colours_of`, `names_of` and `letters_of`, by the field of a key, and
        `measure_names`, by that of a measure.
    """
    keys = data.keys
    first = {"colour": keys[0].field, "swept": keys[-1].field, "problem": "", "lines": "few", "measure": "error"}
    first |= {picker.name: picker.value for picker in pickers(data)}
    return [
        alt.param(name="values_of", value={key.field: list(key.values) for key in keys}),
        alt.param(name="colours_of", value={key.field: _colours(key) for key in keys}),
        alt.param(name="names_of", value={key.field: key.name for key in keys}),
        alt.param(name="letters_of", value={key.field: max(map(len, key.values), default=0) for key in keys}),
        alt.param(name="measure_names", value={"error": "test error"} | {m.field: m.name for m in data.measures}),
        alt.param(name="chosen", value=[]),
        alt.param(name="pointed", value=-1),
        *(alt.param(name=name, value=value) for name, value in first.items()),
    ]


def means(data: PageData) -> str:
    """Return the condition that means are drawn, and not a line for each run."""
    n = f"(length(chosen) ? length(chosen) : {len(data.runs)})"
    return f"(lines == 'means' || (lines == 'few' && {n} > {MOST_LINES}))"


def of_many(data: PageData) -> str:
    """Return the subtitle of a view that draws means where there are many runs."""
    return f"where more than {MOST_LINES} runs are shown: mean and middle half" if len(data.runs) > MOST_LINES else ""


def in_percent(data: PageData) -> str:
    """Return the condition that the measure that is drawn is written in percent."""
    return f"indexof({json.dumps(['error', *(m.field for m in data.measures if m.share)])}, measure) >= 0"


def shown(data: PageData) -> str:
    """Return the condition that a row's checkpoint is one of those that are shown."""
    flags = ", ".join(f"checkpoint_{i}" for i in range(len(data.checkpoints)))
    return f"[{flags}][datum.checkpoint]"


def shown_in_title(data: PageData) -> str:
    """Return an expression of the names of the checkpoints that are shown, or of their number where they are many."""
    n = " + ".join(f"(checkpoint_{i} ? 1 : 0)" for i in range(len(data.checkpoints))) or "0"
    return f"({n} > {_MOST_NAMED} ? ({n}) + ' checkpoints' : {shown_names(data)} || 'no checkpoint')"


def shown_names(data: PageData, between: str = ", ") -> str:
    """Return an expression of the names of the checkpoints that are shown, as one text."""
    names = (f"(checkpoint_{i} ? {json.dumps(between + name)} : '')" for i, name in enumerate(data.checkpoints))
    return f"slice({' + '.join(names) or repr('')}, {len(between)})"


CHOSEN = "!length(chosen) || indexof(chosen, datum.run) >= 0"
"""The condition that neither the table's boxes nor the brush leave a run out."""

OF_PROBLEM = "problem == '' || datum.problem == problem"
"""The condition that a run's data are those that are shown."""

NARROW = "(windowSize()[0] || 999) < 600"
"""The condition that the page is on a narrow screen, where a long title would take the room of the curves."""

POINTED = "datum.run == pointed"
"""The condition that the mouse is on a run, here or in another view."""


def group_scale() -> dict[str, Any]:
    """Return scales of colour, dash and shape for the values of the chosen key, the same whatever is brushed."""
    domain = {"expr": "values_of[colour]"}
    n = max(len(style.TRAINED), _MOST_SHADES)
    return {
        "color": alt.Scale(domain=domain, range=[{"expr": f"colours_of[colour][{i}]"} for i in range(n)]),
        "dash": alt.Scale(domain=domain, range=[list(dash) for dash in style.DASHES]),
        "shape": alt.Scale(domain=domain, range=list(style.SHAPES)),
    }


def group_legend(symbols: dict[str, Any] | None = None) -> alt.Legend:
    """Return the legend of colour, and of dash or shape, below a view: few rows of as many columns as have room."""
    symbols = symbols or {"symbolType": "stroke", "symbolSize": 500, "symbolStrokeWidth": 2}
    column = "(min(170, 6.5 * letters_of[colour]) + 46)"
    return alt.Legend(
        title=None, symbolLimit=MOST_LINES, orient="bottom", columns=alt.ExprRef(f"max(1, floor(width / {column}))"),
        labelLimit=170, rowPadding=1, **symbols,
    )  # fmt: skip


def faint(data: PageData) -> Any:
    """Return the opacity of lines of which there may be many: the run that the mouse is on stands out."""
    many = f"!({POINTED}) && (length(chosen) ? length(chosen) : {len(data.runs)}) > {MOST_LINES}"
    return alt.when(many).then(alt.value(0.35 if len(data.runs) <= CROWD else 0.1)).otherwise(alt.value(1))


def marker(data: PageData) -> Any:
    """Return the opacity of a curve's points: on a long one they can be pointed at but not seen."""
    if long(data):
        return alt.when(POINTED).then(alt.value(1)).otherwise(alt.value(0))
    return alt.value(1)


def long(data: PageData) -> bool:
    """Tell whether curves go over so many layers that points would hide them."""
    return bool(len(data.layers) and data.layers["position"].max() >= MARKED)


def checkpoint_shape(data: PageData, *, legend: bool) -> alt.Shape:
    """Return the encoding of a point's shape, which tells the checkpoint."""
    # Not below, where the colours are: two legends side by side are wider than a narrow screen.
    column = min(170, 7 * max(map(len, data.checkpoints), default=0)) + 30
    names = shown_names(data, "\n")
    shapes = alt.Legend(
        title=None, orient="top", offset=18,  # names of lines at the upper end of the axis stand below it
        values=alt.ExprRef(f"split({names}, '\\n')"), symbolOpacity=alt.ExprRef(f"{names} ? 1 : 0"),
        symbolFillColor=style.QUIET, symbolStrokeColor=style.QUIET, symbolSize=50, labelLimit=170,
        columns=alt.ExprRef(f"max(1, floor(width / {column}))"),
    )  # fmt: skip
    return alt.Shape(
        "checkpoint_name:N",
        scale=alt.Scale(domain=list(data.checkpoints), range=list(style.SHAPES)),
        legend=shapes if legend and len(data.checkpoints) > 1 else None,
    )


def _colours(key: ConfigKey) -> list[str]:
    """Colour the values of a key; more than seven numbers go from dark to light, more texts repeat."""
    n = len(key.values)
    if n <= len(style.TRAINED) or n > _MOST_SHADES:
        return [style.TRAINED[i % len(style.TRAINED)] for i in range(_MOST_SHADES)]
    return [*evenly(_VIRIDIS, n), *["#000000"] * (_MOST_SHADES - n)]


_VIRIDIS = (
    "#440154", "#482173", "#433e85", "#38598c", "#2d708e", "#25858e", "#1e9b8a", "#2ab07f", "#52c569", "#86d549",
    "#a5ab1c", "#c4a000",
)  # fmt: skip


def _fits(data: PageData) -> bool:
    """Tell whether the controls leave the curves some height."""
    last = data.rows[data.rows["checkpoint"] == len(data.checkpoints) - 1]
    return bool(data.rows["majority"].max() <= 2.5 * last["high"].fillna(last["error"]).max())


def _layer(data: PageData) -> int:
    """Choose the layer that most runs have as their best one."""
    best = data.runs.loc[data.runs["best_layer"] != "", "best_layer"].mode()
    return data.layer_names.index(best.iloc[0]) if len(best) else 0
