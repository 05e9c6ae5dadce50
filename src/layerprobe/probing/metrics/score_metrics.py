"""Metrics of scores: what scikit-learn makes of them on a test set, with intervals from resampled samples."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import torch
from jaxtyping import Bool, Float, Int

from layerprobe.probing.metrics.classification import balanced_accuracy
from layerprobe.probing.metrics.intervals import FEWEST

if TYPE_CHECKING:
    from scipy.sparse import csr_array

_RESAMPLES = 200
"""Enough for a standard error (Efron & Tibshirani, 1993, §6.4); quantiles would take thousands."""

_CHUNK = 1 << 22
"""Counts of samples in resamples at a time: 32 MiB."""

_WORK = 2 * 10**8
"""Scores that are ranked in resamples at most: some seconds."""

_RATE = 0.01
_BINS = 15

Value: TypeAlias = tuple[float, float, float]
"""A number and the ends of its 95 % interval, NaN where there is none."""

Truth: TypeAlias = "Int[np.ndarray, ' n'] | Int[np.ndarray, 'n c']"


@dataclass(frozen=True)
class Question:
    """A question of yes or no, and what answers it.

    Attributes:
        asked: Which samples it is asked of.
        yes: Which of these are a yes; some are, and some are not.
        scores: What ranks them.
    """

    asked: Bool[np.ndarray, " n"]
    yes: Bool[np.ndarray, " k"]
    scores: Float[np.ndarray, " k"]


@dataclass(frozen=True, eq=False)
class Scored:
    """A head's answers on a test set.

    With several labels at once, truth and predictions are rows of zeros and ones, and there is one column of the
    others for each label. Otherwise they are places of classes, and there is one for each class.

    Attributes:
        truth: The targets; the place -1 for a class that train does not have.
        predicted: What the head answers.
        ranking: What grows with the probability of each class or label, and can be compared between samples.
        probabilities: Probability of each class or label; None where the solver has none.
    """

    truth: Truth
    predicted: Truth
    ranking: Float[np.ndarray, "n c"]
    probabilities: Float[np.ndarray, "n c"] | None

    @property
    def of_labels(self) -> bool:
        """Whether there are several labels at once."""
        return self.truth.ndim == 2

    @cached_property
    def questions(self) -> list[Question]:
        """Whether a sample has each label; is of the second of two classes; or is of each of more, against the rest.

        A sample of a class that train does not have is left out, and so is a question with one answer for all samples.
        """
        if self.of_labels:
            every = np.ones(len(self.truth), dtype=bool)
            found = [Question(every, y == 1, scores) for y, scores in zip(self.truth.T, self.ranking.T, strict=True)]
        else:
            known, c = self.truth >= 0, self.ranking.shape[1]
            truth, scores = self.truth[known], self.ranking[known]
            found = [Question(known, truth == one, scores[:, one]) for one in ([1] if c == 2 else range(c))]
        return [question for question in found if 0 < question.yes.sum() < len(question.yes)]

    @cached_property
    def squares(self) -> Float[np.ndarray, " n"]:
        """Each sample's part of the Brier score; of a class that train does not have a head says 0 in place of 1."""
        p, truth = self.probabilities, self.truth
        assert p is not None
        if self.of_labels:
            return np.square(p - truth).mean(1)
        if p.shape[1] == 2:
            return np.where(truth < 0, 1.0, np.square(p[:, 1] - (truth == 1)))
        return np.square(p - (truth[:, None] == np.arange(p.shape[1]))).sum(1) + (truth < 0)


def _balanced_accuracy(scored: Scored) -> float:
    predicted, truth = torch.from_numpy(scored.predicted), torch.from_numpy(scored.truth)
    columns = zip(predicted.T, truth.T, strict=True) if scored.of_labels else [(predicted, truth)]
    return float(np.mean([balanced_accuracy(*column) for column in columns]))


def _f1(average: str) -> Callable[[Scored], float]:
    def f1(scored: Scored) -> float:
        from sklearn.metrics import f1_score

        kwargs = {"average": "binary"} if scored.of_labels and scored.truth.shape[1] == 1 else {"average": average}
        return float(f1_score(scored.truth, scored.predicted, zero_division=0, **kwargs))

    return f1


def _mean_over_questions(metric: str, **kwargs: bool) -> Callable[[Scored], float]:
    def mean(scored: Scored) -> float:
        import sklearn.metrics

        compute = getattr(sklearn.metrics, metric)
        found = [compute(question.yes, question.scores, **kwargs) for question in scored.questions]
        if metric == "roc_curve":
            found = [true[false <= _RATE].max() for false, true, _ in found]
        return float(np.mean(found)) if found else math.nan

    return mean


def _brier(scored: Scored) -> float:
    return math.nan if scored.probabilities is None else float(scored.squares.mean())


def _calibration_error(scored: Scored) -> float:
    """Sum n_b/n |share right - mean probability| over the bins b, as the mean of absolute sums of differences."""
    from scipy.stats import binned_statistic

    p = scored.probabilities
    if p is None:
        return math.nan
    asked = [(p.max(1), scored.truth == scored.predicted)]
    if scored.of_labels:
        asked = list(zip(p.T, scored.truth.T == 1, strict=True))
    sums = [binned_statistic(sure, right - sure, "sum", bins=_BINS, range=(0, 1)).statistic for sure, right in asked]
    return float(np.abs(sums).sum(1).mean()) / len(p)


_METRICS: Mapping[str, Callable[[Scored], float]] = {
    "balanced_accuracy": _balanced_accuracy,
    "macro_f1": _f1("macro"),
    "weighted_f1": _f1("weighted"),
    "auc": _mean_over_questions("roc_auc_score"),
    "average_precision": _mean_over_questions("average_precision_score"),
    "recall_at_1_fpr": _mean_over_questions("roc_curve", drop_intermediate=False),
    "brier": _brier,
    "calibration_error": _calibration_error,
}

SCORE_METRICS = tuple(_METRICS)
"""What can be asked of scores."""

_OF_ANSWERS = ("balanced_accuracy", "macro_f1", "weighted_f1")
_OF_RANKING = ("auc", "average_precision", "recall_at_1_fpr")


def score_metrics(names: Sequence[str], scored: Scored) -> dict[str, Value]:
    r"""Compute metrics of a head on a test set.

    - `balanced_accuracy`: mean over the classes of the share of their samples that are right.
    - `macro_f1`, `weighted_f1`: mean F1 over the classes, each counted once or by its samples.
    - `auc`, `average_precision`, `recall_at_1_fpr` (the share of a class's samples that are found where 1 % of the
      others are taken for it): of the second class where there are two, else the mean over the classes, each against
      the rest. A class without a sample is left out, and so is a sample of a class that train does not have.
    - `brier`: mean squared error of the probabilities: of the second class where there are two, else summed over the
      classes. `calibration_error`: the expected one (Naeini et al., 2015) of the largest probability, in 15 bins of
      equal width. Both need probabilities, which logistic regression has.

    With several labels at once all are means over the labels, `weighted_f1` by their samples.

    An interval is ±1.96 standard errors over 200 resamples of the test samples with replacement, the same ones for all
    metrics and heads, from a generator of their own; of shares on the scale of log-odds, log v/(1 - v), where the
    error is s/(v(1 - v)): there no end is beyond 0 or 1. The error of the Brier score is that of a mean, which needs no
    resample. There is no interval (NaN) for fewer than ten samples, for a share of 0 or 1, for `calibration_error`,
    which is biased upwards by what an interval would have to measure, and for rankings of so many samples and classes
    that resampling would take longer than the fit.

    Returns:
        A value for each name; a metric that the head or the samples do not have is left out.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scikit-learn's, of classes that are never predicted
        values = {name: _METRICS[name](scored) for name in names}
    values = {name: value for name, value in values.items() if not math.isnan(value)}
    if len(scored.truth) < FEWEST:
        return {name: (value, math.nan, math.nan) for name, value in values.items()}
    errors = _standard_errors(values, scored)
    return {name: (value, *_interval(name, value, errors.get(name, math.nan))) for name, value in values.items()}


def _interval(name: str, value: float, error: float) -> tuple[float, float]:
    if name == "brier":
        return max(value - 1.96 * error, 0.0), value + 1.96 * error
    if not (0 < value < 1 and error > 0):
        return math.nan, math.nan
    from scipy.special import expit, logit

    spread = 1.96 * error / (value * (1 - value))
    low, high = (float(expit(logit(value) + side * spread)) for side in (-1, 1))
    return low, high


def _standard_errors(names: Mapping[str, float], scored: Scored) -> dict[str, float]:
    found: dict[str, list[np.ndarray]] = {name: [] for name in (*_OF_ANSWERS, *_OF_RANKING) if name in names}
    n, ranked = len(scored.truth), set(names) & set(_OF_RANKING)
    if n * _RESAMPLES * len(scored.questions) > _WORK:
        ranked = set()
    answered = set(names) & set(_OF_ANSWERS)
    tables = _indicators(scored) if answered else None
    with np.errstate(invalid="ignore", divide="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a mean of nothing, in a resample without a sample of any class
        for counts in _resamples(n) if ranked or answered else ():
            if tables is not None:
                right, true, said = (counts @ table for table in tables)
                of_answers = answers_of_resamples(right, true, said, n, labels=scored.of_labels)
                for name in answered:
                    found[name].append(of_answers[name])
            if ranked:
                every = [rankings_of_resamples(q.yes, q.scores, counts[:, q.asked]) for q in scored.questions]
                for name in ranked:
                    found[name].append(np.nanmean([one[name] for one in every], axis=0))
        errors = {name: float(np.nanstd(np.concatenate(parts), ddof=1)) for name, parts in found.items() if parts}
    if "brier" in names:
        errors["brier"] = float(scored.squares.std(ddof=1)) / math.sqrt(n)
    return errors


def _resamples(n: int) -> Iterator[Float[np.ndarray, "r n"]]:
    """Count how often each of n samples is in each resample, some resamples at a time."""
    generator, size = np.random.default_rng(0), max(1, _CHUNK // n)
    for start in range(0, _RESAMPLES, size):
        drawn = [generator.integers(n, size=n) for _ in range(min(size, _RESAMPLES - start))]
        yield np.stack([np.bincount(rows, minlength=n) for rows in drawn]).astype(np.float64)


def _indicators(scored: Scored) -> tuple[csr_array, csr_array, csr_array]:
    """Tell which samples are right in saying each class or label, which have it, and which are said to have it."""
    from scipy.sparse import csr_array

    truth, predicted = scored.truth, scored.predicted
    if not scored.of_labels:
        n, c = scored.ranking.shape
        truth = np.where(truth < 0, c, truth)  # one more class, which no head predicts
        rows, ones = np.arange(n), np.ones(n)
        true, said = (csr_array((ones, (rows, places)), shape=(n, c + 1)) for places in (truth, predicted))
        return true * said, true, said
    true, said = (csr_array(part.astype(np.float64)) for part in (truth, predicted))
    return true * said, true, said


def answers_of_resamples(
    right: Float[np.ndarray, "r c"],
    true: Float[np.ndarray, "r c"],
    said: Float[np.ndarray, "r c"],
    n: int,
    *,
    labels: bool,
) -> dict[str, Float[np.ndarray, " r"]]:
    """Compute scikit-learn's metrics of answers in each resample, all at once.

    Args:
        right: Samples that are rightly said to be of each class.
        true: Samples of each class.
        said: Samples that are said to be of each class.
        n: Samples of a resample.
        labels: Whether these are labels, for which not having one is an answer, too.

    Returns:
        The metrics of each resample; a class that is neither true nor said there is left out.
    """
    recall, f1 = right / true, 2 * right / (true + said)
    if labels:
        recall = np.nanmean([recall, (n - true - said + right) / (n - true)], axis=0)
    weighted = np.nansum(f1 * true, axis=1) / true.sum(1)
    return {
        "balanced_accuracy": np.nanmean(recall, axis=1),
        "macro_f1": np.nanmean(f1, axis=1),
        "weighted_f1": weighted,
    }


def rankings_of_resamples(
    yes: Bool[np.ndarray, " k"], scores: Float[np.ndarray, " k"], counts: Float[np.ndarray, "r k"]
) -> dict[str, Float[np.ndarray, " r"]]:
    """Compute scikit-learn's metrics of a ranking in each resample, all at once; sorting once is what they save.

    Returns:
        The metrics of each resample; NaN where it has no yes, or nothing else.
    """
    order = np.argsort(-scores, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(scores[order])), len(order) - 1)  # equal scores are one step
    counts = counts[:, order]
    found, false = (np.cumsum(counts * (yes[order] == side), axis=1)[:, ends] for side in (True, False))
    recall, rate = found / found[:, -1:], false / false[:, -1:]
    steps = np.diff(recall, axis=1, prepend=0.0)
    precision = found / np.maximum(found + false, 1)
    return {
        "auc": (np.diff(rate, axis=1, prepend=0.0) * (recall - steps / 2)).sum(1),
        "average_precision": np.where(false[:, -1] > 0, (steps * precision).sum(1), np.nan),
        "recall_at_1_fpr": np.where(rate <= _RATE, recall, 0.0).max(1) + 0 * rate[:, -1],
    }
