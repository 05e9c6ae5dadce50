"""Migration of configurations: earlier versions name classes by their modules, and have some keys elsewhere."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from layerprobe import HOMES

_DOTTED = re.compile(r"layerprobe(?:\.[a-z]\w*)+\.(\w+)")
_PUBLIC = {name for name, home in HOMES.items() if not home.startswith("layerprobe.api.")}
"""Names of classes and functions that configurations hold: functions for use from Python are called as others are."""

_UNNAMED: Mapping[str, Mapping[str, Any]] = {
    "layerprobe.ProbeProtocol": {
        "stream": False,
        "refit": False,
        "population": False,
        "selection": "error",
        "metrics": [],
        "scores": False,
        "sample_ids": None,
        "analyses": [],
        "each_reducer": False,
    },
    "layerprobe.TextDataModule": {"spans": None},
    "layerprobe.Classification": {"class_weight": None},
    "layerprobe.MultiLabel": {"class_weight": None},
    "layerprobe.Ridge": {"tolerance": 1e-5, "largest": 6144, "max_iterations": 500},
    "pytorch_lightning.Trainer": {"max_steps": -1, "strategy": "auto", "num_nodes": 1},
}
"""By class, arguments that not every configuration of 0.1 named, with the values that they had there."""

PACKAGES: Mapping[str, str] = {
    "reducer": "probe.reducers",
    "solver": "probe.solvers",
    "analysis": "probe.analyses",
    "inputs": "probe.inputs",
    "targets": "probe.targets",
    "task": "probe.task",
}
"""By group, the key under which its choice is; once it was the group's name."""

GONE: Mapping[str, str] = {
    "layerprobe.probing.solvers.sgd.SGD": "stochastic gradients ended without a certificate. Choose solver=[logistic] "
    "with probe.stream=false: features that do not fit into `max_memory` are kept on disk, and every head ends with "
    "its certificate. Or stream with solver=[ridge], in one pass."
}
"""By the former name of a class that is no more, what to use instead."""


def migrated(config: Any) -> Any:
    """Put the public name of a class or function in place of one by a module, that of today or one that it was in."""
    if isinstance(config, Mapping):
        return {key: migrated(value) for key, value in config.items()}
    if isinstance(config, list | tuple):
        return type(config)(migrated(value) for value in config)
    found = _DOTTED.fullmatch(config) if isinstance(config, str) else None
    return f"layerprobe.{found[1]}" if found and found[1] in _PUBLIC else config


def current_key(key: str) -> str:
    """Put the key of today in place of a former one, with any of Hydra's signs before it."""
    name = key.lstrip("+~")
    group, dot, rest = name.partition(".")
    return f"{key[: len(key) - len(name)]}{PACKAGES.get(group, group)}{dot}{rest}"


def current_override(key: str) -> str:
    """Put the key of today in place of a former one of a command line: one without a dot chooses of a group, and stays.

    Args:
        key: A key, with any of Hydra's signs before it and anything behind it.
    """
    return current_key(key) if "." in key.partition("=")[0] else key


def former_override(key: str) -> str:
    """Put the former key in place of that of today; the inverse of `current_override`."""
    name = key.lstrip("+~")
    group = next((group for group, package in PACKAGES.items() if name.startswith(f"{package}.")), None)
    return key if group is None else key.replace(PACKAGES[group], group, 1)


def with_what_moved(message: str) -> str:
    """Add to an error's message where the key is today that it does not find."""
    key = re.search(r"Interpolation key '([^']+)' not found", message)
    if key is None or key[1] == current_key(key[1]):
        return message
    return f"{message}. It is now under {current_key(key[1])}: ${{{current_key(key[1])}}}"


def with_current_keys(config: Mapping[str, Any]) -> dict[str, Any]:
    """Put keys of today in place of former ones.

    Returns:
        The same; the lists that the protocol once had of what groups chose are left out, since what they chose is there
        by name.
    """
    former = {current_key(key): value for key, value in config.items() if key.partition(".")[0] in PACKAGES}
    lists = PACKAGES.values() if former else ()
    return {key: value for key, value in config.items() if current_key(key) == key and key not in lists} | former


def without_unnamed(config: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out arguments, at any depth, that have the value that they had where 0.1 did not name them."""
    unnamed = {
        f"{key.removesuffix('_target_')}{name}": value
        for key, target in config.items()
        if key == "_target_" or key.endswith("._target_")
        for name, value in _UNNAMED.get(str(target), {}).items()
    }
    return {key: _without(value) for key, value in config.items() if key not in unnamed or unnamed[key] != value}


def _without(value: Any) -> Any:
    if isinstance(value, Mapping):
        return without_unnamed(value)
    return [_without(item) for item in value] if isinstance(value, list) else value
