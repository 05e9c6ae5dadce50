"""Charts and comparisons of results, one or several, from Python."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal, TypeAlias, TypeVar

import altair as alt
import numpy as np
import pandas as pd

from layerprobe.api.results import ProbeResults, load
from layerprobe.formatting import listed, nearest
from layerprobe.report import difference
from layerprobe.report.angles import HeadOf, Over, head_angles
from layerprobe.report.charts import angle_map as angle_map_chart
from layerprobe.report.charts import beyond_linear as beyond_linear_chart
from layerprobe.report.charts import depth_curve as depth_curve_chart
from layerprobe.report.charts import direction_curve as direction_curve_chart
from layerprobe.report.charts import erasure_curve as erasure_curve_chart
from layerprobe.report.charts import few_shot_map as few_shot_chart
from layerprobe.report.charts import heat_map as heat_map_chart
from layerprobe.report.charts import information_curve as information_chart
from layerprobe.report.charts import position_map as position_map_chart
from layerprobe.report.charts import site_map as site_map_chart
from layerprobe.report.charts import transfer_map as transfer_map_chart
from layerprobe.report.dataset_transfer import Trained, training_sets, transfer_table
from layerprobe.report.depth_curve_options import DepthView
from layerprobe.report.picture_files import with_all_rows
from layerprobe.results.arrow_tables import to_frame
from layerprobe.results.best import best_layer, last_checkpoint
from layerprobe.results.reader import Run
from layerprobe.results.test_sets import lines_of_test_sets, on_each_test_set
from layerprobe.types import MetricRecord

Results: TypeAlias = pd.DataFrame | str | Path
"""What `probe` or `load` returns, any frame in the columns of `ProbeRecord`, or the directory of a run."""

Read = TypeVar("Read")
Several: TypeAlias = Results | Sequence[Results] | Mapping[str, Results]


def depth_curve(
    results: Several, error: Literal["test", "train"] = "test", reference: str | Path | None = None
) -> alt.LayerChart:
    """Draw error over depth, a line for each network and checkpoint, with its 95 % interval as a band.

    What analyses such as `knn` read besides is drawn as thin lines, for one network. Of one `ProbeResults` that were
    read on several test sets, a line for each of these. The chart's `save("figure.png")` writes it.

    Args:
        results: Results; or several, in a mapping by their names, or in a list. One that is named `untrained` is drawn
            as the untrained network of a run is.
        error: `test`, or `train` for the samples that the heads were fitted to.
        reference: A JSON file of a published curve to draw over.

    Raises:
        ValueError: If no layer has an error, or the error is neither.
        ReferenceCurveError: If the reference cannot be read, or does not fit.
    """
    view, rows, metrics = DepthView(error, reference), _joined(results), _metrics(results)
    if error == "test" and isinstance(results, ProbeResults) and len(results.test_sets) > 1:
        rows, metrics = lines_of_test_sets(on_each_test_set(rows, metrics)), metrics.iloc[:0]
    return with_all_rows(depth_curve_chart.depth_curve(rows, view.error, view.reference, metrics))


def beyond_linear(results: Results) -> alt.LayerChart:
    """Draw what other readers of each layer find that a linear head does not: differences of errors over depth.

    Args:
        results: Results of `probe` or `load` with analyses such as `nearest_mean`, `knn` or `mlp`; or the directory of
            a run, of which the last checkpoint counts.

    Raises:
        ValueError: If there is no such analysis.
        TypeError: If there are results of several networks.
    """
    if isinstance(results, Mapping | list | tuple):
        raise TypeError(
            f"The references are drawn for one network at a time, found a {type(results).__name__} of {len(results)}. "
            "Give one of them."
        )
    return with_all_rows(beyond_linear_chart.beyond_linear(_joined(results), _metrics(results)))


def heat_map(results: Several) -> alt.LayerChart:
    """Draw the test error of layers by networks and checkpoints as colours.

    Args:
        results: As for `depth_curve`.

    Raises:
        ValueError: If no layer has a test error.
    """
    return with_all_rows(heat_map_chart.heat_map(_joined(results)))


def position_map(
    results: ProbeResults | str | Path, checkpoint: str | None = None, test_set: str | None = None
) -> alt.LayerChart:
    """Draw the test error of layers by token positions as colours.

    Args:
        results: What `probe` or `load` returns of a sweep with `each_reducer`, or the directory of a run.
        checkpoint: Name of the checkpoint; by default the last one.
        test_set: Name of the test set; by default the first.

    Raises:
        ValueError: If there are no errors by position.
    """
    return with_all_rows(position_map_chart.position_map(*_with_metrics(results), checkpoint, test_set))


def site_map(results: Results, checkpoint: str | None = None) -> alt.LayerChart:
    """Draw the test error at the sites of transformer blocks as colours: the residual stream, attention, heads, MLP.

    Args:
        results: What `probe` or `load` returns of a sweep with `granularity="sites"`, or the directory of a run.
        checkpoint: Name of the checkpoint; by default the last one.

    Raises:
        ValueError: If there are no sites.
    """
    return with_all_rows(site_map_chart.site_map(_joined(results), checkpoint))


def information_curve(
    results: Several, figure: Literal["v_information", "compression"] = "v_information"
) -> alt.LayerChart:
    """Draw over depth what the analyses `v_information` or `description_length` came to.

    Args:
        results: As for `depth_curve`, with their metrics: what `probe` or `load` returns, or the directory of a run.
        figure: The bits that heads read about the labels of test, or how much shorter those of train become.

    Raises:
        ValueError: If the analysis was not made, or the figure is neither.
        TypeError: If the results have no metrics.
    """
    figures = {each.metric: each for each in (information_chart.V_INFORMATION, information_chart.COMPRESSION)}
    if figure not in figures:
        raise ValueError(f"`figure` is {figure!r}. There is: {', '.join(figures)}.")
    return with_all_rows(information_chart.information_curve(_with_metrics(results)[1], figures[figure]))


def few_shot_map(results: Several) -> alt.HConcatChart:
    """Draw the test error of layers by the number of labelled samples of each class, from the analysis `few_shot`.

    Args:
        results: As for `information_curve`.

    Raises:
        ValueError: If the analysis was not made.
        TypeError: If the results have no metrics.
    """
    return with_all_rows(few_shot_chart.few_shot_map(*_with_metrics(results)))


def transfer(results: Sequence[Results] | Mapping[str, Results]) -> pd.DataFrame:
    """Lay out what heads fitted on each of several training sets come to on each test set, layer by layer.

    Args:
        results: Results that were read on common test sets: in a mapping by the names of their training sets, or in a
            list, where directories of runs go by what their data differ in. Of a run the last checkpoint counts.

    Returns:
        One row for each layer, training set and test set, as `layerprobe.report.dataset_transfer.transfer_table`.

    Raises:
        ValueError: If no two training sets have a test set in common.
    """
    if isinstance(results, Mapping):
        trained = [_trained(str(name), one) for name, one in results.items()]
    else:
        runs = [Run.read(Path(one).expanduser()) for one in results if isinstance(one, str | Path)]
        names = iter(training_sets(runs))
        trained = [
            _trained(next(names) if isinstance(one, str | Path) else str(i), one) for i, one in enumerate(results, 1)
        ]
    if len(trained) > 1 and len({one.train for one in trained}) == 1:
        raise ValueError(
            f"A transfer matrix is of several training sets, found {len(trained)} results whose configurations, where "
            "they have one, differ in no data. Name their training sets: transfer({'NAME': results, …})."
        )
    table = transfer_table(trained)
    if table.empty:
        raise ValueError(
            f"No two of {len({one.train for one in trained})} training sets were read on a common test set. Read each "
            'on the same ones: `"test": {NAME: …}`, or +data@data.tests.NAME=DATA.'
        )
    return table


def transfer_map(
    results: Sequence[Results] | Mapping[str, Results], layers: Sequence[str] | None = None
) -> alt.FacetChart:
    """Draw what heads fitted on each of several training sets come to on each test set, a map for each layer.

    Args:
        results: As for `transfer`.
        layers: The layers that are drawn; by default up to twelve, evenly over the depth.

    Raises:
        ValueError: As `transfer`; or there is no such layer.
    """
    return with_all_rows(transfer_map_chart.transfer_map(transfer(results), layers))


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
        first_layers, second_layers = (listed(list(one), 5) or "none" for one in tested)
        raise ValueError(
            f"There is nothing to compare: the layers of the first ({first_layers}) and those of the second "
            f"({second_layers}) have no name in common. A regression keeps no answers that are right or wrong."
        )
    return table


def angles(
    results: Several, over: Over = "layers", *, checkpoint: str | None = None, layer: str | None = None
) -> pd.DataFrame:
    """Measure the directions of heads against each other, in the units of their layers' features.

    Args:
        results: Results of `probe` or `load`, or the directory of a run with all its checkpoints; or several, in a
            mapping by their names, or in a list, which count as checkpoints of one network: the seeds of a sweep over
            one network, for example.
        over: `layers`: the layers of each checkpoint against each other; `checkpoints`: the checkpoints at each layer.
        checkpoint: Only the layers of this checkpoint.
        layer: Only the checkpoints at this layer.

    Returns:
        A row for each ordered pair of heads, as `layerprobe.report.angles.head_angles`: principal angles in degrees,
        the cosine of single directions with its sign, what random subspaces of these dimensions come to, and why two
        cannot be compared.

    Raises:
        ValueError: If there is no such checkpoint or layer, or `over` is neither.
        TypeError: If the results say nothing of their heads.
    """
    if over not in ("layers", "checkpoints"):
        raise ValueError(f"`over` is {over!r}. There is: layers, checkpoints.")
    rows, head = _with_heads(results)
    for column, name in (("checkpoint", checkpoint), ("layer", layer)):
        if name is not None and name not in set(rows[column]):
            raise ValueError(f"There is no {column} {name!r}. {nearest(name, rows[column].unique())}")
        rows = rows if name is None else rows[rows[column] == name]
    return head_angles(rows, head, over)


def angle_map(
    results: Several, over: Over = "layers", *, checkpoint: str | None = None, layer: str | None = None
) -> alt.LayerChart:
    """Draw the angles between heads, each against each.

    Args:
        results: As for `angles`.
        over: `layers`: those of one checkpoint; `checkpoints`: those at one layer.
        checkpoint: Whose layers; by default those of the last one.
        layer: Whose checkpoints; by default the layer that validation prefers at the last one.

    Raises:
        ValueError: As `angles`; or no two heads can be compared.
        TypeError: As `angles`.
    """
    rows, _ = _with_heads(results)
    if not rows["test_error"].notna().any():
        failed = next(iter(rows["message"]), "") or "no layer was probed"
        raise ValueError(f"There is nothing to draw: no layer has a head ({failed}).")
    if over == "layers":
        checkpoint = checkpoint or last_checkpoint(rows)
    else:
        layer = layer or best_layer(rows).layer
    pairs = angles(results, over, checkpoint=checkpoint, layer=layer)
    return with_all_rows(angle_map_chart.angle_map(pairs, angle_map_chart.heading(over, checkpoint or "", layer or "")))


def direction_curve(results: Results) -> alt.LayerChart:
    """Draw over depth the angles of heads to the difference of means, and between the heads of two halves of train.

    Args:
        results: Results with the analyses `mean_difference` and `stability`, or one of them; or the directory of a run.

    Returns:
        The chart: cosines, or with more than two classes angles.

    Raises:
        ValueError: If neither was asked for.
        TypeError: If the results have no metrics.
    """
    return with_all_rows(direction_curve_chart.direction_curve(*_with_metrics(results)))


def erasure_curve(results: Results, own: pd.DataFrame | None = None) -> alt.LayerChart:
    """Draw the test error of heads over depth before and after the property is erased.

    Args:
        results: Results with the analysis `erased`; or the directory of a run.
        own: What `layerprobe.erasure` says of the network's own output, which is drawn, too.

    Raises:
        ValueError: If nothing was erased.
        TypeError: If the results have no metrics.
    """
    return with_all_rows(erasure_curve_chart.erasure_curve(*_with_metrics(results), own))


def _joined(results: Several) -> pd.DataFrame:
    """Join all rows in one frame: several results as if they were checkpoints of one network, in their order."""
    if isinstance(results, Mapping | list | tuple):
        named = results.items() if isinstance(results, Mapping) else enumerate(results, 1)
        frames = [_named(str(name), _frame(one)) for name, one in named]
        joined = pd.concat(frames, ignore_index=True) if frames else pd.DataFrame({"test_error": []})
    else:
        joined = _frame(results)  # type: ignore[arg-type]
    if "test_error" not in joined or not joined["test_error"].notna().any():
        raise ValueError("There is nothing to draw: no layer has a test error. Give results of `layerprobe.probe`.")
    return joined


def _with_metrics(results: Several) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Join all rows in one frame as `_joined`, and their metrics likewise."""
    if isinstance(results, Mapping | list | tuple):
        parts = _several(results, _with_metrics)
        measured = [
            metrics.assign(
                checkpoint=metrics["checkpoint"].map(dict(zip(old["checkpoint"], new["checkpoint"], strict=True))),
                step=0,
            )
            for new, old, metrics in parts
        ]
        return pd.concat([new for new, _, _ in parts], ignore_index=True), pd.concat(measured, ignore_index=True)
    found = _read(results, "have the metrics of analyses")
    return (found.results, found.metrics()) if isinstance(found, Run) else (pd.DataFrame(found), found.metrics)


def _with_heads(results: Several) -> tuple[pd.DataFrame, HeadOf]:
    """Join all rows in one frame as `_joined`, and add what reads their heads."""
    if isinstance(results, Mapping | list | tuple):
        parts = _several(results, _with_heads)
        places = {
            (new, layer): (head, old)
            for renamed, rows, head in parts
            for new, old, layer in zip(renamed["checkpoint"], rows["checkpoint"], rows["layer"], strict=True)
        }

        def read(checkpoint: str, layer: str) -> Mapping[str, np.ndarray]:
            head, old = places[checkpoint, layer]
            return head(old, layer)

        return pd.concat([renamed for renamed, _, _ in parts], ignore_index=True), read
    found = _read(results, "have the heads")
    if isinstance(found, Run):
        return found.results, found.head
    heads = {(layer.record.checkpoint, layer.record.layer): layer.head for layer in found.layers if layer.head}
    return pd.DataFrame(found), lambda checkpoint, layer: heads[checkpoint, layer]


def _several(
    results: Sequence[Results] | Mapping[str, Results], read: Callable[[Results], tuple[pd.DataFrame, Read]]
) -> list[tuple[pd.DataFrame, pd.DataFrame, Read]]:
    """Return each of several results' rows as `_joined` names them, the rows as they are, and what is read besides."""
    named = results.items() if isinstance(results, Mapping) else enumerate(results, 1)
    parts = [(_named(str(name), rows), rows, more) for name, one in named for rows, more in [read(one)]]
    if not parts:
        raise ValueError("There are no results. Give at least one.")
    return parts


def _read(results: Several, needed: str) -> Run | ProbeResults:
    """Read a run at a path, or take results in memory; refuse a frame, which does not have or say what is needed."""
    if isinstance(results, str | Path):
        run = Run.read(Path(results).expanduser())
        if len(run.results):
            return run
        results = load(results)  # which says what is wrong
    if not isinstance(results, ProbeResults):
        raise TypeError(
            f"A {type(results).__name__} does not {needed}. Give what `layerprobe.probe` or `layerprobe.load` returns, "
            "or the directory of a run."
        )
    return results


def _trained(name: str, results: Results) -> Trained:
    found = _read(results, "say what it was tested on")
    if isinstance(found, Run):
        return Trained.of(found, name)
    samples = {test_set: answers.samples for layer in found.layers for test_set, answers in layer.answers.items()}
    return Trained(name, on_each_test_set(pd.DataFrame(found), found.metrics, next(iter(samples), "test")), samples)


def _named(name: str, frame: pd.DataFrame) -> pd.DataFrame:
    one = frame["checkpoint"].nunique() == 1
    return frame.assign(checkpoint=name if one else [f"{name} · {own}" for own in frame["checkpoint"]], step=0)


def _frame(results: Results) -> pd.DataFrame:
    if isinstance(results, str | Path):
        rows = Run.read(Path(results).expanduser()).results
        return rows if len(rows) else load(results)  # which says what is wrong
    if not isinstance(results, pd.DataFrame):
        raise TypeError(
            f"Results are of the type {type(results).__name__}. Give what `layerprobe.probe` or `layerprobe.load` "
            "returns, the directory of a run, or several of them by their names."
        )
    return pd.DataFrame(results)


def _metrics(results: Several) -> pd.DataFrame:
    """Return what was measured besides; no row for several networks, or where only a frame is left of the results."""
    if isinstance(results, str | Path):
        return Run.read(Path(results).expanduser()).metrics()
    return results.metrics if isinstance(results, ProbeResults) else to_frame([], MetricRecord)


def _tested(results: Results) -> dict[str, difference.Tested]:
    found = _read(load(results) if isinstance(results, str | Path) else results, "say which samples a head gets right")
    assert isinstance(found, ProbeResults)
    return {
        layer.record.layer: difference.Tested(layer.correct, layer.samples)
        for layer in found.layers
        if len(layer.correct)
    }
