"""Comparison of a reference with the linear head on the same test samples."""

from __future__ import annotations

from collections.abc import Iterator

from jaxtyping import Float
from torch import Tensor

from layerprobe.probing.analyses.analysis import LayerData, Metric, TestSet


def compared(scores: Float[Tensor, "n c"], layer: LayerData, name: str, test: TestSet) -> Iterator[Metric]:
    """Measure a reference on a test set, and the linear head against it.

    Yields:
        `error`, and `error_difference`: the linear head's error less the reference's, what the reference reads of the
        layer and a linear head does not; both with their 95 % interval. The head is the one fitted to train alone, as
        the reference is. References weigh every sample alike and are chosen by error: where the head is fitted with
        class weights, or chosen by another figure than error or loss, the difference would be that of the aims, and
        there is none.
    """
    task, targets = layer.task, test.targets.to(scores.device)
    low, high = task.interval(scores, targets)
    yield Metric("error", task.error(scores, targets), low, high, test_set=name)
    if task.class_weight is not None or layer.head.selection not in ("error", "loss"):
        return
    linear = layer.head.heads.to(test.features.device).scores(test.features).to(scores.device)
    value, low, high = task.difference(linear, scores, targets)
    yield Metric("error_difference", value, low, high, test_set=name)
