"""Freeze a network for as long as it is looked at, and leave no trace of having looked."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.parameter import is_lazy

from layerprobe.probing.capture.quiet_logging import silence
from layerprobe.probing.capture.snapshot import Snapshot, put_back
from layerprobe.probing.capture.torch_flags import keep_flags


@contextmanager
def frozen(network: nn.Module, *, seed: int | None = None) -> Iterator[nn.Module]:
    """Freeze a network: inside, it is in eval mode without gradients, compiled code is eager, and nothing is logged.

    Afterwards, whatever happened inside, these are as before, bit for bit: the train/eval flag of every submodule
    (they may differ), every buffer (its value and its place in memory), `requires_grad`, the modules' attributes
    and hooks and all that they lead to (see `Snapshot`), the random states of Python, NumPy and torch (CPU and every
    accelerator in use), the grad mode, and torch's flags for cuDNN, matrix products, determinism and fused attention.
    What has changed and cannot be put back is named in a warning: the values of parameters, for one, are not copied,
    so that a network whose forward pass trains itself is not undone.

    Args:
        network: Any module.
        seed: Where every random generator starts inside; they go on from where they are otherwise.

    Yields:
        The network itself.

    Raises:
        ValueError: A parameter is not initialised yet (lazy modules).
    """
    with ExitStack() as restore:
        _keep_random_states(restore)  # before anything else: run-time type checkers draw random numbers
        lazy = uninitialised(network)
        if lazy:
            raise ValueError(
                f"the network cannot be frozen: {len(lazy)} of its parameters and buffers are not initialised yet "
                f"({', '.join(lazy[:3])}{', …' if len(lazy) > 3 else ''}). "
                "Call the network once on a batch before freezing it, and before its optimizer is made."
            )
        keep_flags(restore)
        restore.callback(put_back, Snapshot(network))
        silence(network, restore)
        for module in network.modules():
            # Not `network.eval()`: some networks override `train` to merge weights, which does not undo exactly.
            module.training = False
        torch.backends.mha.set_fastpath_enabled(False)  # one fused kernel would hide the layers inside
        if seed is not None:
            _seed_everything(seed)
        if "torch._dynamo" in sys.modules:  # otherwise nothing is compiled, and importing it takes seconds
            restore.enter_context(torch.compiler.set_stance("force_eager"))
        # Not inference mode: a tensor that the network keeps, in whatever place, has to be of use to training later.
        restore.enter_context(torch.inference_mode(False))
        restore.enter_context(torch.no_grad())
        yield network


@contextmanager
def random_states_kept(*, seed: int | None = None) -> Iterator[None]:
    """Let every random generator go on afterwards from where it was; inside, it may start from a seed."""
    with ExitStack() as restore:
        _keep_random_states(restore)
        if seed is not None:
            _seed_everything(seed)
        yield


def uninitialised(network: nn.Module) -> list[str]:
    """Names of the parameters and buffers that a lazy module has not made yet."""
    named = [*network.named_parameters(), *network.named_buffers()]
    return [name for name, tensor in named if is_lazy(tensor)]


def _keep_random_states(restore: ExitStack) -> None:
    restore.callback(random.setstate, random.getstate())
    restore.callback(np.random.set_state, np.random.get_state())  # noqa: NPY002 (the global generator is what counts)
    restore.callback(torch.set_rng_state, torch.get_rng_state())
    for accelerator in (torch.cuda, torch.xpu):
        if accelerator.is_available():
            if accelerator.is_initialized():
                restore.callback(accelerator.set_rng_state_all, accelerator.get_rng_state_all())
            else:
                restore.callback(_rewind, accelerator)
    if torch.backends.mps.is_available():
        restore.callback(torch.mps.set_rng_state, torch.mps.get_rng_state())


def _rewind(accelerator: Any) -> None:
    """Bring generators that were first used inside back to their seed: where they would have started outside."""
    if accelerator.is_initialized():
        for generator in accelerator.default_generators:
            generator.manual_seed(generator.initial_seed())


def _seed_everything(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002
    # Not `torch.manual_seed`: where CUDA is not in use yet, it would seed the CUDA of later, outside.
    torch.default_generator.manual_seed(seed)
    for accelerator in (torch.cuda, torch.xpu):
        if accelerator.is_available() and accelerator.is_initialized():
            accelerator.manual_seed_all(seed)
    if torch.backends.mps.is_available():
        torch.mps.manual_seed(seed)
