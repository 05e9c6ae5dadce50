"""Hydra callback of a sweep over concepts: one picture, and the tables of concept depth."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from layerprobe.program import say
from layerprobe.results.sweep_record import SweepRecord


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
        from rich.console import Console

        from layerprobe.jobs.concept_results import concept_runs
        from layerprobe.report.charts.concept_depth import concept_depth_chart
        from layerprobe.report.papers.concept_depth_table import (
            concept_rows,
            concept_summary,
            concept_table,
            points_table,
        )
        from layerprobe.report.picture_files import save

        runs = concept_runs(jobs)
        if not runs:
            return
        rows, summary = concept_rows(runs), concept_summary(runs)
        rows.to_csv(directory / "concept_depth.csv", index=False)
        summary.to_csv(directory / "concept_depth_table.csv", index=False)
        save(concept_depth_chart(rows), directory / "concept_depth")
        Console().print(concept_table(summary))
        Console().print(points_table(summary))
        say(f"Concept depth: {directory / 'concept_depth.png'}")
