"""Revisions of a network on the hub, or in folders, as checkpoints of its training."""

from __future__ import annotations

import re
from collections.abc import Mapping
from copy import deepcopy
from typing import Any

from omegaconf import DictConfig, OmegaConf, open_dict

from layerprobe.types import CheckpointInfo


def revisions_of(cfg: DictConfig) -> list[CheckpointInfo]:
    """List the revisions that a configuration asks for, in the order of their steps; none where there is one or none.

    Args:
        cfg: The configuration; `model.revision` is a list of names, each with its step in it (`step1000`), or a mapping
            of names to steps.

    Raises:
        ValueError: Where a name has no step, a step is no whole number, or a name is there twice.
    """
    found: Any = OmegaConf.select(cfg, "model.revision")
    if not OmegaConf.is_config(found):
        return []
    asked: Any = OmegaConf.to_container(found, resolve=True)
    pairs = list(asked.items()) if isinstance(asked, Mapping) else [(str(name), None) for name in asked]
    names = [str(name) for name, _ in pairs]
    if not pairs or len(set(names)) < len(names):
        raise ValueError(f"model.revision={asked}: give each revision once, such as model.revision=[step0,step1000].")
    infos = [CheckpointInfo(name, _step(name, given)) for name, (_, given) in zip(names, pairs, strict=True)]
    return sorted(infos, key=lambda info: info.step)


def with_revision(cfg: DictConfig, info: CheckpointInfo) -> DictConfig:
    """Put one revision in the place of several, also where other values take it from there.

    A checkpoint that is no revision stands for the first.
    """
    infos = revisions_of(cfg)
    if not infos:
        return cfg
    own = deepcopy(cfg)
    with open_dict(own):
        own.model.revision = info.name if info in infos else infos[0].name
    return own


def _step(name: str, given: Any) -> int:
    parsed = re.findall(r"step\D?(\d+)", name) or re.findall(r"^(?:[a-z]+[-_]?)?(\d+)$", name, re.IGNORECASE)
    step = given if given is not None else (int(parsed[-1]) if parsed else None)
    if not isinstance(step, int) or isinstance(step, bool) or step < 0:
        raise ValueError(
            f"The revision {name!r} has {'no step in its name' if given is None else f'the step {given!r}'}: expected "
            "a whole number, read from names such as step1000, checkpoint-1000 or 1000. Say it: "
            f"model.revision={{{name}: 143000}}, for all of them."
        )
    return step
