"""The configuration keys in which runs differ."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from layerprobe.results.config_migration import PACKAGES

SEED = "seed"
"""The key whose values are repetitions of one experiment."""


def differing_keys(configs: Sequence[Mapping[str, Any]], overridden: Sequence[str] = ()) -> list[str]:
    """Find the keys that have more than one value; of keys that always change together, one.

    What lies in another key, as `data.label` in `data`, and has one value for each of its values says nothing more.
    Keys that command lines changed (`overridden`) come first, and stand for those that change with them.

    Returns:
        The keys: overridden ones first, then the shorter path; the seed last.
    """
    keys = {key for config in configs for key in config}
    # The seed stands for what follows it, such as that of the data.
    ordered = sorted(keys, key=lambda key: (key != SEED, key not in overridden, key.count("."), key))
    found: dict[tuple[int, ...], str] = {}
    partitions: dict[str, tuple[int, ...]] = {}
    groups = {package: group for group, package in PACKAGES.items()}
    for key in ordered:
        texts = [value_text(config.get(key)) for config in configs]
        partitions[key] = partition = tuple(texts.index(value) for value in texts)
        around = [key.rsplit(".", n)[0] for n in range(1, key.count(".") + 1)]
        outer = [partitions.get(name, ()) for name in (*around, *(groups[name] for name in around if name in groups))]
        follows = any(len(set(zip(other, partition, strict=True))) == len(set(other)) for other in outer if other)
        if len(set(partition)) > 1 and (key in overridden or not follows):
            found.setdefault(partition, key)
    return sorted(found.values(), key=lambda key: key == SEED)


def telling_keys(configs: Sequence[Mapping[str, Any]]) -> list[str]:
    """Find as few keys as tell configurations apart, seeds left out: those that all have come first.

    Returns:
        Each key that tells configurations apart which those before it do not.
    """
    found: list[str] = []
    told = [""] * len(configs)
    for key in sorted(differing_keys(configs), key=lambda key: any(config.get(key) is None for config in configs)):
        finer = [f"{before}\0{value_text(config.get(key))}" for before, config in zip(told, configs, strict=True)]
        if key.rpartition(".")[2] != SEED and len(set(finer)) > len(set(told)):
            found, told = [*found, key], finer
    return found


def value_text(value: Any) -> str:
    """Write a value of a configuration as a reader would; "–" where a run does not have it."""
    if value is None:
        return "–"
    return f"{value:g}" if isinstance(value, float) else str(value)


def ordered_values(values: Sequence[Any]) -> list[str]:
    """Order the different values of a key, each once: numbers by size, then texts by name, then "–"."""

    def rank(value: Any) -> tuple[int, float, str]:
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            return (2 if value is None else 1, 0.0, value_text(value))
        return (0, float(value), "")

    return list(dict.fromkeys(value_text(value) for value in sorted(values, key=rank)))


def told_values(configs: Sequence[Mapping[str, Any]], keys: Sequence[str]) -> list[str]:
    """Write the values that each configuration has of some keys, such as "lr 0.1, width 8"."""
    short = short_keys(keys)
    return [", ".join(f"{short[key]} {value_text(config.get(key))}" for key in keys) for config in configs]


def short_keys(keys: Sequence[str]) -> dict[str, str]:
    """Shorten dotted keys to as many of their last parts as tell them apart."""
    short = {}
    for key in keys:
        parts = key.split(".")
        tails = [".".join(parts[-n:]) for n in range(1, len(parts) + 1)]
        others = [other for other in keys if other != key]
        short[key] = next(t for t in tails if not any(o == t or o.endswith(f".{t}") for o in others) or t == key)
    return short
