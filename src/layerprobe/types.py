"""Types that every part shares: the legend of axes, and the rows of results.

Axes, as they appear in the signatures of this package:

- `n` samples, `d` features, `c` classes,
- `p` points of the path (L2 values of one head, fitted together),
- `k` layers.

`ProbeRecord`, `PathRecord` and `MetricRecord` are the schema of what is written: one field, one column.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
from jaxtyping import Bool, Float, Shaped

Split: TypeAlias = str
"""`train`, `val`, or the name of a test set, which is `test` where there is one."""

SPLITS: tuple[Split, ...] = ("train", "val", "test")

LayerName: TypeAlias = str
"""Module path, with `#1`, `#2`, … when called again; `module.function` for a functional operation."""

Config: TypeAlias = Mapping[str, Any]
"""A resolved configuration: nested mappings of plain values."""


UNTRAINED = "untrained"
"""Name of the checkpoint of a network with random weights."""


def named_classes(kind: type) -> dict[str, Any]:
    """Find the classes of a kind that have a `name`, however deep below it, as far as their modules are imported."""
    return {one.name: one for one in _below(kind) if "name" in vars(one)}


def _below(kind: Any) -> Iterator[Any]:
    for found in kind.__subclasses__():
        yield from (found, *_below(found))


@dataclass(frozen=True)
class CheckpointInfo:
    """Which frozen network a record belongs to.

    Attributes:
        name: `initial`, `epoch_3`, `step_500`, `final`, or a file's stem; the same name in every run of a sweep.
        step: Optimizer steps taken, Lightning's `global_step`.
        epoch: Whole epochs finished.
    """

    name: str = "network"
    step: int = 0
    epoch: int = 0


@dataclass(frozen=True)
class AbstractRecord:
    """A record of a layer at a checkpoint; its first columns.

    Attributes:
        checkpoint: Name of the checkpoint.
        step: Optimizer steps taken.
        epoch: Whole epochs finished.
        depth: Place in the order of execution; 0 is the input.
        layer: Name of the layer.
    """

    checkpoint: str
    step: int
    epoch: int
    depth: int
    layer: LayerName


@dataclass(frozen=True)
class ProbeRecord(AbstractRecord):
    """One checkpoint and layer: the selected head and its test error.

    Attributes:
        aliases: Names of the layers that carry the same values (dropout, flatten, …), separated by ", ".
        kind: The module's class or the function's name.
        shape: Shape of one sample's activation, such as "32x28x28".
        n_features_full: Size of one sample's activation.
        n_features: Size after the reducer.
        reducer: Name of the reducer.
        reduction: What the reducer did, such as "32x28x28 -> 32x5x5".
        solver: Name of the solver.
        l2: The selected L2 value.
        status: `converged`, `stalled`, `diverged` or `failed`.
        message: What the status says, and what else a reader of the figures has to know; mostly empty.
        gap: Bound on (objective - optimum) / objective at the selected head.
        task: `classification`, `multi_label` or `regression`: what the errors are.
        n_classes: Number of classes, of labels, or of values.
        n_train: Training samples.
        n_val: Validation samples.
        n_test: Test samples.
        train_error: Share of training samples that the head gets wrong; of labels, with several labels at once; for
            numbers the fraction of their variance that it leaves unexplained, 1 - R².
        val_error: Likewise on validation.
        val_loss: Mean cross-entropy (logistic) or squared error (ridge) on validation.
        test_error: Likewise on test.
        test_error_low: Lower end of its 95 % interval; NaN where the test split is the whole population.
        test_error_high: Upper end; likewise.
        test_loss: As `val_loss`, on test.
        test_f1: F1 on test: of the second class where there are two, else the mean over those that are true or
            predicted there, as `macro_f1`; those that train does not have are one that is always wrong.
        test_auc: Area under the ROC curve on test, over the samples whose class train has: with two classes the second
            against the first, with more the mean over the classes of each against the rest. With several labels at
            once, F1 and area are means over the labels. NaN where there is nothing to rank.
        test_r2: R² on test, 1 - `test_error`; NaN unless numbers are predicted.
        majority_error: Test error of the best constant answer that train knows: its most frequent class, its mean.
        shuffled_error: Test error of the same sweep on labels in random order, a check of leakage: chance, and less
            only where something leaks. NaN where that control is off.
        control_error: Test error of the same sweep on the control task of Hewitt & Liang (2019), a random label for
            each type of sample; NaN where that control is off.
        selectivity: `control_error - test_error`; NaN where that control is off.
        seconds: Wall-clock seconds for reducing, fitting, selecting and testing this layer.
        seed: The probe's seed.
        refit: Whether the head was fitted once more, to train and validation together, after it was chosen.
    """

    aliases: str
    kind: str
    shape: str
    n_features_full: int
    n_features: int
    reducer: str
    reduction: str
    solver: str
    l2: float
    status: str
    message: str
    gap: float
    task: str
    n_classes: int
    n_train: int
    n_val: int
    n_test: int
    train_error: float
    val_error: float
    val_loss: float
    test_error: float
    test_error_low: float
    test_error_high: float
    test_loss: float
    test_f1: float
    test_auc: float
    test_r2: float
    majority_error: float
    shuffled_error: float
    control_error: float
    selectivity: float
    seconds: float
    seed: int
    refit: bool = False


@dataclass(frozen=True)
class PathRecord(AbstractRecord):
    """One swept head: a checkpoint, layer, reducer, solver, seed, control and L2 value.

    Attributes:
        reducer: Name of the reducer.
        solver: Name of the solver.
        seed: The probe's seed.
        control: `none`; `shuffled` or `control_task` for a head fitted to that control's labels.
        l2: The L2 value.
        status: `converged`, `stalled`, `diverged` or `failed`; `rough` where the value was fitted roughly only
            and another one chosen, `skipped` where it was not fitted.
        message: What the status says; empty when converged.
        gap: Bound on (objective - optimum) / objective; of a `rough` value, too.
        iterations: Iterations of the solver.
        objective: The training objective reached.
        val_error: Share of validation samples that the head gets wrong.
        val_loss: Mean cross-entropy (logistic) or squared error (ridge) on validation.
        selected: Whether this head was chosen: by validation, or by leave-one-out errors where there is none.
        loo_error: Leave-one-out error on train, in closed form; NaN where the solver does not work it out.
        loo_loss: Leave-one-out loss on train; likewise.
    """

    reducer: str
    solver: str
    seed: int
    control: str
    l2: float
    status: str
    message: str
    gap: float
    iterations: int
    objective: float
    val_error: float
    val_loss: float
    selected: bool
    loo_error: float = math.nan
    loo_loss: float = math.nan


@dataclass(frozen=True)
class MetricRecord(AbstractRecord):
    """One number that a head or an analysis comes to at a checkpoint and layer, beside those of `ProbeRecord`.

    Attributes:
        head: `selected` for the head of the layer's `ProbeRecord`; otherwise the name of an analysis or of what it
            fitted, such as `nearest_mean`.
        test_set: The test set that was read; empty where none was.
        metric: What was measured, such as `error`.
        n_train: Training samples that it rests on.
        value: The number.
        low: Lower end of its 95 % interval; NaN where there is none.
        high: Upper end; likewise.
    """

    head: str
    test_set: str
    metric: str
    n_train: int
    value: float
    low: float = math.nan
    high: float = math.nan


@dataclass(frozen=True)
class FeatureRecipe:
    """How the features of a head are made of a network anew, and what its classes are called.

    Attributes:
        granularity: Which tensors count as layers.
        arguments: Arguments of the reducer; None where they are not plain values.
        channel_axis: Which axis of one sample holds the channels; None where that is not known.
        token_axes: Axes of one sample that run over tokens, each with the name of the mask of its sequence.
        own_mask: Whether these masks were given beside the inputs.
        words: What the classes are called, by their indices; empty where they are numbers.
        autocast: The number format of torch's autocast in which the network ran, such as `bfloat16`; None where that
            was off, or an older version did not keep it.
    """

    granularity: str
    arguments: Mapping[str, Any] | None
    channel_axis: int | None
    token_axes: Sequence[Sequence[int | str]]
    own_mask: bool
    words: Sequence[str] = ()
    autocast: str | None = None


@dataclass(frozen=True, eq=False)
class FittedReference:
    """What an analysis such as `mlp` has fitted beside the linear head of a layer, as far as it predicts.

    Attributes:
        arrays: What it is made of, with the standardisation of its features: `mean`, `scale` and `constant` of each
            feature, or of each channel of its positions.
        reducer: How its features are made, by the reducer's name.
        reduction: What that made of the layer.
        n_features: Their number.
        recipe: How they are made anew; None where they are those of the linear head.
        train_features: File of its training features, which it reads to predict; empty where they are not kept, None
            where it does without.
    """

    arrays: Mapping[str, np.ndarray]
    reducer: str
    reduction: str
    n_features: int
    recipe: FeatureRecipe | None = None
    train_features: str | None = None


@dataclass(frozen=True, eq=False)
class SampleScores:
    """What the selected head of a layer says of each sample of a test set.

    Attributes:
        ids: What names the samples: whole numbers, or text.
        targets: What is true: class indices; or a row of labels, or of values, for each sample.
        scores: The head's score of each class or label; of a regression the values that it predicts, in their units.
    """

    ids: Shaped[np.ndarray, " n"]
    targets: Shaped[np.ndarray, "n ..."]
    scores: Float[np.ndarray, "n c"]


@dataclass(frozen=True)
class Answers:
    """What the selected head of a layer answers on one test set.

    Attributes:
        correct: As in `LayerResult`.
        samples: As in `LayerResult`.
    """

    correct: Bool[np.ndarray, " n"]
    samples: str = ""


@dataclass(frozen=True)
class LayerResult:
    """Everything that probing one layer of one checkpoint leaves behind.

    Attributes:
        record: The selected head and its test error.
        path: Every swept head.
        head: The selected head: `weight` (c d), `bias` (c), and the standardisation `mean` (d), `scale` (d); with
            `classes` (c), or where numbers are predicted with the units of its outputs, `target_mean`, `target_scale`;
            with `test_rows` (n) where the data were divided: which samples of theirs are the test samples.
        correct: Whether the selected head is right (on all labels), for each test sample in the order of the test
            split; empty where numbers are predicted. Where there are several test sets, on the primary one.
        samples: Fingerprint of these test samples in this order; empty where it is not known.
        recipe: How the head's features are made; None where it failed, or an older version did not keep it.
        metrics: What else was measured, and what the analyses came to.
        test_set: Name of the primary test set.
        further: The same head's answers on the further test sets, by name.
        scores: By test set, the selected head's scores of every sample; empty where they are not kept.
        references: By the name of their analysis, the references that predict.
    """

    record: ProbeRecord
    path: tuple[PathRecord, ...]
    head: Mapping[str, np.ndarray]
    correct: Bool[np.ndarray, " n"]
    samples: str = ""
    recipe: FeatureRecipe | None = None
    metrics: tuple[MetricRecord, ...] = ()
    test_set: Split = "test"
    further: Mapping[Split, Answers] = field(default_factory=dict)
    scores: Mapping[str, SampleScores] = field(default_factory=dict)
    references: Mapping[str, FittedReference] = field(default_factory=dict)

    @property
    def answers(self) -> dict[Split, Answers]:
        """What the selected head answers on each test set, the primary one first."""
        return {self.test_set: Answers(self.correct, self.samples), **self.further}

    @property
    def sample_ids(self) -> np.ndarray:
        """Ids of the test samples: those of their scores, or their places in the test split or in the divided data."""
        if self.scores:
            return next(iter(self.scores.values())).ids
        rows = self.head.get("test_rows")
        return np.arange(self.record.n_test) if rows is None else rows
