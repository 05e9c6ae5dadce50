"""Multilayer perceptron of one hidden layer: what a small non-linear classifier reads of a layer."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, TypeAlias, final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from layerprobe.probing.analyses.analysis import AbstractAnalysis, LayerData, Metric, Reading, TestSet
from layerprobe.probing.analyses.comparison import compared
from layerprobe.probing.features.row_blocks import Features, blocks, gathered
from layerprobe.probing.solvers.cpu_threads import threads_for
from layerprobe.probing.tasks.task import AbstractTask

_TRIED = 100
"""Minibatches from one look at validation to the next."""

Slopes: TypeAlias = Callable[[Tensor], Tensor]


class Networks:
    """Networks of one hidden layer side by side: relu(x W₁ + b₁) W₂ + b₂ of each.

    Args:
        parts: W₁ (s d h), b₁ (s 1 h), W₂ (s h c) and b₂ (s 1 c).
    """

    def __init__(self, *parts: Float[Tensor, "s _ _"]) -> None:
        self.parts = parts

    @classmethod
    def drawn(cls, seeds: int, shape: tuple[int, int, int], like: Features, draws: torch.Generator) -> Networks:
        """Draw weights whose scores have about the features' variance (He et al., 2015); biases are 0.

        Args:
            seeds: Networks.
            shape: Features, hidden units and outputs.
            like: Features of the precision and device that the weights get.
            draws: Where they come from, on the CPU, whatever the device.
        """
        parts = []
        for ins, outs, gain in ((shape[0], shape[1], 2), (shape[1], shape[2], 1)):
            weight = torch.randn(seeds, ins, outs, generator=draws, dtype=like.dtype) * math.sqrt(gain / ins)
            parts += [weight.to(like.device), torch.zeros(seeds, 1, outs, dtype=like.dtype, device=like.device)]
        return cls(*parts)

    def __call__(self, features: Float[Tensor, "n d"]) -> Float[Tensor, "s n c"]:
        """Scores of each network."""
        return self._outputs(self._hidden(features))

    def _hidden(self, features: Float[Tensor, "n d"]) -> Float[Tensor, "s n h"]:
        weight, bias, *_ = self.parts
        return torch.baddbmm(bias, features.expand(len(weight), -1, -1), weight).relu_()

    def _outputs(self, hidden: Float[Tensor, "s n h"]) -> Float[Tensor, "s n c"]:
        *_, weight, bias = self.parts
        return torch.baddbmm(bias, hidden, weight)

    def gradients(self, features: Float[Tensor, "n d"], slopes: Slopes, l2: float) -> list[Float[Tensor, "s _ _"]]:
        """Gradients of the mean loss + ½·l2·(‖W₁‖² + ‖W₂‖²), in the order of the parts.

        With hidden units h and δ the mean loss' derivatives by the scores, that of W₂ is hᵀδ + l2·W₂; with
        ε = δ W₂ᵀ where h > 0 and 0 elsewhere, that of W₁ is xᵀε + l2·W₁; those of the biases are the sums of δ and ε.
        By hand, since autograd cannot run in a fork of a process that has used it on a GPU.

        Args:
            features: A minibatch.
            slopes: The loss' derivatives by the scores of one network, for each sample.
            l2: Weight of the penalty.
        """
        first, _, second, _ = self.parts
        hidden = self._hidden(features)
        outer = torch.stack([slopes(each) for each in self._outputs(hidden)]) / len(features)
        inner = (outer @ second.mT) * (hidden > 0)
        return [
            torch.baddbmm(first, features.T.expand(len(first), -1, -1), inner, beta=l2),
            inner.sum(1, keepdim=True),
            torch.baddbmm(second, hidden.mT, outer, beta=l2),
            outer.sum(1, keepdim=True),
        ]

    def scores(self, features: Features) -> Float[Tensor, "s n c"]:
        """Scores of each network, worked out block by block where the features are."""
        found = [self.to(part.device)(part) for part in blocks(features)]
        return torch.cat(found, 1)

    def to(self, device: torch.device) -> Networks:
        """The same on another device."""
        return Networks(*(part.to(device) for part in self.parts))

    def copy(self) -> Networks:
        """The weights as they are now."""
        return Networks(*(part.clone() for part in self.parts))

    def take(self, i: int, other: Networks) -> None:
        """Replace the weights of one network by those of its like."""
        for part, new in zip(self.parts, other.parts, strict=True):
            part[i] = new[i]


class Adam:
    """Adam (Kingma & Ba, 2015) with its usual β₁ = 0.9, β₂ = 0.999 and ε = 1e-8, on given gradients.

    `torch.optim` does the same, and takes seconds to import the compiler that it is made for.

    Args:
        parts: Tensors that are stepped in place.
        learning_rate: Step size.
    """

    def __init__(self, parts: Sequence[Tensor], learning_rate: float) -> None:
        self.parts, self.learning_rate, self.steps = parts, learning_rate, 0
        self._means = [(torch.zeros_like(part), torch.zeros_like(part)) for part in parts]

    def __call__(self, gradients: Sequence[Tensor]) -> None:
        """Take one step."""
        self.steps += 1
        rate = self.learning_rate / (1 - 0.9**self.steps)
        correction = math.sqrt(1 - 0.999**self.steps)
        for part, gradient, (mean, square) in zip(self.parts, gradients, self._means, strict=True):
            mean.lerp_(gradient, 0.1)
            square.mul_(0.999).addcmul_(gradient, gradient, value=0.001)
            part.addcdiv_(mean, square.sqrt().div_(correction).add_(1e-8), value=-rate)


@final
@dataclass(frozen=True)
class MLP(AbstractAnalysis):
    r"""One hidden layer of rectified units, trained by Adam, stopped and chosen by validation.

    It minimises what the linear head does with one matrix, the mean loss + ½·l2·(‖W₁‖² + ‖W₂‖²), where the loss is the
    cross-entropy of classes or labels, or half the squared error of numbers. Networks of several seeds are trained side
    by side on the same minibatches. Every hundred of them they are tried on validation. Each keeps its best weights, by
    validation error and then loss, and is given up after `patience` trials without better ones. The best network is
    chosen likewise. A network that never has a finite loss there counts as none.

    Besides `error` and `error_difference` of that network it measures what all of them come to, `mean_error_of_seeds`,
    `lowest_error_of_seeds` and `highest_error_of_seeds`, and `steps`, after how many the chosen network's weights were
    taken.

    Attributes:
        width: Hidden units.
        l2: Weight of the penalty.
        learning_rate: Adam's step size.
        batch_size: Samples in a minibatch.
        steps: Minibatches, at most.
        patience: Trials without better weights after which a network is given up.
        seeds: Networks, which differ in their first weights.
    """

    name: ClassVar[str] = "mlp"
    needs_val: ClassVar[bool] = True
    width: int = 128
    l2: float = 1e-3
    learning_rate: float = 1e-3
    batch_size: int = 128
    steps: int = 20_000
    patience: int = 10
    seeds: int = 3

    def __post_init__(self) -> None:
        """Refuse what cannot be trained.

        Raises:
            ValueError: Naming it.
        """
        for name in ("width", "batch_size", "steps", "patience", "seeds"):
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` of `mlp` is {getattr(self, name)}. Give a number of at least 1.")
        if self.l2 < 0 or self.learning_rate <= 0:
            raise ValueError(
                f"`l2` of `mlp` is {self.l2} and `learning_rate` is {self.learning_rate}. Give an l2 of at least 0 and "
                "a positive learning rate."
            )

    def check(self, task: AbstractTask) -> None:
        """Take every task."""

    def fit(self, layer: LayerData) -> Reading:
        """See `AbstractAnalysis.fit`."""
        with threads_for(6.0 * self.batch_size * layer.train.shape[1] * self.width * self.seeds):
            networks, figures, steps = self.trained(layer)
        trained = [i for i, (_, loss) in enumerate(figures) if math.isfinite(loss)]
        if not trained:
            raise ArithmeticError("no network has a finite loss on validation; lower its learning_rate")
        best = min(trained, key=lambda i: figures[i])

        def read(test_sets: Mapping[str, TestSet]) -> Iterable[Metric]:
            for name, test in test_sets.items():
                scores = networks.scores(test.features)
                yield from compared(scores[best], layer, name, test)
                targets = test.targets.to(scores.device)
                errors = [layer.task.error(scores[i], targets) for i in trained]
                yield Metric("mean_error_of_seeds", sum(errors) / len(errors), test_set=name)
                yield Metric("lowest_error_of_seeds", min(errors), test_set=name)
                yield Metric("highest_error_of_seeds", max(errors), test_set=name)
            yield Metric("steps", float(steps[best]))

        return read

    def trained(self, layer: LayerData) -> tuple[Networks, list[tuple[float, float]], list[int]]:
        """Train all networks.

        Args:
            layer: The layer, with a validation split.

        Returns:
            The best weights of each, their error and loss on validation, and after how many steps they were there.
        """
        assert layer.val is not None
        task, device = layer.task, layer.train.device
        targets, truth = (layer.labels.splits[split].to(device) for split in ("train", "val"))
        draws = torch.Generator().manual_seed(layer.seed)
        shape = (layer.train.shape[1], self.width, len(layer.labels.outputs))
        networks = Networks.drawn(self.seeds, shape, layer.train, draws)
        best, descend = networks.copy(), Adam(networks.parts, self.learning_rate)
        figures, found_at = [(math.inf, math.inf)] * self.seeds, [0] * self.seeds
        going_on = list(range(self.seeds))
        batches = itertools.islice(self._minibatches(len(targets), draws), self.steps)
        for step, rows in enumerate(batches, 1):
            slopes = partial(task.slopes, targets=targets[rows.to(device)])
            descend(networks.gradients(gathered(layer.train, rows), slopes, self.l2))
            if step % _TRIED and step < self.steps:
                continue
            scores = networks.scores(layer.val)
            for i in going_on:
                found = task.error(scores[i], truth), float(task.losses(scores[i], truth).double().mean())
                if math.isfinite(found[1]) and found < figures[i]:
                    figures[i], found_at[i] = found, step
                    best.take(i, networks)
            going_on = [i for i in going_on if step - found_at[i] < self.patience * _TRIED]
            if not going_on:
                break
        return best, figures, found_at

    def _minibatches(self, n: int, draws: torch.Generator) -> Iterator[Int[Tensor, " b"]]:
        while True:
            yield from torch.randperm(n, generator=draws).split(self.batch_size)
