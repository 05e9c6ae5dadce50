"""The name, group and tags of a run in a dashboard, from what its command line changes."""

from __future__ import annotations

from collections.abc import Sequence

from layerprobe.results.config_identity import matters

_LONGEST_NAME, _LONGEST_TAG = 120, 64
_SEED = "seed"


def run_name(experiment: str, overrides: Sequence[str]) -> str:
    """Name a run by the experiment and what was changed, such as "xor_mlp width=2 seed=3"."""
    return _joined(experiment, _pairs(overrides))


def run_group(experiment: str, overrides: Sequence[str]) -> str:
    """Return the name of a run without its seed: runs that differ only in their seed are one group."""
    return _joined(experiment, [(key, value) for key, value in _pairs(overrides) if key != _SEED])


def run_tags(experiment: str, overrides: Sequence[str], own: Sequence[str] = ()) -> list[str]:
    """Tag a run with its experiment and with each value that was changed.

    Returns:
        The tags, each of at most 64 letters, as Weights & Biases asks.
    """
    tags = [experiment, *own, *(f"{key}={value}" for key, value in _pairs(overrides) if key != _SEED)]
    return [tag for tag in dict.fromkeys(tags) if 0 < len(tag) <= _LONGEST_TAG]


def _pairs(overrides: Sequence[str]) -> list[tuple[str, str]]:
    found = []
    for override in overrides:
        key, equals, value = override.lstrip("+~").partition("=")
        if equals and key != "experiment" and matters(key.replace("/", ".")):
            found.append((key, value))
    return found


def _joined(experiment: str, pairs: Sequence[tuple[str, str]]) -> str:
    lasts = [key.rsplit(".", 1)[-1] for key, _ in pairs]
    parts = [
        f"{last if lasts.count(last) == 1 else key}={value}" for last, (key, value) in zip(lasts, pairs, strict=True)
    ]
    name = " ".join([experiment, *parts])
    return name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 1]}…"
