"""The identity of a run: the keys of its configuration that its results depend on."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from layerprobe.results.config_migration import migrated, with_current_keys, without_unnamed

NO_PART = (
    # Where it writes, what it is called, who looks on, and what is done with its results.
    "hydra", "name", "run_dir", "run_id", "rerun", "logger", "objective", "report",
    "trainer.logger", "trainer.callbacks", "trainer.default_root_dir",
    "trainer.enable_progress_bar", "trainer.enable_model_summary", "callbacks*.progress",
    "tags", "extras", "hparams_search", "trainer.enable_checkpointing", "trainer.profiler", "trainer.detect_anomaly",
    "callbacks.model_checkpoint", "callbacks.rich_model_summary", "callbacks.learning_rate_monitor",
    # What it may take: devices, workers, a download, memory; and how often it saves.
    "trainer.accelerator", "trust_checkpoint",
    *(f"{where}.{name}" for where in ("data*", "callbacks*.tests*")
      for name in ("num_workers", "pin_memory", "persistent_workers", "prefetch_factor", "download")),
    "callbacks*.every_n_seconds", "callbacks*.resources",
    *(f"{where}.{name}" for where in ("probe", "callbacks*.protocol")
      for name in ("batch_size", "max_memory", "spill_directory", "keep")),
)  # fmt: skip
"""Keys that are no part of what a run is, with all below them; `*` stands for any part of a key."""

_ORDER = " in order"

_LATER = (
    "probe.path", "callbacks*.protocol.path",  # whose values all lead to certified heads
    "data*.transform.builder", "data*.transform.default_size", "data*.transform.revision",
    f"*loaders.test{_ORDER}", f"*tests{_ORDER}",
)  # fmt: skip
"""Keys that earlier versions did not have: runs without them go on."""

_WITHOUT = {"train": True, "test": True, "probe.analyses": {}, "untrained": False}
"""Keys that earlier versions did not have, with the values that are like not having them."""

SAME_SAMPLES = ("data*.batch_size", "data*.seed", "data*.root")
"""Keys of data that matter, and yet leave the samples as they are, or draw them again: the problem is the same."""


def matters(key: str, excepted: tuple[str, ...] = NO_PART) -> bool:
    """Tell whether a key is a part of what a run is."""
    return not any(fnmatchcase(key, pattern) or fnmatchcase(key, f"{pattern}.*") for pattern in excepted)


def identity(config: Mapping[str, Any], directory: Path | None = None) -> dict[str, Any]:
    """Flatten a configuration to what its results depend on.

    Args:
        config: A resolved configuration of plain values, nested or flat already.
        directory: The run's directory; values that lie in it are written relative to it.

    Returns:
        Values by the dotted keys of today, as JSON gives them back; classes by their public names.
    """
    here = () if directory is None else (str(directory), str(directory.absolute()))
    flat = with_current_keys(dict(_flat(migrated(config), "", here)))
    kept = {key: value for key, value in flat.items() if matters(key)}
    return without_unnamed(json.loads(json.dumps(kept, default=str)))


def differing(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Find the keys in which two identities differ.

    Returns:
        The old and the new value by key, in the order of the keys; None also stands for a key that is not there.
    """
    old, new = {**_WITHOUT, **old}, {**_WITHOUT, **new}
    keys = (key for key in sorted(old.keys() | new.keys()) if key in old or matters(key, _LATER))
    return {key: (old.get(key), new.get(key)) for key in keys if old.get(key) != new.get(key)}


def _flat(value: Any, key: str, here: tuple[str, ...]) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping) and value:
        if key.endswith(("loaders.test", "tests")):  # the first test set is the primary one
            yield f"{key}{_ORDER}", list(value)
        for name, inner in value.items():
            yield from _flat(inner, f"{key}.{name}" if key else str(name), here)
        return
    if isinstance(value, str):
        for start in here:
            value = value.replace(start, "RUN")
    yield key, value
