"""Weights: put into a network whatever either is wrapped in, and where those come from that it is built with."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from layerprobe.compat.torch import COMPILED
from layerprobe.formatting import listed
from layerprobe.training.checkpoints import CheckpointError
from layerprobe.types import UNTRAINED, CheckpointInfo

_SHOWN = 3


@dataclass(frozen=True)
class _Match:
    """The weights of a checkpoint under one prefix, laid beside those of the network under another."""

    given: str
    weights: Mapping[str, Tensor]
    missing: Sequence[str]
    unexpected: Sequence[str]
    misshapen: Sequence[str]

    @property
    def n_right(self) -> int:
        return len(self.weights) - len(self.misshapen)

    @property
    def fits(self) -> bool:
        return not (self.missing or self.unexpected or self.misshapen)


def put_weights(network: nn.Module, state_dict: Mapping[str, Tensor], *, prefix: str | None = None) -> None:
    """Put every weight in its place.

    The checkpoint may hold the network inside another module (`model.conv1.weight`, as LightningModules,
    DistributedDataParallel and `torch.compile` write it), or the network may be wrapped and the checkpoint not: the
    names are matched with one prefix left out on either side. A weight that is tied to another counts as given. Of a
    checkpoint, the part `prefix`, such as `teacher.`, is taken; by default what fits.

    Raises:
        CheckpointError: Where the weights do not fit, naming the keys; or where several parts of the checkpoint do.
    """
    given = {name.replace(f"{COMPILED}.", ""): value for name, value in state_dict.items()}
    own = {name.replace(f"{COMPILED}.", ""): name for name in network.state_dict()}
    wanted = ["", *_heads(given)] if prefix is None else [prefix]
    state = network.state_dict()
    matches = [_match(state, given, own, left, right) for left in wanted for right in ("", *_heads(own))]
    if not any(match.weights for match in matches) and prefix is not None:
        raise CheckpointError(
            f"The checkpoint has no weights under {prefix!r}; its parts are {', '.join(_heads(given)) or 'not named'}."
        )
    fitting = [match for match in matches if match.fits]
    if not fitting:
        nearest = max(matches, key=_likeness)
        if 2 * len(nearest.weights) < len(own):  # a few equal names are chance
            nearest = max((match for match in matches if match.given == wanted[0]), key=_likeness)
        raise CheckpointError(_explain(network, nearest))
    whole = [match for match in fitting if not match.given] or fitting
    parts = {tuple(map(id, match.weights.values())): match.given for match in reversed(whole)}
    if len(parts) > 1:
        raise CheckpointError(
            f"Several parts of the checkpoint fit the network: {', '.join(sorted(parts.values()))}. "
            "Choose one: prefix=PART"
        )
    network.load_state_dict(whole[0].weights, strict=False)


def _likeness(match: _Match) -> tuple[int, int]:
    return match.n_right, len(match.weights)


def _match(
    state: Mapping[str, Tensor], given: Mapping[str, Tensor], own: Mapping[str, str], left: str, right: str
) -> _Match:
    plain = {name: name.removeprefix(right) for name in own if name.startswith(right)}
    part = {name.removeprefix(left): value for name, value in given.items() if name.startswith(left)}
    weights = {own[name]: part[inner] for name, inner in plain.items() if inner in part}
    places = {_place(state[name]) for name in weights} - {None}
    missing = [
        name
        for name, full in own.items()
        if full not in weights and not name.endswith("num_batches_tracked") and _place(state[full]) not in places
    ]
    misshapen = [
        f"{name} ({_shape(value)} in the checkpoint, {_shape(state[name])} in the network)"
        for name, value in weights.items()
        if isinstance(value, Tensor) and not is_lazy(state[name]) and value.shape != state[name].shape
    ]
    inner_names = set(plain.values())
    return _Match(left, weights, missing, [name for name in part if name not in inner_names], misshapen)


def _place(tensor: object) -> int | None:
    """Where a tensor's values are, to know tied weights; None where it has none."""
    if not isinstance(tensor, Tensor) or is_lazy(tensor) or not tensor.numel():
        return None
    return tensor.data_ptr() or None


def _heads(names: Mapping[str, object]) -> list[str]:
    """The first one and two steps of dotted names."""
    parts = [name.split(".") for name in names]
    found = {".".join(part[:depth]) + "." for depth in (1, 2) for part in parts if len(part) > depth}
    return sorted(found, key=lambda head: (head.count("."), head))


def _explain(network: nn.Module, match: _Match) -> str:
    kinds = (
        ("missing from the checkpoint", match.missing),
        ("not in the network", match.unexpected),
        ("of another shape", match.misshapen),
    )
    lists = [f"{title}: {listed(names, _SHOWN)}" for title, names in kinds if names]
    return (
        f"The checkpoint's weights are not those of {type(network).__name__}: {'; '.join(lists)}. "
        "Choose the network that they were made for: model=NAME and its arguments."
    )


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "scalar"


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
    """What the arguments that name weights say, or their defaults."""
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
