"""Protocol of a probe: what is probed and how, the sweep that every checkpoint goes through."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from torch import Tensor

from layerprobe.probing.analyses.analysis import AbstractAnalysis
from layerprobe.probing.batches import Take, inputs_of, targets_of
from layerprobe.probing.capture.default_device import programs_device
from layerprobe.probing.capture.granularity import Granularity
from layerprobe.probing.capture.token_axes import attention_masks, masks_of_inputs
from layerprobe.probing.controls import CONTROLS, type_keys
from layerprobe.probing.features.reducers import AbstractReducer, AveragePool, Flatten
from layerprobe.probing.metrics.score_metrics import SCORE_METRICS
from layerprobe.probing.solvers.logistic import Logistic
from layerprobe.probing.solvers.ridge import Ridge
from layerprobe.probing.solvers.scikit_learn_c import ScikitLearnC
from layerprobe.probing.solvers.solver import AbstractSolver
from layerprobe.probing.tasks.classification import Classification
from layerprobe.probing.tasks.task import AbstractScoredTask, AbstractTask

L2_GRID: tuple[float, ...] = tuple(float(f"{10 ** (-6 + 7 * i / 11):.3g}") for i in range(12))
"""Twelve values from 1e-6 to 1e1, evenly spaced on a log scale."""

if TYPE_CHECKING:
    _Task: TypeAlias = AbstractTask
else:
    _Task = AbstractTask | None
"""What is given as the task: None becomes `Classification()`. The parser of a LightningCLI takes no default that is an
instance of a final class."""


@dataclass(frozen=True)
class ProbeProtocol:
    """Layers × reducers × solvers × L2 values × seeds, selected on validation.

    Attributes:
        layers: Glob pattern(s) of the layers to probe.
        exclude: Glob pattern(s) of the layers to leave out.
        granularity: Which tensors count as layers: `ops`, `modules`, `blocks` or `sites`, as for `layerprobe.probe`.
        reducers: Ways to make features, each an `AbstractReducer`; a list among them, such as that of
            `token_positions`, counts as its members.
        solvers: Ways to fit a head.
        l2: The path of every head, in any order: L2 values, or scikit-learn's `C`.
        seeds: Seeds of the random reducers; the first is that of the controls' labels too.
        controls: What else the same sweep is fitted to. `control_task`: a random label for each type of sample, the
            same on every split (Hewitt & Liang, 2019), whose test error less the task's is the selectivity. `shuffled`:
            labels in random order on every split, whose error is chance unless something leaks.
        control_key: Takes out of a batch what samples of one type share: a tensor with the samples first, or a list of
            words. By default the inputs, without their padding: then only equal inputs are of one type.
        standardise: Whether features get mean 0 and variance 1 on train. An L2 penalty weighs a feature by its scale.
        inputs: Takes the network's inputs out of a batch.
        targets: Takes the property to be probed out of a batch.
        task: What kind of property that is.
        mask: Takes out of a batch which places of a sequence hold a token, nonzero in (samples, tokens), for token
            reducers; by default the inputs' entries `attention_mask`, `decoder_attention_mask` and the like. Where a
            network has several sequences, a mapping from the names of the inputs to their masks.
        spill_dtype: Precision of the features that go to disk; by default their own. `bfloat16` rounds those that
            `Resources.max_memory` has no room for.
        path: How much of a logistic path is proved. `chosen`: it is walked from strong to weak penalties, each value to
            a rough gap, until validation is past its best; then the best head and its neighbours are brought to the
            certificate, and the choice is made again, until it stands. So what is reported is proved; the other values
            are `rough` or `skipped`. `full`: every value is brought to the certificate.
        patience: End a path from strong to weak penalties after so many heads in a row that validation likes less, see
            `PastBest`; the rest is `skipped`. By default 2, and with path=full every value is fitted. Logistic
            regression on classes only: several labels at once are walked to the end.
        selection: What the selected head has the lowest of on validation: its `error`, its `loss`, its `balanced_error`
            (1 less the mean over the classes of the share of their samples that are right), or the rest of its `auc`
            to 1. Ties go to lower loss, then to larger l2. The path is walked by it, too. Without a validation split
            leave-one-out errors or losses choose.
        metrics: What else is measured of the selected head on each test set: any of `SCORE_METRICS`, or `all`.
        scores: Whether the selected head's scores of every test sample are kept.
        sample_ids: Takes out of a batch what names each test sample in these: whole numbers or text, each once. By
            default, its place in the test split.
        population: Whether the test split is all that there is and no sample of more: there are then no intervals.
        refit: Fit the selected head once more, to train and validation together.
        stream: Keep no training features: their moments add up while the samples pass by, which is all that least
            squares (ridge) needs. Validation and test are kept as ever.
        analyses: What else is asked of every layer's features beside the linear head, see `AbstractAnalysis`.
        each_reducer: Read the test error of the best head of each reducer too, and not only of the best of all: of each
            token position, say. Each is chosen by validation and reads test once; see `MetricRecord`.
    """

    layers: str | Sequence[str] = "*"
    exclude: str | Sequence[str] = ()
    granularity: Granularity = "modules"
    reducers: Sequence[Any] = field(default_factory=lambda: (AveragePool(),))
    solvers: Sequence[AbstractSolver] = field(default_factory=lambda: (Logistic(),))
    l2: Sequence[float] | ScikitLearnC = L2_GRID
    seeds: Sequence[int] = (0,)
    controls: Sequence[str] = ()
    control_key: Take | None = None
    standardise: bool = True
    inputs: Take = inputs_of
    targets: Take = targets_of
    task: _Task = None  # type: ignore[assignment]
    mask: Take | None = None
    spill_dtype: Literal["float32", "bfloat16"] | None = None
    stream: bool = False
    path: Literal["chosen", "full"] = "chosen"
    patience: int | None = None
    refit: bool = False
    selection: str = "error"
    metrics: Sequence[str] | str = ()
    scores: bool = False
    sample_ids: Take | None = None
    population: bool = False
    analyses: Sequence[AbstractAnalysis] = ()
    each_reducer: bool = False

    def __post_init__(self) -> None:
        if self.task is None:
            object.__setattr__(self, "task", Classification())
        object.__setattr__(self, "reducers", tuple(_flat(self.reducers)))  # a set of them counts as its members
        for name in ("layers", "reducers", "solvers", "l2", "seeds"):
            if not len(getattr(self, name)):
                raise ValueError(f"`{name}` of the probe is empty. Give at least one.")
        for name, kind, example in (
            ("reducers", AbstractReducer, "AveragePool(max_features=1024)"),
            ("solvers", AbstractSolver, "Logistic()"),
            ("analyses", AbstractAnalysis, "NearestMean()"),
        ):
            for item in getattr(self, name):
                if not isinstance(item, kind):
                    raise ValueError(f"`{name}` of the probe holds {item!r}. Give objects such as {example}.")
        for solver in self.solvers:
            self.task.check(solver)
        for analysis in self.analyses:
            analysis.check(self.task)
        names = [analysis.name for analysis in self.analyses]
        if twice := [name for name in names if names.count(name) > 1]:
            raise ValueError(f"`analyses` of the probe holds {twice[0]!r} twice. Give each once.")
        l2 = self.l2.l2(1, 2) if isinstance(self.l2, ScikitLearnC) else self.l2
        if bad := [value for value in l2 if isinstance(value, str) or not 0 <= value < float("inf")]:
            raise ValueError(f"`l2` of the probe holds {bad[0]!r}. Give finite values of at least 0.")
        if self.path not in ("chosen", "full"):
            raise ValueError(f"`path` of the probe is {self.path!r}. There is: chosen, full.")
        if self.patience is not None and self.patience < 1:
            raise ValueError(f"`patience` of the probe is {self.patience}. Give at least 1, or null for the default.")
        if self.selection not in (known := ("error", "loss", *self.task.figures)):
            raise ValueError(
                f"`selection` of the probe is {self.selection!r}. With the task {self.task.name} there is: "
                f"{', '.join(known)}."
            )
        self._check_metrics()
        if self.stream:
            self._check_stream()
        if unknown := set(self.controls) - set(CONTROLS):
            raise ValueError(
                f"`controls` of the probe holds {sorted(unknown)[0]!r}. Choose one of: {', '.join(CONTROLS)}."
            )
        self._check_use()

    def _check_metrics(self) -> None:
        possible = (*SCORE_METRICS, "all") if isinstance(self.task, AbstractScoredTask) else ()
        given = (self.metrics,) if isinstance(self.metrics, str) else tuple(self.metrics)
        if given and not possible:
            raise ValueError(
                f"`metrics` of the probe holds {given[0]!r}. With the task {self.task.name} there is: none besides "
                "what every record has (test_error, test_r2). Leave `metrics` out."
            )
        if wrong := [name for name in self.metric_names if name not in possible]:
            raise ValueError(
                f"`metrics` of the probe holds {wrong[0]!r}. With the task {self.task.name} there is: "
                f"{', '.join(possible)}."
            )
        if self.sample_ids is not None and not self.scores:
            raise ValueError("`sample_ids` names the samples whose scores are kept. Set scores=true as well.")

    def _check_use(self) -> None:
        """Refuse what would have no effect.

        Raises:
            ValueError: Naming the field, and what to do.
        """
        if self.control_key is not None and "control_task" not in self.controls:
            raise ValueError("`control_key` is of use to the control task only. Set controls=[control_task] as well.")
        ridge = [solver.name for solver in self.solvers if isinstance(solver, Ridge)]
        if isinstance(self.l2, ScikitLearnC) and ridge:
            raise ValueError(
                "scikit-learn's C is that of LogisticRegression; least squares (solver ridge) has none. Give `l2` "
                "values, of which l2 = alpha / n_train is what scikit-learn's Ridge calls alpha, or solver=[logistic]."
            )
        if self.patience is not None:
            logistic = any(isinstance(solver, Logistic) for solver in self.solvers)
            if self.stream or not logistic or not isinstance(self.task, Classification):
                found = "a stream" if self.stream else f"the task {self.task.name}"
                if isinstance(self.task, Classification) and not self.stream:
                    found = f"solver {', '.join(solver.name for solver in self.solvers)}"
                raise ValueError(
                    f"`patience` ends the path of logistic regression on classes; with {found} it has no effect, since "
                    "all values are there at once. Set patience=null."
                )
        if self.selection in self.task.figures and any(isinstance(s, Ridge) and s.leave_one_out for s in self.solvers):
            raise ValueError(
                f"`selection` is {self.selection}, which leaving samples out does not give: it gives error and loss. "
                "Set selection=error or selection=loss, or leave_one_out=false and give a validation split."
            )
        kinds = sorted({solver.name for solver in self.solvers})
        if self.selection == "loss" and len(kinds) > 1:
            raise ValueError(
                f"`selection` is loss, which is another thing to each of the solvers {', '.join(kinds)}: cross-entropy "
                "or half a squared error. Set selection=error, or give one kind of solver."
            )
        if len(self.seeds) > 1 and not any(reducer.is_random for reducer in self.reducers):
            names = ", ".join(reducer.name for reducer in self.reducers)
            raise ValueError(
                f"`seeds` holds {len(self.seeds)} seeds, but no reducer is random ({names}): one head would count for "
                "all. Give one seed, or add reducer=[random_subset]; runs of several seeds are a sweep (-m seed=0,1,2)."
            )
        if self.each_reducer and self.refit:
            raise ValueError(
                "`refit` fits the one head once more that is chosen of all reducers, `each_reducer` reads test for the "
                "others beside it, which would not be. Leave out one of them."
            )
        if self.stream and any(isinstance(solver, Ridge) and solver.leave_one_out for solver in self.solvers):
            raise ValueError("`leave_one_out` needs features that are kept. Leave it out, or set stream=false.")

    def _check_stream(self) -> None:
        """Refuse what needs features that are kept.

        Raises:
            ValueError: Naming it.
        """
        if other := [solver.name for solver in self.solvers if not isinstance(solver, Ridge)]:
            raise ValueError(
                f"The solver {other[0]!r} cannot stream: it needs each sample many times. Set stream=false: features "
                "that do not fit into `max_memory` are kept on disk, and every head ends with its certificate. Or "
                "choose solver=[ridge], which needs one pass."
            )
        if not isinstance(self.task, Classification):
            raise ValueError(f"The task {self.task.name!r} cannot be streamed. Choose task=classification.")
        given = {
            "controls": self.controls,
            "analyses": self.analyses,
            "refit": self.refit,
            "standardise=false": not self.standardise,
        }
        if name := next((name for name, value in given.items() if value), ""):
            raise ValueError(f"`{name}` needs features that are kept. Leave it out, or set stream=false.")
        if isinstance(self.l2, ScikitLearnC):
            raise ValueError(
                "scikit-learn's C depends on the number of samples. Give `l2` values, or set stream=false."
            )

    @property
    def needs_val(self) -> bool:
        """Whether validation has a part: heads or analyses are chosen by it, or the selected head is fitted to it.

        Several heads of least squares with leave-one-out errors can do without.
        """
        several = any(len(part) > 1 for part in (self.reducers, self.solvers, self.l2, self.seeds))
        left_out = all(isinstance(solver, Ridge) and solver.leave_one_out for solver in self.solvers)
        asked = any(analysis.needs_val for analysis in self.analyses)
        return self.refit or asked or (several and not left_out)

    def for_features(self) -> ProbeProtocol:
        """Return the same sweep for data whose inputs are features already, all of them used."""
        return replace(
            self, layers="*", exclude=(), granularity="ops", reducers=(Flatten(),),
            inputs=inputs_of, targets=targets_of, mask=None, each_reducer=False, control_key=None, sample_ids=None,
            controls=tuple(name for name in self.controls if name != "control_task" or self.control_key is None),
        )  # fmt: skip

    def l2_values(self, n_train: int, n_classes: int) -> tuple[float, ...]:
        """Return the L2 values of every head's path, in the order given."""
        return self.l2.l2(n_train, n_classes) if isinstance(self.l2, ScikitLearnC) else tuple(self.l2)

    @property
    def positions(self) -> int:
        """How many positions of a layer its analyses read, at most; 0 for none."""
        return max((analysis.positions for analysis in self.analyses), default=0)

    @property
    def metric_names(self) -> tuple[str, ...]:
        """What else is measured of the selected head on each test set."""
        given = (self.metrics,) if isinstance(self.metrics, str) else tuple(self.metrics)
        return SCORE_METRICS if given == ("all",) else given

    def keys_of(self, batch: Any) -> Tensor:
        """Return the type of each sample of a batch, for the control task."""
        if self.control_key is not None:
            with programs_device():
                keys = self.control_key(batch)
            return type_keys(keys)
        with programs_device():
            inputs = self.inputs(batch)
        return type_keys(inputs, masks_of_inputs(inputs, self.mask_of(batch)))

    def mask_of(self, batch: Any) -> Any:
        """Return which places of a batch's sequences hold a token, not yet checked; nothing where nothing says so."""
        with programs_device():
            return attention_masks(self.inputs(batch)) if self.mask is None else self.mask(batch)


def _flat(reducers: Any) -> Iterator[Any]:
    for one in reducers:
        if isinstance(one, list | tuple):
            yield from _flat(one)
        else:
            yield one
