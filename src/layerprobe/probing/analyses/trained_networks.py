"""Networks that analyses train: a step of each of several seeds by hand, stopped and chosen by validation."""

from __future__ import annotations

import copy
import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import partial
from typing import ClassVar, TypeAlias, TypeVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from layerprobe.probing.analyses.analysis import LayerData, Metric, TestSet
from layerprobe.probing.analyses.reference_predictor import AbstractReference, FittedReading, Train, compared
from layerprobe.probing.features.row_blocks import Features, blocks, gathered
from layerprobe.probing.solvers.threads import threads_for
from layerprobe.probing.tasks.task import AbstractTask

TRIED = 100
"""Minibatches from one look at validation to the next."""

Slopes: TypeAlias = Callable[[Tensor], Tensor]
Self = TypeVar("Self", bound="AbstractNetworks")


class AbstractNetworks(ABC):
    """Networks of one architecture and several seeds, side by side.

    Args:
        parts: Their weights, seeds first.
    """

    def __init__(self, *parts: Float[Tensor, "s _ _"]) -> None:
        self.parts = parts

    @abstractmethod
    def __call__(self, features: Float[Tensor, "n d"]) -> Float[Tensor, "s n c"]:
        """Score samples with each network."""

    @abstractmethod
    def gradients(self, features: Float[Tensor, "n d"], slopes: Slopes, l2: float) -> list[Float[Tensor, "s _ _"]]:
        """Compute the gradients of mean loss + ½·l2·(squares of all weights but biases), in the order of the parts.

        By hand, since autograd cannot run in a fork of a process that has used it on a GPU. `slopes` are the loss'
        derivatives by the scores of one network, for each sample.
        """

    def scores(self, features: Features) -> Float[Tensor, "s n c"]:
        """Score samples with each network, block by block where the features are."""
        found = [self.to(part.device)(part) for part in blocks(features)]
        return torch.cat(found, 1)

    def to(self: Self, device: torch.device) -> Self:
        """Return the same on another device."""
        return self._with([part.to(device) for part in self.parts])

    def copy(self: Self) -> Self:
        """Return the weights as they are now."""
        return self._with([part.clone() for part in self.parts])

    def take(self, i: int, other: AbstractNetworks) -> None:
        """Replace the weights of one network by those of its like."""
        for part, new in zip(self.parts, other.parts, strict=True):
            part[i] = new[i]

    def _with(self: Self, parts: Sequence[Tensor]) -> Self:
        found = copy.copy(self)
        found.parts = tuple(parts)
        return found


class Adam:
    """Adam (Kingma & Ba, 2015) with its usual β₁ = 0.9, β₂ = 0.999 and ε = 1e-8, on given gradients.

    It steps the parts in place. `torch.optim` does the same, and takes seconds to import the compiler that it is made
    for.
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


@dataclass(frozen=True)
class AbstractTrained(AbstractReference):
    r"""A network that is trained by Adam, stopped and chosen by validation.

    It minimises what the linear head does with one matrix, the mean loss + ½·l2·(sum of squared weights), where the
    loss is the cross-entropy of classes or labels, or half the squared error of numbers. Networks of several seeds are
    trained side by side on the same minibatches. Every hundred of them they are tried on validation. Each keeps its
    best weights, by validation error and then loss, and is given up after `patience` trials without better ones. The
    best network is chosen likewise. A network that never has a finite loss there counts as none.

    Besides `error` and `error_difference` of that network it measures what all of them come to, `mean_error_of_seeds`,
    `lowest_error_of_seeds` and `highest_error_of_seeds`, and `steps`, after how many the chosen network's weights were
    taken.

    Attributes:
        l2: Weight of the penalty.
        learning_rate: Adam's step size.
        batch_size: Samples in a minibatch.
        steps: Minibatches, at most.
        patience: Trials without better weights after which a network is given up.
        seeds: Networks, which differ in their first weights.
    """

    needs_val: ClassVar[bool] = True
    networks: ClassVar[type[AbstractNetworks]]
    """What is trained."""
    at_least: ClassVar[Mapping[str, int]] = {}
    """The least of a whole number, by attribute, where that is not 1."""
    l2: float = 1e-3
    learning_rate: float = 1e-3
    batch_size: int = 128
    steps: int = 20_000
    patience: int = 10
    seeds: int = 3

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            least = self.at_least.get(field.name, 1)
            if isinstance(field.default, int) and value < least:
                raise ValueError(f"`{field.name}` of `{self.name}` is {value}. Give a number of at least {least}.")
        if self.l2 < 0 or self.learning_rate <= 0:
            raise ValueError(
                f"`l2` of `{self.name}` is {self.l2} and `learning_rate` is {self.learning_rate}. Give an l2 of at "
                "least 0 and a positive learning rate."
            )

    @abstractmethod
    def drawn(self, layer: LayerData, draws: torch.Generator) -> AbstractNetworks:
        """Draw the first weights of each seed; `draws` is a generator on the CPU, whatever the device."""

    @abstractmethod
    def operations(self, layer: LayerData) -> float:
        """Count the floating-point operations of a step, about."""

    def fit(self, layer: LayerData) -> FittedReading:
        """See `AbstractAnalysis.fit`."""
        with threads_for(self.operations(layer)):
            networks, figures, steps = self.trained(layer)
        trained = [i for i, (_, loss) in enumerate(figures) if math.isfinite(loss)]
        if not trained:
            raise ArithmeticError("no network has a finite loss on validation; lower its learning_rate")
        best = min(trained, key=lambda i: figures[i])
        # Each by itself: side by side, the chosen one's scores would not be bit for bit those that it gives alone.
        each = {i: {str(place): part[i : i + 1] for place, part in enumerate(networks.parts)} for i in trained}

        def read(test_sets: Mapping[str, TestSet]) -> Iterable[Metric]:
            for name, test in test_sets.items():
                features = test.features if test.positions is None else test.positions
                scores = {i: self.scores(parts, features, layer.task) for i, parts in each.items()}
                yield from compared(scores[best], layer, name, test)
                targets = test.targets.to(scores[best].device)
                errors = [layer.task.error(found, targets) for found in scores.values()]
                yield Metric("mean_error_of_seeds", sum(errors) / len(errors), test_set=name)
                yield Metric("lowest_error_of_seeds", min(errors), test_set=name)
                yield Metric("highest_error_of_seeds", max(errors), test_set=name)
            yield Metric("steps", float(steps[best]))

        return FittedReading(each[best], read)

    @classmethod
    def scores(
        cls, parts: Mapping[str, Tensor], features: Features, task: AbstractTask, train: Train = None
    ) -> Float[Tensor, "n c"]:
        """See `AbstractReference.scores`."""
        return cls.networks(*(parts[str(place)] for place in range(len(parts)))).scores(features)[0]

    def trained(self, layer: LayerData) -> tuple[AbstractNetworks, list[tuple[float, float]], list[int]]:
        """Train all networks.

        Returns:
            The best weights of each, their error and loss on validation, and after how many steps they were there.
        """
        source = layer.positions or layer
        train, val = source.train, source.val
        assert val is not None
        task, device = layer.task, train.device
        targets, truth = (layer.labels.splits[split].to(device) for split in ("train", "val"))
        draws = torch.Generator().manual_seed(layer.seed)
        networks = self.drawn(layer, draws)
        best, descend = networks.copy(), Adam(networks.parts, self.learning_rate)
        figures, found_at = [(math.inf, math.inf)] * self.seeds, [0] * self.seeds
        going_on = list(range(self.seeds))
        batches = itertools.islice(self._minibatches(len(targets), draws), self.steps)
        for step, rows in enumerate(batches, 1):
            slopes = partial(task.slopes, targets=targets[rows.to(device)])
            descend(networks.gradients(gathered(train, rows), slopes, self.l2))
            if step % TRIED and step < self.steps:
                continue
            scores = networks.scores(val)
            for i in going_on:
                found = task.error(scores[i], truth), float(task.losses(scores[i], truth).double().mean())
                if math.isfinite(found[1]) and found < figures[i]:
                    figures[i], found_at[i] = found, step
                    best.take(i, networks)
            going_on = [i for i in going_on if step - found_at[i] < self.patience * TRIED]
            if not going_on:
                break
        return best, figures, found_at

    def _minibatches(self, n: int, draws: torch.Generator) -> Iterator[Int[Tensor, " b"]]:
        while True:
            yield from torch.randperm(n, generator=draws).split(self.batch_size)
