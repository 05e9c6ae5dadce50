"""Torch's global flags: what kernels may be used, how exact they are, whether gradients are kept."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack, suppress
from operator import attrgetter
from typing import Any

import torch

_OF_BACKENDS = (
    "fp32_precision",
    "cuda.matmul.fp32_precision",
    "cudnn.fp32_precision",
    "cudnn.conv.fp32_precision",
    "cudnn.rnn.fp32_precision",
    "mkldnn.fp32_precision",
    "mkldnn.matmul.fp32_precision",
    "mkldnn.conv.fp32_precision",
    "mkldnn.rnn.fp32_precision",
    "cuda.matmul.allow_fp16_reduced_precision_reduction",
    "cuda.matmul.allow_bf16_reduced_precision_reduction",
    "cuda.matmul.allow_tf32",
    "cudnn.allow_tf32",
    "cudnn.enabled",
    "cudnn.benchmark",
    "cudnn.deterministic",
)
"""Flags of `torch.backends`. Those that several others stand for come last, and are put back first."""


def keep_flags(restore: ExitStack) -> None:
    """Have the flags put back, where they changed, when the stack unwinds."""
    for path in _OF_BACKENDS:
        _keep(restore, *_accessors(f"backends.{path}"))
    _keep(restore, torch.get_float32_matmul_precision, torch.set_float32_matmul_precision)
    _keep(restore, torch.get_deterministic_debug_mode, torch.set_deterministic_debug_mode)
    _keep(restore, torch.get_default_dtype, torch.set_default_dtype)
    _keep(restore, torch.backends.mha.get_fastpath_enabled, torch.backends.mha.set_fastpath_enabled)
    _keep(restore, torch.is_grad_enabled, torch.set_grad_enabled)


def _accessors(path: str) -> tuple[Callable[[], Any], Callable[[Any], None]]:
    owner, _, name = path.rpartition(".")
    return lambda: attrgetter(path)(torch), lambda value: setattr(attrgetter(owner)(torch), name, value)


def _keep(restore: ExitStack, get: Callable[[], Any], put: Callable[[Any], object]) -> None:
    # A flag may be missing (older torch), or refuse to be read: torch ≥ 2.9 has an old and a new set of flags for
    # precision, and a program that has used the new one gets an error for the old one.
    with suppress(RuntimeError, AttributeError):
        before = get()
        restore.callback(_put_back, get, put, before)


def _put_back(get: Callable[[], Any], put: Callable[[Any], object], before: Any) -> None:
    with suppress(RuntimeError):
        if get() == before:
            return
    put(before)
