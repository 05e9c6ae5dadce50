"""Mean difference: the direction between class means against the fitted one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

from layerprobe.probing.analyses.analysis import AbstractAnalysis, LayerData, Metric, Reading
from layerprobe.probing.analyses.direction_metrics import angles_between, head_directions, random_metric
from layerprobe.probing.analyses.nearest_mean import class_means
from layerprobe.statistics.directions import contrasts


@final
@dataclass(frozen=True)
class MeanDifference(AbstractAnalysis):
    """Compares the selected head with the differences between the class means, in the features' own units.

    Where features vary alike in all directions, the best linear classifier looks along the difference of means. The
    angle says how far the fitted one has turned away from it, to where the features vary less. Nothing is read on test.
    """

    name: ClassVar[str] = "mean_difference"
    needs_classes: ClassVar[bool] = True

    def fit(self, layer: LayerData) -> Reading:
        """See `AbstractAnalysis.fit`."""
        means = class_means(layer) * layer.head.standardiser.scale.double().to(layer.train.device)
        differences = contrasts(means.cpu().numpy(), layer.task.name)
        fitted = head_directions(layer.head.heads.weight[0], layer)
        found = [Metric(name, value) for name, value in angles_between(differences, fitted, layer).items()]
        found.append(random_metric(differences, fitted, layer))
        return lambda test_sets: found
