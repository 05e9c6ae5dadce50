"""The HTML document of the page: views, table of runs, comparison sample by sample, and all that they need."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from functools import cache
from importlib.metadata import version
from importlib.resources import files
from typing import Any, NamedTuple

import vl_convert
from jinja2 import Environment
from markupsafe import Markup

from layerprobe.files.user_cache import cached_text
from layerprobe.formatting import count_text, interval_text, percent_text
from layerprobe.report.config_differences import short_keys, value_text
from layerprobe.report.monotonicity import depth_sentence
from layerprobe.report.page.correct_bits import correct_bits
from layerprobe.report.page.head_charts import head_charts
from layerprobe.report.page.page_data import PageData, page_data
from layerprobe.report.page.parameters import pickers
from layerprobe.report.page.views import linked_views
from layerprobe.report.run_comparison import Comparison
from layerprobe.results.baselines import without_baselines

_DRAWN_AS_SVG = 4000
"""Rows up to which the page draws SVG, which prints sharply; a canvas is faster beyond."""
_ENDED_BADLY = {"failed", "interrupted"}


class Cell(NamedTuple):
    """One cell of the table of runs.

    Attributes:
        text: What is shown.
        sort: What it is sorted by; None stands for the text.
        kind: Its class.
    """

    text: str
    sort: float | str | None = None
    kind: str = ""


def page(
    comparison: Comparison,
    animations: Sequence[tuple[str, dict[str, Any]]] = (),
    renew: int | None = None,
    transfers: Sequence[tuple[str, dict[str, Any]]] = (),
    drawn: PageData | None = None,
) -> str:
    """Write the page as HTML that asks no other file and no host.

    Args:
        comparison: The runs.
        animations: Names and specifications of pictures over training.
        renew: Seconds after which a browser loads the page again; None for a page that stays as it is.
        transfers: Names and specifications of what heads come to on several test sets.
        drawn: What the views draw, where it is made already.
    """
    drawn = drawn or page_data(comparison)
    packed, left_out = correct_bits(comparison, drawn)
    heads, heads_left_out = head_charts(comparison, drawn)
    specs, rows = linked_views(drawn), _rows(comparison)
    counts = {"run": len(comparison.runs), "checkpoint": len(drawn.checkpoints), "probe": len(drawn.rows)}
    title = f"layerprobe: {', '.join(count_text(n, noun) for noun, n in counts.items())}"
    states = comparison.table()["status"].value_counts()
    content = {
        "specs": specs,
        "datasets": drawn.texts,
        "renderer": "svg" if len(drawn.rows) <= _DRAWN_AS_SVG else "canvas",
        "names": list(comparison.names),
        "checkpoints": list(drawn.checkpoints),
        "layers": list(drawn.layer_names),
        "best": [None if math.isnan(v) else float(f"{v:.6g}") for v in drawn.runs["best_error"]],
        "places": {k.field: (drawn.runs[f"{k.field}_place"] + drawn.runs["offset"]).tolist() for k in drawn.keys},
        "samples": packed,
        "heads": heads,
        "animations": [animation for _, animation in animations],
        "transfers": [transfer for _, transfer in transfers],
    }
    folder = files("layerprobe.report.page")
    template = Environment(autoescape=True).from_string((folder / "page.html.jinja").read_text())
    return template.render(
        title=title,
        subtitle="; ".join(f"{count} {state}" for state, count in states.items()),
        views=[(name, spec["description"]) for name, spec in specs.items()],
        pickers=pickers(drawn),
        wholes=[run.status not in _ENDED_BADLY or set(states.index) <= _ENDED_BADLY for run in comparison.runs],
        notes=[*drawn.left_out, *left_out, *heads_left_out],
        of_heads=sorted({one["kind"] for one in heads["maps"]}, reverse=True),
        heads=[head for head, _ in rows[0]],
        rows=[[cell for _, cell in row] for row in rows],
        breakable=lambda name: Markup(".<wbr>").join(name.split(".")),  # a line may end behind a dot
        words=[(name, depth_sentence(run)) for run, name in zip(comparison.runs, comparison.names, strict=True)],
        animations=[(name, animation.get("description", name)) for name, animation in animations],
        transfers=[name for name, _ in transfers],
        renew=renew,
        css=Markup((folder / "page.css").read_text()),
        js=Markup((folder / "page.js").read_text()),
        bundle=_bundle(),
        # "<" in a text would end the script's element early.
        data=Markup(json.dumps(content, separators=(",", ":")).replace("<", "\\u003c")),
    )


@cache
def _bundle() -> Markup:
    """Bundle Vega, Vega-Lite and their embedding as one script, which takes more than a second."""
    code = "window.vegaEmbed = vegaEmbed;"
    name = f"vega-{version('vl-convert-python')}-{hashlib.sha256(code.encode()).hexdigest()[:8]}.js"
    script = cached_text(name, lambda: vl_convert.javascript_bundle(code))
    return Markup(script.replace("</script", "<\\/script"))


def _rows(comparison: Comparison) -> list[list[tuple[str, Cell]]]:
    """Return the rows of the table of runs: each cell with the head of its column."""
    table, keys, short = comparison.table(), comparison.keys, short_keys(comparison.keys)
    remarks = ["; ".join(filter(None, both)) for both in zip(table["error"], table["notes"], strict=True)]
    several, rows = _several_reducers(comparison), []
    for run, row, remark in zip(comparison.runs, table.to_dict("records"), remarks, strict=True):
        error, known = row["test_error"], not math.isnan(row["test_error"])
        low, high = row["test_error_low"], row["test_error_high"]
        bounded = not (math.isnan(low) or math.isnan(high))
        at = (run.results["checkpoint"] == row["checkpoint"]) & (run.results["layer"] == row["best_layer"])
        reducer, note = Cell(", ".join(run.results.loc[at, "reducer"])), Cell(remark, kind="wrap" if remark else "")
        rows.append(
            [
                ("run", Cell(row["run"], kind="named")),
                *((short[key], Cell(value_text(run.config.get(key)))) for key in keys),
                ("best layer", Cell(row["best_layer"], kind="named layer")),
                *([("reducer", reducer)] if several else []),
                ("test error", Cell(percent_text(error) if known else "", error if known else "")),
                ("95% interval", Cell(interval_text(low, high) if bounded else "", low if bounded else "")),
                ("checkpoint", Cell(row["checkpoint"])),
                ("checkpoints", Cell(str(row["n_checkpoints"]))),
                ("status", Cell(row["status"], kind=f"status-{row['status']}")),
                *([("notes", note)] if any(remarks) else []),
                ("directory", Cell(row["directory"], kind="path")),
            ]
        )
    return rows


def _several_reducers(comparison: Comparison) -> bool:
    names = (name for run in comparison.runs for name in without_baselines(run.results)["reducer"].unique())
    return len(set(names)) > 1
