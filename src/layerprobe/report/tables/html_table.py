"""A table of the terminal as HTML, for notebooks."""

from __future__ import annotations

from html import escape

from rich.table import Column, Table
from rich.text import Text

_STYLE = "text-align: {}; white-space: nowrap; padding: 0.1em 0.4em; font-variant-numeric: tabular-nums"


def html_table(table: Table) -> str:
    """Lay a table out as HTML in the page's colours: the same title, columns, cells and caption; bold stays bold."""
    head = "".join(f'<th style="{_style(column)}">{_cell(column.header)}</th>' for column in table.columns)
    rows = zip(*(column.cells for column in table.columns), strict=True)
    body = "".join(
        "<tr>"
        + "".join(
            f'<td style="{_style(column)}">{_cell(cell)}</td>' for column, cell in zip(table.columns, row, strict=True)
        )
        + "</tr>"
        for row in rows
    )
    title, caption = (f"<p><strong>{_cell(table.title)}</strong></p>", f"<p><small>{_cell(table.caption)}</small></p>")
    whole = f"{title}<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{caption}"
    return f'<div style="overflow-x: auto; font-size: 0.9em">{whole}</div>'


def _style(column: Column) -> str:
    return _STYLE.format("right" if column.justify == "right" else "left")


def _cell(content: object) -> str:
    text = content if isinstance(content, Text) else Text(str(content or ""))
    written = escape(text.plain)
    return f"<strong>{written}</strong>" if "bold" in str(text.style) else written
