"""Options of Lightning-Hydra-Template, `extras`: a configuration printed, tags asked for, warnings ignored."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from hydra.errors import CompactHydraException
from omegaconf import DictConfig, OmegaConf


@contextmanager
def extras(cfg: DictConfig) -> Iterator[None]:
    """Do what `extras` of a configuration asks for; the filters of warnings are put back behind the job.

    Raises:
        CompactHydraException: Where tags are asked for and there are none.
    """
    if (asked := cfg.get("extras")) is None:  # of a script that registers none
        yield
        return
    if asked.enforce_tags and not cfg.tags:
        raise CompactHydraException("The run has no tags, and extras.enforce_tags=true. Give some: tags=[paper,first]")
    if asked.print_config:
        _print_config(cfg)
    with warnings.catch_warnings():
        if asked.ignore_warnings:
            warnings.simplefilter("ignore")
        yield


def _print_config(cfg: DictConfig) -> None:
    """Print a configuration as a tree of its parts."""
    from rich.console import Console
    from rich.syntax import Syntax
    from rich.tree import Tree

    tree = Tree("config", guide_style="dim")
    plain: Any = OmegaConf.to_container(cfg, resolve=False)
    for key, part in plain.items():
        branch, said = (tree.add(str(key)), part) if isinstance(part, dict) and part else (tree, {key: part})
        branch.add(Syntax(OmegaConf.to_yaml(said).strip(), "yaml", background_color="default", word_wrap=True))
    Console().print(tree)
