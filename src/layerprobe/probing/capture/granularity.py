"""Granularity of the list of layers: every tensor, outputs of modules, those of repeated blocks, or sites in these."""

from __future__ import annotations

from collections import Counter
from typing import Literal, TypeAlias, get_args

from torch import nn

from layerprobe.compat.torch import COMPILED, uncompiled

Granularity: TypeAlias = Literal["ops", "modules", "blocks", "sites"]
GRANULARITIES: tuple[Granularity, ...] = get_args(Granularity)
"""`ops`: every tensor; `modules`: outputs of modules; `blocks`: outputs of the largest repeated parts; `sites`: those
of transformer blocks (see `block_sites`).

All of them list the input.
"""


_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


def block_paths(root: nn.Module, path: str) -> set[str]:
    """List the paths of the modules whose outputs the granularity `blocks` lists.

    A repeated container is a Sequential, ModuleList or ModuleDict with at least two children of one class that have
    children themselves: the stages of a residual network, the blocks of a transformer. Listed are the children of
    repeated containers, and everything beside the way from the root to them, so that the curve is complete: the stem
    before, the head after. A child that is itself a repeated container (a stage of blocks) is opened in turn; another
    child is a block and stays closed, whatever is repeated inside; so does one of three or more children of one class
    that stand in no container (GoogLeNet's inceptions). Without any repeated container, the root's own children are
    listed. All paths begin with that of the root.
    """
    found: set[str] = set()
    _open(uncompiled(root), path, found)
    return found


def _open(module: nn.Module, path: str, found: set[str]) -> None:
    inside = _is_repeated(module)
    classes = Counter(type(uncompiled(child)) for child in module.children())
    for name, wrapped in module.named_children():
        child = uncompiled(wrapped)
        child_path = f"{path}.{name}".lstrip(".") + (f".{COMPILED}" if child is not wrapped else "")
        found.add(child_path)
        never_called = type(child) in (nn.ModuleList, nn.ModuleDict)
        one_of_many = classes[type(child)] >= 3 and not isinstance(child, _CONTAINERS)
        parts = [child] if inside or one_of_many else child.modules()
        if never_called or any(_is_repeated(uncompiled(part)) for part in parts):
            _open(child, child_path, found)


def _is_repeated(module: nn.Module) -> bool:
    if not isinstance(module, _CONTAINERS):
        return False
    children = map(uncompiled, module.children())
    classes = Counter(type(child) for child in children if any(child.children()))
    return any(number >= 2 for number in classes.values())
