"""Builder of the records of a layer."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from itertools import zip_longest
from typing import Any

import numpy as np

from layerprobe.probing.analyses.analysis import Metric
from layerprobe.probing.analyses.reference_predictor import AbstractReference
from layerprobe.probing.capture.layers import Layer
from layerprobe.probing.features.reducers import AbstractReducer, FeatureWay, shape_text
from layerprobe.probing.fitting import channel_axis, positions_axis
from layerprobe.probing.head_path import HeadPath
from layerprobe.probing.layer_analyses import Found, Predictors
from layerprobe.probing.protocol import ProbeProtocol
from layerprobe.probing.selection import select
from layerprobe.probing.split_reader import Recording
from layerprobe.probing.targets import Labels
from layerprobe.probing.tasks.task import Measured
from layerprobe.types import (
    Answers,
    CheckpointInfo,
    FeatureRecipe,
    FittedReference,
    LayerResult,
    MetricRecord,
    PathRecord,
    ProbeRecord,
    Split,
)


@dataclass(frozen=True)
class LayerRecords:
    """Builds the records of one layer."""

    layer: Layer
    checkpoint: CheckpointInfo
    labels: Labels
    protocol: ProbeProtocol
    tests: Mapping[Split, Recording]

    @property
    def primary(self) -> Split:
        """Name of the primary test set."""
        return next(iter(self.tests))

    def measured(
        self,
        paths: Mapping[str, Sequence[HeadPath]],
        head: HeadPath,
        found_on: Mapping[Split, Mapping[str, Measured]],
        analyses: Found,
        seconds: float,
    ) -> LayerResult:
        """Build the result of a layer that was fitted, selected and measured.

        `paths` are by control, `head` is a path of one, and `found_on` is what it comes to on each test set
        (`none`) and the selected head of each control.
        """
        test = found_on[self.primary]
        found, status = test["none"], head.solution.status[0]
        chosen_by = f"chosen by {head.selection}" if head.selection != "error" else ""
        notes = [status.message, chosen_by, found.message]
        if head.standardiser.constant.all():
            notes = ["no feature varies on train: the head can only answer one class"]
        message = "; ".join(filter(None, (*notes, *(failure for _, failure in analyses.values()))))
        controls = {name: control.error for name, control in test.items()}
        record = ProbeRecord(
            **self._common(),
            n_features=head.way.reduction.n_features,
            reducer=head.way.reducer.name,
            reduction=head.way.reduction.description,
            solver=head.solver.name,
            l2=head.l2[0],
            status=str(status),
            message=message,
            gap=float(head.solution.gap[0]),
            train_error=head.train_error,
            val_error=head.val_error[0],
            val_loss=head.val_loss[0],
            test_error=found.error,
            test_error_low=found.low,
            test_error_high=found.high,
            test_loss=found.loss,
            test_f1=found.f1,
            test_auc=found.auc,
            test_r2=found.r2,
            shuffled_error=controls.get("shuffled", math.nan),
            control_error=controls.get("control_task", math.nan),
            selectivity=controls.get("control_task", math.nan) - found.error,
            seconds=seconds,
            seed=head.way.seed,
            refit=head.refitted,
        )
        return LayerResult(
            record,
            self._path_records(paths),
            self._head_arrays(head),
            found.correct.cpu().numpy(),
            samples=self.tests[self.primary].samples,
            recipe=self._recipe(head.way, channel_axis(head.way.reducer, self.layer)),
            metrics=tuple(self._metrics(found_on, analyses)),
            test_set=self.primary,
            further={
                name: Answers(found_on[name]["none"].correct.cpu().numpy(), recorded.samples)
                for name, recorded in self.tests.items()
                if name != self.primary
            },
        )

    def references(
        self, predictors: Predictors, head: HeadPath, ways: Sequence[FeatureWay]
    ) -> dict[str, FittedReference]:
        """Return what predicts beside the selected head."""
        found = {}
        for analysis in self.protocol.analyses:
            if not isinstance(analysis, AbstractReference) or analysis.name not in predictors:
                continue
            way, recipe = head.way, None
            if analysis.positions:
                way = next(each for each in ways if not each.reduction.fitted)
                recipe = self._recipe(way, positions_axis(self.layer, self.protocol))
            arrays = {part: values.cpu().contiguous().numpy() for part, values in predictors[analysis.name].items()}
            made = way.reducer.name, way.reduction.description, way.reduction.n_features
            found[analysis.name] = FittedReference(arrays, *made, recipe, "" if analysis.needs_train else None)
        return found

    def _head_arrays(self, head: HeadPath) -> dict[str, np.ndarray]:
        tensors = {
            # What does not vary on train is exactly 0 to the head, whatever it is elsewhere.
            "weight": head.heads.weight[0].masked_fill(head.standardiser.constant.to(head.heads.weight.device), 0),
            "bias": head.heads.bias[0],
            "mean": head.standardiser.mean,
            "scale": head.standardiser.scale,
            **self.labels.extra,
        }
        return {name: tensor.cpu().contiguous().numpy() for name, tensor in tensors.items()}

    def _metrics(self, found_on: Mapping[Split, Mapping[str, Measured]], analyses: Found) -> Iterator[MetricRecord]:
        asked = {(metric.test_set, metric.metric) for metric in analyses.get("selected", ([], ""))[0]}
        for metric in self._on_each(found_on):
            # What is asked for has an interval where what is there anyway has none.
            if (metric.test_set, metric.metric) not in asked:
                yield self._metric("selected", metric)
        for name, (found_by, _) in analyses.items():
            yield from (self._metric(name, metric) for metric in found_by)

    def _on_each(self, found_on: Mapping[Split, Mapping[str, Measured]]) -> Iterator[Metric]:
        """Say what the selected head comes to on each test set, where there are several: what is known of it there."""
        for name, test in found_on.items() if len(found_on) > 1 else ():
            found, labels = test["none"], self.labels.read_on(name)
            shuffled, control = (test[of].error if of in test else math.nan for of in ("shuffled", "control_task"))
            yield Metric("error", found.error, found.low, found.high, test_set=name)
            figures = {
                "loss": found.loss,
                "f1": found.f1,
                "auc": found.auc,
                "r2": found.r2,
                "majority_error": self.protocol.task.constant_error(labels),
                "shuffled_error": shuffled,
                "control_error": control,
                "selectivity": control - found.error,
                "n_test": float(len(labels.splits["test"])),
            }
            yield from (Metric(of, value, test_set=name) for of, value in figures.items() if not math.isnan(value))

    def _metric(self, analysis: str, found: Metric) -> MetricRecord:
        return MetricRecord(
            **self._place(),
            head=found.head or analysis,
            test_set=found.test_set,
            metric=found.metric,
            n_train=len(self.labels.splits["train"]) if found.n_train is None else found.n_train,
            value=found.value,
            low=found.low,
            high=found.high,
        )

    def failed(self, paths: Mapping[str, Sequence[HeadPath]], message: str, seconds: float) -> LayerResult:
        """Build the result of a layer that could not be probed: no figures, but the reason."""
        missing: dict[str, Any] = {field.name: math.nan for field in fields(ProbeRecord) if field.type == "float"}
        record = ProbeRecord(
            **missing | self._common() | {"seconds": seconds},
            n_features=0,
            reducer="",
            reduction="",
            solver="",
            status="failed",
            message=message,
            seed=self.protocol.seeds[0],
            refit=False,
        )
        samples, nothing = self.tests[self.primary].samples, np.empty(0, dtype=bool)
        return LayerResult(record, self._path_records(paths), {}, nothing, samples, test_set=self.primary)

    def _path_records(self, paths: Mapping[str, Sequence[HeadPath]]) -> tuple[PathRecord, ...]:
        """Make the record of every swept head."""
        chosen = {control: select(found) for control, found in paths.items()}
        return tuple(
            PathRecord(
                **self._place(),
                reducer=path.way.reducer.name,
                solver=path.solver.name,
                seed=path.way.seed,
                control=control,
                l2=l2,
                status=str(path.solution.status[i]),
                message=path.solution.status[i].message,
                gap=float(path.solution.gap[i]),
                iterations=int(path.solution.iterations[i]),
                objective=float(path.solution.objective[i]),
                val_error=path.val_error[i],
                val_loss=path.val_loss[i],
                selected=path is chosen[control] and i == path.best,
                loo_error=math.nan if path.solution.left_out is None else float(path.solution.left_out.error[i]),
                loo_loss=math.nan if path.solution.left_out is None else float(path.solution.left_out.loss[i]),
            )
            for control, found in paths.items()
            for path in found
            for i, l2 in enumerate(path.l2)
        )

    def _recipe(self, way: FeatureWay, channel_axis: int | None) -> FeatureRecipe:
        reduction = way.reduction
        return FeatureRecipe(
            granularity=self.protocol.granularity,
            arguments=_plain_arguments(way.reducer),
            channel_axis=channel_axis,
            token_axes=tuple(zip_longest(reduction.axes, reduction.masks, fillvalue="")),
            own_mask=bool(reduction.axes) and self.protocol.mask is not None,
            autocast=self.tests[self.primary].autocast,
        )

    def _place(self) -> dict[str, Any]:
        layer, checkpoint = self.layer, self.checkpoint
        at = {"checkpoint": checkpoint.name, "step": checkpoint.step, "epoch": checkpoint.epoch}
        return {**at, "depth": layer.depth, "layer": layer.name}

    def _common(self) -> dict[str, Any]:
        layer, task = self.layer, self.protocol.task
        labels = self.labels.read_on(self.primary)
        return {
            **self._place(),
            "aliases": ", ".join(layer.aliases),
            "kind": layer.kind,
            "shape": shape_text(layer.shape),
            "n_features_full": math.prod(layer.shape),
            "task": task.name,
            "n_classes": len(labels.outputs),
            "n_train": len(labels.splits["train"]),
            "n_val": len(labels.splits.get("val", ())),
            "n_test": len(labels.splits["test"]),
            "majority_error": task.constant_error(labels),
        }


def _plain_arguments(reducer: AbstractReducer) -> dict[str, Any] | None:
    """Return what makes an equal reducer; None where that cannot be written down."""
    if not is_dataclass(reducer):
        return None
    found = {field.name: getattr(reducer, field.name) for field in fields(reducer) if field.init}
    found = {name: dict(value) if isinstance(value, Mapping) else value for name, value in found.items()}
    try:
        json.dumps(found)
    except (TypeError, ValueError):
        return None
    return found
