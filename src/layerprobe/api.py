"""The functions for use from Python, without Hydra and without a trainer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
import pytorch_lightning as pl
from torch import nn

from layerprobe.probing.batches import Take, inputs_of, targets_of
from layerprobe.probing.features import AbstractReducer, AveragePool
from layerprobe.probing.layers import Granularity
from layerprobe.probing.penalty import ScikitLearnC
from layerprobe.probing.pipeline import probe_checkpoint
from layerprobe.probing.protocol import L2_GRID, ProbeProtocol
from layerprobe.probing.solvers.logistic import Logistic
from layerprobe.probing.solvers.ridge import Ridge
from layerprobe.probing.solvers.solver import AbstractSolver
from layerprobe.probing.tasks.classification import Classification
from layerprobe.probing.tasks.regression import Regression
from layerprobe.probing.tasks.task import AbstractTask
from layerprobe.results.record import to_frame
from layerprobe.training.progress import ProbeProgress
from layerprobe.training.splits import splits_of_datamodule


def probe(
    network: nn.Module,
    data: pl.LightningDataModule | Mapping[str, Any],
    *,
    layers: str | Sequence[str] = "*",
    exclude: str | Sequence[str] = (),
    granularity: Granularity = "modules",
    reducer: AbstractReducer | Sequence[AbstractReducer] | None = None,
    solver: AbstractSolver | Sequence[AbstractSolver] | None = None,
    l2: Sequence[float] | ScikitLearnC = L2_GRID,
    patience: int | None = None,
    standardise: bool = True,
    seed: int = 0,
    controls: Sequence[str] = (),
    batch_size: int | None = None,
    max_memory: int | float | str | None = None,
    inputs: Take = inputs_of,
    targets: Take = targets_of,
    task: AbstractTask | None = None,
    mask: Take | None = None,
    progress: bool | None = None,
) -> pd.DataFrame:
    """Measure how linearly separable the classes are in every layer of a network.

    Each layer is recorded once; a linear head is fitted on train for each L2 value, one is chosen on validation, and
    its test error is read. The network is left exactly as it was.

    Args:
        network: Any network, on any device.
        data: A LightningDataModule, or `{"train": …, "val": …, "test": …}` of DataLoaders or (inputs, targets) pairs.
        layers: Glob pattern(s) of the layers to probe.
        exclude: Glob pattern(s) of the layers to leave out.
        granularity: `ops` for every intermediate tensor, `modules` for the outputs of modules, `blocks` for those of
            repeated blocks.
        reducer: How features are made of a layer, one way or several; by default average-pooled to at most 1,024.
        solver: How a head is fitted, one way or several; by default logistic regression, and
            least squares where the task is regression.
        l2: L2 values of each head's path, or scikit-learn's `C`.
        patience: End a path after so many weaker penalties in a row that validation likes less; by default never.
        standardise: Whether features get mean 0 and variance 1 on train.
        seed: Seed of random reducers and shuffled labels.
        controls: `shuffled` fits the same sweep to shuffled labels.
        batch_size: Samples in one forward pass; by default what the loader has, or 256.
        max_memory: What probing may take beside the network: bytes, `8GiB`, or a share of the free memory such as
            `0.3`; by default half of it. Features beyond it are kept in a temporary file.
        inputs: Takes the network's inputs out of a batch.
        targets: Takes the property to be probed out of a batch.
        task: What kind of property that is: by default `Classification()`; or `MultiLabel()`, `Regression()`.
        mask: Takes out of a batch which places of a sequence hold a token; by default the inputs' `attention_mask`.
        progress: Whether to show a progress bar; by default only on a terminal.

    Returns:
        One row for each layer in order of depth, with the columns of `ProbeRecord`.

    Raises:
        TypeError: Where a batch is not (input, target), or targets are not what the task predicts.
        ValueError: Where a split is missing or empty, train has nothing to learn, or a pattern matches no layer.
    """
    protocol = ProbeProtocol(
        layers=layers,
        exclude=exclude,
        granularity=granularity,
        reducers=_several(reducer, AbstractReducer, AveragePool()),
        solvers=_several(solver, AbstractSolver, Ridge() if isinstance(task, Regression) else Logistic()),
        l2=l2 if isinstance(l2, ScikitLearnC) else tuple(l2),
        patience=patience,
        standardise=standardise,
        seeds=(seed,),
        controls=controls,
        batch_size=batch_size,
        max_memory=max_memory,
        inputs=inputs,
        targets=targets,
        task=task or Classification(),
        mask=mask,
    )
    splits: Any = splits_of_datamodule(data) if isinstance(data, pl.LightningDataModule) else data
    with ProbeProgress("Probing", progress) as bar:
        results = list(probe_checkpoint(network, splits, protocol, on_progress=bar))
    return to_frame([result.record for result in results])


def _several(given: Any, kind: type, default: Any) -> tuple[Any, ...]:
    if given is None:
        return (default,)
    return (given,) if isinstance(given, kind) or not isinstance(given, list | tuple) else tuple(given)
