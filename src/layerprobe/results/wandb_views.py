"""Saved views on Weights & Biases: a workspace and a report with the charts that compare runs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from layerprobe.atomic import write_bytes
from layerprobe.compat.wandb import WORKSPACE_IDS

if TYPE_CHECKING:
    from wandb_workspaces.reports.v2 import Report
    from wandb_workspaces.workspaces import Workspace

NAME = "layerprobe: linear separability by layer"
_MOST_CHECKPOINTS, _MOST_LAYERS = 5, 40
_BEST = "probe/best_layer_test_error"


def workspace(
    project: str, entity: str, checkpoints: Sequence[str], layers: Sequence[str], swept: Sequence[str] = ()
) -> Workspace:
    """Lay out a workspace: error over depth for each checkpoint, over training for each layer, over swept values.

    Args:
        project: The project that the runs are in.
        entity: Its user or team.
        checkpoints: Names of the checkpoints, in the order of training; of many, the last five.
        layers: Names of the layers, in the order of depth.
        swept: Dotted keys of the configuration that differ between the runs.

    Returns:
        The workspace; `save()` uploads it.
    """
    import wandb_workspaces.workspaces as ws

    depth, training, best, pictures = _panels(checkpoints, layers, swept)
    sections = [
        ws.Section(name="Test error over depth", panels=depth, is_open=True, pinned=True),
        ws.Section(name="Best layer", panels=best, is_open=True),
        ws.Section(name="Test error over training", panels=training),
        ws.Section(name="Pictures and table", panels=pictures),
    ]
    return ws.Workspace(entity=entity, project=project, name=NAME, sections=sections)


def report(
    project: str,
    entity: str,
    checkpoints: Sequence[str],
    layers: Sequence[str],
    swept: Sequence[str] = (),
    summary: str = "",
) -> Report:
    """Lay out a report with the same charts and a summary in words.

    Args:
        project: The project that the runs are in.
        entity: Its user or team.
        checkpoints: Names of the checkpoints, in the order of training; of many, the last five.
        layers: Names of the layers, in the order of depth.
        swept: Dotted keys of the configuration that differ between the runs.
        summary: Markdown.

    Returns:
        The report; `save()` uploads it.
    """
    import wandb_workspaces.reports.v2 as wr

    depth, training, best, pictures = _panels(checkpoints, layers, swept)
    blocks: Any = [
        wr.H2("Test error over depth"),
        wr.PanelGrid(runsets=[wr.Runset(entity=entity, project=project)], panels=[*depth, *best]),
        wr.H2("Test error over training"),
        wr.PanelGrid(runsets=[wr.Runset(entity=entity, project=project)], panels=[*training, *pictures]),
    ]
    if summary:
        blocks.append(wr.MarkdownBlock(summary))
    return wr.Report(project=project, entity=entity, title=NAME, blocks=blocks, width="fluid")


def save(workspace: Workspace, report: Report, file: Path) -> list[str]:
    """Upload both, in place of those that were uploaded before from the same place.

    Args:
        workspace: From `workspace`.
        report: From `report`.
        file: Remembers which views they are.

    Returns:
        Their addresses.

    Raises:
        OSError: If the file cannot be written.
    """
    known = json.loads(file.read_text()) if file.exists() else {}
    where = f"{workspace.entity}/{workspace.project}"
    for view in (workspace, report):
        for field, value in known.get(where, {}).get(type(view).__name__, {}).items():
            setattr(view, field, value)
        view.save()
    ids = {
        "Workspace": {name: getattr(workspace, name) for name in WORKSPACE_IDS},
        "Report": {"id": report.id},
    }
    write_bytes(file, json.dumps(known | {where: ids}, indent=2).encode())
    return [workspace.url, report.url]


def default_entity() -> str:
    """Ask the server whose account this is.

    Raises:
        Exception: Of `wandb`, where nobody is logged in or the server cannot be reached.
    """
    import wandb

    return str(wandb.Api().default_entity)


def _panels(checkpoints: Sequence[str], layers: Sequence[str], swept: Sequence[str]) -> tuple[list, list, list, list]:
    import wandb_workspaces.reports.v2 as wr

    depth = [
        wr.LinePlot(
            title=f"{name}: test error over depth", x="probe/depth", y=[f"probe/test_error/{name}"],
            title_x="depth of the layer", title_y="test error", smoothing_factor=0, max_runs_to_show=100,
        )
        for name in checkpoints[-_MOST_CHECKPOINTS:]
    ]  # fmt: skip
    training = [
        wr.LinePlot(
            title=name, x="trainer/global_step", y=[f"probe/{name}/test_error"], title_y="test error",
            smoothing_factor=0, max_runs_to_show=100,
        )
        for name in layers[:_MOST_LAYERS]
    ]  # fmt: skip
    best: list = [
        wr.ScatterPlot(title=f"best layer over {key}", x=wr.Config(key), y=wr.SummaryMetric(_BEST)) for key in swept
    ]
    best.append(wr.ScalarChart(title="best layer", metric=wr.SummaryMetric(_BEST)))
    figures = [f"figures/{name}" for name in ("depth_curve", "heat_map", "path_curve")]
    return depth, training, best, [wr.MediaBrowser(title="figures", media_keys=figures)]
