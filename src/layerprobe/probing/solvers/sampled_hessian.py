"""Hessian of multinomial logistic regression from a sample of the rows, for Newton steps that read few of them."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from layerprobe.probing.features.row_blocks import BLOCK, Features, placed_blocks, some_rows
from layerprobe.probing.solvers.lbfgs import Metric
from layerprobe.probing.solvers.softmax_objective import scored

_PRODUCT_ROWS = 256
"""Rows of a sample in one product: thin products of some rows each take two thirds of the time of a long one's."""

_BYTES = 1 << 28
"""What a sample may take: two copies, of which the second is a bound on what there is for a time beside the first (half
of it where the features are of another precision), with three numbers for each class while it is multiplied. A
certificate's scores, of which none is made at the same time, take as much."""

_SHARE, _LEAST = 10, 2048
"""Of how many rows one is taken at first, and how many at least."""

_CACHED = 1 << 20
"""Elements that are squared at a time, which a processor's cache holds: twice as fast as `BLOCK` of them."""

_CLASSES = 64
"""Classes beyond which a sample tells too little of the Hessian: steps lead upwards."""


class SampledHessian:
    r"""The loss's Hessian at a head, estimated from some rows: those whose predictions are in doubt, before all.

    The Hessian is the mean of \(B_i \otimes x_i x_i^\top\) with \(B_i = \mathrm{diag}(p_i) - p_i p_i^\top\), and near
    the optimum of a layer that separates its classes most of it comes from few samples: a fourteenth of them holds nine
    tenths of \(\sum_i \mathrm{tr} B_i\) in a trained network's second convolution. So rows are drawn with a probability
    that is proportional to the trace of their part, \(\mathrm{tr} B_i (1 + \lVert x_i \rVert^2)\), or 1 where that is
    more, and count its inverse: the mean stays what it is (importance sampling for Newton sketches: Xu, Yang,
    Roosta-Khorasani, Ré & Mahoney, 2016).

    Args:
        features: The samples.
        targets: Class indices.
        head: Weights of every class on the features, and, last, biases; in the precision of the products.
        doubts: What the rows are drawn by, see `doubts`: at this head, or at one nearby, which leaves the mean what it
            is.
        size: Rows to draw, about; fewer than there are.
        weights: What a sample of each class counts, of mean 1 over the samples; None where all count the same.
        generator: What draws.
    """

    def __init__(
        self,
        features: Features,
        targets: Int[Tensor, " n"],
        head: Float[Tensor, "c e"],
        doubts: Float[Tensor, " n"],
        size: int,
        weights: Float[Tensor, " c"] | None,
        generator: torch.Generator,
    ) -> None:
        n = len(features)
        chance = inclusion_chances(doubts, size)
        chosen = (torch.rand(n, generator=generator, dtype=torch.float64) < chance).nonzero()[:, 0]
        counts = 1 / (n * chance[chosen].to(head.dtype))
        if weights is not None:
            counts *= weights.to(head.dtype)[targets[chosen]]
        self.size = len(chosen)
        # As many in a product that its results, one for each, take a quarter of the sample at most, where there are
        # two and more.
        blocks = max(1, self.size // max(_PRODUCT_ROWS, 4 * len(head)))
        length = max(1, -(-self.size // blocks))
        # Rows of zeros that count nothing make up whole blocks.
        padding = (0, blocks * length - self.size)
        rows = head.new_zeros(blocks * length, features.shape[1])
        some_rows(features, chosen, rows[: self.size])
        self._rows = rows.view(blocks, length, rows.shape[1])
        self._own = F.pad(targets[chosen], padding).view(blocks, 1, length)
        self._shares = scored(head[:, :-1], head[:, -1:], self._rows).softmax(1)
        self._counts = F.pad(counts, padding).view(blocks, 1, length)

    def __matmul__(self, vector: Float[Tensor, "c e"]) -> Float[Tensor, "c e"]:
        """The Hessian's product with weights and biases of every class."""
        along = scored(vector[:, :-1], vector[:, -1:], self._rows)
        # A shift of all classes changes nothing; this one loses no digit where the own class's share is near 1.
        along -= along.gather(1, self._own)
        along -= (self._shares * along).sum(1, keepdim=True)
        along *= self._shares
        along *= self._counts
        return torch.cat([torch.bmm(along, self._rows).sum(0), along.sum((0, 2))[:, None]], 1)


def square_lengths(features: Features, dtype: torch.dtype) -> Float[Tensor, " n"]:
    """Squared length of each row.

    Args:
        features: The samples.
        dtype: Precision to measure it in.
    """
    found = torch.empty(len(features), dtype=dtype)
    for place, rows in placed_blocks(features, _CACHED):
        found[place] = rows.to(dtype).square().sum(1)
    return found


def doubts(
    features: Features,
    targets: Int[Tensor, " n"],
    head: Float[Tensor, "c e"],
    squares: Float[Tensor, " n"],
    weights: Float[Tensor, " c"] | None,
) -> Float[Tensor, " n"]:
    r"""Trace of each row's part of the Hessian at a head, \(\mathrm{tr} B_i (1 + \lVert x_i \rVert^2)\).

    Args:
        features: The samples.
        targets: Class indices.
        head: As for `SampledHessian`.
        squares: Squared lengths of the rows.
        weights: What a sample of each class counts; None where all count the same.
    """
    found = torch.empty(len(features), dtype=head.dtype)
    for place, rows in placed_blocks(features, BLOCK * features.shape[1] // max(len(head), features.shape[1])):
        found[place] = _traces(_shares(rows.to(head.dtype), head), targets[place])
    found *= 1 + squares
    return found if weights is None else found * weights.to(head.dtype)[targets]


def sample_sizes(n: int, d: int, c: int, itemsize: int = 4) -> tuple[int, int]:
    """How many rows to draw at first, and at most.

    Args:
        n: Samples.
        d: Features.
        c: Classes.
        itemsize: Bytes of a number in the products.
    """
    most = min(n // 4, _BYTES // (itemsize * (2 * d + 3 * c)))
    return min(max(n // _SHARE, _LEAST), most), most


def worth_sampling(n: int, d: int, c: int, itemsize: int = 4) -> bool:
    """Whether a sample is large enough to know the Hessian, and small enough to be cheap.

    Measured: with 50,000 samples it halves the time of a path, with 10,000 whose classes overlap a path takes up to
    half as long again. With 1,000 classes of 2,048 features it takes 16 and 18 evaluations at two values where L-BFGS
    takes 10 and 11, with 100 classes a third longer, and with 400 classes of 24 features it brings nothing.

    Args:
        n: Samples.
        d: Features.
        c: Classes.
        itemsize: Bytes of a number in the products.
    """
    return c <= _CLASSES and _LEAST <= sample_sizes(n, d, c, itemsize)[0] <= n // 8


def solved(
    product: Callable[[Tensor], Tensor],
    precondition: Metric,
    right: Float[Tensor, "m e"],
    enough: float,
    allowed: int,
    seen: Callable[[Float[Tensor, "m e"], Float[Tensor, "m e"]], None] | None = None,
) -> tuple[Float[Tensor, "m e"], int]:
    """Solve a system by preconditioned conjugate gradients.

    Args:
        product: The matrix, applied.
        precondition: An approximation of its inverse, applied to several vectors.
        right: The right-hand side.
        enough: Norm of the residual that is small enough.
        allowed: Products at most.
        seen: Shown each direction, and its product where it is curved.

    Returns:
        The solution, and the products made.
    """
    z = direction = precondition(right[None])[0]
    solution, residual, along = torch.zeros_like(right), right, float((right * z).sum())
    for count in range(1, allowed + 1):
        turned = product(direction)
        curved = float((direction * turned).sum())
        if not (curved > 0 and along > 0):
            return (solution if count > 1 else z), count
        if seen is not None:
            seen(direction, turned)
        solution = solution + along / curved * direction
        residual = residual - along / curved * turned
        if float(residual.norm()) <= enough:
            return solution, count
        z = precondition(residual[None])[0]
        after = float((residual * z).sum())
        direction, along = z + after / along * direction, after
    return solution, allowed


def _shares(rows: Float[Tensor, "k d"], head: Float[Tensor, "c e"]) -> Float[Tensor, "k c"]:
    """Probability of each class."""
    return torch.addmm(head[:, -1], rows, head[:, :-1].T).softmax(1)


def _traces(shares: Float[Tensor, "k c"], own: Int[Tensor, " k"]) -> Float[Tensor, " k"]:
    """1 - Σ p_j², to all digits where the own class's share is near 1."""
    others = shares.scatter(1, own[:, None], 0.0)
    rest = others.sum(1)
    return rest * (2 - rest) - others.square().sum(1)


def inclusion_chances(traces: Float[Tensor, " n"], size: int) -> Float[Tensor, " n"]:
    """Probabilities that are proportional to what is given, at most 1, and sum to a size.

    Args:
        traces: Not negative.
        size: Less than n.
    """
    traces = traces.double().clamp_min(torch.finfo(torch.float64).tiny)
    largest = traces.sort(descending=True).values
    # With the k largest certain, the others share what is left; the least k for which none of them exceeds 1.
    scale = (size - torch.arange(size)) / largest.flip(0).cumsum(0).flip(0)[:size]
    k = min(int((largest[:size] * scale > 1).sum()), size - 1)
    return (traces * scale[k]).clamp_max(1)
