"""Erased: the same sweep on features that have lost every linear trace of the property."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, final

from layerprobe.probing.analyses.analysis import AbstractAnalysis, LayerData, Metric, Reading, TestSet
from layerprobe.probing.analyses.erasers import check_installed, erased, fit_eraser
from layerprobe.probing.heads import Heads
from layerprobe.probing.tasks.task import PathFit, unweighted


@final
@dataclass(frozen=True)
class Erased(AbstractAnalysis):
    """Erases the property from the features (LEACE), and fits and chooses heads once more.

    The eraser is fitted to train and applied to all splits. On train, no head can then have a lower loss than the best
    constant answer, which is what the new heads become: their test error is that of the majority class, unless classes
    are equally frequent. A layer where it is another has not been erased. It says nothing of what a curved boundary
    still finds. Samples count alike, whatever weights the task gives their classes: with balanced ones, every class
    would be as good a constant answer as any other.
    """

    name: ClassVar[str] = "erased"

    def __post_init__(self) -> None:
        check_installed("`analysis=erased`")

    def fit(self, layer: LayerData) -> Reading:
        """See `AbstractAnalysis.fit`."""
        task, solver = unweighted(layer.task), layer.head.solver
        targets = layer.labels.splits["train"].to(layer.train.device)
        eraser = fit_eraser(layer.train, targets)
        train = erased(layer.train, eraser)
        solution = task.fit(solver, PathFit.of(train, layer.l2), targets, layer.labels)
        validation = None
        if layer.val is not None:
            truth = layer.labels.splits["val"].to(layer.val.device)
            heads = Heads(solution.weight, solution.bias)
            errors, losses = task.evaluate(heads, erased(layer.val, eraser), truth, solver)
            validation = tuple(errors.tolist()), tuple(losses.tolist())
        path = replace(layer.head, l2=layer.l2, solution=solution, validation=validation, selection="error", figures=())
        if path.best is None:
            raise ArithmeticError("no head of the erased features has a validation error")
        head = path[path.best].heads

        def read(test_sets: Mapping[str, TestSet]) -> Iterable[Metric]:
            for name, test in test_sets.items():
                features = erased(test.features, eraser)
                found = task.measure(head.to(features.device), features, test.targets.to(features.device), solver)
                yield Metric("error", found.error, found.low, found.high, test_set=name)

        return read
