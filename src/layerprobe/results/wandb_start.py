"""The start of a Weights & Biases run, offline where the server does not take it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from wandb import Run

log = logging.getLogger("layerprobe")


def start_or_go_offline(start: Callable[[], Run], options: dict[str, Any]) -> Run:
    """Start a run; where that fails, start it offline, say so, and let the training go on.

    Args:
        start: Starts the run from the options.
        options: Those of `wandb.init`; `mode` becomes "offline" where the server cannot be used.

    Returns:
        The run.
    """
    import wandb

    try:
        return start()
    except (wandb.errors.Error, OSError, TimeoutError) as error:
        if options.get("mode") == "offline":
            raise
        reason = str(error).strip().splitlines()
        log.warning(
            "Weights & Biases cannot be reached or does not take this run (%s); it is logged offline instead. "
            "Later: wandb sync %s",
            reason[0] if reason else type(error).__name__,
            f"{options.get('dir') or '.'}/wandb/offline-run-*",
        )
        wandb.teardown()
        options["mode"] = "offline"
        return start()
