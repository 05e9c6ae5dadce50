"""Nearest class mean: the simplest linear classifier, as a reference beside the fitted one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import ClassVar, final

from layerprobe.probing.analyses.analysis import AbstractAnalysis, LayerData, Metric, Reading, TestSet
from layerprobe.probing.analyses.class_means import class_means
from layerprobe.probing.analyses.comparison import compared
from layerprobe.probing.heads import Heads
from layerprobe.probing.tasks.classification import Classification
from layerprobe.probing.tasks.task import AbstractTask


@final
@dataclass(frozen=True)
class NearestMean(AbstractAnalysis):
    """Answers the class whose training mean is nearest, in the standardised features.

    ‖x - μ‖² = ‖x‖² - 2(μ·x - ½‖μ‖²), so that it is the linear head with the weights μ and the biases -½‖μ‖². With two
    classes it is the difference of means.
    """

    name: ClassVar[str] = "nearest_mean"

    def check(self, task: AbstractTask) -> None:
        """See `AbstractAnalysis.check`."""
        if not isinstance(task, Classification):
            raise ValueError(f"`nearest_mean` needs classes, found the task {task.name}. Leave it out of `analyses`.")

    def fit(self, layer: LayerData) -> Reading:
        """See `AbstractAnalysis.fit`."""
        means = class_means(layer)
        bias = -means.square().sum(1) / 2
        heads = Heads(means.to(layer.train.dtype)[None], bias.to(layer.train.dtype)[None])

        def read(test_sets: Mapping[str, TestSet]) -> Iterable[Metric]:
            for name, test in test_sets.items():
                yield from compared(heads.to(test.features.device).scores(test.features), layer, name, test)

        return read
