"""Metrics of classification: F1, balanced accuracy, and the area under the ROC curve."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


def f1_score(predicted: Int[Tensor, " n"], targets: Int[Tensor, " n"], n_classes: int) -> float:
    """Compute the harmonic mean of precision and recall, 2·TP / (2·TP + FP + FN).

    Args:
        predicted: Places of the predicted classes.
        targets: Places of the true classes; those that no head predicts, -1, are one class that is always wrong.
        n_classes: Number of classes.

    Returns:
        With two classes the F1 of the second one, 0 where it is neither true nor predicted; otherwise the mean over the
        classes that are true or predicted, as scikit-learn takes it.
    """
    counted = [1] if n_classes == 2 else torch.cat([predicted, targets]).unique().tolist()
    values = []
    for one in counted:
        both = int(((predicted == one) & (targets == one)).sum())
        either = int((predicted == one).sum()) + int((targets == one).sum())
        values.append(2 * both / either if either else 0.0)
    return sum(values) / len(values)


def balanced_accuracy(predicted: Int[Tensor, " n"], targets: Int[Tensor, " n"]) -> float:
    """Average the share of samples that are right over the true classes; scikit-learn computes it.

    Args:
        predicted: Places of the predicted classes.
        targets: Places of the true classes; those that no head predicts, -1, are one class that is always wrong.
    """
    from sklearn.metrics import recall_score

    predicted, targets = predicted.cpu(), targets.cpu()
    return float(recall_score(targets, predicted, labels=targets.unique(), average="macro", zero_division=0))


def roc_auc(scores: Float[Tensor, " n"], positive: Bool[Tensor, " n"]) -> float:
    """Measure the area under the ROC curve: how often a positive sample has a higher score than a negative one.

    Source: Mann & Whitney (1947). With R the sum of the positives' ranks, equal scores sharing their mean rank, and
    n₁ positives among n₁ + n₀ samples, AUC = (R - n₁(n₁ + 1)/2) / (n₁ n₀).

    Returns:
        The area in [0, 1]; NaN where all samples are positive, or none.
    """
    n_positive = int(positive.sum())
    n_negative = len(positive) - n_positive
    if not n_positive or not n_negative:
        return math.nan
    ordered, found = scores.sort().values, scores[positive].contiguous()
    below, not_above = (torch.searchsorted(ordered, found, right=right) for right in (False, True))
    ranks = (below + not_above + 1).double() / 2
    return (ranks.sum().item() - n_positive * (n_positive + 1) / 2) / (n_positive * n_negative)


def class_auc(ranking: Float[Tensor, "n c"], targets: Int[Tensor, " n"]) -> float:
    """Measure the area under a classifier's ROC curve; NaN where no class has both samples and others beside it.

    A sample of a class that train does not have is left out: it is neither a case of a class that the head knows nor
    evidence against one. With two classes the area is that of the second against the first, with more the mean over the
    classes of each against the rest, which is scikit-learn's `multi_class="ovr"`. A class without a sample is left out.

    Args:
        ranking: For each class, what grows with its probability.
        targets: Places of the true classes; -1 for a class that train does not have.
    """
    known = targets >= 0
    ranking, targets = ranking[known], targets[known]
    classes = [1] if ranking.shape[1] == 2 else range(ranking.shape[1])
    areas = [roc_auc(ranking[:, one], targets == one) for one in classes]
    return mean_of_known(areas)


def mean_of_known(values: Sequence[float]) -> float:
    """Average the values that are not NaN; NaN where there is none."""
    known = [value for value in values if not math.isnan(value)]
    return sum(known) / len(known) if known else math.nan
