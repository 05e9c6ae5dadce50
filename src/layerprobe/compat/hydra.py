"""Hydra's private names: the sweeper that Hydra has by default.

Known for hydra-core 1.3.
"""

from __future__ import annotations

from hydra.conf import HydraConf
from omegaconf import DictConfig


def sweeper_learns(config: DictConfig | HydraConf) -> bool:
    """Whether the sweeper chooses jobs by what earlier ones return; the basic one only collects that.

    Args:
        config: Hydra's part of the configuration.
    """
    return str(config.sweeper._target_) != "hydra._internal.core_plugins.basic_sweeper.BasicSweeper"
