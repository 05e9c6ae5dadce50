"""Record every layer of a network in one forward pass."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor, nn

from layerprobe.probing.capture.freeze import frozen
from layerprobe.probing.capture.granularity import Granularity
from layerprobe.probing.capture.hooks import Site, unwrap
from layerprobe.probing.capture.inputs import Arguments, NetworkInputs, device_of
from layerprobe.probing.capture.layers import Layer, list_layers
from layerprobe.probing.capture.name_patterns import select
from layerprobe.probing.capture.site_hooks import same_way, visit
from layerprobe.types import LayerName


def record(
    network: nn.Module,
    inputs: NetworkInputs,
    layers: Iterable[Layer],
    on_activation: Callable[[Layer, Tensor], object],
    *,
    same_shape: bool = True,
) -> list[LayerName]:
    """Hand out the layers' activations for one batch, from one forward pass.

    Of a layer that has its samples in an order of the network's own, from a pass for each sample.

    To be called inside `frozen`, once for each batch. The network runs on copies of the inputs, on its own device.

    Args:
        network: The network that the layers were discovered in.
        inputs: One batch, laid out as in `discover`; any number of samples.
        layers: What to record.
        on_activation: Gets each layer with its activation `(n, *layer.shape)` at the moment the layer made it, outside
            of any `torch.autocast` that the network runs in. The tensor belongs to the network, which may overwrite it
            right afterwards: reduce or copy it at once.
        same_shape: Whether a layer whose shape is not the one discovered is withheld. Without it, only the axis over
            samples has to hold: sequences of another length are handed out as they are.

    Returns:
        Names of the layers that were not handed out: not reached by this batch, or made in another shape.
    """
    by_site: dict[Site, list[Layer]] = {}
    for layer in layers:
        by_site.setdefault(layer.taps[0].site, []).append(layer)
    missing = {layer.name: None for found in by_site.values() for layer in found}
    network = unwrap(network)
    whole = Arguments.of(inputs)
    arguments = whole.copy_to(device_of(network))

    rows: dict[Layer, list[Tensor]] = defaultdict(list)

    def use(layer: Layer, activation: Tensor) -> None:
        missing.pop(layer.name, None)
        # Whatever modes the network has turned on: what is made of its layers is ordinary.
        with torch.inference_mode(False), torch.no_grad(), torch.autocast(activation.device.type, enabled=False):
            on_activation(layer, activation)

    def hand_out(site: Site, tensor: Tensor, n_samples: int, *, alone: bool) -> None:
        for layer in by_site[site]:
            if layer.alone is not alone:
                continue
            try:
                activation = layer.taps[0].samples_first(tensor, n_samples)
            except ValueError:
                continue
            shape = tuple(activation.shape)[1:]
            if shape == layer.shape or (not same_shape and len(shape) == len(layer.shape)):
                if alone:
                    rows[layer].append(activation.clone())
                else:
                    use(layer, activation)

    together = {site for site, found in by_site.items() if not all(layer.alone for layer in found)}
    one_by_one = {site for site, found in by_site.items() if any(layer.alone for layer in found)}
    if together or not one_by_one:
        visit(network, arguments, together, lambda s, t: hand_out(s, t, arguments.batch_size, alone=False))
    passes = [
        visit(
            network,
            whole.take([row]).copy_to(device_of(network)),
            one_by_one,
            lambda s, t: hand_out(s, t, 1, alone=True),
        )
        for row in (range(arguments.batch_size) if one_by_one else ())
    ]
    for layer, found in rows.items():
        same = all(same_way(layer.taps[0].site, passes[0], ways) for ways in passes)
        if same and len(found) == arguments.batch_size and len({part.shape for part in found}) == 1:
            use(layer, torch.cat(found))
    return list(missing)


def activations(
    network: nn.Module,
    inputs: NetworkInputs,
    layers: str | Sequence[str] = "*",
    *,
    granularity: Granularity = "ops",
    exclude: str | Sequence[str] = (),
) -> dict[LayerName, Tensor]:
    """Every layer's activation, as the layer made it.

    The network is frozen meanwhile, and afterwards as it was.

    Args:
        network: Any module.
        inputs: A tensor, a tuple or list (called `network(*inputs)`) or a mapping (called `network(**inputs)`), with
            the batch axis first.
        layers: Glob patterns of names.
        granularity: `ops`, `modules` or `blocks`, as in `discover`.
        exclude: Glob patterns of names to leave out.

    Returns:
        Copies in order of execution, each `(n, *shape of one sample)`: the axis over samples is first, wherever the
        network has it. Aliases (dropout, flatten, a container with its last child's output) have entries of their own,
        in their own shape. Layers that this batch does not reach are absent.

    Raises:
        TypeError: The inputs are nothing that a network can be called with.
        ValueError: No layer is found, a pattern matches none, or the inputs hold no batch.
    """
    found, left_out = list_layers(network, inputs, granularity=granularity)
    wanted = select([layer.names for layer in found], layers, exclude, left_out)
    shown = [layer.under(name) for layer, names in zip(found, wanted, strict=True) for name in names]
    recorded: dict[LayerName, Tensor] = {}

    def copy(layer: Layer, activation: Tensor) -> None:
        recorded[layer.name] = activation.clone(memory_format=torch.contiguous_format)

    with frozen(network):
        record(network, inputs, shown, copy)
    return recorded
