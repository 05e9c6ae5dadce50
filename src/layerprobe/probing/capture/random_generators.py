"""Random generators of Python, NumPy and torch: where they are, and how they go on from there afterwards."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch


@contextmanager
def random_states_kept(*, seed: int | None = None) -> Iterator[None]:
    """Let every random generator go on afterwards from where it was; inside, it may start from a seed."""
    with ExitStack() as restore:
        for read, put_back_to in _generators():
            restore.callback(put_back_to, read())
        for accelerator in (torch.cuda, torch.xpu):
            if not accelerator.is_initialized():
                restore.callback(_rewind, accelerator)
        if seed is not None:
            seed_everything(seed)
        yield


def random_states() -> list[object]:
    """Read where every random generator is, Python's first, to be compared with where it is later."""
    return [_plain(read()) for read, _ in _generators()]


def _generators() -> Iterator[tuple[Callable[[], Any], Callable[[Any], Any]]]:
    """Return what reads the state of each generator that is in use, and what puts it back."""
    yield random.getstate, random.setstate
    yield np.random.get_state, np.random.set_state
    yield torch.get_rng_state, torch.set_rng_state
    for accelerator in (torch.cuda, torch.xpu):
        if accelerator.is_initialized():
            yield accelerator.get_rng_state_all, accelerator.set_rng_state_all
    if torch.backends.mps.is_available():
        yield torch.mps.get_rng_state, torch.mps.set_rng_state


def _plain(state: Any) -> object:
    """Turn a generator's state into what can be compared."""
    if isinstance(state, torch.Tensor | np.ndarray):
        return state.tolist()
    return [_plain(part) for part in state] if isinstance(state, tuple | list) else state


def _rewind(accelerator: Any) -> None:
    """Bring generators that were first used inside back to their seed: where they would have started outside."""
    if accelerator.is_initialized():
        for generator in accelerator.default_generators:
            generator.manual_seed(generator.initial_seed())


def seed_everything(seed: int) -> None:
    """Let every generator that is in use start from a seed."""
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002
    # Not `torch.manual_seed`: where CUDA is not in use yet, it would seed the CUDA of later, outside.
    torch.default_generator.manual_seed(seed)
    for accelerator in (torch.cuda, torch.xpu):
        if accelerator.is_initialized():
            accelerator.manual_seed_all(seed)
    if torch.backends.mps.is_available():
        torch.mps.manual_seed(seed)
