"""Sites of transformer blocks, by the names that people use: residual stream, attention output, heads, MLP output.

Nothing is known of any architecture. What counts is what happens in a pass: a block is a member of a ModuleList or
Sequential in which attention is computed. Its output projection is the first linear map after that, the MLP's the
last linear map of the block; the residual stream is what these are added to. `torch.nn.MultiheadAttention` is both:
attention and its projection.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from torch import nn

from layerprobe.probing.capture.hooks import HEADS, Call, callers
from layerprobe.probing.capture.trace import Exchange, Occurrence, Trace

_ATTENTION = ("scaled_dot_product_attention", "softmax")
_OF_TORCH = "multi_head_attention_forward"
_CONTAINERS = (nn.ModuleList, nn.Sequential)


@dataclass(frozen=True)
class BlockSite:
    """A value in one call of a block.

    Attributes:
        block: The call.
        name: `resid_pre`, `resid_mid` or `resid_post`, the residual stream before, within and after the block, each
            perhaps with `_normalised`; `attn_out` or `mlp_out`, what is added to it; or `head`.
        value: Number of the value, as in `Occurrence`.
        width: Size of its last axis, where it is this site: the same values may lie in several shapes.
        n_heads: How many parts of its last axis are sites of their own; 1 for all but `head`.
    """

    block: Call
    name: str
    value: int
    width: int
    n_heads: int = 1


def block_sites(network: nn.Module, found: Trace) -> list[BlockSite]:
    """Find the sites of all blocks, in their order; none where there is no block with attention."""
    modules = dict(network.named_modules(remove_duplicate=False))
    cores: dict[Call, Occurrence] = {}
    for occurrence in found.occurrences:
        function = occurrence.site.function
        if function == HEADS or (function in _ATTENTION and len(occurrence.shape) == 4):
            block = next((call for call in callers(occurrence.call) if _is_member(modules, call.module)), None)
            if block is not None:
                cores.setdefault(block, occurrence)
    return [site for block, core in cores.items() for site in _sites(modules, found, block, core)]


def _sites(modules: dict[str, nn.Module], found: Trace, block: Call, core: Occurrence) -> Iterator[BlockSite]:
    inside = [exchange for exchange in found.exchanges if block in callers(exchange.call.parent)]
    own = next(exchange for exchange in found.exchanges if exchange.call is block)
    linear = [one for one in inside if _is_linear(modules[one.call.module], one)]
    after = [one for one in linear if one.order > core.order]
    if core.site.function == HEADS:  # of torch's function, which projects them itself
        after = [*_projection(modules, found, core), *after]
    if not after:
        return
    projection, last = after[0], after[-1]
    attention, shape = projection.returned[0]
    stream = next((value for value, of in own.given if of == shape), None)
    yield BlockSite(block, "attn_out", attention, shape[-1])
    heads, (value, of_value) = core.shape[1], projection.given[0]
    if core.site.function == HEADS:
        heads = getattr(modules[core.site.module], "num_heads", 0)
    if heads and of_value[-1] % heads == 0:
        yield BlockSite(block, "head", value, of_value[-1], heads)
    if last is not projection and last.returned[0][1] == shape:
        yield BlockSite(block, "mlp_out", last.returned[0][0], shape[-1])
    if stream is None:
        return
    sums = [one for one in found.sums if block in callers(one.call) and one.shape == shape and one.order > core.order]
    residual = {"resid_pre": stream}
    for one in sums:
        if stream in one.operands and one.order < last.order and last is not projection:
            residual["resid_mid"] = one.value
            break
    returned = next((value for value, of in own.returned if of == shape), None)
    if sums or returned is not None:
        residual["resid_post"] = sums[-1].value if sums else returned  # type: ignore[assignment]
    for name, value in residual.items():
        yield BlockSite(block, name, value, shape[-1])
        if (normalised := _normalised(modules, inside, value)) is not None:
            yield BlockSite(block, f"{name}_normalised", normalised, shape[-1])


def _projection(modules: dict[str, nn.Module], found: Trace, core: Occurrence) -> Iterator[Exchange]:
    """Find the output projection inside torch's function of attention: what its module returns, or its caller gets."""
    if isinstance(modules[core.site.module], nn.MultiheadAttention):
        returned = [one.returned[0] for one in found.exchanges if one.call is core.call]
    else:
        calls = (one for one in found.occurrences if one.call is core.call and one.order > core.order)
        returned = [(one.value, one.shape) for one in calls if one.site.function == _OF_TORCH]
    for output in returned[:1]:
        yield Exchange(core.call or found.root, [(core.value, core.shape)], [output], core.order)


def _normalised(modules: dict[str, nn.Module], inside: Sequence[Exchange], value: int) -> int | None:
    """Return what a module makes of a value whose class says that it normalises."""
    return next(
        (
            exchange.returned[0][0]
            for exchange in inside
            if "norm" in type(modules[exchange.call.module]).__name__.lower()
            and exchange.returned
            and exchange.given
            and exchange.given[0][0] == value
        ),
        None,
    )


def _is_member(modules: dict[str, nn.Module], path: str) -> bool:
    above = path.rpartition(".")[0]
    return bool(path) and isinstance(modules.get(above), _CONTAINERS)


def _is_linear(module: nn.Module, exchange: Exchange) -> bool:
    """Tell whether a module with a matrix of weights has made a tensor of as many features as that has."""
    weight = getattr(module, "weight", None)
    if not isinstance(weight, nn.Parameter) or weight.ndim != 2 or isinstance(module, nn.Embedding):
        return False
    made = exchange.returned[0][1][-1:] if exchange.given and exchange.returned else ()
    return any(size in weight.shape for size in made)
