"""Scores of the selected head of a layer on its test sets: the metrics that are made of them, and what is kept."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Shaped
from torch import Tensor

from layerprobe.probing.analyses.analysis import Metric
from layerprobe.probing.features.oom import with_room
from layerprobe.probing.features.row_blocks import Features
from layerprobe.probing.features.scaler import StandardisedRows
from layerprobe.probing.head_path import HeadPath
from layerprobe.probing.metrics.score_metrics import score_metrics
from layerprobe.probing.protocol import ProbeProtocol
from layerprobe.probing.split_reader import Recording
from layerprobe.probing.targets import Labels
from layerprobe.probing.tasks.task import AbstractScoredTask
from layerprobe.types import SampleScores


def score_test_sets(
    head: HeadPath,
    test: Mapping[str, tuple[Features, Shaped[Tensor, "n ..."], Any]],
    recordings: Mapping[Any, Recording],
    labels: Labels,
    protocol: ProbeProtocol,
    what: str,
) -> tuple[list[Metric], dict[str, SampleScores]]:
    """Score the samples of every test set with the selected head, where the protocol asks for it.

    Returns:
        The metrics of the protocol, and by test set what is kept.
    """
    task, metrics, kept = protocol.task, [], {}
    if not (protocol.metric_names or protocol.scores):
        return [], {}

    def scored(features: Features) -> Tensor:
        standardised = StandardisedRows(features, head.standardiser.to(features.device))
        return head.heads.to(features.device).scores(standardised)

    for name, (features, targets, *_) in test.items():
        scores = with_room(scored, features, what=f"{what}, {name}")
        if protocol.metric_names and isinstance(task, AbstractScoredTask):
            found = score_metrics(protocol.metric_names, task.scored(head.solver, scores, targets))
            for metric, (value, *ends) in found.items():
                low, high = (math.nan, math.nan) if protocol.population else ends
                metrics.append(Metric(metric, value, low, high, test_set=name))
        if protocol.scores:
            recording = recordings[name]
            if not isinstance(task, AbstractScoredTask):
                scores = task.predict(scores, {part: tensor.to(scores.device) for part, tensor in labels.extra.items()})
            ids = np.arange(len(targets)) if recording.ids is None else recording.ids
            kept[name] = SampleScores(ids, recording.targets.numpy(), scores.float().cpu().numpy())
    return metrics, kept
