"""Directories of runs as training would leave them, made up: configuration, summary and results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from helpers import made_results as made
from layerprobe.results.arrow_tables import CORRECT, to_table
from layerprobe.results.run_summary import RunSummary
from layerprobe.types import PathRecord, ProbeRecord

LAYERS = ("input", "conv1", "conv2", "fc")
CHECKPOINTS = (("initial", 0), ("epoch_1", 50), ("final", 100))
L2 = tuple(float(f"{v:.3g}") for v in np.logspace(-6, 1, 12))


def write_run(
    directory: Path,
    *,
    overrides: Mapping[str, Any] | None = None,
    layers: Sequence[str] = LAYERS,
    checkpoints: Sequence[tuple[str, int]] = CHECKPOINTS,
    shift: float = 0.0,
    status: str | None = "done",
    n_test: int = 400,
    seed: int = 0,
    l2: Sequence[float] = (1e-4, 1e-3, 1e-2),
    samples: str = "made",
    columns: Mapping[str, Any] | None = None,
) -> Path:
    """Write one run; `shift` is added to every error, and the heads of two runs err on mostly the same samples.

    `columns` are columns of `ProbeRecord` with the value that all records have in place of the made one.
    """
    overrides = {"experiment": "made", "model": "convnet", "optimizer.lr": 0.01, "seed": seed} | dict(overrides or {})
    probes = directory / "probes"
    probes.mkdir(parents=True)
    config: dict[str, Any] = {"name": "${hydra:runtime.choices.experiment}", "run_dir": "${hydra:runtime.output_dir}"}
    choices = {}
    for key, value in overrides.items():
        if key in ("experiment", "model", "data"):
            choices[key] = value
            continue
        node = config
        *outer, last = key.split(".")
        for name in outer:
            node = node.setdefault(name, {})
        node[last] = value
    runtime = {"runtime": {"choices": choices, "output_dir": "/somewhere/else"}}
    runtime["overrides"] = {"task": [f"{key}={value}" for key, value in overrides.items()]}
    (directory / ".hydra").mkdir()
    (directory / ".hydra" / "config.yaml").write_text(yaml.safe_dump(config))
    (directory / ".hydra" / "hydra.yaml").write_text(yaml.safe_dump({"hydra": runtime}))

    generator, shared = np.random.default_rng(seed), np.random.default_rng(0).random(n_test)
    records: list[ProbeRecord] = []
    paths: list[PathRecord] = []
    correct: list[tuple[Any, ...]] = []
    for name, step in checkpoints:
        for depth, layer in enumerate(layers):
            wanted = 0.4 * np.exp(-4 * depth / len(layers)) / (1 + step / 100) + 0.02 + shift
            right = 0.7 * shared + 0.3 * generator.random(n_test) > np.quantile(0.7 * shared + 0.15, min(wanted, 0.99))
            error = float(1 - right.mean())
            half = 1.96 * float(np.sqrt(error * (1 - error) / n_test))
            made_up = {
                "test_error": error, "val_error": min(1.0, error + 0.01), "n_test": n_test, "shuffled_error": 0.6,
                "test_error_low": max(0.0, error - half), "test_error_high": error + half,
            }  # fmt: skip
            record = made.record(name, step, depth, layer, **made_up | dict(columns or {}))
            records.append(record)
            paths += made.path(record, l2)
            correct.append((name, step, depth, layer, 0, samples, right))
    pq.write_table(to_table(records, ProbeRecord), probes / "results.parquet")
    pq.write_table(to_table(paths, PathRecord), probes / "path.parquet")
    arrays = [pa.array([row[i] for row in correct], field.type) for i, field in enumerate(CORRECT)]
    pq.write_table(pa.table(arrays, schema=CORRECT), probes / "correct.parquet")
    if status is not None:
        summary = RunSummary(
            status, [f"{k}={v}" for k, v in overrides.items()], error="" if status == "done" else "boom"
        )
        summary.write(directory)
    return directory


def write_sweep(root: Path, runs: int, **others: Any) -> Path:
    """Write runs that differ in learning rate, width and seed, the way a sweep of 100 would."""
    for i in range(runs):
        lr, width = (0.001, 0.01, 0.1)[i % 3], (16, 32)[i // 3 % 2]
        write_run(
            root / str(i), overrides={"optimizer.lr": lr, "model.width": width, "seed": i // 6}, seed=i,
            shift=0.02 * (i % 3) + 0.001 * (i % 7), **others,
        )  # fmt: skip
    return root
