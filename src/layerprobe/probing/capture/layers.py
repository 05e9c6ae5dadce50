"""Layers of a network: the intermediate tensors of a forward pass, with name, order, depth and kind."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable, Collection, Container, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from inspect import signature

import torch
from torch import Tensor, nn

from layerprobe.probing.capture.batch_axis import BatchAxis, agree, batch_axis, excerpt
from layerprobe.probing.capture.block_sites import block_sites
from layerprobe.probing.capture.call_arguments import Arguments, NetworkInputs, device_of
from layerprobe.probing.capture.freeze import Frozen, freeze, uninitialised
from layerprobe.probing.capture.granularity import GRANULARITIES, Granularity, block_paths
from layerprobe.probing.capture.hooks import HEADS, INPUT, Site, SiteReader, module_at, unwrap
from layerprobe.probing.capture.name_patterns import select
from layerprobe.probing.capture.naming import Candidate, Names, candidates
from layerprobe.probing.capture.sample_independence import REASONS, check_rows
from layerprobe.probing.capture.trace import Occurrence, Trace, trace
from layerprobe.types import LayerName

_logger = logging.getLogger("layerprobe")


@dataclass(frozen=True)
class Tap:
    """Where one tensor is found in a forward pass, and how its samples lie in it.

    Attributes:
        site: Where it appears.
        kind: Class of the module, name of the function, or `input`.
        shape: Shape of one sample.
        rows: The axis that runs over samples.
        channel_axis: Which axis of one sample the network treats as channels; None where nothing says so, or where
            there are not several.
    """

    site: Site
    kind: str
    shape: tuple[int, ...]
    rows: BatchAxis
    channel_axis: int | None = None


@dataclass(frozen=True)
class Layer:
    """An intermediate tensor of the forward pass.

    Attributes:
        name: Path of the module that made it, with `#1`, `#2`, … when called again; `module.function` for a functional
            operation; `input`, or `input.<key or index>` where there are several.
        depth: 0 for the input, then the order of execution among the layers of this granularity; `include` and
            `exclude` do not change it.
        kind: The module's class, the function's name, or `input`.
        shape: Shape of one sample, without the batch axis.
        aliases: Names of later tensors with the same values, perhaps in another shape: dropout in eval mode, flatten,
            a container that returns its child's output.
        taps: Where the layer is found (first), and its aliases (after it, in their order).
        alone: Whether it is read from one sample at a time, because the network reorders a batch by its data.
    """

    name: LayerName
    depth: int
    kind: str
    shape: tuple[int, ...]
    aliases: tuple[LayerName, ...]
    taps: tuple[Tap, ...]
    alone: bool = False

    @property
    def names(self) -> tuple[LayerName, ...]:
        """The layer's name and its aliases."""
        return (self.name, *self.aliases)

    @property
    def site(self) -> Site:
        """Where the layer is found."""
        return self.taps[0].site

    @property
    def rows(self) -> BatchAxis:
        """How the samples lie in it."""
        return self.taps[0].rows

    @property
    def channel_axis(self) -> int | None:
        """Which axis of one sample the network treats as channels; None where that is not known."""
        return self.taps[0].channel_axis

    def under(self, name: LayerName) -> Layer:
        """The same layer shown under one of its names, with the shape that it has there."""
        taps = dict(zip(self.names, self.taps, strict=True))
        tap = taps.pop(name)
        return Layer(name, self.depth, tap.kind, tap.shape, tuple(taps), (tap, *taps.values()), self.alone)


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


def discover(
    network: nn.Module,
    inputs: NetworkInputs,
    *,
    granularity: Granularity | str = "ops",
    include: str | Sequence[str] = ("*",),
    exclude: str | Sequence[str] = (),
) -> tuple[Layer, ...]:
    """List the layers of a network in order of execution, each under the first of its names that is wanted.

    Args:
        network: Any module; wrappers for several devices and `torch.compile` are looked through. One whose parameters
            are not initialised yet (lazy modules) is called once first, as its user would.
        inputs: A tensor, a tuple or list (called `network(*inputs)`) or a mapping (called `network(**inputs)`), with
            the batch axis first.
        granularity: `ops` for every tensor, `modules` for outputs of modules, `blocks` for those of the largest
            repeated parts (see `granularity.block_paths`).
        include: See `Survey.choose`.
        exclude: See `Survey.choose`.

    Returns:
        The layers in order of execution.

    Raises:
        TypeError: The inputs are nothing that a network can be called with.
        ValueError: No layer is found, a pattern matches none, or the inputs hold no batch.
    """
    with freeze_initialised(network, inputs) as frozen:
        return first_names(survey(frozen, inputs, granularity=granularity).choose(include, exclude))


def first_names(chosen: Sequence[Sequence[Layer]]) -> tuple[Layer, ...]:
    """Each of the layers that were chosen, under the first of its names."""
    return tuple(under[0] for under in chosen)


@contextmanager
def freeze_initialised(network: nn.Module, inputs: NetworkInputs) -> Iterator[Frozen]:
    """Freeze a network, of which lazy modules have been initialised on the first two samples."""
    if uninitialised(network):
        _initialise(unwrap(network), _of_two(Arguments.of(inputs), device_of(network))[0])
    with freeze(network) as frozen:
        yield frozen


def log_left_out(left_out: Mapping[LayerName, str]) -> None:
    """Log what is left out; the same at the next checkpoint is no news, and is not logged again.

    Args:
        left_out: Names of what is no layer, and the reasons.
    """
    _log_once(left_out_lines(left_out))


@lru_cache(maxsize=64)
def _log_once(lines: tuple[str, ...]) -> None:
    if lines:
        _logger.info("Left out:\n%s", "\n".join(f"  {line}" for line in lines))


def left_out_lines(left_out: Mapping[LayerName, str], shown: int = 6) -> tuple[str, ...]:
    """What is left out, a line for each reason: how many, some names, why.

    Args:
        left_out: Names of tensors that are no layers, and the reasons.
        shown: Names to show for each reason at most.
    """
    by_reason: dict[str, list[LayerName]] = defaultdict(list)
    for name, reason in left_out.items():
        by_reason[reason].append(name)
    return tuple(
        f"{', '.join(names[:shown])}{f', … ({len(names) - shown} more)' if len(names) > shown else ''}: {reason}"
        for reason, names in by_reason.items()
    )


def survey(frozen: Frozen, inputs: NetworkInputs, *, granularity: Granularity | str = "ops") -> Survey:
    """List the layers of a network, and the tensors and outputs that are none with the reason.

    The network runs on batches of two and of three made of the first two samples (of the first, if it is the only
    one), so the list does not depend on the size of the batch; and on up to 32 samples, these in another order, and
    some of them alone. A tensor is a layer if it is floating point, exactly one of its axes grows with the batch
    (weights, masks and tables of positions do not), it is computed from the input, and its values for a sample do not
    depend on which other samples are in the batch. Where a network puts the samples of a batch into an order of its
    own, its layers are recorded from one sample at a time. The input is a layer if it is floating point or uint8
    (pixels); other integers and booleans (token ids, masks, lengths) are categories, not quantities.

    Args:
        frozen: The network.
        inputs: As for `discover`.
        granularity: As for `discover`.

    Raises:
        TypeError: The inputs are nothing that a network can be called with.
        ValueError: The inputs hold no batch, or the granularity is unknown.
    """
    if granularity not in GRANULARITIES:
        raise ValueError(f"unknown granularity {granularity!r}. Choose one of {', '.join(GRANULARITIES)}.")
    network, given = frozen.network, Arguments.of(inputs)
    two, three, twice = _of_two(given, frozen.device)
    try:
        found = _run(frozen, two)
    except Exception as error:  # whatever the network raises: what it says of the inputs is made plain
        if _runs(frozen, given):
            raise ValueError(_not_cut(given, error)) from error
        _check_call(network, given)
        raise
    shapes = {occurrence.site: occurrence.shape for occurrence in found.occurrences}
    axes: dict[Site, BatchAxis | None] = {}
    excerpts: dict[Site, Tensor] = {}
    of_inner: dict[Site, Tensor] = {}

    def compare(site: Site, tensor: Tensor) -> None:
        axes[site] = axis = batch_axis(shapes.get(site, ()), tuple(tensor.shape))
        if axis is not None and tensor.is_floating_point():
            for kept, rows in ((excerpts, axis), (of_inner, axis._replace(inner=True)))[: 1 + (axis.fold > 1)]:
                if (values := excerpt(tensor, rows, 3)) is not None:
                    kept[site] = values

    _run(frozen, three, compare)
    folded = {site: axis for site in of_inner if (axis := axes[site])}
    inner, neither = _folded(frozen, two, twice, folded, of_inner)
    axes |= inner
    excerpts |= {site: of_inner[site] for site in inner}
    mixing = _mixing(frozen, (twice, two), excerpts, axes) | neither

    rows = {site: axis.samples_first for site, axis in axes.items() if site in excerpts and axis}
    faults = check_rows(frozen, given.copy_to(frozen.device), rows).faults
    alone = {site for site, fault in faults.items() if fault == "reordered"}
    mixing = (mixing | faults.keys()) - alone

    layers: list[Candidate] = []
    left_out: dict[Occurrence, str] = {}
    naming = Names(network, found.root)
    blocks = block_paths(module_at(network, found.root.module), found.root.module)
    for candidate in candidates(found):
        site, dtype, shape = candidate.occurrence.site, candidate.occurrence.dtype, candidate.occurrence.shape
        pixels = site.function == INPUT and dtype == torch.uint8
        if 0 in shape:
            reason = f"is empty: shape {shape} for two samples"
        elif not (dtype.is_floating_point or pixels):
            reason = _no_quantity(dtype)
        elif candidate.occurrence.value in found.packed:
            reason = (
                "is a PackedSequence, whose rows are the steps of all samples: pad it (pad_packed_sequence), and "
                "granularity='ops' reads it"
            )
        elif site not in axes:
            reason = "not reached in every pass: the control flow depends on the batch"
        elif axes[site] is None:
            reason = f"no axis, or more than one, grows with the batch: shape {shape} for two samples"
        elif site in mixing:
            reason = REASONS["mixed"]
        else:
            layers.append(candidate)
            continue
        if _belongs(candidate, granularity, blocks):
            left_out[candidate.occurrence] = reason
    for occurrence, kind in found.objects:
        if _belongs(Candidate(occurrence, occurrence.order, True), granularity, blocks):
            left_out[occurrence] = f"returns a {kind}, in which no tensor is found"

    # Layers first: their numbers must not depend on what else there is.
    names = naming.name_all([*(candidate.occurrence for candidate in layers), *left_out])
    groups: dict[int, list[tuple[str, Tap]]] = defaultdict(list)
    for candidate in layers:
        occurrence = candidate.occurrence
        if _belongs(candidate, granularity, blocks):
            axis = axes[occurrence.site] or BatchAxis(0, 1)
            shape = axis.sample_shape(occurrence.shape)
            channel = axis.sample_axis(found.channel_axes.get(occurrence.site), len(shape))
            tap = Tap(occurrence.site, naming.kind(occurrence), shape, axis, channel)
            groups[occurrence.value].append((names[occurrence], tap))
    if granularity == "sites":
        return _survey_of_sites(network, found, naming, groups, {of.value: why for of, why in left_out.items()}, alone)
    reasons = {names[occurrence]: reason for occurrence, reason in left_out.items()}
    if granularity != "blocks":
        scripted = [path for path, module in network.named_modules() if isinstance(module, torch.jit.ScriptModule)]
        inside = [path for path in scripted if path and any(other in _parents(path) for other in scripted)]
        hidden = "is inside TorchScript, which shows nothing but what the outermost scripted module returns"
        idle = {
            path: "is called inside a transform of torch.func, in which there is nothing to read"
            if any(inner == path or path in _parents(inner) for inner in frozen.hooks.transformed)
            else "is never called"
            for path in _never_called(network, found.called)
        }
        reasons |= {
            naming.of_module(path): reason
            for path, reason in (idle | dict.fromkeys(inside, hidden)).items()
            if naming.of_module(path) not in names.values()
        }
    return Survey(granularity, _in_order(list(groups.values()), alone), reasons)


def _survey_of_sites(
    network: nn.Module,
    found: Trace,
    naming: Names,
    groups: Mapping[int, list[tuple[str, Tap]]],
    left_out: Mapping[int, str],
    alone: Container[Site],
) -> Survey:
    """The sites of blocks among all layers, under the names of the sites first; each head is a layer of its own."""
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
    return Survey("sites", _in_order(shown, alone), reasons)


def _never_called(network: nn.Module, called: Collection[str]) -> list[str]:
    """Paths of the outermost modules with parameters of which no part is called."""
    active = {parent for path in called for parent in (path, *_parents(path))}
    modules = network.named_modules()
    idle = {path for path, module in modules if path not in active and any(True for _ in module.parameters())}
    return sorted(path for path in idle if path and idle.isdisjoint(_parents(path)))


def _of_two(given: Arguments, device: torch.device | None) -> tuple[Arguments, Arguments, Arguments]:
    """Batches of the first two samples, of both and the first again, and of the second twice, on a device."""
    other = 1 if given.batch_size > 1 else 0
    two, three, twice = (given.take(rows).copy_to(device) for rows in ([0, other], [0, other, 0], [other, other]))
    return two, three, twice


def _run(frozen: Frozen, arguments: Arguments, on_tensor: Callable[[Site, Tensor], None] | None = None) -> Trace:
    with frozen.fresh(seed=0):
        try:
            # Whatever the network does to copies ends with this pass.
            return trace(frozen.hooks, arguments.copy_to(None), on_tensor)
        except Exception as error:  # raised again, with a note
            error.add_note(f"(raised by the network on {arguments.batch_size} samples, run to find its layers)")
            raise


def _runs(frozen: Frozen, given: Arguments) -> bool:
    try:
        with frozen.fresh(seed=0):
            frozen.hooks.run(given.copy_to(frozen.device))
    except Exception:  # whatever the network raises, it does not run
        return False
    return True


def _check_call(network: nn.Module, given: Arguments) -> None:
    try:
        signature(network.forward).bind(*given.args, **given.kwargs)
    except TypeError as error:
        raise TypeError(
            f"the network cannot be called with these inputs: {error}, for {len(given.args)} positional and "
            f"{len(given.kwargs)} keyword arguments. A list or tuple is called as network(*inputs) and a mapping as "
            "network(**inputs), and samples are cut along axis 0 of each tensor: images of one size are stacked into "
            "one tensor. Say with `inputs` what of a batch is passed; one argument that is a list is passed as (list,)."
        ) from error
    except ValueError:  # no signature is known
        return


def _not_cut(given: Arguments, error: Exception) -> str:
    shapes = ", ".join(
        f"{'.'.join(path) or 'the input'} {tuple(tensor.shape)}{'' if given.holds_batch(tensor) else ' (kept whole)'}"
        for path, tensor in given.named()[:5]
    )
    return (
        f"the network runs on the inputs as they are, but not on two of their samples, cut along axis 0 ({shapes}): "
        f"{type(error).__name__}: {error}. Every tensor whose first axis is as long as the first one's is taken to "
        "hold a sample in each row; lists of images, and graphs as nodes and edges, do not. Pass with `inputs` what "
        "can be cut: one tensor of all samples (images stacked, graphs padded alike), and a network that takes it."
    )


def _initialise(network: nn.Module, arguments: Arguments) -> None:
    training = {module: module.training for module in network.modules()}
    try:
        network.eval()
        with torch.no_grad():
            arguments = arguments.copy_to(None)
            network(*arguments.args, **arguments.kwargs)
    finally:
        for module, flag in training.items():
            module.training = flag


def _folded(
    frozen: Frozen,
    two: Arguments,
    twice: Arguments,
    axes: Mapping[Site, BatchAxis],
    expected: Mapping[Site, Tensor],
) -> tuple[dict[Site, BatchAxis], set[Site]]:
    """Tell sites whose folded axis holds the samples one after the other from those where they are inside.

    When another sample takes the place of the first one, what changes is the first one's: these entries say how samples
    lie, also in layers with random values, since both passes draw the same. Where they may be of either layout, as
    where there is one sample only, what stays the same in a batch of three says it.

    Args:
        frozen: The network.
        two: Two samples.
        twice: The second of them twice.
        axes: The folded axes.
        expected: What the second of three samples is where samples are inside.

    Returns:
        The axes of those where samples are inside, and the sites that have neither layout.
    """
    if not axes:
        return {}, set()
    found: list[dict[Site, Tensor]] = []
    for company in (two, twice):
        kept: dict[Site, Tensor] = {}

        def keep(site: Site, tensor: Tensor, kept: dict[Site, Tensor] = kept) -> None:
            kept[site] = tensor.movedim(axes[site].axis, 0).clone()

        with frozen.fresh(seed=0):
            SiteReader(frozen.hooks, axes.keys())(company.copy_to(None), keep)
        found.append(kept)
    inner: dict[Site, BatchAxis] = {}
    neither: set[Site] = set()
    for site, axis in axes.items():
        one, other = (kept.get(site, torch.empty(0)) for kept in found)
        if one.shape != other.shape or len(one) != 2 * axis.fold:
            continue
        changed = [not agree(*pair) for pair in zip(one, other, strict=True)]
        later, odd = any(changed[axis.fold :]), any(changed[1::2])
        if later and odd:
            neither.add(site)
        elif later:
            inner[site] = axis._replace(inner=True)
        elif not odd:
            entries = one.movedim(0, axis.axis)
            within, after = (excerpt(entries, axis._replace(inner=flag), 2) for flag in (True, False))
            apart = within is not None and after is not None and not agree(within, after)
            if apart and within is not None and agree(within, expected[site]):
                inner[site] = axis._replace(inner=True)
    return inner, neither


def _mixing(
    frozen: Frozen,
    companies: Sequence[Arguments],
    expected: Mapping[Site, Tensor],
    axes: Mapping[Site, BatchAxis | None],
) -> set[Site]:
    """Sites whose values for the second sample depend on the rest of the batch.

    Where values differ between two passes over the same batch too, they are random, and say nothing about mixing.

    Args:
        frozen: The network.
        companies: Batches with the same second sample: the first that takes the same way through the network counts.
        expected: What the second sample's values are in another batch.
        axes: The axis over samples.
    """

    def read(arguments: Arguments, sites: Collection[Site], seed: int) -> dict[Site, Tensor]:
        found: dict[Site, Tensor] = {}

        def keep(site: Site, tensor: Tensor) -> None:
            axis = axes[site] or BatchAxis(0, 1)
            values = excerpt(tensor, axis, arguments.batch_size)
            if values is not None:  # or another way through the network, such as without a mask of no padding
                found[site] = values

        with frozen.fresh(seed):
            SiteReader(frozen.hooks, sites)(arguments.copy_to(None), keep)
        return found

    for company in companies:
        first = read(company, expected.keys(), 0)
        if len(first) == len(expected):
            break
    changed = {site for site, values in first.items() if not agree(values, expected[site])}
    if not changed:
        return changed
    second = read(company, changed, 1)
    return {site for site in changed if site not in second or agree(first[site], second[site])}


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


def _in_order(groups: list[list[tuple[str, Tap]]], alone: Container[Site]) -> tuple[Layer, ...]:
    layers = []
    depth = 0
    for group in groups:
        names, taps = zip(*group, strict=True)
        depth += taps[0].site.function != INPUT
        layers.append(
            Layer(
                name=names[0],
                depth=0 if taps[0].site.function == INPUT else depth,
                kind=taps[0].kind,
                shape=taps[0].shape,
                aliases=names[1:],
                taps=taps,
                alone=any(tap.site in alone for tap in taps),
            )
        )
    return tuple(layers)
