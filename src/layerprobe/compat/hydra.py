"""Hydra's private names: the sweeper that Hydra has by default, its parser of a command line, and copies of its store.

Known for hydra-core 1.3.
"""

from __future__ import annotations

from collections.abc import Sequence

from hydra._internal.utils import get_args_parser
from hydra.conf import HydraConf
from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig


def share_schemas() -> None:
    """Let copies of a search path share the store of the schemas, which they only read.

    Hydra makes such a copy for every configuration that it composes and every group that it lists, with a copy of each
    schema: three quarters of the time that `--help` takes.
    """
    ConfigStore.__deepcopy__ = lambda store, memo: store  # type: ignore[attr-defined]


def sweeper_learns(config: DictConfig | HydraConf) -> bool:
    """Whether the sweeper chooses jobs by what earlier ones return; the basic one only collects that."""
    return str(config.sweeper._target_) != "hydra._internal.core_plugins.basic_sweeper.BasicSweeper"


def config_dir(words: Sequence[str]) -> str | None:
    """The user's own folder of configurations, where a command line names one."""
    found = get_args_parser().parse_known_args(list(words))[0].config_dir
    return None if found is None else str(found)
