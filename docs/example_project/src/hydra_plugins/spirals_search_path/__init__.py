"""Adds `spirals/conf` to the folders in which Hydra looks for configurations."""

from __future__ import annotations

from pathlib import Path

from hydra.core.config_search_path import ConfigSearchPath
from hydra.plugins.search_path_plugin import SearchPathPlugin


class SpiralsSearchPath(SearchPathPlugin):
    """Found by Hydra wherever the package is installed."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Look in this package behind layerprobe's own configurations.

        Args:
            search_path: The folders so far.
        """
        search_path.append("spirals", str(Path(__file__).parents[2] / "spirals" / "conf"))
