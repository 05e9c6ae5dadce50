"""Streamed moments: those of least squares add up while the samples pass by, and no training feature is kept."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from jaxtyping import Float, Shaped
from torch import Tensor

from layerprobe.probing.features.cache import AbstractSink, FeatureCache, Key, Splits
from layerprobe.probing.solvers.moments import ClassSums
from layerprobe.probing.solvers.spectrum import LARGEST
from layerprobe.types import LayerName


class TrainingMoments(AbstractSink):
    """Keeps the moments of the training split in place of its features, and the features of the other splits.

    What is kept of train grows with the square of the features and not with the samples: 8·d² bytes for a layer of d
    features, and as many for each class where classes are weighted. The sums are those of one pass, the same that every
    other probe makes.

    Raises:
        ValueError: Where its matrix of features by features would be too large to decompose.
    """

    def __init__(self, cache: FeatureCache, widest: int, *, weighted: bool = False) -> None:
        if widest > LARGEST:
            raise ValueError(
                f"Streaming ridge keeps a matrix of features by features, {widest} x {widest} here; it is made for at "
                f"most {LARGEST} features. Reduce the layers further, or set stream=false: features that do not fit "
                "into `max_memory` are then kept on disk."
            )
        self.cache, self.problems = cache, cache.problems
        self._weighted = weighted
        self._sums: dict[Key, ClassSums] = {}

    def append(self, key: Key, features: Float[Tensor, "k d"], targets: Shaped[Tensor, "k ..."]) -> None:
        """See `AbstractSink.append`."""
        if key[1] == "train":
            self._sums.setdefault(key, ClassSums(weighted=self._weighted)).update(features, targets)
        else:
            self.cache.append(key, features, targets)

    def drop(self, layer: LayerName) -> None:
        """See `AbstractSink.drop`."""
        self.cache.drop(layer)
        self._forget(layer)

    def give_way(self) -> bool:
        """See `AbstractSink.give_way`; moments stay."""
        return self.cache.give_way()

    @contextmanager
    def layer(self, name: LayerName) -> Iterator[Splits]:
        """See `AbstractSink.layer`; what is handed over of train is the sums."""
        with self.cache.layer(name) as splits:
            try:
                yield {**splits, "train": lambda reduction: self._sums[name, "train", reduction.description]}
            finally:
                self._forget(name)

    def _forget(self, layer: LayerName) -> None:
        for key in [key for key in self._sums if key[0] == layer]:
            del self._sums[key]
