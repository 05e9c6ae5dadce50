"""Initial weights: whether a network is built with pretrained ones, with random ones, or with what is not known."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

from layerprobe.types import UNTRAINED, CheckpointInfo

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
    return CheckpointInfo(UNTRAINED if parts and all(part == UNTRAINED for part in parts) else "as_built")


def with_random_weights(model: Any, located: Callable[[str], Any]) -> Any:
    """Have a network built with random weights, where its configuration names others.

    Returns:
        The same configuration, in which every argument that names weights says that there are none.

    Raises:
        ValueError: Where what builds a network gives it weights whatever its arguments say.
    """
    changed = _random(model, located)
    if as_built(changed, located).name == "pretrained":
        raise ValueError(
            f"The untrained network cannot be had of model._target_={model.get('_target_')}, which brings its weights "
            "along. Name a class or function that can build it without them, or leave `untrained` out."
        )
    return changed


def _random(node: Any, located: Callable[[str], Any]) -> Any:
    if isinstance(node, Sequence) and not isinstance(node, str):
        return [_random(value, located) for value in node]
    if not isinstance(node, Mapping):
        return node
    found = {name: _random(value, located) for name, value in node.items()}
    if "_target_" in node:
        ours = str(node["_target_"]).startswith("layerprobe.")
        for name, value in _said(node, located).items():
            # Said also where the default says none: a checkpoint's own arguments may say otherwise.
            none = False if isinstance(value, bool) else "random" if ours else None
            if not _is_none(value) or "_args_" not in node:  # which may hold it already
                found[name] = value if _is_none(value) else none
    return found


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
    target, said = str(node["_target_"]), _said(node, located)
    if "pretrained" in target.rsplit(".", 1)[-1] or not all(_is_none(value) for value in said.values()):
        return "pretrained"
    random = said or (target.startswith(_RANDOM) and not target.startswith("torch.hub."))
    return UNTRAINED if random else "as_built"


def _said(node: Mapping[str, Any], located: Callable[[str], Any]) -> dict[str, Any]:
    """Return what the arguments that name weights say, or their defaults."""
    parameters: Mapping[str, inspect.Parameter] = {}
    with suppress(Exception):  # a class that cannot be found or read is an error of building, which says so
        built = located(str(node["_target_"]))
        if node["_target_"] == "torchvision.models.get_model":  # what it builds has defaults of its own
            built = located("torchvision.models.get_model_builder")(node["name"])
        parameters = inspect.signature(built).parameters
    defaults = {name: p.default for name, p in parameters.items() if p.default is not inspect.Parameter.empty}
    arguments = defaults | {str(name): value for name, value in node.items()}
    return {name: arguments[name] for name in _WEIGHTS if name in arguments}


def _is_none(value: Any) -> bool:
    return any(value is none or (isinstance(value, str) and value.lower() == none) for none in _NONE)
