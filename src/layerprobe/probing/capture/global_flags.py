"""Global flags of torch and NumPy: for precision, threads, autocast, printing and more, put back where they changed."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from operator import attrgetter
from threading import RLock
from typing import Any

import numpy as np
import torch

from layerprobe.compat.torch import print_options, set_print_options

PRECISION = (
    "fp32_precision", "cuda.matmul.fp32_precision",
    "cudnn.fp32_precision", "cudnn.conv.fp32_precision", "cudnn.rnn.fp32_precision",
    "mkldnn.fp32_precision", "mkldnn.matmul.fp32_precision", "mkldnn.conv.fp32_precision", "mkldnn.rnn.fp32_precision",
    "cuda.matmul.allow_fp16_reduced_precision_reduction", "cuda.matmul.allow_bf16_reduced_precision_reduction",
    "cuda.matmul.allow_tf32", "cudnn.allow_tf32",
)  # fmt: skip
"""Flags of `torch.backends` for precision. Those that several others stand for come last, and are put back first."""

_turn = RLock()


@contextmanager
def one_thread_at_a_time() -> Iterator[None]:
    """Wait until no other thread changes what all threads share: these flags, random generators, a network's hooks.

    Each would otherwise put back what it found half-way through the work of another.
    """
    with _turn:
        yield


def _renew() -> None:
    """Take a lock that nobody holds, in a process that is forked while another thread holds the one there was."""
    global _turn
    _turn = RLock()


os.register_at_fork(after_in_child=_renew)


def keep_flags(restore: ExitStack) -> None:
    """Have the flags put back, where they changed, when the stack unwinds."""
    for path in (*PRECISION, "cudnn.enabled", "cudnn.benchmark", "cudnn.deterministic"):
        _keep_flag(restore, *_accessors(f"backends.{path}"))
    _keep_flag(restore, torch.get_float32_matmul_precision, torch.set_float32_matmul_precision)
    _keep_flag(restore, torch.get_deterministic_debug_mode, torch.set_deterministic_debug_mode)
    _keep_flag(restore, torch.get_default_dtype, torch.set_default_dtype)
    _keep_flag(restore, torch.backends.mha.get_fastpath_enabled, torch.backends.mha.set_fastpath_enabled)
    _keep_flag(restore, torch.is_grad_enabled, torch.set_grad_enabled)
    _keep_flag(restore, _anomaly_mode, lambda mode: torch.autograd.set_detect_anomaly(*mode))
    _keep_flag(restore, torch.get_num_threads, torch.set_num_threads)
    _keep_flag(restore, print_options, set_print_options)
    _keep_flag(restore, np.get_printoptions, lambda options: np.set_printoptions(**options))
    _keep_flag(restore, np.geterr, lambda how: np.seterr(**how))
    for kind in ("flash", "mem_efficient", "math", "cudnn"):
        enabled, enable = f"{kind}_sdp_enabled", f"enable_{kind}_sdp"
        _keep_flag(restore, getattr(torch.backends.cuda, enabled), getattr(torch.backends.cuda, enable))
    for device in ("cpu", "cuda"):
        _keep_flag(restore, partial(torch.is_autocast_enabled, device), partial(torch.set_autocast_enabled, device))
        _keep_flag(restore, partial(torch.get_autocast_dtype, device), partial(torch.set_autocast_dtype, device))


def _anomaly_mode() -> tuple[bool, bool]:
    return torch.is_anomaly_enabled(), torch.is_anomaly_check_nan_enabled()


def _accessors(path: str) -> tuple[Callable[[], Any], Callable[[Any], None]]:
    owner, _, name = path.rpartition(".")
    return lambda: attrgetter(path)(torch), lambda value: setattr(attrgetter(owner)(torch), name, value)


def _keep_flag(restore: ExitStack, get: Callable[[], Any], put: Callable[[Any], object]) -> None:
    # A flag may be missing (older torch), or refuse to be read: torch ≥ 2.9 has an old and a new set of flags for
    # precision, and a program that has used the new one gets an error for the old one.
    with suppress(RuntimeError, AttributeError):
        before = get()
        restore.callback(_put_flag_back, get, put, before)


def _put_flag_back(get: Callable[[], Any], put: Callable[[Any], object], before: Any) -> None:
    with suppress(RuntimeError):
        if get() == before:
            return
    put(before)
