"""What a chart draws."""

from __future__ import annotations

import altair as alt
import pandas as pd


def drawn(chart: alt.TopLevelMixin) -> pd.DataFrame:
    """The rows of all data sets of a chart."""
    return pd.concat([pd.DataFrame(rows) for rows in chart.to_dict()["datasets"].values()])
