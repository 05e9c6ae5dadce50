"""Freeze a network for as long as it is looked at, and leave no trace of having looked."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from layerprobe.compat.torch import is_sharded_later
from layerprobe.probing.capture.call_arguments import check_network, device_of
from layerprobe.probing.capture.global_flags import keep_flags, one_thread_at_a_time
from layerprobe.probing.capture.hooks import Context, Hooks
from layerprobe.probing.capture.random_generators import random_states_kept, seed_everything
from layerprobe.probing.capture.side_effects import Snapshot, put_back

_ABSENT = object()


class Frozen:
    """A network that is frozen, with hooks on its modules.

    Attributes:
        hooks: The hooks, through which its passes run.
        network: The network, without wrappers.
        device: Where it is; see `device_of`.
    """

    def __init__(self, network: nn.Module, hooks: Hooks) -> None:
        self.hooks, self.network = hooks, hooks.network
        self.device = device_of(self.network)
        self._given = network
        self._snapshot = Snapshot(network)

    @contextmanager
    def fresh(self, seed: int | None = None) -> Iterator[None]:
        """Let passes leave nothing behind for those after them: no state, random draw or flag of torch.

        Afterwards the network is what it was when it was frozen, or at `from_here`. Data whose reading has begun
        before may not be read on: the network may lead to them.

        Args:
            seed: Where every random generator starts inside, the network's own too; they go on from where they are
                otherwise.
        """
        with ExitStack() as restore:
            restore.enter_context(random_states_kept())
            keep_flags(restore)
            restore.callback(self.reset)
            _still(self.network, restore, seed)
            self.seed_own(seed)
            yield

    def seed_own(self, seed: int | None) -> None:
        """Let the network's own random generators start from a seed, as those of Python, NumPy and torch do."""
        if seed is not None:
            self._snapshot.seed_generators(seed)

    @contextmanager
    def from_here(self) -> Iterator[Frozen]:
        """Return the same network, to come back to the state that it has by now, inside and afterwards."""
        here = Frozen(self._given, self.hooks)
        try:
            yield here
        finally:
            here._snapshot.restore()

    def reset(self) -> None:
        """Bring the network's state back; what cannot be put back is named when the network is no longer frozen."""
        self._snapshot.reset()

    def restore(self) -> None:
        """Bring the network's state back for good, and warn of what has changed and cannot be put back."""
        put_back(self._snapshot)


@contextmanager
def freeze(
    network: nn.Module, *, seed: int | None = None, context: Context = nullcontext, runs: bool = True
) -> Iterator[Frozen]:
    """Freeze a network: inside, it is in eval mode without gradients, compiled code is eager, and nothing is logged.

    Afterwards, whatever happened inside, these are as before, bit for bit: the train/eval flag of every submodule
    (they may differ), every buffer (its value and its place in memory), `requires_grad`, the modules' attributes
    and hooks and all that they lead to (see `Snapshot`), the random states of Python, NumPy and torch (CPU and every
    accelerator in use), the grad mode, and what `keep_flags` goes through: torch's flags for cuDNN, matrix products,
    determinism, fused attention, autocast and anomalies, threads, and print options.
    What has changed and cannot be put back is named in a warning: the values of parameters, for one, are not copied,
    so that a network whose forward pass trains itself is not undone.

    Threads that freeze networks, the same one or several, do so one after the other.

    Args:
        network: Any module.
        seed: Where every random generator starts inside; they go on from where they are otherwise.
        context: Makes what the passes that are made through the hooks run in.
        runs: Whether it is called inside; one that is not may have parameters that are not initialised yet.

    Raises:
        ValueError: A parameter is not initialised yet (lazy modules).
    """
    with ExitStack() as restore:
        restore.enter_context(one_thread_at_a_time())
        restore.enter_context(random_states_kept())  # before anything else: run-time type checkers draw random numbers
        if runs:
            check_initialised(network)
        keep_flags(restore)
        hooks = restore.enter_context(Hooks(network, context))
        _silence(network, restore)
        restore.callback(_set_training, {module: module.training for module in network.modules()})
        _set_training(dict.fromkeys(network.modules(), False))
        frozen = Frozen(network, hooks)
        restore.callback(frozen.restore)
        _still(network, restore, seed)
        frozen.seed_own(seed)
        yield frozen


def check_initialised(network: nn.Module) -> None:
    """Refuse a network that cannot be called before a first call has made its parameters.

    Raises:
        ValueError: A parameter is not initialised yet (lazy modules, `fully_shard`).
    """
    if lazy := uninitialised(network):
        raise ValueError(
            f"the network cannot be frozen: {len(lazy)} of its parameters and buffers are not initialised yet "
            f"({', '.join(lazy[:3])}{', …' if len(lazy) > 3 else ''}). "
            "Call the network once on a batch before freezing it, and before its optimizer is made. Where the first "
            "training step is to initialise it, leave the untrained network out: before_training=false of the callback."
        )


def uninitialised(network: nn.Module) -> list[str]:
    """Name the parameters and buffers that a lazy module has not made yet, or a sharded one not set up."""
    check_network(network)
    named = [*network.named_parameters(), *network.named_buffers()]
    sharded = {id(tensor) for module in network.modules() if is_sharded_later(module) for tensor in module.parameters()}
    return [name for name, tensor in named if is_lazy(tensor) or id(tensor) in sharded]


def _still(network: nn.Module, restore: ExitStack, seed: int | None) -> None:
    """Prepare passes: eval mode, eager code, no gradients, and random generators that start from a seed."""
    # Not `network.eval()`: some networks override `train` to merge weights, which does not undo exactly.
    _set_training(dict.fromkeys(network.modules(), False))
    torch.backends.mha.set_fastpath_enabled(False)  # one fused kernel would hide the layers inside
    if seed is not None:
        seed_everything(seed)
    if "torch._dynamo" in sys.modules:  # otherwise nothing is compiled, and importing it takes seconds
        restore.enter_context(torch.compiler.set_stance("force_eager"))
    # Not inference mode: a tensor that the network keeps, in whatever place, has to be of use to training later.
    restore.enter_context(torch.inference_mode(False))
    restore.enter_context(torch.no_grad())


def _set_training(flags: dict[nn.Module, bool]) -> None:
    for module, flag in flags.items():
        if module.training is not flag:
            module.training = flag


class Silence:
    """Stands for a logger, an experiment, a figure: takes every call and attribute, and does nothing."""

    def __getattr__(self, name: str) -> Silence:
        """Return nothing again, for any attribute."""
        if name.startswith("__"):
            raise AttributeError(name)
        return self

    def __call__(self, *args: Any, **kwargs: Any) -> Silence:
        """Do nothing, for any call."""
        return self

    def __getitem__(self, key: Any) -> Silence:
        """Return nothing again, for any item."""
        return self

    def __setitem__(self, key: Any, value: Any) -> None:
        """Do nothing where an item is set."""


def ignore(*args: Any, **kwargs: Any) -> None:
    """Stand for a method, and do nothing."""


def _silence(network: nn.Module, restore: ExitStack) -> None:
    """Let Lightning modules log nothing: `log`, `log_dict`, and what they reach as `logger` and `trainer.logger`.

    Told by the name of their class, in whichever of its packages: this one knows nothing of Lightning.
    """
    for module in network.modules():
        if not any(base.__name__ == "LightningModule" for base in type(module).__mro__):
            continue
        attributes = vars(module)
        for name in ("log", "log_dict"):
            restore.callback(_set, attributes, name, attributes.get(name, _ABSENT))
            attributes[name] = ignore
        try:
            trainer: Any = module.trainer
        except (AttributeError, RuntimeError):  # it is in no training
            continue
        if isinstance(loggers := getattr(trainer, "loggers", None), list):
            restore.callback(setattr, trainer, "loggers", loggers)
            trainer.loggers = [Silence() for _ in loggers or [None]]


def _set(attributes: dict[str, Any], name: str, value: Any) -> None:
    if value is _ABSENT:
        attributes.pop(name, None)
    else:
        attributes[name] = value
