"""Classes of a kind by their names: those of layerprobe, and those of users."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any


def named_classes(kind: type) -> dict[str, Any]:
    """The classes of a kind that have a `name`, however deep below it, as far as their modules are imported.

    Args:
        kind: An abstract class.
    """
    return {one.name: one for one in _below(kind) if "name" in vars(one)}


def _below(kind: Any) -> Iterator[Any]:
    for found in kind.__subclasses__():
        yield from (found, *_below(found))
