"""Watch a forward pass: every module's call and, where asked for, every torch function inside it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Container, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, no_type_check

import torch
from torch import nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.nn.parallel import DataParallel, DistributedDataParallel
from torch.overrides import TorchFunctionMode

from layerprobe.probing.capture.aliasing import function_name
from layerprobe.probing.capture.pytree import Path


@dataclass(frozen=True)
class Site:
    """One place in a forward pass where a tensor appears, the same in every pass.

    Attributes:
        module: Path of the module inside the network; empty for the network itself.
        call: How often that module was called before, in this pass.
        function: Name of the torch function; empty for the module's output, `input` for the network's input.
        index: How often that function was called before, in this call of the module.
        output: Where the tensor is inside a nested output; empty if it is the only one.
    """

    module: str
    call: int = 0
    function: str = ""
    index: int = 0
    output: Path = ()


INPUT = "input"


@dataclass(eq=False)
class Call:
    """A module being called.

    Attributes:
        module: Path of the module inside the network.
        index: How often it was called before, in this pass.
        parent: The call that it was made from.
        functions: How often each torch function was called directly in it.
        watched: Whether the observer wants its functions.
    """

    module: str
    index: int
    parent: Call | None
    functions: Counter[str] = field(default_factory=Counter)
    watched: bool = False


class AbstractObserver(ABC):
    """Is told what happens in a forward pass, in order of time."""

    @abstractmethod
    def enter(self, call: Call, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
        """A module starts. Returns whether its functions are wanted."""

    @abstractmethod
    def leave(self, call: Call, output: object) -> None:
        """A module is done; its output is None if it raised."""

    @abstractmethod
    def before(self, name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> object:
        """A function starts. Returns what `after` gets as `given`: arguments can change in place."""

    @abstractmethod
    def after(self, call: Call, name: str, index: int, given: object, result: object) -> None:
        """A function is done."""


def unwrap(network: nn.Module) -> nn.Module:
    """The network inside wrappers for several devices and `torch.compile`."""
    while True:
        if isinstance(network, DistributedDataParallel | DataParallel):
            network = network.module
        elif is_compiled(network):
            network = network._modules["_orig_mod"]  # type: ignore[assignment]
        else:
            return network


def is_compiled(module: nn.Module) -> bool:
    """Whether a module is what `torch.compile` made of another one."""
    return "_orig_mod" in module._modules


def module_at(network: nn.Module, path: str) -> nn.Module:
    """The module at a path; the empty path is the network."""
    return dict(network.named_modules(remove_duplicate=False))[path]


@contextmanager
def watch(
    network: nn.Module, observer: AbstractObserver, *, functions: bool, modules: Container[str] | None = None
) -> Iterator[None]:
    """Tell an observer about every forward pass made inside.

    Args:
        network: The network, without wrappers (see `unwrap`).
        observer: Is told about calls of modules and functions.
        functions: Whether it is told about functions; that takes some microseconds for each one.
        modules: Paths of the modules to watch; None for all of them, which functions need to know where they are.
    """
    passage = _Passage(observer)
    with ExitStack() as stack:
        scripted: dict[nn.Module, str] = {}
        for path, module in network.named_modules():
            if is_compiled(module) or not (modules is None or path in modules):
                continue
            if isinstance(module, torch.jit.ScriptModule):
                scripted[module] = path
                continue
            enter, leave = partial(passage.enter, path), partial(passage.leave, path)
            stack.callback(module.register_forward_pre_hook(enter, with_kwargs=True).remove)
            stack.callback(module.register_forward_hook(leave, with_kwargs=True, always_call=True).remove)
        if scripted:
            _hook_scripted(stack, passage, scripted)
        fastpath = torch.backends.mha.get_fastpath_enabled()
        stack.callback(torch.backends.mha.set_fastpath_enabled, fastpath)
        torch.backends.mha.set_fastpath_enabled(False)
        if functions:
            stack.enter_context(_Functions(passage))
        yield


def _hook_scripted(stack: ExitStack, passage: _Passage, paths: Mapping[nn.Module, str]) -> None:
    """Scripted modules take no hooks of their own, but do call those for all modules."""

    def enter(module: nn.Module, args: tuple[Any, ...]) -> None:
        if module in paths:
            passage.enter(paths[module], module, args, {})

    def leave(module: nn.Module, args: tuple[Any, ...], output: object) -> None:
        if module in paths:
            passage.leave(paths[module], module, args, {}, output)

    stack.callback(register_module_forward_pre_hook(enter).remove)
    # Without `with_kwargs`, of which torch keeps a trace when the hook is removed.
    stack.callback(register_module_forward_hook(leave, always_call=True).remove)


class _Passage:
    """Where a forward pass is at the moment."""

    def __init__(self, observer: AbstractObserver) -> None:
        self.observer = observer
        self.calls: list[Call] = []
        self.counts: Counter[str] = Counter()
        self.paused = False

    def enter(self, path: str, module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """A module's hook before its forward pass."""
        call = Call(path, self.counts[path], self.calls[-1] if self.calls else None)
        self.counts[path] += 1
        self.calls.append(call)
        self.paused, before = True, self.paused  # functions called meanwhile are the observer's own
        try:
            call.watched = self.observer.enter(call, args, kwargs)
        finally:
            self.paused = before

    def leave(
        self, path: str, module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: object
    ) -> None:
        """A module's hook after its forward pass."""
        # A module that raised outside the reach of hooks leaves its call behind: drop what is above this one.
        while any(call.module == path for call in self.calls):
            call = self.calls.pop()
            if call.module == path:
                self.paused, before = True, self.paused
                try:
                    self.observer.leave(call, output)
                finally:
                    self.paused = before
                return


class _Functions(TorchFunctionMode):
    """Sees the outermost torch functions; what they call themselves runs without it."""

    def __init__(self, passage: _Passage) -> None:
        super().__init__()
        self._passage = passage
        self._names: dict[Any, str] = {}

    @no_type_check  # called for every operation and every `x.shape`
    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        passage = self._passage
        call = passage.calls[-1] if passage.calls else None
        if passage.paused or call is None or not call.watched:
            return func(*args, **kwargs)
        name = self._name(func)
        given = passage.observer.before(name, args, kwargs)
        result = func(*args, **kwargs)
        made = args[0] if name == "setitem" else result
        if isinstance(made, torch.Tensor | tuple | list | dict) and not isinstance(made, torch.Size):
            index = call.functions[name]
            call.functions[name] += 1
            passage.observer.after(call, name, index, given, made)
        return result

    def _name(self, func: Any) -> str:
        try:
            return self._names[func]
        except KeyError:
            self._names[func] = name = function_name(func)
            return name
