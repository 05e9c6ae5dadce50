"""Compare runs: one page, its views as pictures, the joined results, and a summary."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from layerprobe.formatting import count_text
from layerprobe.jobs.command_line import read_arguments
from layerprobe.program import name, to_install

if TYPE_CHECKING:
    from layerprobe.report.run_comparison import Comparison

console = Console(soft_wrap=True, highlight=False, markup=False)


NAME = name("report")
EXAMPLES = f"""
  {NAME}                                              every run in outputs -> report.html and files beside it
  {NAME} runs=[outputs,multirun] out=all.html         several directories; quote a pattern: 'runs=multirun/*/2026*'
  {NAME} where="model=='digits_convnet' and seed<3"   a condition on the configuration or on the results
  {NAME} compare=[outputs/a,outputs/b]                McNemar's test of two runs, layer by layer
  {NAME} watch=true                                   renew the page while runs are going on
  {NAME} wandb=true project=layerprobe                make or renew a saved workspace and a report there
"""


@dataclass
class Arguments:
    """Compare runs: a page that needs no network connection, its views as PNG and SVG, the joined results, a summary.

    Attributes:
        runs: Directories, runs or quoted glob patterns: one, or a list.
        out: The page's file; the other files are beside it.
        where: A condition on the runs, in the language of pandas' query.
        compare: Two runs, by name or directory, whose difference is tested.
        figures: Whether to write PNG and SVG files of the views.
        watch: Whether to go on, and to write the page again whenever results have changed.
        interval: Seconds between two looks at the results.
        wandb: Whether to make or renew a workspace and a report on Weights & Biases.
        project: The project on Weights & Biases.
        entity: The user or team that the project belongs to; by default the account that is logged in.
    """

    runs: Any = "outputs"
    out: str = "report.html"
    where: str | None = None
    compare: list[str] | None = None
    figures: bool = True
    watch: bool = False
    interval: int = 10
    wandb: bool = False
    project: str = "layerprobe"
    entity: str | None = None


def main() -> None:
    cfg = read_arguments(Arguments, EXAMPLES)
    from layerprobe.files.atomic import check_writable
    from layerprobe.report.follow import follow
    from layerprobe.report.run_comparison import ReportError

    try:
        check_writable(Path(cfg.out))
    except OSError as error:
        raise SystemExit(f"{NAME}: out={cfg.out} cannot be written: {error.strerror}. Give a file elsewhere") from None
    roots = cfg.runs if isinstance(cfg.runs, list) else [cfg.runs]
    try:
        for _ in follow(roots, float(cfg.interval)):
            comparison = make(cfg, roots)
            n = going_on(cfg, comparison)
            if n == 0:
                break
            console.print(f"{time.strftime('%H:%M:%S')} {count_text(n, 'run')} going on; Ctrl-C stops watching")
        if cfg.wandb:
            for address in upload(cfg, comparison):
                console.print(address)
    except (ReportError, OSError) as error:
        raise SystemExit(f"{NAME}: {error}") from None
    except KeyboardInterrupt:
        console.print("stopped watching; the page is as of the last line above")


def make(cfg: Arguments, roots: list[str]) -> Comparison:
    """Write one report.

    Args:
        cfg: The arguments of the script.
        roots: Where to look for runs.

    Returns:
        The runs in it.
    """
    from layerprobe.report.report_files import write_report
    from layerprobe.report.run_comparison import compare

    comparison = compare(roots, cfg.where)
    watched = going_on(cfg, comparison) > 0
    written = write_report(
        comparison,
        Path(cfg.out),
        figures=cfg.figures and not watched,
        pair=cfg.compare or (),
        renew=max(5, cfg.interval) if watched else None,
    )
    for file in written:
        console.print(str(file))
    return comparison


def upload(cfg: Arguments, comparison: Comparison) -> list[str]:
    """Make or renew the saved views on Weights & Biases.

    Args:
        cfg: The arguments of the script.
        comparison: The runs.

    Returns:
        Addresses of the workspace and of the report.

    Raises:
        ReportError: If they cannot be uploaded.
    """
    from layerprobe.report.markdown import markdown_summary
    from layerprobe.report.page.page_data import page_data
    from layerprobe.report.run_comparison import ReportError
    from layerprobe.results.wandb_views import default_entity, report, save, workspace

    drawn = page_data(comparison)
    about = (drawn.checkpoints, drawn.layer_names, comparison.keys)
    with explained():
        entity = cfg.entity or default_entity()
    try:
        views = (
            workspace(cfg.project, entity, *about),
            report(cfg.project, entity, *about, markdown_summary(comparison)),
        )
    except ImportError as error:
        raise ReportError(f"wandb=true needs wandb-workspaces: {to_install('dashboard')} ({error})") from error
    with explained():
        return save(*views, Path(cfg.out).with_suffix(".wandb.json"))


@contextmanager
def explained() -> Iterator[None]:
    """Say what to do where Weights & Biases does not answer, or not as asked."""
    from layerprobe.report.run_comparison import ReportError

    try:
        yield
    except Exception as error:  # wandb, its workspaces and their HTTP client raise errors of many kinds
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ReportError(
            f"the views could not be saved on Weights & Biases: {reason}. Next step: `wandb login`, or give entity= "
            f"and project= of a place that you may write to; the page itself is complete."
        ) from error


def going_on(cfg: Arguments, comparison: Comparison) -> int:
    """Count the runs to wait for: those that have not ended, where they are watched."""
    return sum(run.status == "unfinished" for run in comparison.runs) if cfg.watch else 0


if __name__ == "__main__":
    main()
