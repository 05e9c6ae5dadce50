"""Analyses of one layer: fitted on train beside its linear head, and read on test once."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any, TypeAlias

import numpy as np
from jaxtyping import Shaped
from torch import Tensor

from layerprobe.probing.analyses.analysis import AbstractAnalysis, LayerData, LayerPositions, Metric, TestSet
from layerprobe.probing.analyses.reference_predictor import FittedReading
from layerprobe.probing.features.oom import with_room
from layerprobe.probing.features.position_reducer import standardiser_of
from layerprobe.probing.features.row_blocks import AbstractRows, Features
from layerprobe.probing.features.scaler import Standardiser
from layerprobe.probing.fitting import Fitted
from layerprobe.probing.protocol import ProbeProtocol
from layerprobe.probing.targets import Labels
from layerprobe.probing.tasks.task import Measured
from layerprobe.types import Split

Found: TypeAlias = Mapping[str, tuple[list[Metric], str]]
"""By the name of an analysis, its metrics and what went wrong; the latter is mostly empty."""

Predictors: TypeAlias = Mapping[str, Mapping[str, Tensor]]
"""By the name of an analysis that predicts, what it has fitted, and `mean`, `scale` and `constant` of its features."""


_FAULTS = RuntimeError, ArithmeticError, MemoryError, np.linalg.LinAlgError
"""What takes an analysis its figures, and nothing from the others."""


def analyse(
    fitted: Fitted,
    test: Mapping[str, tuple[Features, Shaped[Tensor, "n ..."], Measured]],
    positions: Mapping[int, Mapping[Split, Tensor | AbstractRows]],
    lost: str,
    labels: Labels,
    protocol: ProbeProtocol,
    what: str,
) -> tuple[Found, Predictors]:
    """Fit every analysis of the protocol to one layer, and read it on the test sets.

    One that fails takes nothing from the others: its metrics are left out.

    Args:
        fitted: The selected head, and what it was fitted and chosen on.
        test: By name, each test set's features as the reducer made them, which are not needed afterwards; its targets;
            and what the selected head comes to there.
        positions: By how many there are in a row, the positions of the layer's samples as `Positions` makes them, which
            are not needed afterwards; nothing where there are none, or no analysis asks for them.
        lost: Why there are none, of a layer that has some; empty otherwise.
        labels: The true labels.
        protocol: The sweep.
        what: Name of the layer, for the log.

    Returns:
        What each came to, with the seconds that it took as its last metric; and those that predict.
    """
    if not protocol.analyses:
        return {}, {}
    assert fitted.train is not None
    learnt = Labels(labels.outputs, {s: t for s, t in labels.splits.items() if s in ("train", "val")}, labels.extra)
    l2 = protocol.l2_values(len(labels.splits["train"]), protocol.task.n_classes(labels))
    standardiser = fitted.chosen.standardiser
    tests = [standardiser.to(rows.device).applied(rows) for rows, *_ in test.values()]
    n_positions, of_split = next(iter(positions.items()), (0, {}))
    of_positions, of_split, problem = _standardised(of_split, n_positions, what)

    def run(
        analysis: AbstractAnalysis, train: Any, val: Any, *each: Any
    ) -> tuple[list[Metric], Mapping[str, Tensor] | None]:
        sets = [TestSet(rows, of, read.correct) for (_, of, read), rows in zip(test.values(), each, strict=False)]
        # The same seed at every layer, whichever of the seeds the way was chosen with: draws can be compared.
        layer = LayerData(train, val, learnt, fitted.chosen, protocol.task, l2, protocol.seeds[0])
        if analysis.positions:
            train, val, *further = each[len(sets) :]
            layer = replace(layer, positions=LayerPositions(train, val, n_positions))
            sets = [replace(one, positions=rows) for one, rows in zip(sets, further, strict=True)]
        reading = analysis.fit(layer)
        metrics = list(reading(dict(zip(test, sets, strict=True))))
        parts = reading.parts if isinstance(reading, FittedReading) else None
        return [_exact(metric) if protocol.population else metric for metric in metrics], parts

    found: dict[str, tuple[list[Metric], str]] = {}
    predictors: dict[str, Mapping[str, Tensor]] = {}
    for analysis in protocol.analyses:
        start = time.perf_counter()
        more = [of_split.get(split) for split in ("train", "val", *test)] if analysis.positions else []
        if analysis.positions and not of_split:
            found[analysis.name] = [], f"{analysis.name}: {problem or lost}" if problem or lost else ""
            continue
        try:
            metrics, parts = with_room(
                partial(run, analysis), fitted.train, fitted.val, *tests, *more, what=f"{what}, {analysis.name}"
            )
        except _FAULTS as error:
            found[analysis.name] = [], f"{analysis.name}: {_said(error)}"
        else:
            found[analysis.name] = [*metrics, Metric("seconds", time.perf_counter() - start)], ""
            if parts is not None:
                by, n = (of_positions, n_positions) if analysis.positions else (standardiser, 1)
                assert by is not None
                scaled = {"mean": by.mean, "scale": by.scale, "constant": by.constant}  # of all positions alike
                predictors[analysis.name] = {
                    **parts, **{part: values[: len(values) // n] for part, values in scaled.items()}
                }  # fmt: skip
    return found, predictors


def _standardised(
    rows: Mapping[Split, Tensor | AbstractRows], n: int, what: str
) -> tuple[Standardiser | None, Mapping[Split, Tensor | AbstractRows], str]:
    """Standardise positions by channel over all those of train; say by what, or why there are none."""
    if not rows:
        return None, {}, ""
    try:
        found = with_room(partial(standardiser_of, positions=n), rows["train"], what=f"{what}, positions")
        found = found.to(rows["train"].device)
        return found, {split: found.applied(each) for split, each in rows.items()}, ""
    except _FAULTS as error:
        return None, {}, _said(error)


def _said(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"


def _exact(metric: Metric) -> Metric:
    """Drop the interval over test samples, which are a whole population; keep one over draws of train."""
    over_tests = metric.test_set and metric.n_train is None
    return replace(metric, low=math.nan, high=math.nan) if over_tests else metric
