"""A layer for analyses, made of features and targets."""

from __future__ import annotations

import pytest
import torch

from layerprobe.probing.analyses.analysis import LayerData
from layerprobe.probing.features.reducers import FeatureWay, Flatten
from layerprobe.probing.features.scaler import Standardiser
from layerprobe.probing.head_path import HeadPath
from layerprobe.probing.solvers.logistic import Logistic
from layerprobe.probing.solvers.solution import Solution, Status


@pytest.fixture(scope="session")
def layer_data():
    """Makes a layer whose linear head has the weights given, by default none that would tell anything."""

    def make(task, train, val, seed=0, weight=None):
        labels = task.labels({"train": train[1], "val": val[1]})
        d, c = train[0].shape[1], len(labels.outputs)
        weight = torch.zeros(c, d, dtype=train[0].dtype) if weight is None else weight
        one = torch.zeros(1, dtype=torch.float64)
        solution = Solution(
            weight=weight[None], bias=torch.zeros(1, c, dtype=weight.dtype), objective=one, gap=one,
            iterations=torch.zeros(1, dtype=torch.int64), status=(Status.CONVERGED,),
        )  # fmt: skip
        none = Standardiser(torch.zeros(d), torch.ones(d), torch.zeros(d, dtype=torch.bool))
        way = FeatureWay(Flatten(), Flatten().fit((d,), 0), 0)
        head = HeadPath(way, Logistic(), none, (1.0,), solution, None)
        return LayerData(train[0], val[0], labels, head, task, (1.0,), seed)

    return make
