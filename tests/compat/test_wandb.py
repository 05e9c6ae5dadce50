"""What the private names of Weights & Biases are used for; a release that changes one of them fails here."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import wandb
from wandb.proto import wandb_internal_pb2
from wandb.sdk.mailbox import mailbox
from wandb.sdk.wandb_run import Run

from layerprobe.compat.wandb import WORKSPACE_IDS, artifacts_in_log, history_step, service_died


def test_an_online_run_writes_artifacts_as_an_offline_one(tmp_path: Path) -> None:
    run = Run(wandb.Settings(mode="online", root_dir=str(tmp_path), run_id="one"))
    assert not run.offline
    with artifacts_in_log(run):
        assert run.offline
        assert run.id == "one"
    assert not run.offline
    with pytest.raises(ZeroDivisionError), artifacts_in_log(run):
        raise ZeroDivisionError
    assert not run.offline


@pytest.mark.parametrize(
    ("error", "died"),
    [
        (BrokenPipeError(), True),
        (wandb.errors.CommError("gone"), True),
        (mailbox.MailboxClosedError(), True),
        (TypeError("no plain value"), False),
    ],
)
def test_a_service_that_died_is_told_by_its_errors(error: Exception, died: bool) -> None:
    assert service_died(error) is died


def test_the_step_of_a_row_of_history_is_read() -> None:
    record = wandb_internal_pb2.Record()
    record.history.step.num = 12
    assert history_step(record.SerializeToString()) == 12
    other = wandb_internal_pb2.Record()
    other.summary.SetInParent()
    assert history_step(other.SerializeToString()) is None


def test_a_workspace_has_the_ids_by_which_it_is_replaced() -> None:
    workspaces = pytest.importorskip("wandb_workspaces.workspaces")
    assert set(WORKSPACE_IDS) <= {field.name for field in dataclasses.fields(workspaces.Workspace)}
