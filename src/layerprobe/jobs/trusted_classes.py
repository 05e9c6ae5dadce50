"""Trusted classes: those that a configuration that came with a file may build."""

from __future__ import annotations

import inspect
import logging
import sys
from collections.abc import Iterator, Mapping
from types import FunctionType
from typing import Any

import hydra
from omegaconf import OmegaConf
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torchvision.models import get_model, get_model_builder, list_models

from layerprobe.formatting import first_line
from layerprobe.probing.getters import AbstractTake
from layerprobe.probing.solvers.solver import AbstractSolver
from layerprobe.probing.tasks.task import AbstractTask
from layerprobe.training.checkpoints import CheckpointError

log = logging.getLogger("layerprobe")

BY_HAND = frozenset({"trust_remote_code", "download"})
"""Arguments that run code of others or fetch files: the command line gives them, never a file."""

_CLASSES: Mapping[str, tuple[type, ...]] = {
    "layerprobe.models": (nn.Module,),
    "layerprobe.data": (object,),
    "torchvision.models": (nn.Module,),
    "torchvision.ops": (nn.Module,),
    "torchvision.transforms": (object,),
    "torch.nn.modules": (nn.Module,),
    "torch.optim": (Optimizer, LRScheduler),
    "layerprobe.probing": (AbstractTake, AbstractTask, AbstractSolver),
}
"""Where a class has to be defined, and what it has to be."""

_FUNCTIONS = ("layerprobe.models", "layerprobe.data", "torch.nn.init")
"""Where a function may be defined; of torchvision's, those that build its networks."""

_ROOTS = ("layerprobe.", "torchvision.", "torch.nn.", "torch.optim.")
"""No other module is so much as imported: that alone runs what it holds."""


def merged(name: str, own: Mapping[str, Any], given: Mapping[str, Any], source: str, *, trust: bool) -> dict[str, Any]:
    """Put what the command line says on top of what a file says, and refuse what the file may not say.

    A class or function that the command line names is built whatever it is. One that the file names has to be a
    network, a data set, or a part of one, or a getter, task or solver, of this package, torchvision or `torch.nn`, by
    the module that the object itself was defined in and not by the path that leads to it. `BY_HAND` arguments of the
    file are not taken over.

    Raises:
        CheckpointError: Naming what was found, where, and the next step.
    """
    for path, value in _leaves(own, name):
        if isinstance(value, str) and "${" in value and not trust:
            raise CheckpointError(
                f"{source} was refused: its {path} is {value!r}, which reads or runs something when it is resolved. "
                f"A run writes plain values. {_advice(name, path)}"
            )
        if path.endswith(".trust_remote_code") and value:
            log.warning("%s asks for %s, which no file may. To allow it yourself: '+%s=true'", source, path, path)
    own = _without_by_hand(own)
    found = OmegaConf.merge(OmegaConf.create(dict(own)), OmegaConf.create(dict(given)))
    plain: Any = OmegaConf.to_container(found, resolve=True, throw_on_missing=True)
    if not trust:
        for path, node in _targets(plain, given, name):
            if (reason := _refused(node)) is not None:
                raise CheckpointError(
                    f"{source} was refused: its {path}._target_ is {node['_target_']!r}, {reason}. From a file only "
                    "networks, data and their parts of layerprobe, torchvision, torch.nn and torch.optim are built. "
                    f"{_advice(name, path)}"
                )
    return plain


def plain_precision(own: Mapping[str, Any]) -> str | int | None:
    """Return the precision that a file's configuration names, where it is a plain word or number."""
    trainer = own.get("trainer")
    found = trainer.get("precision") if isinstance(trainer, Mapping) else None
    return found if isinstance(found, str | int) and "${" not in str(found) else None


def _refused(node: Mapping[str, Any]) -> str | None:
    target = node["_target_"]
    if not isinstance(target, str) or not target.startswith(_ROOTS):
        return "which could run any code"
    try:
        found = hydra.utils.get_object(target)
    except Exception as error:  # finding a class imports its module, which may raise anything
        return f"which cannot be found ({first_line(error)})"
    module, own_name = getattr(found, "__module__", None), getattr(found, "__qualname__", None)
    if not isinstance(found, type | FunctionType) or not isinstance(module, str) or not isinstance(own_name, str):
        return f"which is a {type(found).__name__}"
    what = f"which is `{module}.{own_name}`"
    if getattr(sys.modules.get(module), own_name, None) is not found or own_name.startswith("_"):
        return what
    if isinstance(found, type):
        kinds = [kind for home, kinds in _CLASSES.items() if _inside(module, home) for kind in kinds]
        if not issubclass(found, tuple(kinds)):
            return what
    elif not any(_inside(module, home) for home in _FUNCTIONS) and not _builds_a_network(found):
        return what
    if "_args_" in node and BY_HAND & set(inspect.signature(found).parameters):
        return "with arguments that have no names"
    return None


def _inside(module: str, home: str) -> bool:
    return module == home or module.startswith(f"{home}.")


def _builds_a_network(found: Any) -> bool:
    return found is get_model or any(found is get_model_builder(name) for name in list_models())


def _targets(node: Any, given: Any, path: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Find the nodes that name what is built and that the command line does not name, with their paths."""
    if isinstance(node, Mapping):
        said = given if isinstance(given, Mapping) else {}
        if "_target_" in node and "_target_" not in said:
            yield path, node
        for key, value in node.items():
            if key not in said or isinstance(value, Mapping):
                yield from _targets(value, said.get(key), f"{path}.{key}")
    elif isinstance(node, list | tuple):
        for i, value in enumerate(node):
            yield from _targets(value, None, f"{path}.{i}")


def _leaves(node: Any, path: str) -> Iterator[tuple[str, Any]]:
    if isinstance(node, Mapping):
        for key, value in node.items():
            yield from _leaves(value, f"{path}.{key}")
    elif isinstance(node, list | tuple):
        for i, value in enumerate(node):
            yield from _leaves(value, f"{path}.{i}")
    else:
        yield path, node


def _without_by_hand(node: Any) -> Any:
    if isinstance(node, Mapping):
        return {
            key: False if key in BY_HAND and value is not None else _without_by_hand(value)
            for key, value in node.items()
        }
    return [_without_by_hand(value) for value in node] if isinstance(node, list | tuple) else node


def _advice(name: str, path: str) -> str:
    nested = "" if path == name or not path.startswith(f"{name}.") else f", or '+{path}._target_=package.Class'"
    return (
        f"If you trust whoever made the file: trust_checkpoint=true; else name the {name} on the command line: "
        f"{name}=NAME, or '+{name}._target_=package.Class'{nested}; if the class is the same, "
        "its arguments come from the file."
    )
