"""Results as probing would leave them, made up: the error falls with depth and with training."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from layerprobe.results.arrow_tables import read_table, schema, to_frame
from layerprobe.types import LayerResult, PathRecord, ProbeRecord

NAN = float("nan")


def read_frame(path: Path, kind: type[ProbeRecord] | type[PathRecord] = ProbeRecord) -> pd.DataFrame:
    """The rows of a results file, as a store reads them."""
    return read_table(path, schema(kind)).to_pandas()


def record(
    checkpoint: str = "final", step: int = 100, depth: int = 0, layer: str = "input", **others: Any
) -> ProbeRecord:
    error = 0.5 * math.exp(-0.3 * depth) / (1 + step / 100)
    row: dict[str, Any] = {
        "checkpoint": checkpoint, "step": step, "epoch": step // 50, "depth": depth, "layer": layer, "aliases": "",
        "kind": "Conv2d", "shape": "8x4x4", "n_features_full": 128, "n_features": 64, "reducer": "average_pool",
        "reduction": "8x4x4 -> 8x4x2", "solver": "logistic", "l2": 1e-3, "status": "converged", "message": "",
        "gap": 1e-7, "task": "classification", "n_classes": 3,
        "n_train": 60, "n_val": 20, "n_test": 20, "train_error": error / 2,
        "val_error": error, "val_loss": 2 * error, "test_error": error, "test_error_low": error * 0.8,
        "test_error_high": error * 1.2, "test_loss": 2 * error, "test_f1": 1 - error,
        "test_auc": 1 - error / 2, "test_r2": NAN, "majority_error": 0.6, "shuffled_error": NAN, "control_error": NAN,
        "selectivity": NAN, "seconds": 0.1, "seed": 0,
    }  # fmt: skip
    return ProbeRecord(**row | others)


def failed(checkpoint: str = "final", step: int = 100, depth: int = 0, layer: str = "input") -> ProbeRecord:
    errors = ["train_error", "val_error", "val_loss", "test_error", "test_error_low", "test_error_high", "test_loss"]
    errors += ["test_f1", "test_auc"]
    return record(
        checkpoint,
        step,
        depth,
        layer,
        status="failed",
        message="not finite",
        l2=NAN,
        gap=NAN,
        **dict.fromkeys(errors, NAN),
    )


def path(row: ProbeRecord, l2: Sequence[float] = (1e-4, 1e-3, 1e-2)) -> tuple[PathRecord, ...]:
    def val_error(value: float) -> float:
        return row.val_error * (1 + abs(math.log10(max(value, 1e-7)) + 3))

    return tuple(
        PathRecord(
            checkpoint=row.checkpoint, step=row.step, epoch=row.epoch, depth=row.depth, layer=row.layer,
            reducer=row.reducer, solver=row.solver, seed=row.seed, control="none", l2=value, status=row.status,
            message=row.message, gap=1e-7,
            iterations=7, objective=0.3, val_error=val_error(value), val_loss=0.4,
            selected=value == 1e-3,
        )
        for value in l2
    )  # fmt: skip


def result(
    checkpoint: str = "final", step: int = 100, depth: int = 0, layer: str = "input", **others: Any
) -> LayerResult:
    return of(record(checkpoint, step, depth, layer, **others))


def of(row: ProbeRecord) -> LayerResult:
    if row.status == "failed":
        return LayerResult(row, (), {}, np.zeros(0, dtype=bool))
    generator = torch.Generator().manual_seed(row.depth)
    head = {
        "weight": torch.randn(row.n_classes, row.n_features, generator=generator),
        "bias": torch.randn(row.n_classes, generator=generator),
        "mean": torch.randn(row.n_features, generator=generator),
        "scale": torch.rand(row.n_features, generator=generator) + 0.5,
    }
    correct = torch.rand(row.n_test, generator=generator) > row.test_error
    return LayerResult(row, path(row), {name: values.numpy() for name, values in head.items()}, correct.numpy())


def results(layers: Sequence[str], checkpoints: Sequence[tuple[str, int]], **others: Any) -> pd.DataFrame:
    return to_frame(
        [record(name, step, depth, layer, **others) for name, step in checkpoints for depth, layer in enumerate(layers)]
    )


def paths(layers: Sequence[str], checkpoints: Sequence[tuple[str, int]], l2: Sequence[float]) -> pd.DataFrame:
    rows = [record(name, step, depth, layer) for name, step in checkpoints for depth, layer in enumerate(layers)]
    return to_frame([point for row in rows for point in path(row, l2)], PathRecord)
