"""Activations of a network's layers, from one forward pass for each batch."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from layerprobe.probing.capture.batch_axis import BatchAxis
from layerprobe.probing.capture.call_arguments import Arguments, NetworkInputs
from layerprobe.probing.capture.default_device import own_device
from layerprobe.probing.capture.freeze import Frozen
from layerprobe.probing.capture.granularity import Granularity
from layerprobe.probing.capture.hooks import Site, SiteReader, Way, Ways, same_way
from layerprobe.probing.capture.layers import Layer
from layerprobe.probing.capture.survey import freeze_initialised, log_left_out, survey
from layerprobe.types import LayerName

OnActivation = Callable[[Layer, Tensor], object]
"""Gets each layer with its activation, samples first, at the moment the layer made it."""

_MISSING = "not reached, or of another shape"
_OTHER_WAY = (
    "the network calls the function another number of times, or behind other modules, than in the first batch, so that "
    "its name may mean another call. Probe the outputs of modules (granularity=modules), or give batches of other sizes"
)


class LayerReader:
    """Hands out the activations of layers, batch after batch, from one forward pass each.

    Those of a layer that has its samples in an order of the network's own come from a pass for each sample. The network
    runs on copies of the inputs, on its own device.

    Args:
        frozen: The network that they were discovered in.
        layers: What to read.
        same_shape: Whether a layer whose shape is not the one discovered is withheld. Without it, only the axis
            over samples has to hold: sequences of another length are handed out as they are.
        ways: The way to each function in the first batch, shared by the readers of a network's splits.
    """

    def __init__(
        self,
        frozen: Frozen,
        layers: Iterable[Layer],
        *,
        same_shape: bool = True,
        ways: dict[Site, Way] | None = None,
    ) -> None:
        self._frozen, self._same_shape = frozen, same_shape
        self._ways = {} if ways is None else ways
        self._layers: dict[Site, list[tuple[Layer, BatchAxis]]] = defaultdict(list)
        for layer in layers:
            self._layers[layer.site].append((layer, layer.rows))
        every = [layer for found in self._layers.values() for layer, _ in found]
        self._names = [layer.name for layer in every]
        self._functional = [(layer.site, layer.name) for layer in every if layer.site.function and not layer.alone]
        self._of_batch = SiteReader(frozen.hooks, {layer.site for layer in every if not layer.alone})
        self._of_sample = SiteReader(frozen.hooks, {layer.site for layer in every if layer.alone})
        self._runs_batch = not all(layer.alone for layer in every) or not every
        self._runs_samples = any(layer.alone for layer in every)
        self._on_activation: OnActivation = _nothing
        self._batch_size = 0
        self._missing: dict[LayerName, str] = {}
        self._samples: dict[Layer, list[Tensor]] = defaultdict(list)

    def __call__(self, given: Arguments, on_activation: OnActivation) -> Mapping[LayerName, str]:
        """Read one batch.

        Args:
            given: The batch, laid out as in `discover`; any number of samples.
            on_activation: Gets each layer with its activation `(n, *layer.shape)`, outside of any `torch.autocast` that
                the network runs in. The tensor belongs to the network, which may overwrite it right afterwards: reduce
                or copy it at once.

        Returns:
            Why a layer has no activation in this batch: it was not reached, or made in another shape, and was not
            handed out; or what was handed out may be another function's.
        """
        self._on_activation, self._batch_size = on_activation, given.batch_size
        self._missing = dict.fromkeys(self._names, _MISSING)
        try:
            if self._runs_batch:
                self._compare(self._of_batch(given.copy_to(self._frozen.device), self._see))
            if self._runs_samples:
                self._read_samples(given)
            return dict(self._missing)
        finally:
            self._on_activation = _nothing
            self._samples.clear()

    def _compare(self, ways: Ways) -> None:
        """Find the layers whose name may mean another call of a function than in the first batch."""
        for place, way in ways.items():
            self._ways.setdefault(place, way)
        for site, name in self._functional:
            if not same_way(site, ways, self._ways):
                self._missing.setdefault(name, _OTHER_WAY)

    def _read_samples(self, given: Arguments) -> None:
        device = self._frozen.device
        see = partial(self._see, alone=True)
        ways = [self._of_sample(given.take([row]).copy_to(device), see) for row in range(given.batch_size)]
        for layer, found in self._samples.items():
            same = all(same_way(layer.site, ways[0], other) for other in ways)
            if same and len(found) == given.batch_size and len({part.shape for part in found}) == 1:
                self._hand_out(layer, torch.cat(found))

    def _see(self, site: Site, tensor: Tensor, *, alone: bool = False) -> None:
        """Take the layers of a site that are read from whole batches, or from one sample at a time."""
        for layer, rows in self._layers[site]:
            if layer.alone is not alone:
                continue
            activation = rows.samples_first(tensor, 1 if alone else self._batch_size)
            if activation is None:
                continue
            shape = tuple(activation.shape)[1:]
            if shape != layer.shape and (self._same_shape or len(shape) != len(layer.shape)):
                continue
            if alone:
                self._samples[layer].append(activation.clone())
            else:
                self._hand_out(layer, activation)

    def _hand_out(self, layer: Layer, activation: Tensor) -> None:
        self._missing.pop(layer.name, None)
        # Whatever modes the network has turned on: what is made of its layers is ordinary.
        with torch.inference_mode(False), torch.no_grad(), torch.autocast(activation.device.type, enabled=False):
            self._on_activation(layer, activation)


def record(
    frozen: Frozen,
    inputs: NetworkInputs,
    layers: Iterable[Layer],
    on_activation: OnActivation,
    *,
    same_shape: bool = True,
) -> list[LayerName]:
    """Hand out the layers' activations for a single batch; returns the names of those that were not."""
    return list(LayerReader(frozen, layers, same_shape=same_shape)(Arguments.of(inputs), on_activation))


@own_device()
def activations(
    network: nn.Module,
    inputs: NetworkInputs,
    layers: str | Sequence[str] = "*",
    *,
    granularity: Granularity = "ops",
    exclude: str | Sequence[str] = (),
) -> dict[LayerName, Tensor]:
    """Return every layer's activation, as the layer made it.

    The network is frozen meanwhile, and left as it was.

    Args:
        network: Any module.
        inputs: A tensor, a tuple or list (called `network(*inputs)`) or a mapping (called `network(**inputs)`), with
            the batch axis first.
        layers: Glob patterns of names.
        granularity: `ops`, `modules`, `blocks` or `sites`, as for `layerprobe.layers`.
        exclude: Glob patterns of names to leave out.

    Returns:
        Copies in order of execution, each `(n, *shape of one sample)`: the axis over samples is first, wherever the
        network has it. Aliases (dropout, flatten, a container with its last child's output) have entries of their own,
        in their own shape. Layers that this batch does not reach are absent.

    Raises:
        TypeError: The inputs are nothing that a network can be called with.
        ValueError: No layer is found, a pattern matches none, or the inputs hold no batch.
    """
    recorded: dict[LayerName, Tensor] = {}

    def copy(layer: Layer, activation: Tensor) -> None:
        recorded[layer.name] = activation.clone(memory_format=torch.contiguous_format)

    with freeze_initialised(network, inputs) as frozen:
        found = survey(frozen, inputs, granularity=granularity)
        log_left_out(found.left_out)
        chosen = found.choose(layers, exclude)
        record(frozen, inputs, [layer for under in chosen for layer in under], copy)
    return recorded


def _nothing(layer: Layer, activation: Tensor) -> None:
    """Take no activation: no batch is read."""
