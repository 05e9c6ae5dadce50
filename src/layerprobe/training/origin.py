"""What a network that no checkpoint was given for is: pretrained, untrained, or only known to be as it was built."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

from layerprobe.types import CheckpointInfo

_WEIGHTS = (
    "weights", "pretrained", "weights_backbone", "pretrained_backbone", "encoder_weights", "checkpoint",
    "checkpoint_path", "state_dict", "pretrained_model_name_or_path",
)  # fmt: skip
"""Arguments that say which weights a network starts from."""
_NONE = (None, False, "", "random", "none", "null")
_RANDOM = ("layerprobe.", "torch.")
"""Packages whose classes begin with random weights, unless an argument says otherwise."""


def as_built(model: Mapping[str, Any], located: Callable[[str], Any]) -> CheckpointInfo:
    """Name a network by the weights that it is built with.

    Args:
        model: Its configuration, of plain values: classes as `_target_`, with their arguments, nested to any depth.
        located: Finds a class or a function by its dotted name.

    Returns:
        `pretrained` where an argument, or the default of one, names weights, or the function's own name says so;
        `untrained` where every part is known to begin at random; else `as_built`.
    """
    parts = [_begins(node, located) for node in _nodes(model)]
    if any(part == "pretrained" for part in parts):
        return CheckpointInfo("pretrained")
    return CheckpointInfo("untrained" if parts and all(part == "untrained" for part in parts) else "as_built")


def _nodes(node: Any) -> Iterator[Mapping[str, Any]]:
    if isinstance(node, Mapping):
        if "_target_" in node:
            yield node
        for value in node.values():
            yield from _nodes(value)
    elif isinstance(node, Sequence) and not isinstance(node, str):
        for value in node:
            yield from _nodes(value)


def _begins(node: Mapping[str, Any], located: Callable[[str], Any]) -> str:
    target = str(node["_target_"])
    parameters: Mapping[str, inspect.Parameter] = {}
    with suppress(Exception):  # a class that cannot be found or read is an error of building, which says so
        parameters = inspect.signature(located(target)).parameters
    defaults = {name: p.default for name, p in parameters.items() if p.default is not inspect.Parameter.empty}
    arguments = defaults | {str(name): value for name, value in node.items()}
    said = [arguments[name] for name in _WEIGHTS if name in arguments]
    if "pretrained" in target.rsplit(".", 1)[-1] or not all(_is_none(value) for value in said):
        return "pretrained"
    random = said or (target.startswith(_RANDOM) and not target.startswith("torch.hub."))
    return "untrained" if random else "as_built"


def _is_none(value: Any) -> bool:
    return any(value is none or (isinstance(value, str) and value.lower() == none) for none in _NONE)
