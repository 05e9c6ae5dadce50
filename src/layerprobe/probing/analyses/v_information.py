"""V-information of a layer: the bits about a sample's class that linear heads get out of its features."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import ClassVar, final

import torch

from layerprobe.probing.analyses.analysis import AbstractAnalysis, LayerData, Metric, Reading, TestSet
from layerprobe.probing.analyses.best_head import best_head
from layerprobe.probing.analyses.code_length import by_code_length, code_length, unweighted_logistic
from layerprobe.probing.features.row_blocks import picked_rows
from layerprobe.probing.metrics.intervals import mean_interval


@final
@dataclass(frozen=True)
class VInformation(AbstractAnalysis):
    r"""V-information of Xu et al. (2020), with V the linear heads: \(I_V = H_V(Y | ∅) - H_V(Y | X)\), in bits, on test.

    \(H_V(Y | X)\) is the mean of -log2 p(y | x) by logistic regression, whose L2 value is that with the lowest loss on
    validation: the error, by which a layer's head is chosen, does not mind a head that is too sure. \(H_V(Y | ∅)\) is
    that of heads that see no features, which answer how frequent classes are on train. Unlike Shannon's information,
    it can grow with depth, since what is easier to read counts more.

    Every test sample gives one difference (pointwise V-information); the interval is Student's for their mean. A head
    that is worse than the frequencies has a negative value. Test samples of a class that train does not have are left
    out, and `unknown` is their share.

    One path more is fitted, unless heads are chosen by loss already (`selection=loss`).
    """

    name: ClassVar[str] = "v_information"
    needs_classes: ClassVar[bool] = True

    def fit(self, layer: LayerData) -> Reading:
        """See `AbstractAnalysis.fit`."""
        targets, k = layer.labels.splits["train"].to(layer.train.device), len(layer.labels.outputs)
        seen, solver, head = torch.ones(k, dtype=torch.bool), unweighted_logistic(layer), layer.head
        if layer.task.class_weight is not None or head.selection != "loss" or head.solver is not solver:
            head = best_head(layer, solver, layer.train, targets, by_code_length(layer, seen))
        constant = -(torch.bincount(targets.cpu(), minlength=k).double() / len(targets)).log2()

        def read(test_sets: Mapping[str, TestSet]) -> Iterable[Metric]:
            for name, test in test_sets.items():
                device = test.features.device
                known = (test.targets >= 0).nonzero().flatten().cpu()
                truth = test.targets.to(device)[known.to(device)]
                features = test.features if len(known) == len(test.targets) else picked_rows(test.features, known)
                bits = code_length(head.heads.to(device), features, truth, seen.to(device))[0].cpu()
                without = constant[truth.cpu()]
                for metric, values in (
                    ("v_information", without - bits),
                    ("entropy", without),
                    ("conditional_entropy", bits),
                ):
                    yield Metric(metric, *mean_interval(values), test_set=name)
                yield Metric("unknown", 1 - len(known) / len(test.targets), test_set=name)
            yield Metric("gap", float(head.solution.gap[0]))

        return read
