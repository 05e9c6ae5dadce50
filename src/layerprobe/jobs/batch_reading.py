"""How batches are read: as the run that a checkpoint comes from read them, where the command line is silent."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf

from layerprobe.jobs.trusted_classes import merged
from layerprobe.program import CONF
from layerprobe.training.checkpoints import FrozenCheckpoint

log = logging.getLogger("layerprobe")

_DEFAULTS = {"inputs": "pair", "targets": "pair", "task": "classification", "mask": None}
"""How batches are read by default: the choice of each group, or nothing."""


def read_as_in_run(probe: Mapping[str, Any], checkpoint: FrozenCheckpoint, *, trust: bool) -> dict[str, Any]:
    """Read batches as the run did: `inputs`, `targets`, `task` and `mask`, each where the command line is silent.

    A task is that of its targets: where the command line gives these, the run's is not taken. With the run's task come
    its solvers.

    Args:
        probe: The sweep as the command line and the defaults have it.
        checkpoint: A network with the configuration of its run.
        trust: Whether the run's configuration may build anything.

    Returns:
        The sweep.

    Raises:
        CheckpointError: Where the run read them by a class that a file may not name.
    """
    own, source = _mapping(checkpoint.config.get("probe")), f"The checkpoint {checkpoint.info.name!r}"
    taken, defaults = dict[str, Any](), {name: _default(name, choice) for name, choice in _DEFAULTS.items()}
    silent = {name for name, default in defaults.items() if probe[name] == default and not _is_said(name)}
    for name in silent - ({"task"} if "targets" not in silent else set()):
        if (of_run := _mapping(own.get(name))) and of_run != defaults[name]:
            taken[name] = merged(name, of_run, {}, source, trust=trust)
    if "task" in taken and own.get("solvers") and probe["solvers"] == [*_default("solver", "logistic").values()]:
        found = own["solvers"]
        named = found if isinstance(found, Mapping) else {str(place): one for place, one in enumerate(found)}
        taken["solvers"] = [*merged("solver", named, {}, source, trust=trust).values()]
    if taken:
        log.info(
            "%s is read as its run read it: %s",
            checkpoint.info.name,
            ", ".join(f"{k}={taken[k]}" for k in sorted(taken)),
        )
    return {**probe, **taken}


def loaders_of(given: Mapping[str, Any], checkpoint: FrozenCheckpoint) -> dict[str, Any]:
    """Say which loader of a split is read: what the command line says, else what the run's callback had."""
    callback = _mapping(_mapping(checkpoint.config.get("callbacks")).get("probe"))
    own = _mapping(callback.get("loaders"))
    return {split: own.get(split) if loader is None else loader for split, loader in given.items()}


def _default(group: str, name: str | None) -> Any:
    """Return what is composed where nothing is said."""
    return None if name is None else OmegaConf.to_container(OmegaConf.load(CONF / group / f"{name}.yaml"))


def _is_said(name: str) -> bool:
    """Tell whether the command line names a part of the sweep, be it with the default."""
    said = HydraConfig.get().overrides.task if HydraConfig.initialized() else ()
    keys = [word.lstrip("+~").partition("=")[0] for word in said]
    return any(key == name or f"{key}.".startswith(f"probe.{name}.") for key in keys)


def _mapping(found: Any) -> Mapping[str, Any]:
    return found if isinstance(found, Mapping) else {}
