"""Tooltips of results, the same in all charts."""

from __future__ import annotations

import altair as alt

ERROR = (alt.Tooltip("error_text:N", title="test error"), alt.Tooltip("interval:N", title="95% interval"))
"""The fields that `with_texts` makes: a format of Vega would make "0.00%" of a missing number."""


def result_tooltip(layer: str, checkpoint: str) -> list[alt.Tooltip]:
    """Say all of a result."""
    return [
        alt.Tooltip(f"{checkpoint}:N", title="checkpoint"),
        alt.Tooltip("step:Q", format=",d"),
        alt.Tooltip(f"{layer}:N", title="layer"),
        alt.Tooltip("depth:Q"),
        alt.Tooltip("kind:N"),
        alt.Tooltip("shape:N"),
        alt.Tooltip("features:N"),
        alt.Tooltip("l2_text:N", title="l2"),
        *ERROR,
        alt.Tooltip("status:N"),
    ]
