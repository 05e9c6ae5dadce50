"""Concept depth: where a concept becomes readable, by the definitions of Jin et al. (2024).

Layers are numbered from 1 to d; α_i is the accuracy at layer i and β_i = α_i / α_{i-1}, from i = 2.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from layerprobe.results.best import at_last_checkpoint, best_layer

BAG_OF_WORDS = "bag_of_words"
TEXT_LENGTH = "text_length"
"""The checkpoints' names that the probes on raw text have in the results."""

DEPTHS = {"first": 0.0, "25%": 0.25, "50%": 0.5, "67%": 0.67, "83%": 0.83, "last": 1.0}
"""Columns of the paper's table 3: the layer at a share p of the depth is number ⌊p·d⌋, at least 1."""


def jump_point(accuracies: Sequence[float]) -> float:
    """Find where accuracy first rises by a tenth: min {i/d : β_i ≥ 1.1}.

    Source: Jin et al. (2024), as printed.

    Returns:
        The relative depth, in (0, 1]; NaN where there is no such rise.
    """
    ratios = _ratios(accuracies)
    return next((i / len(accuracies) for i, ratio in ratios if ratio >= 1.1), math.nan)


def converging_point(accuracies: Sequence[float]) -> float:
    """Find the last layer whose accuracy is near that of the one before: max {i/d : |β_i - 1| < 0.03}.

    Source: Jin et al. (2024), as printed. It is not what their tables hold: see `published_converging_point`.

    Returns:
        The relative depth, in (0, 1]; NaN where there is no such layer.
    """
    return max((i / len(accuracies) for i, ratio in _ratios(accuracies) if abs(ratio - 1) < 0.03), default=math.nan)


def published_converging_point(accuracies: Sequence[float]) -> float:
    """Find where accuracy has settled: one layer past the last one whose accuracy differs from that of the one before.

    It gives the converging points that Jin et al. (2024) publish: with m the largest i for which |β_i - 1| ≥ 0.03, and
    at least 2, min(m + 1, d)/d.

    Returns:
        The relative depth, in (0, 1]; NaN for fewer than two layers.
    """
    d, ratios = len(accuracies), _ratios(accuracies)
    if not ratios:
        return math.nan
    last = max((i for i, ratio in ratios if not abs(ratio - 1) < 0.03), default=2)
    return min(max(last, 2) + 1, d) / d


def _ratios(accuracies: Sequence[float]) -> list[tuple[int, float]]:
    pairs = itertools.pairwise(accuracies)
    return [(i, later / earlier if earlier else math.inf) for i, (earlier, later) in enumerate(pairs, start=2)]


@dataclass(frozen=True)
class ConceptDepth:
    """What the layers of one network say about one concept.

    Attributes:
        n_layers: Number of layers.
        peak_layer: Name of the layer that validation prefers, the first of several. The published tables take the
            layer that is best on the reported samples themselves, which is better than it would be on others.
        peak_depth: Its relative depth, in (0, 1].
        peak_accuracy: Its accuracy.
        jump_point: See `jump_point`.
        converging_point: See `converging_point`.
        published_converging_point: See `published_converging_point`.
        majority_accuracy: Accuracy of always answering the most frequent training class.
        bag_of_words_accuracy: Accuracy of the probe on raw text; NaN where the run has none.
        bag_of_words_auc: Its area under the ROC curve; likewise.
    """

    n_layers: int
    peak_layer: str
    peak_depth: float
    peak_accuracy: float
    jump_point: float
    converging_point: float
    published_converging_point: float
    majority_accuracy: float
    bag_of_words_accuracy: float
    bag_of_words_auc: float


def concept_layers(results: pd.DataFrame) -> pd.DataFrame:
    """Read accuracy, F1 and AUC of every layer of the last checkpoint.

    Returns:
        One row for each layer but the input, in order of depth: `layer`, `number` (from 1), `depth` (relative, in
        (0, 1]), `accuracy`, `low`, `high` (95 % interval), `f1`, `auc`, and, the same in each row, `majority`,
        `bag_of_words` and `text_length`: accuracies of the baselines, the last two NaN where the run has none.
    """
    network = _layers_of_network(results)
    alone = {name: results.loc[results["checkpoint"] == name, "test_error"] for name in (BAG_OF_WORDS, TEXT_LENGTH)}
    number = np.arange(1, len(network) + 1)
    return pd.DataFrame(
        {
            "layer": network["layer"].to_numpy(),
            "number": number,
            "depth": number / len(network),
            "accuracy": 1 - network["test_error"].to_numpy(),
            "low": 1 - network["test_error_high"].to_numpy(),
            "high": 1 - network["test_error_low"].to_numpy(),
            "f1": network["test_f1"].to_numpy(),
            "auc": network["test_auc"].to_numpy(),
            "majority": 1 - network["majority_error"].to_numpy(),
            **{name: 1 - error.iloc[0] if len(error) else math.nan for name, error in alone.items()},
        }
    )


def concept_depth(results: pd.DataFrame) -> ConceptDepth:
    """Sum up what the layers say.

    Raises:
        ValueError: Where no layer has a test error.
    """
    layers = concept_layers(results)
    if layers.empty:
        raise ValueError("The results hold no layer with a test error, so there is no depth to tell. Probe one first.")
    accuracies = layers["accuracy"].tolist()
    words = results[results["checkpoint"] == BAG_OF_WORDS]
    best = best_layer(_layers_of_network(results)).layer
    peak = layers.iloc[layers["layer"].tolist().index(best) if best else 0]
    return ConceptDepth(
        n_layers=len(layers),
        peak_layer=str(peak["layer"]),
        peak_depth=float(peak["depth"]),
        peak_accuracy=float(peak["accuracy"]),
        jump_point=jump_point(accuracies),
        converging_point=converging_point(accuracies),
        published_converging_point=published_converging_point(accuracies),
        majority_accuracy=float(peak["majority"]),
        bag_of_words_accuracy=float(peak[BAG_OF_WORDS]),
        bag_of_words_auc=float(words["test_auc"].iloc[0]) if len(words) else math.nan,
    )


def _layers_of_network(results: pd.DataFrame) -> pd.DataFrame:
    """Choose the layers of the last checkpoint that is none of the baselines, but the input, in order of depth."""
    network = results[(results["depth"] > 0) & results["test_error"].notna()]
    return at_last_checkpoint(network)
