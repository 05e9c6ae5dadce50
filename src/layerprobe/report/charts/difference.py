"""The difference of two runs: layer by layer, with its interval, and where it is significant."""

from __future__ import annotations

import altair as alt
import pandas as pd

from layerprobe.formatting import interval_texts, number_text
from layerprobe.report import style
from layerprobe.report.charts.curves import error_y
from layerprobe.report.charts.layer_axis import layer_x
from layerprobe.report.layer_labels import short_names
from layerprobe.report.picture_files import AnyChart

_WIDTH = 265


def difference_plot(table: pd.DataFrame, first: str, second: str) -> AnyChart:
    """Draw the difference of two test errors over depth, with its 95% interval; filled after Holm's correction."""
    difference = table["second_error"] - table["first_error"]
    frame = table[["layer", "low", "high", "p_holm", "differs"]].assign(
        difference=difference,
        points=[number_text(100 * value, "+.2f") for value in difference],
        interval=interval_texts(100 * table["low"], 100 * table["high"], "+.2f"),
        position=range(len(table)),
    )
    labels = short_names(table["layer"].tolist())
    x = layer_x(labels, max(1, _WIDTH // max(1, len(labels))))
    y = error_y("second - first", alt.Scale(), format="+.1%")
    base = alt.Chart(frame)
    zero = alt.Chart(pd.DataFrame({"zero": [0.0]})).mark_rule(color=style.QUIET).encode(y=y("zero"))
    interval = base.mark_rule(color=style.TRAINED[0]).encode(x=x, y=y("low"), y2="high:Q")
    points = base.mark_point(size=40, opacity=1, stroke=style.TRAINED[0], strokeWidth=1.4).encode(
        x=x,
        y=y("difference"),
        fill=alt.when(alt.datum.differs).then(alt.value(style.TRAINED[0])).otherwise(alt.value("white")),
        tooltip=[
            "layer:N",
            alt.Tooltip("points:N", title="points"),
            alt.Tooltip("interval:N", title="95% interval"),
            alt.Tooltip("p_holm:Q", format=".2g"),
        ],
    )
    paired = bool((table["samples"] == "same").all())
    test = "McNemar, Holm" if paired else "independent samples, Pearson, Holm"
    notes = [f"first: {first}", f"second: {second}", f"filled: they differ ({test})", "95% intervals"]
    return (
        alt.layer(zero, interval, points)
        .properties(width=_WIDTH, height=170, title=alt.TitleParams("Difference by layer", subtitle=notes))
        .configure(**style.theme())
    )
