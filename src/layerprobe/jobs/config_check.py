"""Check of a configuration: its values against the types that its classes say they take."""

from __future__ import annotations

import inspect
import re
import types
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import fields, is_dataclass
from enum import Enum
from itertools import chain, repeat
from os import PathLike
from typing import Any, Literal, Optional, Union, get_args, get_origin, get_type_hints

import hydra
from omegaconf import DictConfig, OmegaConf

from layerprobe.formatting import nearest
from layerprobe.program import CONF
from layerprobe.results.config_migration import GONE

_SCALAR = (int, float, bool, str, types.NoneType)
_NAMES = {int: "a whole number", float: "a number", bool: "true or false", types.NoneType: "null", str: "a word"}
_OWN = ("_target_", "_partial_", "_recursive_", "_convert_", "_args_")
_LONGEST = 120
"""Letters of a wrong value that are shown."""
_LEAST = {
    "seed": 0, "seeds": 0, "split_seed": 0, "batch_size": 1, "num_workers": 0, "train_size": 0, "val_size": 0,
    "test_size": 0, "per_class": 1, "repeats": 1, "max_features": 1, "lr": 0, "weight_decay": 0, "momentum": 0,
    "max_epochs": -1, "max_steps": -1, "log_every_n_steps": 0, "check_val_every_n_epoch": 1, "limit_train_batches": 0,
    "limit_val_batches": 0, "limit_test_batches": 0, "overfit_batches": 0, "accumulate_grad_batches": 1, "num_nodes": 1,
    "num_sanity_val_steps": -1,
}  # fmt: skip
"""The least value of a number, or of each of several, by its name in the classes of `_BOUNDED`."""
_BOUNDED = ("layerprobe.", "pytorch_lightning.", "torch.")
"""Packages whose classes mean by such a name what is meant here; those of anyone else may mean another thing."""
_LISTED = {"torchvision.models.get_model": "torchvision.models.list_models"}
"""What builds a thing by its `name`, in lower case, and what lists the names that there are."""


def wrong_values(config: Mapping[str, Any]) -> dict[str, str]:
    """Find words where numbers are wanted, fractions where whole numbers are, numbers too small, and the like.

    Returns:
        By key, what was found and what is wanted.
    """
    found = {}
    for path, node in _targets(config, ""):
        target = node["_target_"]
        if target in GONE:
            found[f"{path}._target_"] = f"is {target}, which is gone: {GONE[target]}"
        hints = _hints(target)
        for name, value in node.items():
            if name in hints and name not in _OWN and not _fits(value, hints[name]):
                found[f"{path}.{name}"] = (
                    f"has no value. Give one: {path}.{name}=VALUE"
                    if value == "???"
                    else f"{_found(value, hints[name])}, expected {_expected(value, hints[name])}"
                )
            elif target.startswith(_BOUNDED) and name in _LEAST and _is_below(value, _LEAST[name]):
                numbers = "numbers" if isinstance(value, list) else "a number"
                found[f"{path}.{name}"] = f"is {value!r}, expected {numbers} of at least {_LEAST[name]}."
            elif target.startswith(_BOUNDED) and name == "devices" and value in (0, "0") and value is not False:
                found[f"{path}.{name}"] = "is 0, expected how many devices to use, or -1 for all that there are."
        word = node.get("name")
        if target in _LISTED and isinstance(word, str) and word != "???":
            known = hydra.utils.get_method(_LISTED[target])()
            if word.lower() not in known:
                found[f"{path}.name"] = f"is {word!r}, which {target} does not know. {nearest(word.lower(), known)}"
    return found


def untaken(config: Mapping[str, Any], keys: Iterable[str]) -> dict[str, str]:
    """Find arguments that the class or function above them does not take.

    Returns:
        By key, what does not take it, and which argument may have been meant.
    """
    return {
        f"{path}.{name}": f"is added, but {node['_target_']} takes no {name!r}. {nearest(name, known)}"
        for path, node in _targets(config, "")
        for name in node.keys() - {*_OWN}
        if f"{path}.{name}" in keys and (known := arguments_of(node["_target_"])) and name not in known
    }


def arguments_of(target: str) -> list[str]:
    """Return the names of the arguments that a class or function takes; none where it takes any, or does not say."""
    try:
        parameters = inspect.signature(hydra.utils.get_object(target)).parameters.values()
    except Exception:  # as for `_hints`
        return []
    if any(one.kind is one.VAR_KEYWORD for one in parameters):
        return []
    return [one.name for one in parameters if one.kind in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY)]


def _is_below(value: Any, least: int) -> bool:
    if isinstance(value, list):
        return any(_is_below(one, least) for one in value)
    return isinstance(value, int | float) and value < least


def unread_keys(config: DictConfig, hydra_config: Any = None) -> dict[str, str]:
    """Find keys that `+` has added to a part whose keys are fixed, and that no other value refers to.

    Args:
        config: An unresolved configuration. One without a schema has no such part.
        hydra_config: Hydra's part of it, which may refer to them too.

    Returns:
        By key, that nothing reads it, and which key may have been meant.
    """
    plain = OmegaConf.to_container(config, resolve=False)
    references = re.findall(r"\$\{[^}]*", f"{plain} {hydra_config}")
    found = {}
    for path, kind, keys in _structured(config, ""):
        known = {field.name for field in fields(kind)}
        groups = {folder.name for folder in CONF.iterdir() if folder.is_dir()} if not path else set()
        for key in keys - known:
            if any(re.search(rf"\b{re.escape(key)}\b", reference) for reference in references):
                continue
            elsewhere = () if path else (full for full in key_paths(plain) if full.count(".") == 1)
            advice = same_name(key, elsewhere) or nearest(key, known | groups)
            found[f"{path}.{key}".lstrip(".")] = f"is added, but nothing reads it. {advice}"
    return found


def same_name(key: str, paths: Iterable[str]) -> str:
    """Ask whether a key of the same name, at another of some places, was meant; empty where there is none."""
    same = [path for path in paths if path.rpartition(".")[2] == key]
    return f"Did you mean {' or '.join(same[:4])}?" if same else ""


def key_paths(node: Any, path: str = "") -> Iterator[str]:
    """List the dotted keys of a configuration of plain values, each part before what is in it."""
    if isinstance(node, dict):
        for key, value in node.items():
            full = f"{path}.{key}".lstrip(".")
            yield full
            yield from key_paths(value, full)


def _structured(node: DictConfig, path: str) -> Iterator[tuple[str, Any, set[str]]]:
    """List the parts of a configuration that a dataclass describes: key, dataclass, and the keys that are there."""
    if is_dataclass(kind := OmegaConf.get_type(node)):
        yield path, kind, set(map(str, node))
    for key in node:
        if not isinstance(key, str) or OmegaConf.is_interpolation(node, key) or OmegaConf.is_missing(node, key):
            continue
        if isinstance(inner := node[key], DictConfig):
            yield from _structured(inner, f"{path}.{key}".lstrip("."))


def _targets(node: Any, path: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    if isinstance(node, Mapping):
        if isinstance(node.get("_target_"), str):
            yield path, node
        for name, value in node.items():
            yield from _targets(value, f"{path}.{name}".lstrip("."))
    elif isinstance(node, list):
        for i, value in enumerate(node):
            yield from _targets(value, f"{path}.{i}")


def _hints(target: str) -> Mapping[str, Any]:
    """Return what each parameter of the target takes; nothing where it does not say or cannot be found.

    One whose default is None takes None, whatever it says.
    """
    try:
        found = hydra.utils.get_object(target)
        made = found.__init__ if inspect.isclass(found) else found
        hints, parameters = get_type_hints(made), inspect.signature(made).parameters
    except Exception:  # finding a class imports its module, which may raise anything; building it says what is wrong
        return {}
    found = {}
    for name in hints.keys() & parameters:
        with suppress(TypeError):  # of what is no type, such as (int, float)
            found[name] = Optional[hints[name]] if parameters[name].default is None else hints[name]  # noqa: UP045
    return found


def _members(hint: Any) -> Iterator[Any]:
    if get_origin(hint) in (Union, types.UnionType):
        for member in get_args(hint):
            yield from _members(member)
    else:
        yield hint


def _fits(value: Any, hint: Any) -> bool:
    """Tell whether a plain value may be meant for a type; in doubt it may, as where a protocol refuses to be asked."""
    members = list(_members(hint))
    lists = [one for one in members if inspect.isclass(get_origin(one)) and _takes_list(get_origin(one))]
    if isinstance(value, list) and lists:  # what says which items it takes is asked, and no class beside it
        members = lists
    try:
        return any(_is(value, member) for member in members)
    except TypeError:
        return True


def _is(value: Any, hint: Any) -> bool:
    """Tell whether a plain value may be meant for one type; in doubt it may."""
    if get_origin(hint) is Literal:
        return value in get_args(hint)
    origin = get_origin(hint) or hint
    if hint is Any or not inspect.isclass(origin):
        return True
    if isinstance(value, Mapping):
        return "_target_" in value or not issubclass(origin, _SCALAR)
    if value is None:
        return issubclass(types.NoneType, origin)
    if isinstance(value, str):
        if issubclass(origin, str | Enum | PathLike) or f"{origin.__module__}.{origin.__name__}" == "torch.device":
            return True
        return issubclass(str, origin) and all(_fits(value, part) for part in get_args(hint))
    if isinstance(value, list):
        return not issubclass(origin, _SCALAR) and all(map(_fits, value, _items(origin, get_args(hint))))
    if isinstance(value, float) and not value.is_integer():
        return issubclass(origin, float | str | PathLike) or isinstance(value, origin)
    return (issubclass(origin, (*_SCALAR, PathLike)) and origin is not type(None)) or isinstance(value, origin)


def _items(origin: type, parts: Sequence[Any]) -> Iterable[Any]:
    """Return what each item of a list may be, where a list or a tuple is taken."""
    if not parts or not _takes_list(origin):
        return repeat(Any)
    return repeat(parts[0]) if len(parts) == 1 or parts[-1] is Ellipsis else chain(parts, repeat(Any))


def _takes_list(origin: type) -> bool:
    try:
        return issubclass(list, origin) or issubclass(origin, list | tuple)
    except TypeError:
        return False


def _found(value: Any, hint: Any) -> str:
    """Say what a wrong value is; of a long list, an item that is wrong."""
    said, verb = "null" if value is None else repr(value), "is"
    if isinstance(value, list) and len(said) > _LONGEST:
        wrong = next((item for item in value if not _fits([item], hint)), value)
        said, verb = repr(wrong), "is" if wrong is value else "holds"
    return f"{verb} {said if len(said) <= _LONGEST else f'{said[:_LONGEST]}…'}"


def _expected(value: Any, hint: Any) -> str:
    members = list(_members(hint))
    words = [word for member in members if get_origin(member) is Literal for word in get_args(member)]
    if not isinstance(value, str | int | float):
        words = []
    others = [member for member in members if not words or get_origin(member) is not Literal]
    items = {one: {*_members(get_args(one)[0])} for one in others if _lists(one) and get_args(one)}
    such = [one for one in items if items[one] <= {*others}]
    first = [one for one in others if any(one in items[several] for several in such)]
    rest = [one for one in others if one not in (*first, *such)]
    names = [*map(_called, first), *["a list of such" for _ in such], *map(_called, rest)]
    named = " or ".join(dict.fromkeys(names))
    if not words:
        return f"{named}."
    return f"one of a few words. {nearest(str(value), map(str, words))}" + (f" Or {named}." if named else "")


def _lists(hint: Any) -> bool:
    origin = get_origin(hint) or hint
    return inspect.isclass(origin) and _takes_list(origin)


def _called(hint: Any) -> str:
    origin = get_origin(hint) or hint
    if origin in _NAMES:
        return _NAMES[origin]
    if _lists(hint):
        parts = [_called(part) for part in get_args(hint)[:1]]
        return "a list" + "".join(f" whose items are each {part}" for part in parts)
    if inspect.isclass(origin):
        return f"a {origin.__name__}"
    return "something else"
