"""Probing from Python, without Hydra and without a trainer."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import replace
from numbers import Real
from pathlib import Path
from typing import Any, Literal, SupportsIndex, TypeAlias, TypeVar

from torch import nn

from layerprobe.api.results import ProbeResults
from layerprobe.formatting import nearest
from layerprobe.probing.analyses.analysis import AbstractAnalysis
from layerprobe.probing.analyses.attention import Attention as Attention
from layerprobe.probing.analyses.description_length import DescriptionLength as DescriptionLength
from layerprobe.probing.analyses.erased import Erased as Erased
from layerprobe.probing.analyses.few_shot import FewShot as FewShot
from layerprobe.probing.analyses.mean_difference import MeanDifference as MeanDifference
from layerprobe.probing.analyses.mlp import MLP as MLP
from layerprobe.probing.analyses.nearest_mean import NearestMean as NearestMean
from layerprobe.probing.analyses.nearest_neighbours import NearestNeighbours as NearestNeighbours
from layerprobe.probing.analyses.stability import Stability as Stability
from layerprobe.probing.analyses.v_information import VInformation as VInformation
from layerprobe.probing.batches import Take, inputs_of, targets_of
from layerprobe.probing.capture.default_device import own_device
from layerprobe.probing.capture.granularity import Granularity
from layerprobe.probing.data_adapters import class_words, division_of
from layerprobe.probing.features.reducers import AbstractReducer, AveragePool
from layerprobe.probing.getters import Item, Items
from layerprobe.probing.pipeline import probe_checkpoint
from layerprobe.probing.protocol import L2_GRID, ProbeProtocol
from layerprobe.probing.resources import Resources
from layerprobe.probing.solvers.logistic import Logistic
from layerprobe.probing.solvers.ridge import Ridge
from layerprobe.probing.solvers.scikit_learn_c import ScikitLearnC
from layerprobe.probing.solvers.solver import AbstractSolver
from layerprobe.probing.tasks.classification import Classification
from layerprobe.probing.tasks.multi_label import MultiLabel as MultiLabel
from layerprobe.probing.tasks.regression import Regression
from layerprobe.probing.tasks.task import AbstractTask
from layerprobe.training.batch_hooks import with_batch_hooks
from layerprobe.training.lightning_splits import is_datamodule, of_population, splits_of
from layerprobe.training.progress_bar import ProbeProgress
from layerprobe.types import LayerResult, named_classes

Kind = TypeVar("Kind")
Named: TypeAlias = Kind | type[Kind] | str
"""An object, its class, or its name."""

Taken: TypeAlias = Take | str | int | Sequence[str | int] | Mapping[str, str | int]
"""A function of a batch, or where something is in it."""

Penalties: TypeAlias = Any
"""L2 values, one or several, of any kind of number; or scikit-learn's `C`."""


@own_device()
def probe(
    network: nn.Module,
    data: Any,
    *,
    tests: Mapping[str, Any] | None = None,
    layers: str | Sequence[str] = "*",
    exclude: str | Sequence[str] = (),
    granularity: Granularity = "modules",
    reducer: Named[AbstractReducer] | Sequence[Named[AbstractReducer]] | None = None,
    solver: Named[AbstractSolver] | Sequence[Named[AbstractSolver]] | None = None,
    l2: Penalties = L2_GRID,
    path: Literal["chosen", "full"] = "chosen",
    patience: int | None = None,
    standardise: bool = True,
    seed: SupportsIndex = 0,
    controls: Sequence[str] = (),
    control_key: Taken | None = None,
    analyses: Named[AbstractAnalysis] | Sequence[Named[AbstractAnalysis]] = (),
    batch_size: int | None = None,
    max_memory: int | float | str | None = None,
    keep: str | Path | None = None,
    inputs: Taken = inputs_of,
    targets: Taken = targets_of,
    task: Named[AbstractTask] | None = None,
    mask: Taken | None = None,
    selection: str = "error",
    each_reducer: bool = False,
    metrics: Sequence[str] | str = (),
    scores: bool = False,
    sample_ids: Taken | None = None,
    population: bool = False,
    progress: bool | None = None,
) -> ProbeResults:
    """Measure how linearly separable the classes are in every layer of a network.

    Each layer is recorded once; a linear head is fitted on train for each L2 value, one is chosen on validation, and
    its test error is read. The network is left exactly as it was.

    Args:
        network: Any network, on any device.
        data: A data module of `pytorch_lightning` or `lightning`; or `{"train": …, "val": …, "test": …}` of
            DataLoaders, Datasets or (inputs, targets) pairs. A pair holds tensors, NumPy arrays, columns of pandas,
            pyarrow or a Hugging Face data set, or lists, the inputs also several of them by name or in a tuple; targets
            may be words, which are numbered in sorted order. One pair or Dataset is divided with `seed`: three fifths
            for train, one for val, one for test. Several test sets go by their names, `"test": {"in": …, "shifted":
            …}`: each head is fitted and chosen once and read on all of them; the first is the primary one, whose
            figures are in the rows.
        tests: Further test sets by name, for data that are given in another way than by their splits.
        layers: Glob pattern(s) of the layers to probe.
        exclude: Glob pattern(s) of the layers to leave out.
        granularity: `ops` for every intermediate tensor, `modules` for the outputs of modules, `blocks` for those of
            repeated blocks, `sites` for the residual stream, attention, heads and MLP of transformer blocks.
        reducer: How features are made of a layer, one way or several, as objects or by their names such as `flatten`;
            by default average-pooled to at most 1,024.
        solver: How a head is fitted, likewise; by default logistic regression, and least squares where the task is
            regression.
        l2: L2 values of each head's path, one or several; or scikit-learn's `C`.
        path: `chosen` brings the best L2 value of each path and its neighbours to the certificate, `full` all of them;
            see `ProbeProtocol`.
        patience: End a path after so many weaker penalties in a row that validation likes less; by default after 2, and
            never with `path="full"`.
        standardise: Whether features get mean 0 and variance 1 on train.
        seed: Seed of random reducers, the controls' labels, and the division of data that have no splits.
        controls: `control_task` fits the same sweep to a random label for each type of sample, `shuffled` to labels in
            random order; see `ProbeProtocol`.
        control_key: Takes out of a batch what samples of one type share; by default the inputs.
        analyses: What else is asked of every layer's features, as objects or by their names such as `nearest_mean`; the
            answers are in `ProbeResults.metrics`.
        batch_size: Samples in one forward pass; by default what the loader has, or 256.
        max_memory: What probing may take beside the network: bytes, `8GiB`, or a share of the free memory such as
            `0.3`; by default half of it. Features beyond it are kept in a temporary file.
        keep: A directory where features stay: another call that asks something else of the same network and inputs
            finds them there, and does not run the network.
        inputs: Takes the network's inputs out of a batch: a function, a key or index, or a list or mapping of these.
        targets: Takes the property to be probed out of a batch, likewise.
        task: What kind of property that is: by default `Classification()`; or `MultiLabel()`, `Regression()`, or its
            name.
        mask: Takes out of a batch which places of a sequence hold a token; by default the inputs' `attention_mask`
            and `decoder_attention_mask`. For several sequences, a mapping from the inputs' names to their masks.
        selection: What the selected head of a layer has the lowest of on validation: `error`, `loss`, `balanced_error`,
            or `auc` (the rest to 1); see `ProbeProtocol`.
        each_reducer: Whether the test error of the best head of each reducer is read too, and not only of the best of
            all: of each token position, say. They are in `ProbeResults.metrics`; `layerprobe.position_map` draws them.
        metrics: What else is measured of the selected heads on test, in `ProbeResults.metrics`: any of
            `balanced_accuracy`, `macro_f1`, `weighted_f1`, `auc`, `average_precision`, `recall_at_1_fpr`, `brier` and
            `calibration_error`, or `all`; see `score_metrics`.
        scores: Whether the selected heads' scores of every test sample are kept, for `ProbeResults.scores` and
            `ProbeResults.confusion`.
        sample_ids: Takes out of a batch what names each test sample in these; by default, its place.
        population: Whether the test split is all that there is and no sample of more, so that its errors are exact: no
            intervals. A data module says so by an attribute of this name.
        progress: Whether to show a progress bar; by default only on a terminal.

    Returns:
        A DataFrame of one row for each layer in order of depth, with the columns of `ProbeRecord`, that also has the
        fitted heads, every L2 value and a figure; see `ProbeResults`.

    Raises:
        TypeError: Where a batch is not (input, target), or targets are not what the task predicts.
        ValueError: Where a split is missing or empty, train has nothing to learn, or a pattern matches no layer.
    """
    chosen = _named(task, AbstractTask, "task") if task is not None else Classification()
    protocol = ProbeProtocol(
        layers=layers, exclude=exclude, granularity=granularity, path=path, patience=patience, standardise=standardise,
        reducers=_several(reducer, AbstractReducer, "reducer", AveragePool()),
        solvers=_several(solver, AbstractSolver, "solver", Ridge() if isinstance(chosen, Regression) else Logistic()),
        l2=l2 if isinstance(l2, ScikitLearnC) else _penalties(l2),
        seeds=(int(seed),),
        controls=(controls,) if isinstance(controls, str) else controls,
        control_key=None if control_key is None else _taken(control_key),
        analyses=_several(analyses, AbstractAnalysis, "analysis", ()),
        inputs=_taken(inputs), targets=_taken(targets), task=chosen,
        mask=None if mask is None else _taken(mask),
        sample_ids=None if sample_ids is None else _taken(sample_ids),
        selection=selection, each_reducer=each_reducer, metrics=metrics, scores=scores, population=population,
    )  # fmt: skip
    resources = Resources(batch_size, max_memory, keep=keep)
    splits = splits_of(data, network, seed=int(seed), tests=tests)
    protocol = of_population(protocol, data)
    if is_datamodule(data):
        protocol = with_batch_hooks(protocol, network, data)
    with ProbeProgress("Probing", progress) as bar:
        results = list(probe_checkpoint(network, splits, protocol, resources=resources, on_progress=bar))
    division = division_of(data, seed=int(seed))
    rows = None if division is None else division["test"].numpy()
    words = tuple(class_words(data, tests) or ())
    return ProbeResults(_in_terms_of(result, words, rows, named=sample_ids is not None) for result in results)


def _in_terms_of(result: LayerResult, words: tuple[str, ...], rows: Any, *, named: bool) -> LayerResult:
    """Say what the classes are called in the data, and which of their rows are the test samples."""
    if rows is not None and result.scores and not named:
        result = replace(result, scores={**result.scores, "test": replace(result.scores["test"], ids=rows)})
    if result.recipe is None:
        return result
    head = result.head if rows is None else {**result.head, "test_rows": rows}
    return replace(result, head=head, recipe=replace(result.recipe, words=words))


def _penalties(given: Any) -> tuple[float, ...]:
    """Turn one value of any make, or several, into Python's own numbers."""
    values = (given,) if isinstance(given, Real | str) else tuple(given)
    if wrong := [value for value in values if not isinstance(value, Real)]:
        raise ValueError(f"`l2` of the probe holds {wrong[0]!r}. Give finite values of at least 0.")
    return tuple(map(float, values))


def _several(given: Any, kind: Any, what: str, default: Any) -> tuple[Any, ...]:
    if given is None:
        return (default,)
    return tuple(_named(one, kind, what) for one in (given if isinstance(given, list | tuple) else [given]))


def _named(given: Any, kind: Any, what: str) -> Any:
    """Return an object of a kind, made from its class or its class's name where one of these is given."""
    known = named_classes(kind)
    found: Any = known.get(given) if isinstance(given, str) else given
    if inspect.isclass(found) and issubclass(found, kind):
        required = [p.name for p in inspect.signature(found).parameters.values() if p.default is p.empty]
        if required:
            raise ValueError(
                f"The {what} {found.__name__} needs `{required[0]}`: give {found.__name__}({required[0]}=…)."
            )
        found = found()
    if isinstance(found, kind):
        return found
    raise ValueError(f"The {what} {given!r} is not known. {nearest(str(given), known)} Or give an object.")


def _taken(given: Taken) -> Take:
    """Return what takes something out of a batch, where it is given as a function or by where it is."""
    if callable(given):
        return given
    return Item(given) if isinstance(given, int | str) else Items(given)
