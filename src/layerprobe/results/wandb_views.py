"""Saved views on Weights & Biases: a workspace and a report with the charts that compare runs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from layerprobe.compat.wandb import WORKSPACE_IDS
from layerprobe.files.atomic import write_bytes

if TYPE_CHECKING:
    from wandb_workspaces.reports.v2 import Report
    from wandb_workspaces.workspaces import Workspace

NAME = "layerprobe: linear separability by layer"
_MOST_CHECKPOINTS, _MOST_LAYERS, _MOST_RUNS = 5, 40, 100
_BEST = "probe/best_layer_test_error"
_FAILED = "State not in ['failed', 'crashed']"


def workspace(
    project: str, entity: str, checkpoints: Sequence[str], layers: Sequence[str], swept: Sequence[str] = ()
) -> Workspace:
    """Lay out a workspace that opens on the views of the page, and on runs that did not fail.

    Checkpoints are in the order of training, of many the last five; layers are in the order of depth. `swept` are
    dotted keys of the configuration that differ between the runs.
    """
    import wandb_workspaces.workspaces as ws

    return ws.Workspace(
        entity=entity,
        project=project,
        name=NAME,
        sections=[
            *(
                ws.Section(name=name, panels=panels, is_open=True)
                for name, panels in _views(checkpoints, swept).items()
            ),
            ws.Section(name="Test error over training", panels=_training(layers)),
        ],
        settings=ws.WorkspaceSettings(max_runs=_MOST_RUNS),
        runset_settings=ws.RunsetSettings(filters=_FAILED, pinned_columns=_columns(swept)),
    )


def report(
    project: str,
    entity: str,
    checkpoints: Sequence[str],
    layers: Sequence[str],
    swept: Sequence[str] = (),
    summary: str = "",
) -> Report:
    """Lay out a report with the same charts as `workspace`, which takes the same, and a summary in Markdown."""
    import wandb_workspaces.reports.v2 as wr

    runs = [wr.Runset(entity=entity, project=project, filters=_FAILED, pinned_columns=_columns(swept))]
    blocks: Any = []
    for name, panels in (_views(checkpoints, swept) | {"Test error over training": _training(layers)}).items():
        blocks += [wr.H2(name), wr.PanelGrid(runsets=runs, panels=panels)]
    if summary:
        blocks.append(wr.MarkdownBlock(summary))
    return wr.Report(project=project, entity=entity, title=NAME, blocks=blocks, width="fluid")


def save(workspace: Workspace, report: Report, file: Path) -> list[str]:
    """Upload both, in place of those that were uploaded before from the same place, and return their addresses.

    The file remembers which views they are.

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


def _views(checkpoints: Sequence[str], swept: Sequence[str]) -> dict[str, list]:
    """Return the views of the page, by the names that they have there; the last checkpoint comes first."""
    import wandb_workspaces.reports.v2 as wr

    options: Any = {
        "x": "probe/depth", "title_x": "depth of the layer", "title_y": "test error", "smoothing_factor": 0,
        "max_runs_to_show": _MOST_RUNS,
    }  # fmt: skip
    curves = {name: f"probe/test_error/{name}" for name in reversed(checkpoints[-_MOST_CHECKPOINTS:])}
    best = [
        wr.ScatterPlot(title=f"best layer over {key}", x=wr.Config(key), y=wr.SummaryMetric(_BEST)) for key in swept
    ]
    return {
        "Test error over depth": [
            wr.LinePlot(title=f"{name}: test error over depth", y=[key], **options) for name, key in curves.items()
        ],
        "Best layer": [*best, wr.ScalarChart(title="best layer", metric=wr.SummaryMetric(_BEST))],
        "Mean over seeds": [
            wr.LinePlot(
                title=f"{name}: mean over the runs of a group", y=[key], groupby="Group", aggregate=True,
                groupby_aggfunc="mean", groupby_rangefunc="stderr", **options,
            )
            for name, key in list(curves.items())[:1]
        ],
        "L2 path": [wr.MediaBrowser(title="L2 path", media_keys=["figures/path_curve"])],
        "Test error by layer and checkpoint": [
            wr.MediaBrowser(title="layers by checkpoints", media_keys=["figures/heat_map", "figures/depth_curve"])
        ],
    }  # fmt: skip


def _training(layers: Sequence[str]) -> list:
    import wandb_workspaces.reports.v2 as wr

    return [
        wr.LinePlot(
            title=name, x="trainer/global_step", y=[f"probe/{name}/test_error"], title_y="test error",
            smoothing_factor=0, max_runs_to_show=_MOST_RUNS,
        )
        for name in layers[:_MOST_LAYERS]
    ]  # fmt: skip


def _columns(swept: Sequence[str]) -> list[str]:
    """List what runs show beside their names: what differs, the best layer, its test error."""
    return [*(f"config:{key}" for key in swept), "summary:probe/best_layer", f"summary:{_BEST}"]
