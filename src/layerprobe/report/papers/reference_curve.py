"""A reference curve: published errors over depth, and the distance of a run from them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from rich import box
from rich.table import Table
from rich.text import Text

from layerprobe.report.error_column import ErrorColumn
from layerprobe.report.tidy import tidy_results
from layerprobe.results.best import last_checkpoint


class ReferenceCurveError(ValueError):
    """A reference that cannot be read, or does not fit the run; the message ends with the next step."""


@dataclass(frozen=True)
class Reference:
    """Errors over depth that someone else published.

    Attributes:
        name: What it is called in the figure.
        curves: The errors of all layers in the order of depth, by training step; the step is None where the curve
            belongs to a network trained to the end.
    """

    name: str
    curves: Mapping[int | None, tuple[float, ...]]

    @classmethod
    def read(cls, path: str | Path) -> Reference:
        """Read a JSON file in one of two layouts.

        `{"0": [0.107, …], "500": [0.102, …]}` has a curve for each training step; `{"layers": ["input", …], "error":
        [0.99, …]}` has one, of a trained network, and perhaps its "source".

        Raises:
            ReferenceCurveError: If there is no such file, or it has neither layout.
        """
        path = Path(path)
        try:
            content = json.loads(path.read_text())
            if "error" in content:
                return cls(content.get("source", path.stem), {None: tuple(map(float, content["error"]))})
            return cls(path.stem, {int(step): tuple(map(float, errors)) for step, errors in content.items()})
        except OSError as error:
            raise ReferenceCurveError(
                f"report.reference={path} cannot be read: {error.strerror}. Give the path of a JSON file, or "
                "report.reference=null."
            ) from error
        except (ValueError, TypeError, AttributeError) as error:
            raise ReferenceCurveError(
                f'report.reference={path} is not a reference curve ({error}). Expected {{"0": [errors by layer], '
                '"500": …}, a list for each training step, or {"layers": […], "error": […]}.'
            ) from error

    def compared(self, results: pd.DataFrame, error: ErrorColumn) -> pd.DataFrame:
        """Set a run beside the reference, layer by layer in the order of depth.

        Returns:
            One row for each checkpoint of the reference that the run has, and layer: `checkpoint`, `step`, `depth`,
            `layer`, `position`, `error`, `reference`, `difference` (error - reference).

        Raises:
            ReferenceCurveError: If the run probed another number of layers, or has none of the checkpoints.
        """
        frame = tidy_results(results)
        parts = []
        for step, errors in self.curves.items():
            name = last_checkpoint(frame if step is None else frame[frame["step"] == step])
            rows = frame[frame["checkpoint"] == name]
            if rows.empty:
                continue
            if len(rows) != len(errors):
                raise ReferenceCurveError(
                    f"The reference {self.name!r} has {len(errors)} layers, and {len(rows)} were probed. Choose the "
                    "same ones with probe.layers, probe.exclude and probe.granularity, or report.reference=null."
                )
            parts.append(rows.assign(error=rows[error.column], reference=errors))
        if not parts:
            raise ReferenceCurveError(
                f"The reference {self.name!r} has the steps {', '.join(map(str, self.curves))}, and the run "
                f"{', '.join(map(str, sorted(set(frame['step']))))}. Freeze the same ones with callbacks.probe.steps."
            )
        whole = pd.concat(parts, ignore_index=True)
        whole["difference"] = whole["error"] - whole["reference"]
        columns = ["checkpoint", "step", "depth", "layer", "position", "error", "reference", "difference"]
        return whole[[*columns, "caption"]]


def reference_table(compared: pd.DataFrame, name: str) -> Table:
    """Lay out how far a run is from a reference: a line for each checkpoint."""
    title = Text(f"Distance from {name}, percentage points", style="table.title")
    table = Table(box=box.SIMPLE_HEAD, title=title, title_justify="left")
    table.add_column("checkpoint")
    for column in ("layers", "mean", "mean of signed", "largest"):
        table.add_column(column, justify="right")
    table.add_column("at")
    for caption, rows in compared.groupby("caption", sort=False):
        distance = rows["difference"].abs()
        figures = [100 * distance.mean(), 100 * rows["difference"].mean(), 100 * distance.max()]
        where = "" if distance.isna().all() else rows["layer"].tolist()[int(distance.fillna(-1).argmax())]
        texts = [str(caption), str(len(rows)), *(f"{value:.1f}" for value in figures), where]
        table.add_row(*map(Text, texts))
    return table
