"""What a sweep over concepts ends in: one picture and the tables of concept depth."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from layerprobe.report.concept_depth import concept_layers
from layerprobe.report.concept_depth_chart import concept_depth_chart
from layerprobe.report.concept_depth_table import concept_rows, concept_summary, concept_table, points_table
from layerprobe.report.save import save
from layerprobe.results.store import ProbeStore
from layerprobe.results.sweep_record import SweepRecord

_FORMATS = {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16"}


class ConceptDepthReport(Callback):
    """Writes `concept_depth.png`, `.svg`, `.csv` (every layer) and `concept_depth_table.csv`, and prints the tables."""

    def on_run_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Report one run."""
        self._report(Path(config.hydra.run.dir), [Path(config.hydra.run.dir)])

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Report every job of a sweep that has results."""
        directory = Path(config.hydra.sweep.dir)
        self._report(directory, SweepRecord.read(directory.absolute()).folders())

    def _report(self, directory: Path, jobs: list[Path]) -> None:
        runs = concept_runs(jobs)
        if not runs:
            return
        rows, summary = concept_rows(runs), concept_summary(runs)
        rows.to_csv(directory / "concept_depth.csv", index=False)
        summary.to_csv(directory / "concept_depth_table.csv", index=False)
        save(concept_depth_chart(rows), directory / "concept_depth")
        Console().print(concept_table(summary))
        Console().print(points_table(summary))
        Console().print(
            f"Concept depth: {directory / 'concept_depth.png'}", highlight=False, soft_wrap=True, markup=False
        )


def concept_runs(jobs: list[Path]) -> list[tuple[dict[str, str], pd.DataFrame]]:
    """Collect the results of jobs, with what tells them apart.

    Args:
        jobs: Directories of jobs, in order.

    Returns:
        For each job that has probed a layer: its network, precision, noise and data set, and its results.
    """
    runs = []
    for job in jobs:
        if not (job / ".hydra" / "config.yaml").is_file() or not (job / "probes" / "results.parquet").is_file():
            continue
        results = ProbeStore(job / "probes").results()
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
