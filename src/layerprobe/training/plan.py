"""Say what probing will take before it is begun."""

from __future__ import annotations

import logging
from collections.abc import Collection
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset

from layerprobe.messages import is_message
from layerprobe.probing.batches import Data
from layerprobe.probing.capture.hooks import Context
from layerprobe.probing.cost.plan import make_plan
from layerprobe.probing.protocol import ProbeProtocol
from layerprobe.probing.resources import DEFAULTS, Resources
from layerprobe.types import LayerName

log = logging.getLogger("layerprobe")


def announce(
    network: nn.Module,
    data: Data,
    protocol: ProbeProtocol,
    context: Context = nullcontext,
    *,
    resources: Resources = DEFAULTS,
    done: Collection[LayerName] = (),
) -> None:
    """Log a plan, two lines of it.

    Data that can only be iterated are left alone: reading them for a plan might use them up. No problem of planning
    stops a run: one of the user's making is logged by its message, and said again by the probing if it is one there
    too; any other error is logged as one, with its traceback.

    Args:
        network: The network; it is left as it was.
        data: The splits.
        protocol: The sweep.
        context: Makes what the network's passes run in.
        resources: What it may take.
        done: Layers that will be left out.
    """
    if not all(_can_be_read_again(source) for source in data.values() if source is not None):
        return
    try:
        plan = make_plan(network, data, protocol, context, resources=resources, done=done)
    except Exception as error:  # a plan is advice, without which the run goes on
        if is_message(error) or isinstance(error, OSError | torch.OutOfMemoryError):
            log.info("There is no plan: %s", error)
        else:
            log.exception("No plan could be made; probing goes on without one.")
        return
    for line in plan.lines() if plan.layers else ():
        log.info("Plan: %s", line)


def _can_be_read_again(source: Any) -> bool:
    if isinstance(source, DataLoader):
        return source.batch_sampler is not None and not isinstance(source.dataset, IterableDataset)
    return isinstance(source, tuple | list) and len(source) == 2 and isinstance(source[1], Tensor)
