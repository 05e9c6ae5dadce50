"""Classification: one of two or more classes for each sample."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar, final

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from layerprobe.formatting import described, listed
from layerprobe.probing.controls import majority_error
from layerprobe.probing.features.row_blocks import Features
from layerprobe.probing.heads import Heads
from layerprobe.probing.metrics.classification import balanced_accuracy, class_auc, f1_score
from layerprobe.probing.metrics.score_metrics import Scored
from layerprobe.probing.solvers.logistic import Logistic
from layerprobe.probing.solvers.solution import Solution
from layerprobe.probing.solvers.solver import AbstractSolver
from layerprobe.probing.targets import Labels
from layerprobe.probing.tasks.class_weights import ClassWeight, check_class_weight, class_weights
from layerprobe.probing.tasks.task import AbstractScoredTask, Figure, Measured, PathFit
from layerprobe.statistics.intervals import tango_interval, wilson_interval
from layerprobe.types import Split

_NUMBERED = "to be numbered such as by targets=lambda batch: torch.tensor([WORDS.index(word) for word in batch[1]])"


@final
@dataclass(frozen=True)
class Classification(AbstractScoredTask):
    """A class index for each sample; the error is the share of samples whose highest score is not their class.

    Its interval is Wilson's.

    Attributes:
        class_weight: What a training sample counts in the fit, by its class: `balanced` for the same part of every
            class in the loss, or weights by class index; see `class_weights`. Errors and losses count every sample of
            validation and test once: `selection` says which figure chooses.
    """

    class_weight: ClassWeight | None = None
    name: ClassVar[str] = "classification"
    figures: ClassVar[Mapping[str, Figure]] = MappingProxyType(
        {
            "balanced_error": lambda solver, scores, targets: _balanced_error(scores, targets),
            "auc": lambda solver, scores, targets: 1 - class_auc(solver.ranking(scores), targets),
        }
    )

    def __post_init__(self) -> None:
        check_class_weight(self.class_weight)

    def check(self, solver: AbstractSolver) -> None:
        """Take every solver."""

    def read(self, targets: Any, split: Split) -> Int[Tensor, " n"]:
        """See `AbstractTask.read`; numbers such as 1.0, a column (n, 1), and -1 and 1 for two classes are taken too."""
        found, example = described(targets), ""
        if isinstance(targets, list | tuple) and targets and all(isinstance(one, str) for one in targets):
            example = f": words ({listed(sorted(set(targets)), 3)}), {_NUMBERED}"
        if isinstance(targets, Tensor):
            values = targets.detach().cpu()
            if values.ndim == 2 and values.shape[1] == 1:
                values = values.squeeze(1)
            if values.ndim == 2 and not values.is_complex() and bool(((values != 0).sum(1) == 1).all()):
                example = ": rows with one place that is not 0, whose class is `.argmax(1)`"
            if values.ndim == 1 and not values.is_complex():
                indices = values.to(torch.int64)
                whole = torch.equal(indices.to(values.dtype), values)
                if whole and (not len(indices) or indices.min() >= 0 or bool((indices.abs() == 1).all())):
                    return indices
                wrong = values[(indices < 0) | (indices.to(values.dtype) != values)][0].item()
                if wrong < 0 or not values.is_floating_point():
                    found = f"the negative value {wrong}"
                else:
                    example = f", such as {wrong:.6g}"
        raise _no_classes(found, split, example)

    def labels(self, targets: Mapping[Split, Shaped[Tensor, "n ..."]]) -> Labels:
        """Number the training classes; see `Labels.of`.

        Raises:
            TypeError: Where -1 is not one of two classes, -1 and 1: it often stands for no label.
            ValueError: Where train holds one class only, or not one that `class_weight` names.
        """
        negative = next((split for split, values in targets.items() if bool((values < 0).any())), None)
        if negative is not None and not all(bool((values.abs() == 1).all()) for values in targets.values()):
            raise _no_classes("the negative value -1", negative)
        labels = Labels.of(targets)
        class_weights(self.class_weight, labels.splits["train"], labels.outputs)
        return labels

    def n_classes(self, labels: Labels) -> int:
        """See `AbstractTask.n_classes`."""
        return len(labels.outputs)

    def fits(self, outputs: int) -> tuple[int, int]:
        """See `AbstractTask.fits`."""
        return 1, outputs

    def fit(self, solver: AbstractSolver, path: PathFit, targets: Shaped[Tensor, "n ..."], labels: Labels) -> Solution:
        """See `AbstractTask.fit`."""
        weights = class_weights(self.class_weight, targets, labels.outputs)
        return path.solve(solver, targets, len(labels.outputs), weights)

    def evaluate(
        self, heads: Heads, features: Features, targets: Shaped[Tensor, "n ..."], solver: AbstractSolver
    ) -> tuple[Float[Tensor, " p"], Float[Tensor, " p"]]:
        """See `AbstractTask.evaluate`; a class that train does not have counts as wrong, and the loss leaves it out.

        The loss is NaN where no class is known. In `measure` it is infinite where one class is not.
        """
        correct, loss = heads.evaluate(features, targets, solver.losses, unknown=0.0)
        known = int((targets >= 0).sum())
        return 1 - correct.double().mean(1), loss * (len(targets) / known if known else math.nan)

    def measure(
        self, heads: Heads, features: Features, targets: Shaped[Tensor, "n ..."], solver: AbstractSolver
    ) -> Measured:
        """See `AbstractTask.measure`; `class_auc` says which area is meant."""
        correct, loss = heads.evaluate(features, targets, solver.losses)
        scores = heads.scores(features)
        low, high = self.interval(scores, targets)
        return Measured(
            error=self.error(scores, targets),
            low=low,
            high=high,
            loss=float(loss[0]),
            correct=correct[0],
            f1=f1_score(scores.argmax(1), targets, scores.shape[1]),
            auc=class_auc(solver.ranking(scores), targets),
        )

    def predict(self, scores: Float[Tensor, "n c"], extra: Mapping[str, Tensor]) -> Int[Tensor, " n"]:
        """See `AbstractTask.predict`."""
        return extra["classes"][scores.argmax(1)]

    def scored(self, solver: AbstractSolver, scores: Float[Tensor, "n c"], targets: Shaped[Tensor, "n ..."]) -> Scored:
        """See `AbstractScoredTask.scored`."""
        probabilities = scores.double().softmax(1).cpu().numpy() if isinstance(solver, Logistic) else None
        ranking = solver.ranking(scores).double().cpu().numpy()
        return Scored(targets.cpu().numpy(), scores.argmax(1).cpu().numpy(), ranking, probabilities)

    def constant_error(self, labels: Labels) -> float:
        """Return the test error of always answering the most frequent training class."""
        return majority_error(labels.splits["train"], labels.splits["test"])

    def losses(self, scores: Float[Tensor, "n c"], targets: Shaped[Tensor, "n ..."]) -> Float[Tensor, " n"]:
        """See `AbstractTask.losses`: cross-entropy."""
        return F.cross_entropy(scores, targets, reduction="none", ignore_index=-1)

    def slopes(self, scores: Float[Tensor, "n c"], targets: Shaped[Tensor, "n ..."]) -> Float[Tensor, "n c"]:
        """See `AbstractTask.slopes`."""
        return scores.softmax(1) - F.one_hot(targets, scores.shape[1])

    def vote(self, neighbours: Shaped[Tensor, "n k ..."], outputs: int) -> Float[Tensor, "n c"]:
        """See `AbstractTask.vote`: how many neighbours a class has; of equals, the one whose nearest is nearer wins."""
        n, k = neighbours.shape
        counts = torch.zeros(n, outputs, device=neighbours.device)
        counts.scatter_add_(1, neighbours, torch.ones_like(neighbours, dtype=counts.dtype))
        place = torch.arange(k, dtype=counts.dtype, device=counts.device).expand(n, -1)
        nearest = torch.full_like(counts, k).scatter_reduce_(1, neighbours, place, "amin")
        return counts - nearest / (k + 1)

    def error(self, scores: Float[Tensor, "n c"], targets: Shaped[Tensor, "n ..."]) -> float:
        """See `AbstractTask.error`."""
        return int((scores.argmax(1) != targets).sum()) / len(targets)

    def interval(self, scores: Float[Tensor, "n c"], targets: Shaped[Tensor, "n ..."]) -> tuple[float, float]:
        """See `AbstractTask.interval`: Wilson's."""
        return wilson_interval(int((scores.argmax(1) != targets).sum()), len(targets))

    def difference(
        self, scores: Float[Tensor, "n c"], other: Float[Tensor, "n c"], targets: Shaped[Tensor, "n ..."]
    ) -> tuple[float, float, float]:
        """See `AbstractTask.difference`: Tango's interval."""
        right, other_right = scores.argmax(1) == targets, other.argmax(1) == targets
        only_other, only_first, n = int((other_right & ~right).sum()), int((right & ~other_right).sum()), len(targets)
        low, high = tango_interval(only_other, only_first, n)
        return (only_other - only_first) / n, float(low), float(high)


def _no_classes(found: str, split: Split, example: str = "") -> TypeError:
    return TypeError(
        f"Probing needs class indices as targets (one integer >= 0 for each sample), found {found} in the {split} "
        f"split{example}. Map the batch to its class with `targets=lambda batch: …`, or choose the task: "
        "task=regression for numbers, task=multi_label for rows of zeros and ones. Words are taken of "
        "(inputs, targets) pairs alone."
    )


def _balanced_error(scores: Float[Tensor, "n c"], targets: Int[Tensor, " n"]) -> float:
    """Average the share of samples that are wrong over the true classes; NaN where train has none of them."""
    return 1 - balanced_accuracy(scores.argmax(1), targets) if bool((targets >= 0).any()) else math.nan
