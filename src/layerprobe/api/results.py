"""Results of one network's probes: a DataFrame that also has the heads, every L2 value and a figure."""

from __future__ import annotations

import io
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import pandas as pd

from layerprobe.files.lazy_mapping import LazyMapping
from layerprobe.formatting import listed, nearest
from layerprobe.results.arrow_tables import to_frame
from layerprobe.results.heads import find_head, outputs_of, read_arrays, read_recipe
from layerprobe.results.reader import Run, find_runs
from layerprobe.results.reference_predictors import REFERENCES, read_references
from layerprobe.results.scores import SCORES, confusion, read_scores, score_frame
from layerprobe.results.store import ProbeStore
from layerprobe.types import Answers, LayerResult, MetricRecord, PathRecord, ProbeRecord

if TYPE_CHECKING:
    import altair as alt
    from rich.table import Table

    from layerprobe.api.head import ProbeHeads


class ProbeResults(pd.DataFrame):
    """One row for each layer in order of depth, in the columns of `ProbeRecord`.

    A DataFrame, so that whatever takes one takes it (`results["test_error"]`, `pd.concat`, plotting libraries); what
    is made of it is an ordinary DataFrame. It prints as the table that a run prints.

    Args:
        layers: What probing each layer has left behind, in order of depth.
    """

    _metadata: ClassVar[list[str]] = ["_layers"]

    def __init__(self, layers: Iterable[LayerResult] = ()) -> None:
        layers = tuple(layers)
        super().__init__(to_frame([layer.record for layer in layers]))  # type: ignore[call-arg]
        self._layers = layers

    @property
    def layers(self) -> tuple[LayerResult, ...]:
        """What probing each layer has left behind."""
        return self._layers

    @property
    def heads(self) -> ProbeHeads:
        """The selected head of each layer, by the layer's name; see `ProbeHead`. A failed layer has none."""
        from layerprobe.api.head import ProbeHeads

        return ProbeHeads(self._layers)

    @property
    def path(self) -> pd.DataFrame:
        """One row for each swept head, in the columns of `PathRecord`."""
        return to_frame([point for layer in self._layers for point in layer.path], PathRecord)

    @property
    def metrics(self) -> pd.DataFrame:
        """One row for each number that was measured besides, in the columns of `MetricRecord`."""
        return to_frame([metric for layer in self._layers for metric in layer.metrics], MetricRecord)

    @property
    def correct(self) -> pd.DataFrame:
        """Whether each selected head is right (on all labels), test samples by layers.

        The index is the samples' places in the test split; where data without splits were divided, those in the data. A
        layer without a head has no column, nor has any of a regression. Of several test sets it is the primary one.
        """
        known = [layer for layer in self._layers if len(layer.correct)]
        columns = {layer.record.layer: layer.correct for layer in known}
        return pd.DataFrame(columns, index=pd.Index(known[0].sample_ids if known else [], name="sample"))

    @property
    def test_sets(self) -> tuple[str, ...]:
        """Names of the test sets that the heads were read on, the primary one first."""
        probed = (layer for layer in self._layers if layer.record.status != "failed")
        return tuple(dict.fromkeys(name for layer in probed for name in layer.answers))

    def correct_on(self, test_set: str) -> pd.DataFrame:
        """Tell whether each selected head is right on one of several test sets; see `correct`.

        Raises:
            ValueError: If no head was read on it.
        """
        if test_set not in self.test_sets:
            raise ValueError(f"No head was read on a test set {test_set!r}. {nearest(test_set, self.test_sets)}")
        if test_set == self.test_sets[0]:
            return self.correct
        found = {layer.record.layer: layer.further[test_set] for layer in self._layers if test_set in layer.further}
        columns = {layer: answers.correct for layer, answers in found.items() if len(answers.correct)}
        return pd.DataFrame(columns).rename_axis(index="sample")

    def scores(self, layer: str) -> pd.DataFrame:
        """Return the selected head's score of every test sample; `probe(…, scores=True)` keeps them.

        Args:
            layer: Name of the layer, or an alias.

        Returns:
            One row for each sample, by test set and id, with what is true (`target`), what the head answers
            (`predicted`) and the score of each class (`score_<class>`); with several labels or values one of each,
            `target_0`, …. A label's score is that of having it less that of not having it, and what a regression
            predicts is in the targets' units.

        Raises:
            KeyError: If no such layer was probed, or it has no head.
            ValueError: If scores were not kept.
        """
        head = self.heads[layer]
        found = next(one for one in self._layers if one.record.layer == head.record.layer)
        if not found.scores:
            raise ValueError(f"No scores of {layer!r} are kept. Probe with scores=True (probe.scores=true in a run).")
        return score_frame(found.scores, outputs_of(found.head), () if found.recipe is None else found.recipe.words)

    def confusion(self, layer: str, test_set: str | None = None) -> pd.DataFrame:
        """Count the test samples of each class by what the selected head answers; needs `probe(…, scores=True)`.

        Args:
            layer: Name of the layer, or an alias.
            test_set: Name of the test set; by default the first.

        Returns:
            True classes by predicted ones, named as in the data.

        Raises:
            KeyError: If no such layer was probed, or it has no head, or there is no such test set.
            ValueError: If scores were not kept, or it is not classes that are predicted.
        """
        return confusion(self.scores(layer), test_set)

    def plot_confusion(self, layer: str, test_set: str | None = None) -> alt.LayerChart:
        """Draw the confusion matrix of a layer, each row in shares of its class; as `confusion`."""
        from layerprobe.report.charts.confusion import confusion_chart
        from layerprobe.report.picture_files import with_all_rows

        return with_all_rows(confusion_chart(self.confusion(layer, test_set), f"Answers at {layer}"))

    def plot(  # type: ignore[override]
        self, error: Literal["test", "train"] = "test", reference: str | Path | None = None
    ) -> alt.LayerChart:
        """Draw error over depth, as the figures of a run do, and what analyses such as `knn` read as thin lines.

        Args:
            error: `test`, or `train` for the samples that the heads were fitted to.
            reference: A JSON file of a published curve to draw over.

        Returns:
            The chart; `.save("figure.png")` writes it.

        Raises:
            ValueError: If the error is neither, or no layer has one.
            ReferenceCurveError: If the reference cannot be read, or does not fit.
        """
        from layerprobe.api.charts import depth_curve

        return depth_curve(self, error, reference)

    def save(self, directory: str | Path, *, overwrite: bool = False) -> None:
        """Write the same files as `probes/` of a run: the results, every L2 value, the heads and what they get right.

        Args:
            directory: The folder. For `scripts/report.py` name it `DIR/probes` and give it `runs=DIR`.
            overwrite: Whether results of the same checkpoint that are there already are replaced.

        Raises:
            FileExistsError: If there are such results, and they are not to be replaced.
            SchemaError: If the folder holds results of another version.
            StoreError: If it cannot be written.
        """
        store = ProbeStore(directory)
        for checkpoint in dict.fromkeys(layer.record.checkpoint for layer in self._layers):
            if store.done(checkpoint) and not overwrite:
                raise FileExistsError(
                    f"{directory} holds results of the checkpoint {checkpoint!r} already. Give another folder, or "
                    "overwrite=True."
                )
        held = [
            replace(one, head=dict(one.head), scores=dict(one.scores), references=dict(one.references))
            for one in self._layers
        ]  # their files may be about to go
        for checkpoint in dict.fromkeys(layer.record.checkpoint for layer in held):
            if store.done(checkpoint):
                store.forget(checkpoint)
        with store:
            for layer in held:
                store.add(layer)

    def __repr__(self) -> str:
        if not self._is_whole():
            return super().__repr__()
        from rich.console import Console

        from layerprobe.report.tables.table_width import available_width, needed_width

        table, file = self._table(), io.StringIO()
        width = max(available_width(), needed_width(table))
        Console(file=file, width=width, color_system=None, force_jupyter=False).print(table)
        return "\n".join(line.rstrip() for line in file.getvalue().splitlines())

    def _repr_html_(self) -> str | None:
        if not self._is_whole():
            return super()._repr_html_()  # type: ignore[misc]
        from layerprobe.report.tables.html_table import html_table

        return html_table(self._table(width=1000))  # a page has room for every column

    def _table(self, width: int | None = None) -> Table:
        from layerprobe.report.tables.results_table import results_table

        return results_table(pd.DataFrame(self), width=width)

    def _is_whole(self) -> bool:
        """Tell whether the rows and columns are still those that the results were made with."""
        names = [field.name for field in fields(ProbeRecord)]
        return 0 < len(self) == len(self._layers) and list(self.columns) == names


def load(path: str | Path, checkpoint: str | None = None) -> ProbeResults:
    """Read the results of one checkpoint of a run, or what `ProbeResults.save` wrote.

    Args:
        path: The directory of a run of `scripts/train.py` or `scripts/probe.py`, or one folder of results.
        checkpoint: Name of the checkpoint; by default the last one.

    Returns:
        The results; a head's weights are read when they are asked for.

    Raises:
        FileNotFoundError: If there are no results there.
        ValueError: If there is no such checkpoint.
        SchemaError: If the results cannot be read.
    """
    run = Run.read(Path(path).expanduser())
    if not len(run.results):
        raise FileNotFoundError(_nothing_at(run))
    known = run.results["checkpoint"].unique().tolist()
    name = checkpoint or run.last_checkpoint or known[-1]
    if name not in known:
        raise ValueError(f"{path} has no checkpoint {name!r}. {nearest(name, known)}")
    tables = (run.path(), run.metrics(), run.answers())
    swept, measured, right = (frame[frame["checkpoint"] == name] for frame in tables)
    points, metrics = _by_layer(swept, PathRecord), _by_layer(measured, MetricRecord)
    answers: dict[str, dict[str, Answers]] = {}
    for row in right.to_dict("records"):
        of_layer = answers.setdefault(row["layer"], {})
        of_layer[row["test_set"]] = Answers(np.asarray(row["correct"], dtype=bool), row["samples"] or "")
    rows = run.results[run.results["checkpoint"] == name].sort_values("depth", kind="stable")
    return ProbeResults(
        _layer(run, record, points[record.layer], metrics[record.layer], answers.get(record.layer))
        for record in _records(rows, ProbeRecord)
    )


def _records(frame: pd.DataFrame, kind: Any) -> list[Any]:
    names = [field.name for field in fields(kind)]
    return [kind(**dict(zip(names, row, strict=True))) for row in zip(*(frame[n].tolist() for n in names), strict=True)]


def _by_layer(frame: pd.DataFrame, kind: Any) -> defaultdict[str, list[Any]]:
    found: defaultdict[str, list[Any]] = defaultdict(list)
    for record in _records(frame, kind):
        found[record.layer].append(record)
    return found


def _layer(
    run: Run,
    record: ProbeRecord,
    path: list[PathRecord],
    metrics: list[MetricRecord],
    answers: dict[str, Answers] | None,
) -> LayerResult:
    at = (run.probes, record.checkpoint, record.layer)
    (name, first), *further = (answers or {"test": Answers(np.zeros(0, dtype=bool))}).items()
    try:
        head: Any = LazyMapping(partial(read_arrays, find_head(*at)), exists=True)
    except KeyError:
        head = {}
    recipe = read_recipe(*at)
    of_first = (first.correct, first.samples, recipe, tuple(metrics), name)
    scores = LazyMapping(partial(read_scores, *at), bool(SCORES.find(*at)))
    references = LazyMapping(partial(read_references, *at), bool(REFERENCES.find(*at)))
    return LayerResult(record, tuple(path), head, *of_first, dict(further), scores, references)


def _nothing_at(run: Run) -> str:
    if run.notes:
        return f"No results at {run.directory}: {'; '.join(run.notes)}"
    if not run.directory.exists():
        return f"{run.directory} does not exist. Give the directory of a run, or a folder that `save` wrote."
    below = [str(found) for found in find_runs([run.directory]) if found != run.directory]
    if below:
        return f"{run.directory} holds {len(below)} runs: {listed(below, 6)}. Give one of them."
    return f"{run.directory} holds no results (results.parquet, or probes/results.parquet). Give a run's directory."
