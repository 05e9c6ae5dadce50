"""Charts and comparisons of results, one or several, from Python."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, TypeAlias

import altair as alt
import pandas as pd

from layerprobe.api.results import ProbeResults, load
from layerprobe.report import difference
from layerprobe.report.charts import depth_curve as depth_curve_chart
from layerprobe.report.charts import heat_map as heat_map_chart
from layerprobe.report.depth_curve_options import DepthView
from layerprobe.results.reader import Run

Results: TypeAlias = pd.DataFrame | str | Path
"""What `probe` or `load` returns, any frame in the columns of `ProbeRecord`, or the directory of a run."""

Several: TypeAlias = Results | Sequence[Results] | Mapping[str, Results]


def depth_curve(
    results: Several, error: Literal["test", "train"] = "test", reference: str | Path | None = None
) -> alt.LayerChart:
    """Draw error over depth, a line for each network and checkpoint, with its 95 % interval as a band.

    Args:
        results: Results; or several, in a mapping by their names, or in a list. One that is named `untrained` is drawn
            as the untrained network of a run is.
        error: `test`, or `train` for the samples that the heads were fitted to.
        reference: A JSON file of a published curve to draw over.

    Returns:
        The chart; `.save("figure.png")` writes it.

    Raises:
        ValueError: If no layer has an error, or the error is neither.
        ReferenceCurveError: If the reference cannot be read, or does not fit.
    """
    view = DepthView(error, reference)
    return depth_curve_chart.depth_curve(_joined(results), view.error, view.reference)


def heat_map(results: Several) -> alt.LayerChart:
    """Draw the test error of layers by networks and checkpoints as colours.

    Args:
        results: As for `depth_curve`.

    Returns:
        The chart.

    Raises:
        ValueError: If no layer has a test error.
    """
    return heat_map_chart.heat_map(_joined(results))


def compare(first: Results, second: Results) -> pd.DataFrame:
    """Compare two networks, or two checkpoints of one, layer by layer: in pairs where their test samples are the same.

    Args:
        first: Results, or the directory of a run, of which the last checkpoint counts.
        second: Likewise.

    Returns:
        One row for each layer that both have, as `layerprobe.report.difference.compare_runs`: both errors, the 95 %
        interval of the second less the first, the samples that only one of them gets right, McNemar's p, corrected for
        the number of layers as `p_holm`, and whether they differ.

    Raises:
        ValueError: If they have no layer in common whose answers are kept.
    """
    tested = [_tested(one) for one in (first, second)]
    table = difference.compare_heads(*tested, one_pass=first is second)
    if table.empty:
        raise ValueError(
            f"There is nothing to compare: the layers of the first ({_some(tested[0])}) and those of the second "
            f"({_some(tested[1])}) have no name in common. A regression keeps no answers that are right or wrong."
        )
    return table


def _joined(results: Several) -> pd.DataFrame:
    """All rows in one frame: several results as if they were checkpoints of one network, in their order."""
    if isinstance(results, Mapping | list | tuple):
        named = results.items() if isinstance(results, Mapping) else enumerate(results, 1)
        frames = [_named(str(name), _frame(one)) for name, one in named]
        joined = pd.concat(frames, ignore_index=True) if frames else pd.DataFrame({"test_error": []})
    else:
        joined = _frame(results)  # type: ignore[arg-type]
    if "test_error" not in joined or not joined["test_error"].notna().any():
        raise ValueError("There is nothing to draw: no layer has a test error. Give results of `layerprobe.probe`.")
    return joined


def _named(name: str, frame: pd.DataFrame) -> pd.DataFrame:
    one = frame["checkpoint"].nunique() == 1
    return frame.assign(checkpoint=name if one else [f"{name} · {own}" for own in frame["checkpoint"]], step=0)


def _frame(results: Results) -> pd.DataFrame:
    if isinstance(results, str | Path):
        rows = Run.read(Path(results).expanduser()).results
        return rows if len(rows) else load(results)  # which says what is wrong
    return pd.DataFrame(results)


def _tested(results: Results) -> dict[str, difference.Tested]:
    if isinstance(results, str | Path):
        results = load(results)
    if not isinstance(results, ProbeResults):
        raise TypeError(
            f"A {type(results).__name__} does not say which samples a head gets right. Give what `layerprobe.probe` or "
            "`layerprobe.load` returns, or the directory of a run."
        )
    return {
        layer.record.layer: difference.Tested(layer.correct, layer.samples)
        for layer in results.layers
        if len(layer.correct)
    }


def _some(tested: Mapping[str, difference.Tested]) -> str:
    return ", ".join([*list(tested)[:5], *(["…"] if len(tested) > 5 else [])]) or "none"
