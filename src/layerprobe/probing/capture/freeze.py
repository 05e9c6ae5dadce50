"""Freeze a network for as long as it is looked at, and leave no trace of having looked."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from functools import partial
from operator import attrgetter
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.parameter import is_lazy

from layerprobe.compat.torch import is_sharded_later, print_options, set_print_options
from layerprobe.probing.capture.call_arguments import check_network, device_of
from layerprobe.probing.capture.hooks import Context, Hooks
from layerprobe.probing.capture.side_effects import Snapshot, put_back

PRECISION = (
    "fp32_precision", "cuda.matmul.fp32_precision",
    "cudnn.fp32_precision", "cudnn.conv.fp32_precision", "cudnn.rnn.fp32_precision",
    "mkldnn.fp32_precision", "mkldnn.matmul.fp32_precision", "mkldnn.conv.fp32_precision", "mkldnn.rnn.fp32_precision",
    "cuda.matmul.allow_fp16_reduced_precision_reduction", "cuda.matmul.allow_bf16_reduced_precision_reduction",
    "cuda.matmul.allow_tf32", "cudnn.allow_tf32",
)  # fmt: skip
"""Flags of `torch.backends` for precision. Those that several others stand for come last, and are put back first."""

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
            _keep_flags(restore)
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
    accelerator in use), the grad mode, and what `_keep_flags` goes through: torch's flags for cuDNN, matrix products,
    determinism, fused attention, autocast and anomalies, threads, and print options.
    What has changed and cannot be put back is named in a warning: the values of parameters, for one, are not copied,
    so that a network whose forward pass trains itself is not undone.

    Args:
        network: Any module.
        seed: Where every random generator starts inside; they go on from where they are otherwise.
        context: Makes what the passes that are made through the hooks run in.
        runs: Whether it is called inside; one that is not may have parameters that are not initialised yet.

    Raises:
        ValueError: A parameter is not initialised yet (lazy modules).
    """
    with ExitStack() as restore:
        restore.enter_context(random_states_kept())  # before anything else: run-time type checkers draw random numbers
        if runs:
            check_initialised(network)
        _keep_flags(restore)
        hooks = restore.enter_context(Hooks(network, context))
        _silence(network, restore)
        restore.callback(_set_training, {module: module.training for module in network.modules()})
        _set_training(dict.fromkeys(network.modules(), False))
        frozen = Frozen(network, hooks)
        restore.callback(frozen.restore)
        _still(network, restore, seed)
        frozen.seed_own(seed)
        yield frozen


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
            _seed_everything(seed)
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
        _seed_everything(seed)
    if "torch._dynamo" in sys.modules:  # otherwise nothing is compiled, and importing it takes seconds
        restore.enter_context(torch.compiler.set_stance("force_eager"))
    # Not inference mode: a tensor that the network keeps, in whatever place, has to be of use to training later.
    restore.enter_context(torch.inference_mode(False))
    restore.enter_context(torch.no_grad())


def _set_training(flags: dict[nn.Module, bool]) -> None:
    for module, flag in flags.items():
        if module.training is not flag:
            module.training = flag


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
        if accelerator.is_initialized():
            accelerator.manual_seed_all(seed)
    if torch.backends.mps.is_available():
        torch.mps.manual_seed(seed)


def _keep_flags(restore: ExitStack) -> None:
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
