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

from layerprobe.probing.analyses.analysis import AbstractAnalysis, LayerData, Metric, TestSet
from layerprobe.probing.features.oom import with_room
from layerprobe.probing.features.row_blocks import Features
from layerprobe.probing.fitting import Fitted
from layerprobe.probing.protocol import ProbeProtocol
from layerprobe.probing.targets import Labels
from layerprobe.probing.tasks.task import Measured

Found: TypeAlias = Mapping[str, tuple[list[Metric], str]]
"""By the name of an analysis, its metrics and what went wrong; the latter is mostly empty."""


def analyse(
    fitted: Fitted,
    test: Mapping[str, tuple[Features, Shaped[Tensor, "n ..."], Measured]],
    labels: Labels,
    protocol: ProbeProtocol,
    what: str,
) -> Found:
    """Fit every analysis of the protocol to one layer, and read it on the test sets.

    One that fails takes nothing from the others: its metrics are left out.

    Args:
        fitted: The selected head, and what it was fitted and chosen on.
        test: By name, each test set's features as the reducer made them, which are not needed afterwards; its targets;
            and what the selected head comes to there.
        labels: The true labels.
        protocol: The sweep.
        what: Name of the layer, for the log.

    Returns:
        What each came to, with the seconds that it took as its last metric.
    """
    if not protocol.analyses:
        return {}
    assert fitted.train is not None
    learnt = Labels(labels.outputs, {s: t for s, t in labels.splits.items() if s in ("train", "val")}, labels.extra)
    l2 = protocol.l2_values(len(labels.splits["train"]), protocol.task.n_classes(labels))
    standardiser = fitted.chosen.standardiser
    tests = {name: standardiser.to(rows.device).applied(rows) for name, (rows, *_) in test.items()}

    def run(analysis: AbstractAnalysis, train: Any, val: Any, *each: Any) -> list[Metric]:
        # The same seed at every layer, whichever of the seeds the way was chosen with: draws can be compared.
        reading = analysis.fit(LayerData(train, val, learnt, fitted.chosen, protocol.task, l2, protocol.seeds[0]))
        sets = {
            name: TestSet(rows, targets, measured.correct)
            for (name, (_, targets, measured)), rows in zip(test.items(), each, strict=True)
        }
        return [_exact(metric) if protocol.population else metric for metric in reading(sets)]

    found: dict[str, tuple[list[Metric], str]] = {}
    for analysis in protocol.analyses:
        start = time.perf_counter()
        try:
            metrics = with_room(
                partial(run, analysis), fitted.train, fitted.val, *tests.values(), what=f"{what}, {analysis.name}"
            )
        except (RuntimeError, ArithmeticError, MemoryError, np.linalg.LinAlgError) as error:
            found[analysis.name] = [], f"{analysis.name}: {type(error).__name__}: {error}"
        else:
            found[analysis.name] = [*metrics, Metric("seconds", time.perf_counter() - start)], ""
    return found


def _exact(metric: Metric) -> Metric:
    """A metric of a whole population: its interval over test samples is left out, one over draws of train stays."""
    over_tests = metric.test_set and metric.n_train is None
    return replace(metric, low=math.nan, high=math.nan) if over_tests else metric
