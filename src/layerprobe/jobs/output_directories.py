"""The directories of runs and sweeps: new ones for new starts, under names that a file system takes."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from lightning_utilities.core.rank_zero import rank_zero_only
from omegaconf import DictConfig, OmegaConf, read_write

from layerprobe.quoting import expression, override
from layerprobe.results.config_migration import former_override

_LONGEST_NAME = 255
"""Bytes of a file's name, on every common file system."""


class Directories(Callback):
    """Settles where a run or a sweep writes before anything else asks.

    A directory that is named by the time (`${now:…}`) is a new one: of starts within the same second, the second gets
    `-02` behind its name, and so on. What is named otherwise is used as it is, and a run goes on in it. Names that are
    longer than a file system takes end in a hash instead. From then on the directory is a value, not an expression:
    every job of a sweep has the sweep's, whichever experiment it is of.
    """

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Settle `hydra.run.dir`."""
        _settle(config, "run")

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Settle `hydra.sweep.dir`, for the jobs too, and have the names in `hydra.sweep.subdir` shortened."""
        directory = _settle(config, "sweep")
        overrides = [override("hydra.sweep.dir", directory)]
        subdir = str(_unresolved(config.hydra.sweep, "subdir"))
        if "${" in subdir and '"' not in subdir and subdir != "${hydra.job.num}":
            overrides.append("hydra.sweep.subdir=" + expression('${job_directory:"' + subdir + '"}'))
        with read_write(config.hydra):
            config.hydra.overrides.hydra += overrides


def _settle(config: DictConfig, mode: str) -> str:
    named = str(_unresolved(config.hydra[mode], "dir"))
    before = HydraConfig.instance().cfg
    HydraConfig.instance().set_config(config)  # which `${hydra:…}` in the name needs
    try:
        directory = known_directory(str(config.hydra[mode].dir), config)
    finally:
        HydraConfig.instance().cfg = before
    absolute = os.path.abspath(directory)
    if "${" in absolute:
        raise SystemExit(
            f"Hydra takes `${{` in the name of a directory for a reference to another value: {absolute}"
            f"\nGive a directory without it: hydra.{mode}.dir=DIR"
        )
    if getattr(rank_zero_only, "rank", 0) == 0:
        try:
            if "${now:" in named:
                directory = new_directory(directory)
            else:
                os.makedirs(directory, exist_ok=True)
        except OSError as error:
            raise SystemExit(
                f"No directory can be made here: {error}\nGive another one: hydra.{mode}.dir=DIR"
            ) from error
    with read_write(config.hydra):
        config.hydra[mode].dir = directory
    return directory


def _unresolved(config: DictConfig, key: str) -> Any:
    content: Any = OmegaConf.to_container(config, resolve=False)
    return content[key]


def new_directory(path: str) -> str:
    """Make a directory that nobody else has: the path, or the first with `-02`, `-03`, … that was not there."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    number, name = 1, path
    while True:
        try:
            os.mkdir(name)
            return name
        except FileExistsError:
            number += 1
            name = f"{path}-{number:02d}"


def job_directory(path: str, *, _root_: DictConfig) -> str:
    """Name the directory of a sweep's job, as `known_directory`."""
    return known_directory(path, _root_, str(_root_.hydra.sweep.dir))


def known_directory(path: str, config: DictConfig, where: str = "") -> str:
    """Shorten names that no file system takes, and keep to what an earlier version has made.

    Returns:
        The path, as `short_path`; where the overrides are a part of it, that with the former names of keys if it is
        there.
    """
    options, task = config.hydra.job.config.override_dirname, _unresolved(config.hydra.overrides, "task")
    words = [word for word in task if word.lstrip("+~").partition("=")[0] not in options.exclude_keys]
    named, former = (
        options.item_sep.join(sorted(those)).replace("=", options.kv_sep)
        for those in (words, map(former_override, words))
    )
    before = short_path(path.replace(named, former))
    return before if os.path.isdir(os.path.join(where, before)) else short_path(path)


def short_path(path: str) -> str:
    """Shorten names that no file system takes.

    Returns:
        The path; of each name of more than 255 bytes its beginning and a hash of the whole, which is always the same.
    """
    return "/".join(_short(name) for name in path.split("/"))


def _short(name: str) -> str:
    encoded = os.fsencode(name)
    if len(encoded) <= _LONGEST_NAME:
        return name
    digest = hashlib.sha256(encoded).hexdigest()[:12]
    return f"{encoded[: _LONGEST_NAME - 1 - len(digest)].decode(errors='ignore')}-{digest}"
