"""The results of a sweep over concepts, with what tells its jobs apart."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
from omegaconf import OmegaConf

from layerprobe.report.papers.concept_depth import concept_layers
from layerprobe.results.reader import Run

_FORMATS = {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16"}


def concept_runs(jobs: list[Path]) -> list[tuple[dict[str, str], pd.DataFrame]]:
    """Collect the results of jobs, with what tells them apart.

    Returns:
        For each job that has probed a layer: its network, precision, noise and data set, and its results.
    """
    runs = []
    for job in jobs:
        if not (job / ".hydra" / "config.yaml").is_file() or not (job / "probes" / "results.parquet").is_file():
            continue
        results = Run.read(job).results
        if concept_layers(results).empty:
            continue
        config: Any = OmegaConf.load(job / ".hydra" / "config.yaml")
        choices: Any = OmegaConf.load(job / ".hydra" / "hydra.yaml").hydra.runtime.choices
        model, data = config.model or {}, config.data or {}
        name = Path(str(model.get("name", choices.get("model")))).name
        precision = str(model.get("dtype", ""))
        noise = data.get("noise") or ()
        about = {
            "model": f"{name} (untrained)" if model.get("weights") == "random" else name,
            "precision": _FORMATS.get(precision, precision),
            "noise": "/".join(noise) if noise else "no noise",
            "data": str(choices.get("data")),
        }
        runs.append((about, results))
    return runs
