"""Hooks on the modules of a network: they tell of its forward passes, and hand out the tensors at chosen sites."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Collection, Container, Mapping
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass, field
from functools import partial
from types import TracebackType
from typing import Any, TypeAlias, no_type_check

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.nn.parallel import DataParallel, DistributedDataParallel
from torch.overrides import TorchFunctionMode

from layerprobe.compat.torch import is_compiled, uncompiled
from layerprobe.probing.capture.aliasing import function_name
from layerprobe.probing.capture.call_arguments import Arguments
from layerprobe.probing.capture.pytree import Path, named_tensors

Context: TypeAlias = Callable[[], AbstractContextManager[Any]]
"""Makes what the network's passes run in, such as `torch.autocast`; fitting never does."""

Ways: TypeAlias = Mapping[tuple[str, int], Mapping[str, int]]
"""The way that a pass took through calls of modules, as counts of functions."""


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
            network = uncompiled(network)
        else:
            return network


def module_at(network: nn.Module, path: str) -> nn.Module:
    """The module at a path; the empty path is the network."""
    return dict(network.named_modules(remove_duplicate=False))[path]


class Hooks:
    """Hooks on every module of a network, installed once for any number of forward passes and then removed.

    They do nothing but in a pass that `run` makes.

    Attributes:
        network: The network, without wrappers.
        observer: Is told about the pass that is made; None between passes.
        calls: The modules that are being called, the innermost last.
        paused: Whether it is the observer that is at work.
        function_names: What the torch functions that were seen are called.
    """

    def __init__(self, network: nn.Module, context: Context = nullcontext) -> None:
        """Choose the network.

        Args:
            network: Any module.
            context: Makes what each pass runs in.
        """
        self.network = unwrap(network)
        self._context = context
        self._installed = ExitStack()
        self._modules: Container[str] | None = None
        self._counts: Counter[str] = Counter()
        self.observer: AbstractObserver | None = None
        self.calls: list[Call] = []
        self.paused = False
        self.function_names: dict[Any, str] = {}

    def __enter__(self) -> Hooks:
        with ExitStack() as stack:
            scripted: dict[nn.Module, str] = {}
            for path, module in self.network.named_modules():
                if isinstance(module, torch.jit.ScriptModule):
                    scripted[module] = path
                elif not is_compiled(module):
                    enter, leave = partial(self._enter, path), partial(self._leave, path)
                    stack.callback(module.register_forward_pre_hook(enter, with_kwargs=True).remove)
                    stack.callback(module.register_forward_hook(leave, with_kwargs=True, always_call=True).remove)
            if scripted:
                self._hook_scripted(stack, scripted)
            self._installed = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._installed.close()

    def run(
        self,
        arguments: Arguments,
        observer: AbstractObserver | None = None,
        *,
        functions: bool = False,
        modules: Container[str] | None = None,
    ) -> None:
        """Run one forward pass, and tell an observer about it.

        Args:
            arguments: What the network is called with, on its device.
            observer: Is told about calls of modules and functions.
            functions: Whether it is told about functions; that takes some microseconds for each one.
            modules: Paths of the modules to watch; None for all of them, which functions need to know where they are.
        """
        self.observer, self._modules = observer, modules
        self.calls.clear()
        self._counts.clear()
        fastpath = torch.backends.mha.get_fastpath_enabled()
        torch.backends.mha.set_fastpath_enabled(False)
        try:
            with self._context(), _Functions(self) if functions else nullcontext():
                self.network(*arguments.args, **arguments.kwargs)
        finally:
            torch.backends.mha.set_fastpath_enabled(fastpath)
            self.observer = None
            self.calls.clear()

    def _enter(self, path: str, module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """A module's hook before its forward pass."""
        if self.observer is None or not (self._modules is None or path in self._modules):
            return
        call = Call(path, self._counts[path], self.calls[-1] if self.calls else None)
        self._counts[path] += 1
        self.calls.append(call)
        self.paused, before = True, self.paused  # functions called meanwhile are the observer's own
        try:
            call.watched = self.observer.enter(call, args, kwargs)
        finally:
            self.paused = before

    def _leave(
        self, path: str, module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: object
    ) -> None:
        """A module's hook after its forward pass."""
        # A module that raised outside the reach of hooks leaves its call behind: drop what is above this one.
        while self.observer is not None and any(call.module == path for call in self.calls):
            call = self.calls.pop()
            if call.module == path:
                self.paused, before = True, self.paused
                try:
                    self.observer.leave(call, output)
                finally:
                    self.paused = before
                return

    def _hook_scripted(self, stack: ExitStack, paths: Mapping[nn.Module, str]) -> None:
        """Scripted modules take no hooks of their own, but do call those for all modules."""

        def enter(module: nn.Module, args: tuple[Any, ...]) -> None:
            if module in paths:
                self._enter(paths[module], module, args, {})

        def leave(module: nn.Module, args: tuple[Any, ...], output: object) -> None:
            if module in paths:
                self._leave(paths[module], module, args, {}, output)

        stack.callback(register_module_forward_pre_hook(enter).remove)
        # Without `with_kwargs`, of which torch keeps a trace when the hook is removed.
        stack.callback(register_module_forward_hook(leave, always_call=True).remove)


class _Functions(TorchFunctionMode):
    """Sees the outermost torch functions; what they call themselves runs without it."""

    def __init__(self, hooks: Hooks) -> None:
        super().__init__()
        self._hooks = hooks

    @no_type_check  # called for every operation and every `x.shape`
    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        hooks = self._hooks
        call = hooks.calls[-1] if hooks.calls else None
        if hooks.paused or call is None or not call.watched:
            return func(*args, **kwargs)
        name = hooks.function_names.get(func)
        if name is None:
            hooks.function_names[func] = name = function_name(func)
        given = hooks.observer.before(name, args, kwargs)
        result = func(*args, **kwargs)
        made = args[0] if name == "setitem" else result
        if isinstance(made, torch.Tensor | tuple | list | dict) and not isinstance(made, torch.Size):
            index = call.functions[name]
            call.functions[name] += 1
            hooks.observer.after(call, name, index, given, made)
        return result


class SiteReader(AbstractObserver):
    """Hands out the tensors at chosen sites, pass after pass, each at the moment that it is made."""

    def __init__(self, hooks: Hooks, sites: Collection[Site]) -> None:
        """Choose the sites.

        Args:
            hooks: The network's hooks.
            sites: Where to look. Functions cost more than modules, and only their own modules pay for them.
        """
        self._hooks = hooks
        self._sites = frozenset(sites)
        self._modules = {(site.module, site.call) for site in sites if not site.function}
        self._functions: dict[tuple[str, int], set[tuple[str, int]]] = {}
        for site in sites:
            if site.function and site.function != INPUT:
                self._functions.setdefault((site.module, site.call), set()).add((site.function, site.index))
        self._paths = None if self._functions else {module for module, _ in self._modules}
        self._ways: dict[tuple[str, int], Counter[str]] = {}
        self._on_tensor: Callable[[Site, Tensor], None] = _nothing

    def __call__(self, arguments: Arguments, on_tensor: Callable[[Site, Tensor], None]) -> Ways:
        """Run one forward pass.

        Args:
            arguments: What the network is called with, on its device.
            on_tensor: Gets each tensor when it is made; it copies what it wants to keep, since the network may
                overwrite the tensor right afterwards.

        Returns:
            How often each function was called in the calls of modules whose functions were asked for: where these
            numbers differ from those of another pass, a function's number in it may mean another one.
        """
        self._on_tensor, self._ways = on_tensor, {}
        try:
            for path, tensor in arguments.named():
                site = Site("", function=INPUT, output=path)
                if site in self._sites:
                    on_tensor(site, tensor)
            self._hooks.run(arguments, self, functions=bool(self._functions), modules=self._paths)
            return self._ways
        finally:
            self._on_tensor = _nothing

    def enter(self, call: Call, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
        """See `AbstractObserver.enter`."""
        return (call.module, call.index) in self._functions

    def leave(self, call: Call, output: object) -> None:
        """See `AbstractObserver.leave`."""
        if call.watched:
            self._ways[call.module, call.index] = call.functions
        if (call.module, call.index) in self._modules:
            self._hand_out(Site(call.module, call.index), output)

    def before(self, name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> object:
        """See `AbstractObserver.before`."""
        return None

    def after(self, call: Call, name: str, index: int, given: object, result: object) -> None:
        """See `AbstractObserver.after`."""
        if (name, index) in self._functions[call.module, call.index]:
            self._hand_out(Site(call.module, call.index, name, index), result)

    def _hand_out(self, place: Site, value: object) -> None:
        for path, tensor in named_tensors(value):
            site = Site(place.module, place.call, place.function, place.index, path)
            if site in self._sites:
                self._on_tensor(site, tensor.detach())  # some networks turn gradients on


def same_way(site: Site, one: Ways, other: Ways) -> bool:
    """Whether a site means the same function in two passes; a module's output always does."""
    place = (site.module, site.call)
    return not site.function or one.get(place) == other.get(place)


def _nothing(site: Site, tensor: Tensor) -> None:
    """Take no tensor: there is no pass."""
