"""Compare runs: one page, its views as pictures, the joined results, and a summary."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import hydra
from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from layerprobe.command_line import override
from layerprobe.composing import run_script
from layerprobe.config import as_typed, register

if TYPE_CHECKING:
    from layerprobe.report.comparison import Comparison

console = Console(soft_wrap=True, highlight=False, markup=False)


@hydra.main(version_base="1.3", config_path="../conf", config_name="report")
def main(cfg: DictConfig) -> None:
    from layerprobe.report.comparison import ReportError
    from layerprobe.report.follow import changes

    roots = [str(root) for root in (cfg.runs if OmegaConf.is_list(cfg.runs) else [cfg.runs])]
    try:
        for _ in changes(roots, float(cfg.interval)):
            comparison = make(cfg, roots)
            n = going_on(cfg, comparison)
            if n == 0:
                break
            runs = f"{n} run{'s' if n != 1 else ''}"
            console.print(f"{time.strftime('%H:%M:%S')} {runs} going on; Ctrl-C stops watching")
        if cfg.wandb:
            for address in upload(cfg, comparison):
                console.print(address)
    except (ReportError, OSError) as error:
        raise SystemExit(f"report.py: {error}") from None
    except KeyboardInterrupt:
        console.print("stopped watching; the page is as of the last line above")


def make(cfg: DictConfig, roots: list[str]) -> Comparison:
    """Write one report.

    Args:
        cfg: The configuration of the script.
        roots: Where to look for runs.

    Returns:
        The runs in it.
    """
    from layerprobe.report.comparison import compare
    from layerprobe.report.report_files import write_report

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


def upload(cfg: DictConfig, comparison: Comparison) -> list[str]:
    """Make or renew the saved views on Weights & Biases.

    Args:
        cfg: The configuration of the script.
        comparison: The runs.

    Returns:
        Addresses of the workspace and of the report.

    Raises:
        ReportError: If they cannot be uploaded.
    """
    from layerprobe.report.comparison import ReportError
    from layerprobe.report.markdown import summary
    from layerprobe.report.page.page_data import tables
    from layerprobe.results.wandb_views import default_entity, report, save, workspace

    drawn = tables(comparison)
    about = (drawn.checkpoints, drawn.layer_names, comparison.keys)
    try:
        entity = cfg.entity or default_entity()
        views = workspace(cfg.project, entity, *about), report(cfg.project, entity, *about, summary(comparison))
        return save(*views, Path(cfg.out).with_suffix(".wandb.json"))
    except ImportError as error:
        raise ReportError(f"wandb=true needs wandb-workspaces: uv sync --extra dashboard ({error})") from error
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ReportError(
            f"the views could not be saved on Weights & Biases: {reason}. Next step: `wandb login`, or give entity= "
            f"and project= of a place that you may write to; the page itself is complete."
        ) from error


def going_on(cfg: DictConfig, comparison: Comparison) -> int:
    """Count the runs to wait for: those that have not ended, where they are watched."""
    return sum(run.status == "unfinished" for run in comparison.runs) if cfg.watch else 0


def as_text(argument: str) -> str:
    """Let Hydra take conditions and patterns as they are: its grammar would read more into `==` and `*`.

    Args:
        argument: One argument of the command line.

    Returns:
        The same with its value quoted where it is a condition or a pattern that is not.
    """
    key, equals, value = argument.partition("=")
    plain = not value.startswith(("'", '"', "[")) or (key == "where" and value[-1:] != value[:1])
    if (
        equals
        and plain
        and value != "null"
        and (key == "where" or (key in ("runs", "out") and set(value) & set("*?[ =")))
    ):
        return override(key, value)
    return argument


if __name__ == "__main__":
    sys.argv[1:] = as_typed([as_text(argument) for argument in sys.argv[1:]])
    register()
    run_script(main)
