"""The map of sites: the test error at every site of every transformer block as a colour."""

from __future__ import annotations

import re

import altair as alt
import pandas as pd

from layerprobe.report.charts.error_map import error_map
from layerprobe.report.charts.layer_axis import layers_of
from layerprobe.report.layer_labels import short_names
from layerprobe.report.tidy import captions, tidy_results
from layerprobe.results.baselines import without_baselines

_SITE = re.compile(
    r"(?P<block>.+)\.(?P<site>resid_pre|attn_out|resid_mid|mlp_out|resid_post|head\.\d+)(?P<normalised>_normalised)?"
)
_ORDER = ("resid_pre", "attn_out", "resid_mid", "mlp_out", "resid_post")


def has_sites(results: pd.DataFrame) -> bool:
    """Tell whether several sites of several blocks were probed."""
    found = [match for name in results["layer"].unique() if (match := _SITE.fullmatch(name))]
    return all(len({match[part] for match in found}) > 1 for part in ("block", "site"))


def site_map(results: pd.DataFrame, checkpoint: str | None = None) -> alt.LayerChart:
    """Draw transformer blocks by their sites: the first block on top, dark for a high test error.

    A value that is a site of two blocks, the residual stream between them, has a cell in each. Of the last checkpoint,
    unless another is named. The sites are in the order in which a block computes them, the attention heads behind.

    Raises:
        ValueError: If there is nothing to draw.
    """
    frame = without_baselines(results)
    names = captions(frame) if len(frame) else {}
    if checkpoint is None and names:
        checkpoint = list(names)[-1]
    if checkpoint is not None and checkpoint not in names:
        raise ValueError(f"There is no checkpoint {checkpoint!r}. There is: {', '.join(map(str, names))}.")
    frame = tidy_results(frame[frame["checkpoint"] == checkpoint]) if names else frame
    rows = [
        {"block": site["block"], "column": f"{site['site']}{site['normalised'] or ''}".replace(".", " "), **row}
        for row in frame.to_dict("records")
        for name in (row["layer"], *filter(None, str(row["aliases"]).split(", ")))
        if (site := _SITE.fullmatch(str(name)))
    ]
    if not rows:
        raise ValueError(
            "There are no sites of blocks. Probe a transformer with granularity=sites: probe.granularity=sites, or "
            "probe(…, granularity='sites')."
        )
    cells = pd.DataFrame(rows).rename(
        columns={"test_error": "value", "test_error_low": "low", "test_error_high": "high"}
    )
    blocks = list(dict.fromkeys(cells.sort_values("depth", kind="stable")["block"]))
    cells["row"] = cells["block"].map(blocks.index)
    # Each block's sites are layers of it, so that what all share is found of the names of layers.
    inside = [f"{block}.site" for block in blocks]
    return error_map(
        cells,
        [name.removesuffix(".site") for name in short_names(inside)],
        sorted(set(cells["column"]), key=_place),
        f"Test error by block and site, {names[str(checkpoint)]}",
        [f"one linear head per site, {int(cells['n_test'].max()):,} test samples"],
        column="site",
        axis_title=layers_of(inside),
    )


def _place(column: str) -> tuple[int, int, bool]:
    """Say where a site stands: in the order in which a block computes them, the heads by their numbers."""
    name, _, number = column.partition(" ")
    site = name.removesuffix("_normalised")
    return (len(_ORDER), int(number), False) if number else (_ORDER.index(site), 0, site != name)
