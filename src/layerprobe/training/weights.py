"""Weights of a checkpoint: put into a network whatever either is wrapped in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from layerprobe.compat.torch import COMPILED
from layerprobe.formatting import listed
from layerprobe.training.checkpoints import CheckpointError

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
    """Find where a tensor's values are, to know tied weights; None where it has none."""
    if not isinstance(tensor, Tensor) or is_lazy(tensor) or not tensor.numel():
        return None
    return tensor.data_ptr() or None


def _heads(names: Mapping[str, object]) -> list[str]:
    """Return the first one and two steps of dotted names."""
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
