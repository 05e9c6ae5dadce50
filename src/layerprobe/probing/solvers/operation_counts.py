"""What a fit does, counted: the cost of a probe is these counts times what the machine takes for each."""

from __future__ import annotations

from dataclasses import dataclass, fields


@dataclass(frozen=True)
class Operations:
    """Counts of the kinds of work that fits are made of, or seconds for one of each.

    A kind is what runs at one speed: a product with few columns and a square one differ by an order of magnitude.

    Attributes:
        fits: Paths that are begun, for what a GPU records of them once.
        steps: Steps of an iteration, for what they cost however few the samples.
        thin: Samples × features × columns of two products with few columns, there and back, in the features' precision.
        thin_double: Likewise in float64.
        scores: Samples × columns that a softmax, its loss and its residual are worked out for.
        scores_double: Likewise in float64, with what a certificate adds.
        square: Samples × features² of a product of the features with themselves, in the features' precision.
        square_double: Likewise in float64.
        eigen: Features³ of an eigendecomposition, in the features' precision.
        eigen_double: Likewise in float64.
        elements: Features that are read, standardised and written.
        reads: Features that are read from disk, where they are kept there.
        writes: Features that are written to disk, where they are kept there.
    """

    fits: int | float = 0
    steps: int | float = 0
    thin: int | float = 0
    thin_double: int | float = 0
    scores: int | float = 0
    scores_double: int | float = 0
    square: int | float = 0
    square_double: int | float = 0
    eigen: int | float = 0
    eigen_double: int | float = 0
    elements: int | float = 0
    reads: int | float = 0
    writes: int | float = 0

    def __add__(self, other: Operations) -> Operations:
        """Both, one after the other."""
        return Operations(**{f.name: getattr(self, f.name) + getattr(other, f.name) for f in fields(self)})

    def __mul__(self, times: int | float) -> Operations:
        """The same several times."""
        return Operations(**{f.name: times * getattr(self, f.name) for f in fields(self)})

    def dot(self, each: Operations) -> float:
        """Counts times seconds: the time that it all takes."""
        return float(sum(getattr(self, f.name) * getattr(each, f.name) for f in fields(self)))
