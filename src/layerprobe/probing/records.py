"""Write what a layer's probes came to as the rows that are kept."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from layerprobe.probing.capture.layers import Layer
from layerprobe.probing.features.reducers import shape_text
from layerprobe.probing.fitting import Selected, Sweep
from layerprobe.probing.targets import Labels
from layerprobe.probing.tasks.task import AbstractTask, Measured
from layerprobe.types import CheckpointInfo, LayerResult, PathRecord, ProbeRecord


def measured(
    layer: Layer,
    checkpoint: CheckpointInfo,
    labels: Labels,
    task: AbstractTask,
    sweeps: Mapping[str, Sweep],
    chosen: Selected,
    test: Measured,
    controls: Mapping[str, float],
    seconds: float,
    population: bool = False,
) -> LayerResult:
    """The result of a layer that was fitted, selected and measured.

    Args:
        layer: The layer.
        checkpoint: The frozen network.
        labels: The true labels.
        task: What is predicted.
        sweeps: All fits, by control.
        chosen: The selected head.
        test: What it comes to on test.
        controls: Test error of each control that is on.
        seconds: Wall-clock seconds spent on this layer.
        population: Whether the test split is no sample, so that its error is exact.

    Returns:
        The result.
    """
    way, message = chosen.fit.way, "; ".join(filter(None, (chosen.status.message, test.message)))
    if chosen.standardiser.constant.all():
        message = "no feature varies on train: the head can only answer one class"
    record = ProbeRecord(
        **_common(layer, checkpoint, labels, task),
        n_features=way.reduction.n_features,
        reducer=way.reducer.name,
        reduction=way.reduction.description,
        solver=chosen.fit.solver.name,
        l2=chosen.candidate.l2,
        status=str(chosen.status),
        message=message,
        gap=chosen.gap,
        train_error=chosen.train_error,
        val_error=chosen.candidate.val_error,
        val_loss=chosen.candidate.val_loss,
        test_error=test.error,
        test_error_low=math.nan if population else test.low,
        test_error_high=math.nan if population else test.high,
        test_loss=test.loss,
        test_f1=test.f1,
        test_auc=test.auc,
        test_r2=test.r2,
        shuffled_error=controls.get("shuffled", math.nan),
        control_error=controls.get("control_task", math.nan),
        selectivity=controls.get("control_task", math.nan) - test.error,
        seconds=seconds,
        seed=way.seed,
        refit=chosen.refitted is not None,
    )
    head = {
        "weight": chosen.heads.weight[0],
        "bias": chosen.heads.bias[0],
        "mean": chosen.standardiser.mean,
        "scale": chosen.standardiser.scale,
        **labels.extra,
    }
    return LayerResult(
        record,
        path_records(layer, checkpoint, sweeps),
        {name: tensor.cpu().contiguous().numpy() for name, tensor in head.items()},
        test.correct.cpu().numpy(),
    )


def failed(
    layer: Layer,
    checkpoint: CheckpointInfo,
    labels: Labels,
    task: AbstractTask,
    sweeps: Mapping[str, Sweep],
    message: str,
    seconds: float,
    seed: int,
) -> LayerResult:
    """The result of a layer that could not be probed: no figures, but the reason.

    Args:
        layer: The layer.
        checkpoint: The frozen network.
        labels: The true labels.
        task: What is predicted.
        sweeps: The fits that there are.
        message: The reason.
        seconds: Wall-clock seconds spent on this layer.
        seed: The probe's seed.

    Returns:
        The result.
    """
    figures = ("l2", "gap", "train_error", "val_error", "val_loss", "test_error", "test_error_low", "test_error_high")
    missing: dict[str, Any] = dict.fromkeys(figures, math.nan)
    record = ProbeRecord(
        **_common(layer, checkpoint, labels, task),
        **missing,
        test_loss=math.nan,
        test_f1=math.nan,
        test_auc=math.nan,
        test_r2=math.nan,
        shuffled_error=math.nan,
        control_error=math.nan,
        selectivity=math.nan,
        n_features=0,
        reducer="",
        reduction="",
        solver="",
        status="failed",
        message=message,
        seconds=seconds,
        seed=seed,
        refit=False,
    )
    return LayerResult(record, path_records(layer, checkpoint, sweeps), {}, np.empty(0, dtype=bool))


def path_records(layer: Layer, checkpoint: CheckpointInfo, sweeps: Mapping[str, Sweep]) -> tuple[PathRecord, ...]:
    """Every swept head of a layer."""
    return tuple(
        PathRecord(
            checkpoint=checkpoint.name,
            step=checkpoint.step,
            epoch=checkpoint.epoch,
            depth=layer.depth,
            layer=layer.name,
            reducer=fit.way.reducer.name,
            solver=fit.solver.name,
            seed=fit.way.seed,
            control=control,
            l2=candidate.l2,
            status=str(fit.solution.status[i]),
            message=fit.solution.status[i].message,
            gap=float(fit.solution.gap[i]),
            iterations=int(fit.solution.iterations[i]),
            objective=float(fit.solution.objective[i]),
            val_error=candidate.val_error,
            val_loss=candidate.val_loss,
            selected=sweep.selected is not None and fit is sweep.selected.fit and i == sweep.selected.index,
            loo_error=math.nan if fit.solution.left_out is None else float(fit.solution.left_out.error[i]),
            loo_loss=math.nan if fit.solution.left_out is None else float(fit.solution.left_out.loss[i]),
        )
        for control, sweep in sweeps.items()
        for fit in sweep.fits
        for i, candidate in enumerate(fit.candidates)
    )


def _common(layer: Layer, checkpoint: CheckpointInfo, labels: Labels, task: AbstractTask) -> dict[str, Any]:
    return {
        "checkpoint": checkpoint.name,
        "step": checkpoint.step,
        "epoch": checkpoint.epoch,
        "depth": layer.depth,
        "layer": layer.name,
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
