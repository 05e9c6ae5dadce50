"""Survey of a network: which tensors of a forward pass are its layers, and why the others are none."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Collection, Container, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache

import torch
from torch import nn

from layerprobe.formatting import listed
from layerprobe.probing.capture.batch_axis import BatchAxis
from layerprobe.probing.capture.block_sites import block_sites
from layerprobe.probing.capture.call_arguments import Arguments, NetworkInputs, device_of
from layerprobe.probing.capture.default_device import programs_device
from layerprobe.probing.capture.freeze import Frozen, freeze, uninitialised
from layerprobe.probing.capture.granularity import GRANULARITIES, Granularity, block_paths
from layerprobe.probing.capture.hooks import HEADS, INPUT, Site, module_at, unwrap
from layerprobe.probing.capture.layers import Layer, Tap, in_order
from layerprobe.probing.capture.name_patterns import select
from layerprobe.probing.capture.naming import Candidate, Names, candidates
from layerprobe.probing.capture.sample_axes import SampleAxes, of_two, sample_axes
from layerprobe.probing.capture.sample_independence import REASONS
from layerprobe.probing.capture.trace import Occurrence, Trace
from layerprobe.types import LayerName

_logger = logging.getLogger("layerprobe")
_SHOWN = 6
"""Names of what is left out for one reason, at most."""


@dataclass(frozen=True)
class Survey:
    """What the passes that look for a network's layers have found.

    Attributes:
        granularity: Which tensors were asked for.
        layers: The layers in order of execution.
        left_out: Names of tensors and outputs that are no layers, and of modules that are never called, and why.
    """

    granularity: Granularity
    layers: tuple[Layer, ...]
    left_out: Mapping[LayerName, str]

    def choose(
        self, include: str | Sequence[str] = "*", exclude: str | Sequence[str] = ()
    ) -> tuple[tuple[Layer, ...], ...]:
        """Choose layers by their names. What is left out is logged: once, not at every checkpoint.

        Args:
            include: Glob patterns of names; a layer of which only an alias matches is shown under that alias.
            exclude: Glob patterns of names to leave out.

        Returns:
            Each layer that is wanted, under each of its names that are, in order of execution.

        Raises:
            ValueError: There is no layer, or a pattern matches none.
        """
        if not self.layers:
            reasons = "; ".join(f"{name}: {reason}" for name, reason in list(self.left_out.items())[:5])
            raise ValueError(
                f"the network has no layers of granularity {self.granularity!r}: it makes no floating-point tensor "
                f"with an axis over samples. {f'Left out: {reasons}. ' if reasons else ''}"
                "Check that its inputs have the batch axis first, or choose granularity='ops'."
            )
        wanted = select([layer.names for layer in self.layers], include, exclude, self.left_out)
        return tuple(tuple(map(layer.under, names)) for layer, names in zip(self.layers, wanted, strict=True) if names)


@contextmanager
def freeze_initialised(network: nn.Module, inputs: NetworkInputs) -> Iterator[Frozen]:
    """Freeze a network, of which lazy modules have been initialised on the first two samples."""
    if uninitialised(network):
        _initialise(unwrap(network), of_two(Arguments.of(inputs), device_of(network))[0])
    with freeze(network) as frozen:
        yield frozen


def log_left_out(left_out: Mapping[LayerName, str]) -> None:
    """Log what is left out; the same at the next checkpoint is no news, and is not logged again."""
    _log_once(left_out_lines(left_out))


@lru_cache(maxsize=64)
def _log_once(lines: tuple[str, ...]) -> None:
    if lines:
        _logger.info("Left out:\n%s", "\n".join(f"  {line}" for line in lines))


def left_out_lines(left_out: Mapping[LayerName, str]) -> tuple[str, ...]:
    """List what is left out, a line for each reason: how many, some names, why."""
    by_reason: dict[str, list[LayerName]] = defaultdict(list)
    for name, reason in left_out.items():
        by_reason[reason].append(name)
    return tuple(f"{listed(names, _SHOWN)}: {reason}" for reason, names in by_reason.items())


def survey(frozen: Frozen, inputs: NetworkInputs, *, granularity: Granularity | str = "ops") -> Survey:
    """List the layers of a network, and the tensors and outputs that are none with the reason.

    A tensor is a layer if it is floating point, exactly one of its axes grows with the batch
    (weights, masks and tables of positions do not), it is computed from the input, and its values for a sample do not
    depend on which other samples are in the batch. Where a network puts the samples of a batch into an order of its
    own, its layers are recorded from one sample at a time. The input is a layer if it is floating point or uint8
    (pixels); other integers and booleans (token ids, masks, lengths) are categories, not quantities.

    Raises:
        TypeError: The inputs are nothing that a network can be called with.
        ValueError: The inputs hold no batch, or the granularity is unknown.
    """
    if granularity not in GRANULARITIES:
        raise ValueError(f"unknown granularity {granularity!r}. Choose one of {', '.join(GRANULARITIES)}.")
    network = frozen.network
    found = sample_axes(frozen, Arguments.of(inputs))
    passed = found.trace
    naming = Names(network, passed.root)
    blocks = block_paths(module_at(network, passed.root.module), passed.root.module)
    layers: list[Candidate] = []
    left_out: dict[Occurrence, str] = {}
    for candidate in candidates(passed):
        reason = _no_layer(candidate.occurrence, found)
        if not reason:
            layers.append(candidate)
        elif _belongs(candidate, granularity, blocks):
            left_out[candidate.occurrence] = reason
    for occurrence, kind in passed.objects:
        if _belongs(Candidate(occurrence, occurrence.order, True), granularity, blocks):
            left_out[occurrence] = f"returns a {kind}, in which no tensor is found"

    # Layers first: their numbers must not depend on what else there is.
    names = naming.name_all([*(candidate.occurrence for candidate in layers), *left_out])
    groups: dict[int, list[tuple[str, Tap]]] = defaultdict(list)
    for occurrence in (one.occurrence for one in layers if _belongs(one, granularity, blocks)):
        groups[occurrence.value].append((names[occurrence], _tap(occurrence, found, naming)))
    if granularity == "sites":
        by_value = {of.value: why for of, why in left_out.items()}
        return _survey_of_sites(network, passed, naming, groups, by_value, found.alone)
    reasons = {names[occurrence]: reason for occurrence, reason in left_out.items()}
    if granularity != "blocks":
        silent = {naming.of_module(path): reason for path, reason in _silent_modules(frozen, passed).items()}
        reasons |= {name: reason for name, reason in silent.items() if name not in names.values()}
    return Survey(granularity, in_order(groups.values(), found.alone), reasons)


def _no_layer(occurrence: Occurrence, found: SampleAxes) -> str:
    """Say why a tensor is no layer; empty where it is one."""
    site, dtype, shape = occurrence.site, occurrence.dtype, occurrence.shape
    if 0 in shape:
        return f"is empty: shape {shape} for two samples"
    if not (dtype.is_floating_point or (site.function == INPUT and dtype == torch.uint8)):  # pixels
        return _no_quantity(dtype)
    if site in found.packed:
        return (
            "is a PackedSequence of several lengths, whose rows are the steps of all samples: pad it "
            "(pad_packed_sequence), and granularity='ops' reads it"
        )
    if site not in found.axes:
        return "not reached in every pass: the control flow depends on the batch"
    if found.axes[site] is None:
        return f"no axis, or more than one, grows with the batch: shape {shape} for two samples"
    return REASONS["mixed"] if site in found.mixing else ""


def _tap(occurrence: Occurrence, found: SampleAxes, naming: Names) -> Tap:
    axis = found.axes[occurrence.site] or BatchAxis(0, 1)
    shape = axis.sample_shape(occurrence.shape)
    channel = axis.sample_axis(found.trace.channel_axes.get(occurrence.site), len(shape))
    return Tap(occurrence.site, naming.kind(occurrence), shape, axis, channel)


def _survey_of_sites(
    network: nn.Module,
    found: Trace,
    naming: Names,
    groups: Mapping[int, list[tuple[str, Tap]]],
    left_out: Mapping[int, str],
    alone: Container[Site],
) -> Survey:
    """Survey the sites of blocks among all layers, under the sites' names first; each head is a layer of its own."""
    sites = block_sites(network, found)
    if not sites:
        raise ValueError(
            "the network has no sites: no member of a ModuleList or Sequential computes attention (softmax or "
            "scaled_dot_product_attention of torch). Choose granularity='blocks', 'modules' or 'ops'."
        )
    named: dict[int, list[tuple[str, Tap]]] = defaultdict(list)
    heads: dict[int, list[tuple[str, Tap]]] = defaultdict(list)
    reasons: dict[LayerName, str] = {}
    for site in sites:
        name = naming.of_module(site.block.module) + (f"#{site.block.index}" if site.block.index else "")
        name = f"{name}.{site.name}"
        tap = next((tap for _, tap in groups.get(site.value, ()) if tap.shape[-1:] == (site.width,)), None)
        if tap is None:
            reasons[name] = left_out.get(site.value, "is no tensor that a function or module made")
        elif site.name == "head":
            width = site.width // site.n_heads
            for i in range(site.n_heads):
                rows = tap.rows._replace(part=(i * width, (i + 1) * width))
                head = replace(tap, rows=rows, shape=(*tap.shape[:-1], width))
                heads[site.value].append((f"{name}.{i}", head))
        else:
            named[site.value].append((name, tap))
    shown: list[list[tuple[str, Tap]]] = []
    for value, group in groups.items():
        if group[0][1].site.function == INPUT or value in named:
            shown.append([*named.get(value, ()), *group])
        shown += [[head] for head in heads.get(value, ())]
    return Survey("sites", in_order(shown, alone), reasons)


def _silent_modules(frozen: Frozen, passed: Trace) -> dict[str, str]:
    """List the paths of modules that show nothing, and why."""
    network = frozen.network
    scripted = [path for path, module in network.named_modules() if isinstance(module, torch.jit.ScriptModule)]
    inside = [path for path in scripted if path and any(other in _parents(path) for other in scripted)]
    hidden = "is inside TorchScript, which shows nothing but what the outermost scripted module returns"
    idle = {
        path: "is called inside a transform of torch.func, in which there is nothing to read"
        if any(inner == path or path in _parents(inner) for inner in frozen.hooks.transformed)
        else "is never called"
        for path in _never_called(network, passed.called)
    }
    return idle | dict.fromkeys(inside, hidden)


def _never_called(network: nn.Module, called: Collection[str]) -> list[str]:
    """List the paths of the outermost modules with parameters of which no part is called."""
    active = {parent for path in called for parent in (path, *_parents(path))}
    modules = network.named_modules()
    idle = {path for path, module in modules if path not in active and any(True for _ in module.parameters())}
    return sorted(path for path in idle if path and idle.isdisjoint(_parents(path)))


def _initialise(network: nn.Module, arguments: Arguments) -> None:
    training = {module: module.training for module in network.modules()}
    try:
        network.eval()
        with torch.no_grad(), programs_device():
            arguments = arguments.copy_to(None)
            network(*arguments.args, **arguments.kwargs)
    finally:
        for module, flag in training.items():
            module.training = flag


def _belongs(candidate: Candidate, granularity: Granularity, blocks: set[str]) -> bool:
    site = candidate.occurrence.site
    if granularity in ("ops", "sites"):
        return granularity == "sites" or site.function != HEADS
    if granularity == "modules" or not candidate.of_module:
        return candidate.of_module
    return bool(site.function) or site.module in blocks or site.module == ""


def _no_quantity(dtype: torch.dtype) -> str:
    name = str(dtype).removeprefix("torch.")
    if dtype.is_complex:
        return f"holds {name}: heads take real numbers"
    if name.startswith(("q", "bits")):
        return f"holds quantised numbers ({name}): heads take floating-point ones"
    return f"holds {name}: categories, not quantities"


def _parents(path: str) -> list[str]:
    parts = path.split(".")
    return [".".join(parts[:depth]) for depth in range(len(parts))]
