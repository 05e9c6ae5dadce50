"""Hydra's private names: the sweeper that Hydra has by default, and its parser of a command line.

Known for hydra-core 1.3.
"""

from __future__ import annotations

from collections.abc import Sequence

from hydra._internal.utils import get_args_parser
from hydra.conf import HydraConf
from omegaconf import DictConfig


def sweeper_learns(config: DictConfig | HydraConf) -> bool:
    """Whether the sweeper chooses jobs by what earlier ones return; the basic one only collects that."""
    return str(config.sweeper._target_) != "hydra._internal.core_plugins.basic_sweeper.BasicSweeper"


def config_dir(words: Sequence[str]) -> str | None:
    """The user's own folder of configurations, where a command line names one."""
    found = get_args_parser().parse_known_args(list(words))[0].config_dir
    return None if found is None else str(found)
