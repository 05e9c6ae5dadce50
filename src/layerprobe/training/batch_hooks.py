"""Batch hooks of Lightning: what a module or its data module does to a batch before the network is called with it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn

from layerprobe.probing.capture.call_arguments import device_of
from layerprobe.probing.capture.default_device import programs_device
from layerprobe.probing.protocol import ProbeProtocol
from layerprobe.training.lightning_splits import is_default_hook

_HOOKS = ("on_before_batch_transfer", "transfer_batch_to_device", "on_after_batch_transfer")
_TAKEN = ("inputs", "targets", "mask", "control_key", "sample_ids")
"""What a protocol takes out of a batch."""


def with_batch_hooks(
    protocol: ProbeProtocol, network: nn.Module, datamodule: Any, trainer: Any = None
) -> ProbeProtocol:
    """Read batches as Lightning's hooks leave them in validation, so that layers are those of the network's own inputs.

    As in Lightning, a hook of the data module comes before one of the module.
    """
    owners = [owner for owner in (datamodule, network) if hasattr(owner, _HOOKS[0])]
    own = {
        hook: next((one for one in owners if hasattr(one, hook) and not is_default_hook(getattr(one, hook))), None)
        for hook in _HOOKS
    }
    if not any(owner is not None for owner in own.values()):
        return protocol
    called = {hook: owners[-1] if owner is None else owner for hook, owner in own.items()}
    hooked = _Hooked(called, network, trainer)

    def of_hooked(take: Callable[[Any], Any]) -> Callable[[Any], Any]:
        return lambda batch: take(hooked(batch))

    taken: dict[str, Any] = {name: of_hooked(take) for name in _TAKEN if (take := getattr(protocol, name)) is not None}
    return replace(protocol, **taken)


class _Hooked:
    """Calls the hooks once for each batch, which several things are taken out of."""

    def __init__(self, owners: Mapping[str, Any], network: nn.Module, trainer: Any) -> None:
        self._owners, self._network, self._trainer = owners, network, trainer
        self._last: tuple[Any, Any] = (None, None)

    def __call__(self, batch: Any) -> Any:
        if self._last[0] is not batch:
            found = batch
            with torch.no_grad(), programs_device(), _validating(self._trainer):
                for hook, owner in self._owners.items():
                    device = (device_of(self._network) or torch.device("cpu"),) if hook == _HOOKS[1] else ()
                    with _attached(owner, self._trainer):
                        found = getattr(owner, hook)(found, *device, 0)
            self._last = batch, found
        return self._last[1]


@contextmanager
def _validating(trainer: Any) -> Iterator[None]:
    """Let a trainer say that it validates: hooks that augment ask whether it trains."""
    if trainer is None:
        yield
        return
    before = trainer.state.stage
    trainer.validating = True
    try:
        yield
    finally:
        trainer.state.stage = before


@contextmanager
def _attached(owner: Any, trainer: Any) -> Iterator[None]:
    """Give a data module that has no trainer one to ask."""
    if isinstance(owner, nn.Module) or getattr(owner, "trainer", None) is not None:
        yield
        return
    owner.trainer = trainer or SimpleNamespace(
        training=False, validating=True, testing=False, predicting=False, sanity_checking=False
    )
    try:
        yield
    finally:
        owner.trainer = None
