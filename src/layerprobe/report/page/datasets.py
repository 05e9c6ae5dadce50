"""The datasets of the page, and how a view joins them."""

from __future__ import annotations

import altair as alt
import pandas as pd

from layerprobe.report.charts.layer_axis import layer_x, place_scale
from layerprobe.report.layer_labels import shared_folder, short_names
from layerprobe.report.page.page_data import PageData, as_csv
from layerprobe.report.page.pickers import CHOSEN, shown

_RUN = ["name", "status", "setting", "problem", "network", "best_layer", "best_error", "offset"]
_LAYER = ["name", "position", "depth", "kind", "shape", "features"]


def datasets(data: PageData) -> dict[str, str]:
    """Return the text of each data source, by its name."""
    checkpoints = pd.DataFrame({"checkpoint": range(len(data.checkpoints)), "name": data.checkpoints})
    frames = {
        "rows": data.rows,
        "runs": data.runs,
        "layers": data.layers,
        "paths": data.paths,
        "checkpoints": checkpoints,
    }
    return {name: as_csv(frame) for name, frame in frames.items()}


def source(data: PageData, name: str) -> alt.NamedData:
    """Refer to a data source.

    Args:
        data: What the page draws.
        name: `rows`, `runs`, `layers`, `paths` or `checkpoints`.
    """
    texts = {"name", "status", "setting", "problem", "last", "best_layer", "kind", "shape", "features"}
    frame = {"checkpoints": pd.DataFrame(columns=["checkpoint", "name"])}.get(name)
    columns = list(frame if frame is not None else getattr(data, name))
    keys = {key.field for key in data.keys}
    listed = {"l2", "val_error"} if name == "paths" else set()
    parse = {
        column: "string" if column in texts or column in keys or column in listed else "number" for column in columns
    }
    return alt.NamedData(name=name, format=alt.CsvDataFormat(type="csv", parse=parse))


def chosen_rows(data: PageData, name: str, *, linked: bool, every_checkpoint: bool = False) -> alt.Chart:
    """Begin a view of the rows that the reader has chosen, with what is known about their runs.

    Args:
        data: What the page draws.
        name: `rows` or `paths`.
        linked: Whether the page's brush chooses runs; a view on its own has none.
        every_checkpoint: Whether to keep the checkpoints that are not shown.

    Returns:
        A chart with the columns of the source, and `run_name`, `setting`, `problem`, `network`, `run_status`,
        `best_error`, `checkpoint_name`, `group` (text of the key that colours) and `swept_place`.
    """
    places = [f"{key.field}_place" for key in data.keys]
    fields = list(dict.fromkeys([*_RUN, *(key.field for key in data.keys), *places]))
    renamed = {"name": "run_name", "status": "run_status"}
    chart = alt.Chart(source(data, name))
    if not every_checkpoint:
        chart = chart.transform_filter(shown(data))
    chart = (
        chart.transform_filter(CHOSEN)
        .transform_lookup(
            lookup="run",
            from_=alt.LookupData(data=source(data, "runs"), key="run", fields=fields),
            as_=[renamed.get(field, field) for field in fields],
        )
        .transform_calculate(name="datum.run_name")
        .transform_calculate(group="datum[colour]", swept_place="datum[swept + '_place'] + datum.offset")
        .transform_lookup(
            lookup="checkpoint",
            from_=alt.LookupData(data=source(data, "checkpoints"), key="checkpoint", fields=["name"]),
            as_=["checkpoint_name"],
        )
    )
    return chart.transform_filter({"param": "brush"}) if linked else chart


def with_layers(chart: alt.Chart, data: PageData) -> alt.Chart:
    """Add what is known about the layer of each row: `layer_text`, `position`, `depth`, `kind`, `shape`, `features`."""
    return chart.transform_lookup(
        lookup="layer",
        from_=alt.LookupData(data=source(data, "layers"), key="layer", fields=_LAYER),
        as_=["layer_text", *_LAYER[1:]],
    )


def with_texts(chart: alt.Chart, error: str, low: str, high: str) -> alt.Chart:
    """Add an error and its interval as texts, `error_text` and `interval`: a format makes "0.00%" of a missing number.

    Args:
        chart: A view of rows.
        error: Field of the error.
        low: Field of the lower end of its 95 % interval.
        high: Field of the upper end.

    Returns:
        The view; the texts are "–" where there is nothing to say.
    """

    def text(field: str) -> str:
        return f"format(datum.{field}, '.2%')"

    return chart.transform_calculate(
        error_text=f"isValid(datum.{error}) ? {text(error)} : '–'",
        interval=f"isValid(datum.{low}) && isValid(datum.{high}) ? {text(low)} + ' to ' + {text(high)} : '–'",
    )


def layers_x(data: PageData, width: int) -> alt.X:
    """Place the layers side by side, named where a position is the same layer in every run.

    Args:
        data: What the page draws.
        width: Pixels of the axis.

    Returns:
        The encoding.
    """
    layers = data.layers
    if data.same_layers and len(layers):
        names = layers.drop_duplicates("position").sort_values("position")["name"].tolist()
        return layer_x(short_names(names), max(1, int(width / len(names))), shared_folder(names))
    axis = alt.Axis(title="depth (place in the order of execution)", tickMinStep=1, grid=False)
    return alt.X("position:Q", axis=axis, scale=place_scale(int(layers["position"].max() + 1) if len(layers) else 1))
