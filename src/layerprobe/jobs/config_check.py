"""Check of a configuration: its keys, and its values against the types that its classes say they take."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import CompactHydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import InterpolationResolutionError, MissingMandatoryValue

from layerprobe.formatting import first_line, nearest
from layerprobe.jobs.argument_types import arguments_of, expected_text, fits, found_text, hints_of
from layerprobe.jobs.hub_revisions import revisions_of, with_revision
from layerprobe.program import CONF
from layerprobe.results.config_migration import GONE, migrated, with_what_moved
from layerprobe.results.run_summary import RERUNS

_OWN = ("_target_", "_partial_", "_recursive_", "_convert_", "_args_")
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
        hints = hints_of(target)
        for name, value in node.items():
            if name in hints and name not in _OWN and not fits(value, hints[name]):
                found[f"{path}.{name}"] = (
                    f"has no value. Give one: {path}.{name}=VALUE"
                    if value == "???"
                    else f"{found_text(value, hints[name])}, expected {expected_text(value, hints[name])}"
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


def plain(cfg: DictConfig, *, whole: bool = True) -> Any:
    """Resolve a configuration; where it need not be `whole`, values may be missing.

    Raises:
        CompactHydraException: Naming the key that is missing, or what cannot be resolved.
    """
    try:
        return OmegaConf.to_container(cfg, resolve=True, throw_on_missing=whole)
    except MissingMandatoryValue as error:
        key = error.full_key or "A key"
        raise CompactHydraException(f"{key} has no value. Give one: {key}=VALUE") from None
    except InterpolationResolutionError as error:
        raise CompactHydraException(with_what_moved(first_line(error))) from None


def checked(cfg: DictConfig, *, whole: bool = True) -> Any:
    """Resolve a configuration, and refuse keys that nothing reads and values that the classes in it cannot take.

    Former names of classes in it are replaced by the public ones. Where it need not be `whole`, values may be missing.

    Returns:
        The same, of plain values.

    Raises:
        CompactHydraException: Naming the key and the next step.
    """
    written: Any = OmegaConf.to_container(cfg, resolve=False)
    if (current := migrated(written)) != written:
        cfg.merge_with(current)
    hydra = HydraConfig.get() if HydraConfig.initialized() else None
    for key, reason in unread_keys(cfg, hydra).items():
        raise CompactHydraException(f"{key} {reason}")
    config = plain(cfg, whole=whole)
    if config["rerun"] not in (None, *RERUNS):
        raise CompactHydraException(f"rerun is {config['rerun']!r}. {nearest(str(config['rerun']), RERUNS)}")
    seed = config.get("seed")
    if isinstance(seed, int) and not 0 <= seed < 2**32:  # which NumPy takes
        raise CompactHydraException(f"seed is {seed}, expected a whole number from 0 to {2**32 - 1}.")
    for name in ("model", "data", "trainer"):
        empty = name in config and "_target_" not in (config[name] or {})  # a script of one's own may have none of it
        if empty and not config.get("checkpoint"):
            other = ", or the network that was trained: checkpoint=FILE" if "checkpoint" in config else ""
            raise CompactHydraException(
                f"Nothing says what {name} to build. Choose one of conf/{name}: {name}=NAME{other}"
            )
    for name in ("inputs", "targets", "task"):
        if config.get("probe", {}).get(name) == {}:  # as the protocol's file leaves it
            raise CompactHydraException(f"probe.{name} is empty. Choose one of conf/{name}: {name}=NAME")
    try:
        revisions = revisions_of(cfg)
    except ValueError as error:
        raise CompactHydraException(str(error)) from None
    of_one = config if not revisions else plain(with_revision(cfg, revisions[0]), whole=whole)
    words = hydra.overrides.task if hydra else ()
    said = [word.lstrip("+").partition("=")[0] for word in words]
    added = [key for key, word in zip(said, words, strict=True) if word.startswith("+") and not word.startswith("++")]
    for key, reason in untaken(of_one, added).items():
        raise CompactHydraException(f"{key} {reason}")
    if wrong := wrong_values(of_one):
        key = min(wrong, key=lambda path: (path not in said, path.count(".")))
        raise CompactHydraException(f"{key} {wrong[key]}")
    return config
