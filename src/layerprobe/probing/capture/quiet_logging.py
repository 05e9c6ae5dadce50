"""Logging by a network's own code, without effect for a while."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

from torch import nn

_ABSENT = object()


class Silence:
    """Stands for a logger, an experiment, a figure: takes every call and attribute, and does nothing."""

    def __getattr__(self, name: str) -> Silence:
        """Any attribute is nothing again."""
        if name.startswith("__"):
            raise AttributeError(name)
        return self

    def __call__(self, *args: Any, **kwargs: Any) -> Silence:
        """Any call does nothing."""
        return self

    def __getitem__(self, key: Any) -> Silence:
        """Any item is nothing again."""
        return self

    def __setitem__(self, key: Any, value: Any) -> None:
        """Setting an item does nothing."""


def ignore(*args: Any, **kwargs: Any) -> None:
    """Stand for a method, and do nothing."""


def silence(network: nn.Module, restore: ExitStack) -> None:
    """Let Lightning modules log nothing: `log`, `log_dict`, and what they reach as `logger` and `trainer.logger`.

    Told by the name of their class, in whichever of its packages: this one knows nothing of Lightning.

    Args:
        network: The network; its modules may be Lightning modules, too.
        restore: Undoes it when it is closed.
    """
    for module in network.modules():
        if not any(base.__name__ == "LightningModule" for base in type(module).__mro__):
            continue
        attributes = vars(module)
        for name in ("log", "log_dict"):
            restore.callback(_set, attributes, name, attributes.get(name, _ABSENT))
            attributes[name] = ignore
        trainer: Any = attributes.get("_trainer")
        if trainer is not None and isinstance(loggers := getattr(trainer, "loggers", None), list):
            restore.callback(setattr, trainer, "loggers", loggers)
            trainer.loggers = [Silence() for _ in loggers or [None]]


def _set(attributes: dict[str, Any], name: str, value: Any) -> None:
    if value is _ABSENT:
        attributes.pop(name, None)
    else:
        attributes[name] = value
