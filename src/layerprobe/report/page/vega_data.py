"""The datasets of the page, and how a view joins them."""

from __future__ import annotations

import json
from itertools import takewhile
from typing import Any

import altair as alt

from layerprobe.report.charts.layer_axis import LETTER, LINE, place_scale
from layerprobe.report.layer_labels import shared_folder, short_names
from layerprobe.report.page.page_data import PageData
from layerprobe.report.page.parameters import CHOSEN, OF_PROBLEM, shown

_MOST_LETTERS = 24
"""Of a layer's name on an axis of the page."""
_RUN = ["name", "status", "setting", "problem", "network", "best_layer", "best_error"]
_TEXTS = {
    "name", "status", "setting", "problem", "last", "best_layer", "kind", "shape", "features", "reducer", "reader",
    "way",
}  # fmt: skip
_LAYER = ["name", "position", "depth", "kind", "shape", "features"]


def source(data: PageData, name: str) -> alt.NamedData:
    """Refer to a data source."""
    columns = ["checkpoint", "name"] if name == "checkpoints" else list(getattr(data, name))
    texts = _TEXTS | {key.field for key in data.keys} | ({"l2", "val_error"} if name == "paths" else set())
    parse = {column: "string" if column in texts else "number" for column in columns}
    return alt.NamedData(name=name, format=alt.CsvDataFormat(type="csv", parse=parse))


def chosen_rows(data: PageData, name: str, where: str = "true", *, every_checkpoint: bool = False) -> alt.Chart:
    """Begin a view of the rows that the reader has chosen, with what is known about their runs.

    `where` is an expression of Vega for those that are needed. Those of checkpoints that are not shown stay only with
    `every_checkpoint`.

    Returns:
        A chart with the columns of the source, and `run_name`, `setting`, `problem`, `network`, `run_status`,
        `best_error`, `checkpoint_name` and `group` (text of the key that colours).
    """
    fields = list(dict.fromkeys([*_RUN, *(key.field for key in data.keys)]))
    renamed = {"name": "run_name", "status": "run_status"}
    chart = alt.Chart(source(data, name)).transform_filter(where)
    if not every_checkpoint:
        chart = chart.transform_filter(shown(data))
    return (
        chart.transform_filter(CHOSEN)
        .transform_lookup(
            lookup="run",
            from_=alt.LookupData(data=source(data, "runs"), key="run", fields=fields),
            as_=[renamed.get(field, field) for field in fields],
        )
        .transform_filter(OF_PROBLEM)
        .transform_calculate(name="datum.run_name")
        .transform_calculate(group="datum[colour]")
        .transform_lookup(
            lookup="checkpoint",
            from_=alt.LookupData(data=source(data, "checkpoints"), key="checkpoint", fields=["name"]),
            as_=["checkpoint_name"],
        )
    )


def with_layers(chart: alt.Chart, data: PageData) -> alt.Chart:
    """Add what is known about the layer of each row: `layer_text`, `position`, `depth`, `kind`, `shape`, `features`."""
    return chart.transform_lookup(
        lookup="layer",
        from_=alt.LookupData(data=source(data, "layers"), key="layer", fields=_LAYER),
        as_=["layer_text", *_LAYER[1:]],
        # Vega-Lite does not parse what is looked up, and of texts "9" is the last place of a dozen.
    ).transform_calculate(position="toNumber(datum.position)", depth="toNumber(datum.depth)")


def with_text_fields(chart: alt.Chart, error: str, low: str, high: str, share: str = "true") -> alt.Chart:
    """Add an error and its interval as texts, `error_text` and `interval`: a format makes "0.00%" of a missing number.

    `error`, `low` and `high` are fields; `share` says, as an expression of Vega, whether they are written in percent.

    Returns:
        The view; the texts are "–" where there is nothing to say.
    """

    def text(field: str) -> str:
        return f"format(datum.{field}, {share} ? '.2%' : '.3f')"

    return chart.transform_calculate(
        error_text=f"isValid(datum.{error}) ? {text(error)} : '–'",
        interval=f"isValid(datum.{low}) && isValid(datum.{high}) ? {text(low)} + ' to ' + {text(high)} : '–'",
    )


def layers_x(data: PageData) -> alt.X:
    """Place the layers side by side; name as many as there is room for, where a position is one layer in every run.

    The first and the last layer are among them.
    """
    layers = data.layers
    if not data.same_layers or layers.empty:
        axis = alt.Axis(title="depth (place in the order of execution)", tickMinStep=1, grid=False)
        n = int(layers["position"].max() + 1) if len(layers) else 1
        return alt.X("position:Q", axis=axis, scale=place_scale(n))
    names = layers.drop_duplicates("position").sort_values("position")["name"].tolist()
    labels, n, shared = short_names(names, _MOST_LETTERS), len(names), shared_folder(names)
    level = f"{LETTER * max(map(len, labels)) + 8} <= width / {n}"
    every, left = f"ceil({n} * {2 * LINE} / width)", f"({n - 1} - datum.value)"
    named = f"({left} == 0 || datum.value % {every} == 0 && {left} >= {every})"
    axis = alt.Axis(
        title=f"layers of {shared}" if shared else None, grid=False, labelLimit=0, labelOverlap=False, tickCount=n,
        values=list(range(n)),
        labelExpr=f"{named} ? {json.dumps(labels)}[datum.value] : ''",
        tickOpacity={"condition": {"test": named, "value": 1}, "value": 0},
        labelAngle=alt.ExprRef(f"{level} ? 0 : width / {n} >= {2 * LINE} ? -40 : -90"),
        labelAlign=alt.ExprRef(f"{level} ? 'center' : 'right'"),
        labelBaseline=alt.ExprRef(f"{level} ? 'top' : 'middle'"),
    )  # fmt: skip
    return alt.X("position:Q", axis=axis, scale=place_scale(n))


def share_transforms(spec: dict[str, Any]) -> dict[str, Any]:
    """Look rows up once for the layers of a chart that begin with the same transforms.

    Vega-Lite merges equal filters and formulas of layers, but no lookup and nothing behind one: each layer would look
    up, filter and aggregate all rows by itself. Transforms of a group of layers are computed once.

    Returns:
        The same picture: neighbours in the order of drawing that share a lookup are layers of one group, which has the
        transforms that they begin with.
    """
    if "layer" not in spec:
        return spec
    groups: list[tuple[list[dict[str, Any]], list[Any]]] = []
    for layer in map(share_transforms, spec["layer"]):
        own = layer.get("transform", [])
        if groups:
            members, shared = groups[-1]
            both = [a for a, _ in takewhile(lambda pair: pair[0] == pair[1], zip(shared, own, strict=False))]
            if layer.get("data") == members[0].get("data") and any("lookup" in transform for transform in both):
                groups[-1] = ([*members, layer], both)
                continue
        groups.append(([layer], own))
    return spec | {"layer": [_group(members, shared) for members, shared in groups]}


def _group(layers: list[dict[str, Any]], shared: list[Any]) -> dict[str, Any]:
    if len(layers) == 1:
        return layers[0]
    apart = [layer | {"transform": layer["transform"][len(shared) :]} for layer in layers]
    source = {"data": layers[0]["data"]} if "data" in layers[0] else {}
    return {**source, "transform": shared, "layer": [{k: v for k, v in one.items() if k != "data"} for one in apart]}
