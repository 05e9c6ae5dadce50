"""The comparison of runs as Markdown, to paste into an issue."""

from __future__ import annotations

import re
from collections.abc import Sequence

from layerprobe.formatting import count_text, interval_text, percent_text
from layerprobe.report.config_differences import short_keys, value_text
from layerprobe.report.group_mean import group_mean
from layerprobe.report.monotonicity import depth_sentence
from layerprobe.report.run_comparison import Comparison, error_bounds

_MOST_RUNS = 40
_MARKUP = re.compile(r"[\\`*\[\]|~$]|(?<![^\W_])_|_(?![^\W_])")
"""Signs that mean something in Markdown; an underscore between letters does not."""


def markdown_summary(comparison: Comparison, differences: Sequence[str] = ()) -> str:
    """Write the runs, the means of the settings, and where errors rise with depth."""
    table = comparison.table().assign(setting=comparison.settings)
    states = ", ".join(f"{count} {state}" for state, count in table["status"].value_counts().items())
    parts = [f"## {count_text(len(table), 'run')} ({states})"]
    short = short_keys(comparison.keys)
    heads = ["run", "status", *(short[key] for key in comparison.keys), "best layer", "test error", "95% interval"]
    rows = [
        [
            row["run"], row["status"], *(value_text(run.config.get(key)) for key in comparison.keys),
            f"{row['best_layer']} ({row['checkpoint']})" if row["best_layer"] else "–", percent_text(row["test_error"]),
            interval_text(row["test_error_low"], row["test_error_high"]),
        ]
        for run, row in zip(comparison.runs, table.to_dict("records"), strict=True)
    ]  # fmt: skip
    parts.append(_markdown(heads, rows[:_MOST_RUNS]))
    if len(rows) > _MOST_RUNS:
        parts.append(f"{len(rows) - _MOST_RUNS} more runs are in the table of results.")
    means = group_mean(table, "test_error", ["setting"], bounds=error_bounds(comparison.runs))
    if (means["n"] > 1).any():
        parts.append("### Mean over seeds, best layer")
        lines = [
            [r["setting"], str(r["n"]), percent_text(r["mean"]), interval_text(r["low"], r["high"])]
            for r in means.to_dict("records")
        ]
        parts.append(_markdown(["setting", "runs", "mean test error", "95% interval"], lines))
    if differences:
        parts += ["### Differences", *map(_escaped, differences)]
    parts.append("### Does the error fall with depth?")
    pairs = list(zip(comparison.names, comparison.runs, strict=True))[:_MOST_RUNS]
    parts.append("\n".join(f"- **{_escaped(name)}**: {_escaped(depth_sentence(run))}" for name, run in pairs))
    remarks = [f"- **{_escaped(r['run'])}**: {_escaped('; '.join(filter(None, (r['error'], r['notes']))))}"
               for r in table.to_dict("records") if r["error"] or r["notes"]]  # fmt: skip
    if remarks:
        parts += ["### Remarks", "\n".join(remarks[:_MOST_RUNS])]
    return "\n\n".join(parts) + "\n"


def _markdown(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(_escaped(str(cell)) for cell in line)} |" for line in lines)


def _escaped(content: str) -> str:
    """Write a text so that Markdown shows it as it is: no markup, no HTML, no cell or line of its own."""
    one_line = " ".join(content.split())
    as_html = one_line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace("@", "&#64;")
    return _MARKUP.sub(r"\\\g<0>", as_html)
