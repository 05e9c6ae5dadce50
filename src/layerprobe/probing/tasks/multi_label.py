"""Multi-label classification: several labels at once, each of which a sample has or has not."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, ClassVar, final

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from layerprobe.formatting import described
from layerprobe.probing.features.row_blocks import Features
from layerprobe.probing.heads import Heads
from layerprobe.probing.metrics.classification import balanced_accuracy, f1_score, mean_of_known, roc_auc
from layerprobe.probing.metrics.intervals import mean_interval
from layerprobe.probing.metrics.score_metrics import Scored
from layerprobe.probing.solvers.logistic import Logistic
from layerprobe.probing.solvers.solution import LeftOut, Solution, Status
from layerprobe.probing.solvers.solver import AbstractSolver
from layerprobe.probing.targets import Labels
from layerprobe.probing.tasks.class_weights import ClassWeight, check_class_weight, class_weights
from layerprobe.probing.tasks.task import AbstractScoredTask, Figure, Measured, PathFit
from layerprobe.statistics.intervals import wilson_interval
from layerprobe.types import Split

_WORST = (Status.DIVERGED, Status.ROUGH, Status.STALLED, Status.CONVERGED)
"""What becomes the status of all labels, first of all; while one is rough, all can be brought further."""


@final
@dataclass(frozen=True)
class MultiLabel(AbstractScoredTask):
    """A row of zeros and ones for each sample, one head of two classes for each label, one L2 value for all of them.

    The error is the mean share of wrong labels (Hamming loss); `correct` is stricter: whether every label of a sample
    is right. The interval is Wilson's with the effective number of samples. A sample with error e_i counts once, not
    once for each label: with ē the mean, n_eff = ē(1 - ē) / Var(ē), where Var(ē) = Var(e_i)/n, is the number of
    independent answers that would give the same variance. It is bounded by n and n·c, and is n at no error at all.

    Attributes:
        class_weight: What a training sample counts in the fit of each label, by whether it has the label (1) or not
            (0): `balanced`, for each label by its own frequency, or weights for 0 and 1; see `class_weights`.
    """

    class_weight: ClassWeight | None = None
    name: ClassVar[str] = "multi_label"
    figures: ClassVar[Mapping[str, Figure]] = MappingProxyType(
        {
            "balanced_error": lambda solver, scores, targets: (
                1
                - _mean_over_labels(lambda score, truth: balanced_accuracy((score > 0).long(), truth), scores, targets)
            ),
            "auc": lambda solver, scores, targets: (
                1 - _mean_over_labels(lambda score, truth: roc_auc(score, truth == 1), scores, targets)
            ),
        }
    )

    def __post_init__(self) -> None:
        check_class_weight(self.class_weight)
        if isinstance(self.class_weight, Mapping) and (other := sorted(set(self.class_weight) - {0, 1})):
            raise ValueError(
                f"`class_weight` of the task multi_label names {other[0]}. Give a weight for samples that do not have "
                "a label (0), and for those that have it (1): {0: 1.0, 1: 5.0}."
            )

    def check(self, solver: AbstractSolver) -> None:
        """Take every solver."""

    def read(self, targets: Any, split: Split) -> Int[Tensor, "n c"]:
        """See `AbstractTask.read`."""
        found = described(targets)
        if isinstance(targets, Tensor) and targets.ndim == 2 and targets.shape[1]:
            known = (targets == 0) | (targets == 1)
            if known.all():
                return targets.detach().to("cpu", torch.int64)
            found = f"the value {targets[~known][0].item()}"
        raise TypeError(
            f"Multi-label probing needs a row of zeros and ones for each sample, found {found} in the {split} split. "
            "Choose such targets with `targets`, or another task: task=classification, task=regression."
        )

    def labels(self, targets: Mapping[Split, Shaped[Tensor, "n ..."]]) -> Labels:
        """See `AbstractTask.labels`."""
        on = targets["train"].double().mean(0)
        if not ((on > 0) & (on < 1)).any():
            raise ValueError("No label varies on the train split. A probe needs samples with and without a label.")
        return Labels(torch.arange(targets["train"].shape[1]), targets)

    def n_classes(self, labels: Labels) -> int:
        """See `AbstractTask.n_classes`."""
        return 2

    def fits(self, outputs: int) -> tuple[int, int]:
        """See `AbstractTask.fits`."""
        return outputs, 2

    def fit(self, solver: AbstractSolver, path: PathFit, targets: Shaped[Tensor, "n ..."], labels: Labels) -> Solution:
        """Fit the labels one by one; a head's score is that of having the label less that of not having it.

        Status and gap are those of the worst label, the objective is the sum, leave-one-out figures are means. The
        weights of a label that all training samples have, or none, are exactly 0: its head answers what they answer.
        """
        whole = replace(path, stop=None)
        found = [
            whole.solve(solver, column, 2, class_weights(self.class_weight, column, torch.arange(2)))
            for column in targets.unbind(1)
        ]
        return _of_all(found, (targets.amin(0) != targets.amax(0))[:, None])

    def evaluate(
        self, heads: Heads, features: Features, targets: Shaped[Tensor, "n ..."], solver: AbstractSolver
    ) -> tuple[Float[Tensor, " p"], Float[Tensor, " p"]]:
        """See `AbstractTask.evaluate`."""
        p = len(heads.weight)
        wrong, total = (torch.zeros(p, dtype=torch.float64, device=features.device) for _ in range(2))
        for rows, scores in heads.blocks(features):
            truth = targets[rows, None].expand(-1, p, -1)
            wrong += ((scores > 0) != (truth == 1)).double().mean(2).sum(0)
            # A one-hot target's scores sum to one (ridge), and softmax does not see a shift (logistic).
            both = torch.stack([(1 - scores) / 2, (1 + scores) / 2], 3)
            losses = solver.losses(both.flatten(0, 2), truth.flatten())
            total += losses.view(scores.shape).double().mean(2).sum(0)
        return wrong / len(features), total / len(features)

    def measure(
        self, heads: Heads, features: Features, targets: Shaped[Tensor, "n ..."], solver: AbstractSolver
    ) -> Measured:
        """See `AbstractTask.measure`; F1 and the area under the ROC curve are means over the labels.

        A label has no area where all test samples, or all training samples, have it or none does.
        """
        _, loss = self.evaluate(heads, features, targets, solver)
        scores = heads.scores(features)
        wrong = (scores > 0) != (targets == 1)
        low, high = self.interval(scores, targets)
        columns = list(zip(scores.unbind(1), targets.unbind(1), strict=True))
        f1 = [f1_score((score > 0).long(), truth, 2) for score, truth in columns]
        areas = [
            roc_auc(score, truth == 1)
            for (score, truth), ranks in zip(columns, heads.weight[0].any(1).tolist(), strict=True)
            if ranks
        ]
        return Measured(
            error=self.error(scores, targets),
            low=low,
            high=high,
            loss=float(loss[0]),
            correct=~wrong.any(1),
            f1=sum(f1) / len(f1),
            auc=mean_of_known(areas),
        )

    def predict(self, scores: Float[Tensor, "n c"], extra: Mapping[str, Tensor]) -> Int[Tensor, "n c"]:
        """See `AbstractTask.predict`."""
        return (scores > 0).long()

    def scored(self, solver: AbstractSolver, scores: Float[Tensor, "n c"], targets: Shaped[Tensor, "n ..."]) -> Scored:
        """See `AbstractScoredTask.scored`; a label's score is that of having it less that of not having it."""
        wide = scores.double()
        probabilities = wide.sigmoid().cpu().numpy() if isinstance(solver, Logistic) else None
        return Scored(targets.cpu().numpy(), (wide > 0).long().cpu().numpy(), wide.cpu().numpy(), probabilities)

    def constant_error(self, labels: Labels) -> float:
        """Return the test error of always giving each label what most training samples have."""
        usual = (labels.splits["train"].double().mean(0) > 0.5).long()
        return (labels.splits["test"] != usual).double().mean().item()

    def losses(self, scores: Float[Tensor, "n c"], targets: Shaped[Tensor, "n ..."]) -> Float[Tensor, " n"]:
        """See `AbstractTask.losses`: mean cross-entropy of the labels."""
        return F.binary_cross_entropy_with_logits(scores, targets.to(scores.dtype), reduction="none").mean(1)

    def slopes(self, scores: Float[Tensor, "n c"], targets: Shaped[Tensor, "n ..."]) -> Float[Tensor, "n c"]:
        """See `AbstractTask.slopes`."""
        return (scores.sigmoid() - targets) / scores.shape[1]

    def vote(self, neighbours: Shaped[Tensor, "n k ..."], outputs: int) -> Float[Tensor, "n c"]:
        """See `AbstractTask.vote`: what most neighbours have, and the nearest one where half of them have it."""
        signs = 2.0 * neighbours - 1
        return signs.sum(1) + signs[:, 0] / 2

    def error(self, scores: Float[Tensor, "n c"], targets: Shaped[Tensor, "n ..."]) -> float:
        """See `AbstractTask.error`."""
        return float(_wrong(scores, targets).mean())

    def interval(self, scores: Float[Tensor, "n c"], targets: Shaped[Tensor, "n ..."]) -> tuple[float, float]:
        """See `AbstractTask.interval`."""
        of_sample = _wrong(scores, targets)
        error, n = float(of_sample.mean()), len(targets)
        effective = float(n)
        if n > 1 and 0 < error < 1:
            variance = float(of_sample.var()) / n
            effective = min(max(error * (1 - error) / max(variance, 1e-300), n), targets.numel())
        return wilson_interval(error * effective, effective)

    def difference(
        self, scores: Float[Tensor, "n c"], other: Float[Tensor, "n c"], targets: Shaped[Tensor, "n ..."]
    ) -> tuple[float, float, float]:
        """See `AbstractTask.difference`: Student's interval of the samples' differences."""
        return mean_interval(_wrong(scores, targets) - _wrong(other, targets))


def _wrong(scores: Float[Tensor, "n c"], targets: Int[Tensor, "n c"]) -> Float[Tensor, " n"]:
    """Measure the share of each sample's labels that the scores get wrong."""
    return ((scores > 0) != (targets == 1)).double().mean(1)


def _mean_over_labels(
    figure: Callable[[Tensor, Tensor], float], scores: Float[Tensor, "n c"], targets: Int[Tensor, "n c"]
) -> float:
    return mean_of_known([figure(*column) for column in zip(scores.unbind(1), targets.unbind(1), strict=True)])


def _of_all(found: Sequence[Solution], varies: Bool[Tensor, "c 1"]) -> Solution:
    """Make one head of all labels for each L2 value, from the labels' own."""
    certify: Callable[[Sequence[int]], Solution] | None = None
    if any(part.certify for part in found):

        def certify(places: Sequence[int]) -> Solution:
            return _of_all([part.certify(places) if part.certify else part for part in found], varies)

    known = [part.left_out for part in found if part.left_out is not None]
    left_out = None
    if known:
        loss, error = (torch.stack([getattr(part, name) for part in known]).mean(0) for name in ("loss", "error"))
        left_out = LeftOut(loss, error)
    return Solution(
        weight=torch.stack([part.weight[:, 1] - part.weight[:, 0] for part in found], 1) * varies,
        bias=torch.stack([part.bias[:, 1] - part.bias[:, 0] for part in found], 1),
        objective=torch.stack([part.objective for part in found]).sum(0),
        gap=torch.stack([part.gap for part in found]).amax(0),
        iterations=torch.stack([part.iterations for part in found]).sum(0),
        status=tuple(
            min(statuses, key=_WORST.index) for statuses in zip(*(part.status for part in found), strict=True)
        ),
        left_out=left_out,
        certify=certify,
    )
