"""Scope of a snapshot: which objects can change and belong to a network or its data, and which are left alone."""

from __future__ import annotations

import datetime
import enum
import pathlib
import random
import re
import sys
import types
import weakref
from array import array
from collections import deque
from functools import cache, partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from layerprobe.probing.capture.object_state import is_plain_iterator

ATOMS: tuple[type, ...] = (
    type(None), bool, int, float, complex, str, bytes, range, slice, type(...), enum.Enum, pathlib.PurePath,
    re.Pattern, datetime.date, datetime.time, datetime.timedelta, np.generic, np.dtype, torch.dtype, torch.device,
    torch.Size, torch.layout, torch.memory_format, types.ModuleType, types.CodeType, weakref.ReferenceType,
)  # fmt: skip
"""Never change, or lead away from what is kept."""

PLAIN: set[type] = {
    type(None), bool, int, float, complex, str, bytes, range, slice, type(...), torch.dtype, torch.device, torch.Size,
    np.float64, np.float32, np.int64, types.ModuleType,
}  # fmt: skip
"""The commonest of what is never followed."""

_OUTSIDE = frozenset({
    "IPython", "_pytest", "asyncio", "beartype", "concurrent", "ctypes", "hydra", "importlib", "ipykernel", "jaxtyping",
    "layerprobe", "lightning", "lightning_fabric", "logging", "matplotlib", "mlflow", "multiprocessing", "omegaconf",
    "pluggy", "pytest", "pytorch_lightning", "rich", "socket", "sqlite3", "subprocess", "tensorboard", "tensorboardX",
    "threading", "torch", "tqdm", "wandb",
})  # fmt: skip
_INSIDE = (
    "layerprobe.data", "layerprobe.models", "torch.utils.data", "torch.nn", "torch.distributions",
    "pytorch_lightning.overrides", "lightning.pytorch.overrides",
)  # fmt: skip
"""Of packages that run a training and keep its books, which belong to its network or its data all the same."""

RANDOM = (
    torch.Generator | np.random.Generator | np.random.BitGenerator | np.random.RandomState | random.Random
    | np.random.SeedSequence
)  # fmt: skip
_STATES = (
    dict, list, deque, set, tuple, bytearray, array, Tensor, nn.Module, np.ndarray, partial, types.GeneratorType,
    torch.Generator, np.random.Generator, np.random.BitGenerator, np.random.RandomState, random.Random,
)  # fmt: skip


def is_state(value: Any) -> bool:
    """Tell whether a global variable is followed: plain containers, values, generators, and what users have written."""
    if isinstance(value, type | types.FunctionType):
        return is_users(value.__module__)
    kind: Any = type(value)
    return isinstance(value, _STATES) or is_plain_iterator(kind) or is_users(kind.__module__)


@cache
def is_users(module: str | None) -> bool:
    """Tell whether a module is outside of Python itself, of installed packages and of this one."""
    root = (module or "").partition(".")[0]
    if not root or root == "layerprobe" or root in sys.stdlib_module_names or root in sys.builtin_module_names:
        return False
    file = getattr(sys.modules.get(module or ""), "__file__", None) or ""
    return not any(part in ("site-packages", "dist-packages") for part in pathlib.PurePath(file).parts)


def is_outside(kind: type) -> bool:
    """Tell whether a class is of a package that trains or keeps a training's books, no part of a network or of data."""
    module = kind.__module__ or ""
    return module.partition(".")[0] in _OUTSIDE and not module.startswith(_INSIDE)
