"""Few-shot map: the test error of every layer by the number of labelled samples as a colour."""

from __future__ import annotations

import altair as alt
import pandas as pd

from layerprobe.formatting import interval_texts, percent_text
from layerprobe.report import style
from layerprobe.report.charts.heat_map import cells
from layerprobe.report.charts.information_curve import rows_of
from layerprobe.report.charts.layer_axis import columns_x, layer_names, layer_y, layers_of, row_height
from layerprobe.report.tidy import few_checkpoints, tidy_results
from layerprobe.results.baselines import without_baselines

_CELL, _MOST = 48, 3


def few_shot_map(results: pd.DataFrame, metrics: pd.DataFrame) -> alt.HConcatChart:
    """Draw layers by samples of each class, a panel for each checkpoint, dark for a high test error.

    Returns:
        The chart, of the first of several test sets: of more than three checkpoints, the first, the last and one
        between. Its last column is the error of the head of all training samples.

    Raises:
        ValueError: If the analysis was not made.
    """
    rows = without_baselines(rows_of(metrics, "few_shot", "error"))
    keys = ["checkpoint", "layer"]
    records = results[[*keys, "n_classes", "n_train", "test_error", "test_error_low", "test_error_high"]]
    rows = rows.rename(columns={"n_train": "n_drawn"}).merge(records, on=keys)
    rows["samples"] = (rows["n_drawn"] // rows["n_classes"]).map("{:,}".format)
    order = list(dict.fromkeys(rows.sort_values("n_drawn", kind="stable")["samples"]))
    whole = rows.drop_duplicates(keys).assign(samples="all")
    for name, column in {"value": "test_error", "low": "test_error_low", "high": "test_error_high"}.items():
        whole[name] = whole[column]
    frame = few_checkpoints(tidy_results(pd.concat([rows, whole], ignore_index=True)), _MOST)
    frame["text"] = [percent_text(error, 0) for error in frame["value"]]
    frame["interval"] = interval_texts(frame["low"], frame["high"])

    names, captions = layer_names(frame), frame.drop_duplicates("checkpoint")["caption"].tolist()
    height = row_height(len(names))
    top, panels = max(float(frame["value"].max()), 0.005), []
    tooltip = [
        alt.Tooltip("caption:N", title="checkpoint"),
        alt.Tooltip("layer:N"),
        alt.Tooltip("samples:N", title="samples of each class"),
        alt.Tooltip("text:N", title="test error"),
        alt.Tooltip("interval:N", title="95% interval"),
    ]
    for i, caption in enumerate(captions):
        part = frame.loc[
            frame["caption"] == caption, ["position", "samples", "layer", "caption", "value", "text", "interval"]
        ]
        samples = columns_x("samples", [*order, "all"], title="samples of each class", labelAngle=0)
        first = (names, height, layers_of(frame["layer"].unique())) if i == 0 else (None, height, None)
        panel_rows = alt.Chart(part).encode(x=samples, y=layer_y("position", *first), tooltip=tooltip)
        text = alt.Text("text:N") if height >= 14 else None
        drawn = cells(panel_rows, "value", top, height * len(names), text=text)
        size = {"width": _CELL * (len(order) + 1), "height": height * len(names)}
        panel = alt.layer(*drawn).properties(**size)
        panels.append(panel.properties(title=alt.TitleParams(caption, fontSize=12)) if len(captions) > 1 else panel)
    draws = "mean over draws of the training samples, L2 values chosen on all of validation"
    whole_title = alt.TitleParams("Test error by layer and labelled samples", subtitle=draws)
    return (
        alt.hconcat(*panels, spacing=14)
        .resolve_scale(color="shared")
        .properties(title=whole_title)
        .configure(**style.theme())
    )
