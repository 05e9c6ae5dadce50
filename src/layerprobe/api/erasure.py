"""Erasure in the forward pass: whether a network's own output uses what a head finds in a layer."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from typing import Any

import pandas as pd
import torch
from jaxtyping import Int
from torch import Tensor, nn

from layerprobe.api.results import ProbeResults
from layerprobe.probing.analyses.erasers import check_installed
from layerprobe.probing.batches import in_order, inputs_of, targets_of, test_sets
from layerprobe.probing.capture.call_arguments import Arguments
from layerprobe.probing.capture.default_device import own_device, programs_device
from layerprobe.probing.capture.freeze import freeze
from layerprobe.probing.capture.name_patterns import matches
from layerprobe.probing.capture.pytree import tensors
from layerprobe.probing.tasks.classification import Classification
from layerprobe.statistics.intervals import wilson_interval
from layerprobe.training.lightning_splits import splits_of


@own_device()
def erasure(
    network: nn.Module,
    data: Any,
    results: ProbeResults,
    layers: str | Sequence[str] = "*",
    *,
    batch_size: int | None = None,
) -> pd.DataFrame:
    """Erase the probed classes from one layer after another, and count what the network itself gets wrong then.

    For classifiers whose output is a score for each class that was probed. The eraser of each layer is fitted to train
    (see `ProbeHead.erased`), and the errors are those of the network's highest score on test, of several test sets on
    the primary one. An error that stays says that the output does not go by the linear trace that was erased, though a
    head can read it; one that rises to that of the majority class, that it needs it.

    Args:
        network: The network that was probed; it is left exactly as it was.
        data: As for `probe`; what it divided is divided in the same way.
        results: What `probe` said of it.
        layers: Glob pattern(s) of the layers.
        batch_size: Samples in one forward pass; by default what a loader has, or 256.

    Returns:
        A row for each layer in order of depth: `layer`, `depth`, `error` of the network as it is and `erased_error`
        without the layer's trace, each with the ends of its 95 % interval (`_low`, `_high`); the head's `test_error`
        and the `majority_error`; and `reason`, why a layer could not be changed.

    Raises:
        TypeError: The network's output is no score for each sample and class.
        ValueError: The package is not installed; no layer matches; the property is no class; or the data lack the test
            set of the results.
    """
    check_installed("`erasure`")
    patterns = [layers] if isinstance(layers, str) else list(layers)
    chosen = [name for name in results.heads if any(matches(name, pattern) for pattern in patterns)]
    if not chosen:
        raise ValueError(f"No layer with a head matches {layers!r}. There are: {', '.join(results.heads)}.")
    if (task := results.heads[chosen[0]].record.task) != Classification.name:
        raise ValueError(f"`erasure` needs classes, found the task {task}.")
    sources = splits_of(data, network, seed=int(results["seed"].iloc[0]))
    train, primary = sources["train"], results.test_sets[0]
    if primary not in sources:
        there = ", ".join(test_sets(sources)) or "none"
        raise ValueError(f"The results are of the test set {primary!r}; the data have {there}. Give those of `probe`.")
    learnt = torch.cat([targets_of(batch) for batch in _batches(train, batch_size)])

    def own_error(ending: str) -> dict[str, float]:
        errors, n = _errors(network, sources[primary], batch_size)
        low, high = wilson_interval(errors, n)
        return {f"{ending}error": errors / n, f"{ending}error_low": low, f"{ending}error_high": high}

    before, rows = own_error(""), []
    for name in chosen:
        head = results.heads[name]
        record = head.record
        row = {"layer": name, "depth": record.depth, **before, "reason": ""}
        inputs = train[0] if isinstance(train, tuple | list) else train
        try:
            with head.erased(network, inputs, learnt, batch_size=batch_size):
                row |= own_error("erased_")
        except (ValueError, NotImplementedError) as error:
            row |= {"reason": str(error)}
        rows.append(row | {"test_error": record.test_error, "majority_error": record.majority_error})
    columns = ["layer", "depth", *before, *(f"erased_{name}" for name in before)]
    return pd.DataFrame(rows, columns=[*columns, "test_error", "majority_error", "reason"])


def _batches(source: Any, batch_size: int | None) -> Any:
    with closing(in_order(source, batch_size, 0)) as batches:
        yield from batches


def _errors(network: nn.Module, test: Any, batch_size: int | None) -> tuple[int, int]:
    """Count the test samples that the network gets wrong itself, and all of them."""
    wrong = n = 0
    with freeze(network) as frozen, frozen.fresh(0):
        for batch in _batches(test, batch_size):
            given = Arguments.of(inputs_of(batch)).copy_to(frozen.device)
            truth = torch.as_tensor(targets_of(batch))
            with programs_device():
                output = network(*given.args, **given.kwargs)
            answers = _answers(output, len(truth))
            wrong, n = wrong + int((answers.cpu() != truth).sum()), n + len(truth)
    return wrong, n


def _answers(output: Any, n: int) -> Int[Tensor, " n"]:
    scores = getattr(output, "logits", None)
    found = [scores] if isinstance(scores, Tensor) else tensors(output)
    if len(found) != 1 or found[0].ndim not in (1, 2) or len(found[0]) != n:
        shapes = ", ".join(str(tuple(tensor.shape)) for tensor in found) or "none"
        raise TypeError(
            f"The network's output has to be a score for each sample and class; found tensors of shapes {shapes}."
        )
    scores = found[0].reshape(n, -1)
    return (scores[:, 0] > 0).long() if scores.shape[1] == 1 else scores.argmax(1)
