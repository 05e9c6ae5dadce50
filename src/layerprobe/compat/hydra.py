"""Hydra's private names: its default sweeper, its parser of a command line, copies of its store, how it tells a sweep.

Known for hydra-core 1.3.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hydra._internal.hydra import Hydra
from hydra._internal.utils import get_args_parser
from hydra.conf import HydraConf
from hydra.core.config_store import ConfigStore
from hydra.types import RunMode
from omegaconf import DictConfig

_ask_mode = Hydra.get_mode


def share_schemas() -> None:
    """Let copies of a search path share the store of the schemas, which they only read.

    Hydra makes such a copy for every configuration that it composes and every group that it lists, with a copy of each
    schema: three quarters of the time that `--help` takes.
    """
    ConfigStore.__deepcopy__ = lambda store, memo: store  # type: ignore[attr-defined]


def compose_once() -> None:
    """Let a run have the configuration that Hydra composes to tell it from a sweep.

    Hydra composes that one as for a sweep, and another for the run. They differ only where a choice of the defaults is
    missing or a word has several values, and for a run each of these is an error: what can be composed for a run is the
    same both ways. Where it cannot, Hydra composes as ever.
    """
    Hydra.get_mode = _mode_with_the_run  # type: ignore[assignment, method-assign]


def _mode_with_the_run(hydra: Hydra, config_name: str | None, overrides: list[str]) -> RunMode | None:
    loader: Any = hydra.config_loader
    try:
        composed = loader.load_configuration(config_name, overrides, RunMode.RUN)
        mode: RunMode | None = composed.hydra.mode
    except Exception:  # of any kind: Hydra meets it again, and says so
        found: RunMode | None = _ask_mode(hydra, config_name, overrides)
        return found
    words = list(overrides)
    if mode is None:  # then Hydra adds a word to those of a run
        words.append("hydra.mode=RUN")
        composed.hydra.overrides.hydra.append(words[-1])
        composed.hydra.mode = RunMode.RUN

    def load(*, overrides: list[str], run_mode: RunMode, **rest: Any) -> DictConfig:
        del loader.load_configuration  # the next one is composed as ever
        if run_mode == RunMode.RUN and overrides == words:
            return composed
        anew: DictConfig = loader.load_configuration(overrides=overrides, run_mode=run_mode, **rest)
        return anew

    loader.load_configuration = load
    return mode


def sweeper_learns(config: DictConfig | HydraConf) -> bool:
    """Tell whether the sweeper chooses jobs by what earlier ones return; the basic one only collects that."""
    return str(config.sweeper._target_) != "hydra._internal.core_plugins.basic_sweeper.BasicSweeper"


def config_dir(words: Sequence[str]) -> str | None:
    """Return the user's own folder of configurations, where a command line names one."""
    found = get_args_parser().parse_known_args(list(words))[0].config_dir
    return None if found is None else str(found)
