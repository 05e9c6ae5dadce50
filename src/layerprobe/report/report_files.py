"""The files of a report: page, tables, summary and figures, written side by side."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from layerprobe.files.atomic import write_bytes
from layerprobe.files.safe_names import safe_name
from layerprobe.formatting import nearest
from layerprobe.report.charts.depth_curve import depth_curve
from layerprobe.report.charts.difference import difference_plot
from layerprobe.report.charts.transfer_map import transfer_map
from layerprobe.report.config_differences import value_text
from layerprobe.report.dataset_transfer import test_set_lines, transfers
from layerprobe.report.difference import compare_runs, difference_sentence
from layerprobe.report.markdown import markdown_summary
from layerprobe.report.page.dark_theme import following_theme
from layerprobe.report.page.document import page
from layerprobe.report.page.page_data import page_data
from layerprobe.report.page.view_pictures import write_column_picture, write_views
from layerprobe.report.picture_files import AnyChart, save, specification
from layerprobe.report.run_comparison import Comparison, ReportError
from layerprobe.report.toy.animation import animation, write_gif

_MOST_ANIMATIONS = 4
_MOST_CURVES = 6


def write_report(
    comparison: Comparison,
    out: Path,
    *,
    figures: bool = True,
    pair: Sequence[str] = (),
    renew: int | None = None,
) -> Iterator[Path]:
    """Write the page, and beside it `.csv`, `.parquet` and `.md` of its name and a folder of its figures.

    Args:
        comparison: The runs.
        out: The page's file, such as `report.html`.
        figures: Whether to write the folder `<name>_figures` of PNG and SVG files.
        pair: Two runs, by name or directory, for the figure and the sentence on their difference; by default the
            only two.
        renew: Seconds after which a browser loads the page again.

    Yields:
        The path of each file that is written.

    Raises:
        ReportError: If a run of the pair is not among the runs.
        OSError: If a file cannot be written.
    """
    out = Path(out)
    sentences, plots = _difference(comparison, pair)
    animations: dict[str, dict[str, Any]] = {}
    for run, name in zip(comparison.runs, comparison.names, strict=True):
        if len(animations) < _MOST_ANIMATIONS and (spec := animation(run)) is not None:
            animations[name] = spec
    carried, on_page = _between_test_sets(comparison)
    drawn = page_data(comparison)
    write_bytes(out, page(comparison, list(animations.items()), renew, on_page, drawn).encode())
    yield out
    rows = comparison.joined()
    write_bytes(out.with_suffix(".csv"), rows.to_csv(index=False).encode())
    yield out.with_suffix(".csv")
    content = io.BytesIO()
    pq.write_table(pa.Table.from_pandas(_typed(rows, comparison.keys), preserve_index=False), content)
    write_bytes(out.with_suffix(".parquet"), content.getvalue())
    yield out.with_suffix(".parquet")
    write_bytes(out.with_suffix(".md"), markdown_summary(comparison, sentences).encode())
    yield out.with_suffix(".md")
    if figures:
        folder = out.with_name(f"{out.stem}_figures")
        yield from write_views(drawn, folder)
        for name, chart in carried.items():
            yield from save(chart, folder / name)
        for plot in plots:
            yield from write_column_picture(plot.to_dict(), folder / "difference")
        for run, name in zip(comparison.runs, comparison.names, strict=True):
            if name in animations:
                yield from write_gif(run, folder / f"animation_{safe_name(name)}.gif")


def _between_test_sets(comparison: Comparison) -> tuple[dict[str, AnyChart], list[tuple[str, dict[str, Any]]]]:
    """Map the transfer between data sets, or draw each run's test sets: files, and the page's charts."""
    charts: dict[str, AnyChart]
    if tables := transfers(comparison.runs):
        charts = {
            f"transfer_{safe_name(name)}" if name else "transfer": transfer_map(table) for name, table in tables.items()
        }
        return charts, [(n, following_theme(specification(c))) for n, c in zip(tables, charts.values(), strict=False)]
    lines = {name: test_set_lines(run) for run, name in zip(comparison.runs, comparison.names, strict=True)}
    several = [(name, rows) for name, rows in lines.items() if rows is not None][:_MOST_CURVES]
    charts = {f"test_sets_{safe_name(name)}": depth_curve(rows) for name, rows in several}
    return charts, [(n, specification(c)) for (n, _), c in zip(several, charts.values(), strict=False)]


def _difference(comparison: Comparison, pair: Sequence[str]) -> tuple[list[str], list[AnyChart]]:
    """Write the sentence and the figure on the difference of two runs, where there are two."""
    chosen = [_find(comparison, name) for name in pair]
    if not chosen and len(comparison.runs) == 2:
        chosen = [0, 1]
    if not chosen:
        return [], []
    if len(chosen) != 2:
        raise ReportError(f"compare={list(pair)} names {len(chosen)} runs; expected two.")
    first, second = (comparison.runs[i] for i in chosen)
    at = first.last_checkpoint, second.last_checkpoint
    table = compare_runs(first, second, *at)
    one, other = (f"{comparison.names[i]} at {checkpoint}" for i, checkpoint in zip(chosen, at, strict=True))
    return [difference_sentence(table, one, other)], [difference_plot(table, one, other)] if len(table) else []


def _find(comparison: Comparison, name: str) -> int:
    for i, (run, known) in enumerate(zip(comparison.runs, comparison.names, strict=True)):
        if name == known or Path(name).resolve() == run.directory.resolve():
            return i
    there = [str(run.directory) for run in comparison.runs] if "/" in name else comparison.names
    raise ReportError(f"compare: there is no run {name!r}. {nearest(name, there, most=5)}")


def _typed(rows: pd.DataFrame, keys: Sequence[str]) -> pd.DataFrame:
    """Give columns one type each: a key whose values are of several kinds becomes text."""
    kinds = {key: {type(value) for value in rows[key] if value is not None} for key in keys}
    mixed = [key for key, found in kinds.items() if len(found) > 1 and not found <= {int, float}]
    rows = rows.copy()
    for key in mixed:
        rows[key] = [None if value is None else value_text(value) for value in rows[key]]
    return rows
