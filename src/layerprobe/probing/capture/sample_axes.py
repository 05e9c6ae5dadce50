"""Sample axes: passes over a few samples say which axis of each tensor runs over them, and which tensors mix them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence, Set
from dataclasses import dataclass
from inspect import signature

import torch
from torch import Tensor, nn

from layerprobe.probing.capture.batch_axis import BatchAxis, agree, batch_axis, excerpt
from layerprobe.probing.capture.call_arguments import Arguments, floating_dtype
from layerprobe.probing.capture.freeze import Frozen
from layerprobe.probing.capture.hooks import Site, SiteReader
from layerprobe.probing.capture.sample_independence import check_rows
from layerprobe.probing.capture.trace import Trace, trace


@dataclass(frozen=True)
class SampleAxes:
    """How samples lie in the tensors of a forward pass.

    Attributes:
        trace: The pass over two samples.
        axes: Of each site that is reached with two and with three samples, the axis that grows with the batch; None
            where no axis does, or more than one.
        mixing: Sites whose values for a sample depend on which other samples are in the batch.
        alone: Sites whose samples the network puts into an order of its own.
        packed: Sites of packed sequences whose samples are of several lengths.
    """

    trace: Trace
    axes: Mapping[Site, BatchAxis | None]
    mixing: Set[Site]
    alone: Set[Site]
    packed: Set[Site]


def sample_axes(frozen: Frozen, given: Arguments) -> SampleAxes:
    """Find how samples lie in the tensors of a network.

    The network runs on batches of two and of three made of the first two samples (of the first, if it is the only
    one), so that what is found does not depend on the size of the batch; on up to 32 samples, these in another order,
    and some of them alone; and on all of them where it packs sequences, whose lengths may differ.

    Raises:
        TypeError: The network cannot be called with the inputs.
        ValueError: The inputs cannot be cut into samples.
    """
    two, three, twice = of_two(given, frozen.device)
    try:
        found = _run(frozen, two)
    except Exception as error:  # whatever the network raises: what it says of the inputs is made plain
        if _runs(frozen, given):
            raise ValueError(_not_cut(given, error)) from error
        _check_call(frozen.network, given)
        _check_precision(frozen, given, error)
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
    whole = _run(frozen, given.copy_to(frozen.device)) if found.packed else found
    packed = {occurrence.site for occurrence in whole.occurrences if whole.packed.get(occurrence.value)}
    return SampleAxes(found, axes, (mixing | faults.keys()) - alone, alone, packed)


def of_two(given: Arguments, device: torch.device | None) -> tuple[Arguments, Arguments, Arguments]:
    """Make batches of the first two samples, of both and the first again, and of the second twice."""
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


_LISTS = (
    " Samples that are lists of numbers become a tensor for each place: let them be tensors, as those of a Hugging "
    "Face data set are after with_format('torch')."
)


def _check_call(network: nn.Module, given: Arguments) -> None:
    try:
        signature(network.forward).bind(*given.args, **given.kwargs)
    except TypeError as error:
        shapes = {tuple(tensor.shape) for _, tensor in given.named()}
        columns = len(given.args) > 1 and len(shapes) == 1 and len(shapes.pop()) == 1
        raise TypeError(
            f"the network cannot be called with these inputs: {error}, for {len(given.args)} positional and "
            f"{len(given.kwargs)} keyword arguments. A list or tuple is called as network(*inputs) and a mapping as "
            "network(**inputs), and samples are cut along axis 0 of each tensor: images of one size are stacked into "
            "one tensor. Say with `inputs` what of a batch is passed; a list or a mapping as one argument is passed as "
            "(argument,), the whole batch on the command line by inputs=items 'inputs.paths=[.]'."
            + (_LISTS if columns else "")
        ) from error
    except ValueError:  # no signature is known
        return


def _check_precision(frozen: Frozen, given: Arguments, error: Exception) -> None:
    """Tell that a network runs on the inputs once they have its own precision, where that is so."""
    wanted = floating_dtype(frozen.network)
    others = {t.dtype for _, t in given.named() if t.is_floating_point() and t.dtype != wanted}
    if others and _runs(frozen, given.to_precision(wanted)):
        found = " and ".join(sorted(str(dtype) for dtype in others))
        raise TypeError(
            f"the network computes in {wanted}, and its inputs are {found}: {error}. Give them as tensor.to({wanted}), "
            f"out of a batch with inputs=lambda batch: batch[0].to({wanted}), or probe the network in the inputs' own "
            f"precision: network.to({found.split()[0]})."
        ) from error


def _not_cut(given: Arguments, error: Exception) -> str:
    shapes = ", ".join(
        f"{'.'.join(path) or 'the input'} {tuple(tensor.shape)}{'' if given.holds_batch(tensor) else ' (kept whole)'}"
        for path, tensor in given.named()[:5]
    )
    return (
        f"the network runs on the inputs as they are, but not on two of their samples, cut along axis 0 ({shapes}): "
        f"{type(error).__name__}: {error}. Every tensor whose first axis is as long as the first one's is taken to "
        "hold a sample in each row; lists of images, and graphs as nodes and edges, do not. Pass with `inputs` what "
        "can be cut: one tensor of all samples (images stacked, graphs padded alike), and a network that takes it. Or "
        "keep a layer's output by a hook of your own, a row for each sample (pooled over nodes), and probe that: "
        "layerprobe.probe(torch.nn.Identity(), (rows, targets))."
    )


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
    """Find the sites whose values for the second sample depend on the rest of the batch.

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
