"""Hooks on the modules of a network: they tell of its forward passes, and hand out the tensors at chosen sites."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Container, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from types import FunctionType
from typing import Any, TypeAlias, no_type_check

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, multi_head_attention_forward
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.nn.parallel import DataParallel, DistributedDataParallel
from torch.overrides import TorchFunctionMode

from layerprobe.compat.torch import is_compiled, transform_level, uncompiled
from layerprobe.probing.capture.aliasing import function_name
from layerprobe.probing.capture.call_arguments import Arguments
from layerprobe.probing.capture.default_device import own_device, programs_device
from layerprobe.probing.capture.pytree import TensorPath, named_tensors

Context: TypeAlias = Callable[[], AbstractContextManager[Any]]
"""Makes what the network's passes run in, such as `torch.autocast`; fitting never does."""


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
    output: TensorPath = ()


Way: TypeAlias = "tuple[int, Call]"
"""The way to a function: a hash of all that was called up to it in the same call of its module, and that call."""

Ways: TypeAlias = Mapping[Site, Way]
"""The ways that a pass took to functions."""

INPUT = "input"
HEADS = "heads"
"""Function of the site where the heads of `torch.nn.MultiheadAttention` stand side by side, before its projection."""


@dataclass(eq=False)
class Call:
    """A module being called.

    Attributes:
        module: Path of the module inside the network.
        index: How often it was called before, in this pass.
        parent: The call that it was made from.
        modules: Paths of the modules that were called directly in it, in their order.
        functions: Of each call of a torch function directly in it, how many of these modules were called before.
        watched: Whether the observer wants its functions.
        way: Hash of the functions and modules that were called directly in it, in their order.
    """

    module: str
    index: int
    parent: Call | None
    modules: list[str] = field(default_factory=list)
    functions: defaultdict[str, list[int]] = field(default_factory=lambda: defaultdict(list))
    watched: bool = False
    way: int = 0

    def count(self, function: str) -> int:
        """Count a function that is called, and say how often it was called before."""
        self.functions[function].append(len(self.modules))
        self.way = hash((self.way, function))
        return len(self.functions[function]) - 1

    def count_module(self, path: str) -> None:
        """Count a module that is called."""
        self.modules.append(path)
        self.way = hash((self.way, path))

    def modules_before(self, function: str, index: int) -> set[str]:
        """Return the modules that were called since the call of a function before this one."""
        start, end = [0, *self.functions[function]][index : index + 2]
        return set(self.modules[start:end])


def callers(call: Call | None) -> Iterator[Call]:
    """Return a call, then those that it was made from, the outermost last."""
    while call is not None:
        yield call
        call = call.parent


class AbstractObserver(ABC):
    """Is told what happens in a forward pass, in order of time."""

    @abstractmethod
    def enter(self, call: Call, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
        """Note that a module starts, and return whether its functions are wanted."""

    @abstractmethod
    def leave(self, call: Call, output: object) -> None:
        """Note that a module is done; its output is None if it raised."""

    @abstractmethod
    def before(self, name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> object:
        """Note that a function starts, and return what `after` gets as `given`: arguments can change in place."""

    @abstractmethod
    def after(self, call: Call, name: str, index: int, given: object, result: object) -> None:
        """Note that a function is done."""


def unwrap(network: nn.Module) -> nn.Module:
    """Return the network inside wrappers for several devices and `torch.compile`."""
    while True:
        if isinstance(network, DistributedDataParallel | DataParallel):
            network = network.module
        elif is_compiled(network):
            network = uncompiled(network)
        else:
            return network


def module_at(network: nn.Module, path: str) -> nn.Module:
    """Return the module at a path; the empty path is the network."""
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
        transformed: Paths of the modules that were called inside a transform of `torch.func` (vmap, grad, jvp), where
            there is nothing to observe: a tensor in there stands for many, and is of no use outside.
    """

    def __init__(self, network: nn.Module, context: Context = nullcontext) -> None:
        self.network = unwrap(network)
        self._context = context
        self._installed = ExitStack()
        self._modules: Container[str] | None = None
        self._counts: Counter[str] = Counter()
        self.observer: AbstractObserver | None = None
        self.calls: list[Call] = []
        self.paused = False
        self.function_names: dict[Any, str] = {}
        self.transformed: set[str] = set()

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

    def __exit__(self, *_: object) -> None:
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
            with programs_device(), self._context(), _Functions(self) if functions else nullcontext():
                self.network(*arguments.args, **arguments.kwargs)
        finally:
            torch.backends.mha.set_fastpath_enabled(fastpath)
            self.observer = None
            self.calls.clear()

    def _enter(self, path: str, module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """Note that a module's forward pass begins."""
        if self.observer is None or not (self._modules is None or path in self._modules):
            return
        if transform_level() is not None:
            self.transformed.add(path)
            return
        call = Call(path, self._counts[path], self.calls[-1] if self.calls else None)
        self._counts[path] += 1
        if call.parent is not None:
            call.parent.count_module(path)
        self.calls.append(call)
        self.paused, before = True, self.paused  # functions called meanwhile are the observer's own
        try:
            call.watched = self.observer.enter(call, args, kwargs)
        finally:
            self.paused = before

    def _leave(
        self, path: str, module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: object
    ) -> None:
        """Note that a module's forward pass ends, with what it returned."""
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
        """Hook scripted modules through the hooks for all modules, which they do call; they take none of their own."""

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
        if hooks.paused or call is None or not call.watched or transform_level() is not None:
            return func(*args, **kwargs)
        name = hooks.function_names.get(func)
        if name is None:
            hooks.function_names[func] = name = function_name(func)
        given = hooks.observer.before(name, args, kwargs)
        if func is multi_head_attention_forward:
            func = _showing_heads(partial(self._show, call, HEADS))
        result = func(*args, **kwargs)
        made = args[0] if name == "setitem" else result
        if isinstance(made, torch.Tensor | tuple | list | dict) and not isinstance(made, torch.Size):
            hooks.observer.after(call, name, call.count(name), given, made)
        return result

    def _show(self, call: Call, name: str, found: torch.Tensor) -> None:
        """Tell the observer of a tensor that no function hands out."""
        observer, index = self._hooks.observer, call.count(name)
        if observer is not None:
            observer.after(call, name, index, observer.before(name, (found,), {}), found)


def _showing_heads(show: Callable[[torch.Tensor], None]) -> Callable[..., Any]:
    """Return torch's own attention, whose one call of `linear`, the output projection, shows what it gets."""

    def attention(query: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        n = query.shape[1] if query.ndim > 2 else 1

        def projection(heads: torch.Tensor, *weights: Any) -> torch.Tensor:
            show(heads.unflatten(0, (-1, n)))
            return linear(heads, *weights)

        own = multi_head_attention_forward
        here = {**own.__globals__, "linear": projection}
        return FunctionType(own.__code__, here, own.__name__, own.__defaults__)(query, *args, **kwargs)

    return attention


class SiteReader(AbstractObserver):
    """Hands out the tensors at chosen sites, pass after pass, each at the moment that it is made.

    Args:
        hooks: The network's hooks.
        sites: Where to look. Functions cost more than modules, and only their own modules pay for them.
    """

    def __init__(self, hooks: Hooks, sites: Collection[Site]) -> None:
        self._hooks = hooks
        self._sites = frozenset(sites)
        self._reads_input = any(site.function == INPUT for site in sites)
        self._modules = {(site.module, site.call) for site in sites if not site.function}
        self._functions: dict[tuple[str, int], set[tuple[str, int]]] = {}
        for site in sites:
            if site.function and site.function != INPUT:
                self._functions.setdefault((site.module, site.call), set()).add((site.function, site.index))
        self._paths = None if self._functions else {module for module, _ in self._modules}
        self._ways: dict[Site, Way] = {}
        self._on_tensor: Callable[[Site, Tensor], None] = _nothing

    def __call__(self, arguments: Arguments, on_tensor: Callable[[Site, Tensor], None]) -> Ways:
        """Run one forward pass.

        Args:
            arguments: What the network is called with, on its device.
            on_tensor: Gets each tensor when it is made; it copies what it wants to keep, since the network may
                overwrite the tensor right afterwards.

        Returns:
            The way to each function that was asked for; see `same_way`.
        """
        self._on_tensor, self._ways = on_tensor, {}
        try:
            for path, tensor in arguments.named() if self._reads_input else ():
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
        if (call.module, call.index) in self._modules:
            self._hand_out(Site(call.module, call.index), output)

    def before(self, name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> object:
        """See `AbstractObserver.before`."""
        return None

    def after(self, call: Call, name: str, index: int, given: object, result: object) -> None:
        """See `AbstractObserver.after`."""
        if (name, index) in self._functions[call.module, call.index]:
            place = Site(call.module, call.index, name, index)
            self._ways[place] = call.way, call
            self._hand_out(place, result)

    def _hand_out(self, place: Site, value: object) -> None:
        for path, tensor in named_tensors(value):
            site = Site(place.module, place.call, place.function, place.index, path)
            if site in self._sites:
                with own_device():
                    self._on_tensor(site, tensor.detach())  # some networks turn gradients on


def same_way(site: Site, one: Ways, other: Ways) -> bool:
    """Tell whether a site means the same function in two passes; a module's output always does.

    It does where all that was called before is the same, as in a loop that goes on for longer, or where the module
    called the function as often, as behind a loop. Of several calls, those before which other modules were called mean
    others, as behind the experts of a mixture in an order of the data; that more modules were called is no such sign.
    """
    if not site.function:
        return True
    place = replace(site, output=())
    if place not in one or place not in other:
        return place not in one and place not in other
    (here, call), (there, match) = one[place], other[place]
    if here == there:
        return True
    times, others = (len(each.functions[site.function]) for each in (call, match))
    if times != others or times == 1:
        return times == others
    found, known = (each.modules_before(site.function, site.index) for each in (call, match))
    return found <= known or known <= found


def _nothing(site: Site, tensor: Tensor) -> None:
    """Take no tensor: there is no pass."""
