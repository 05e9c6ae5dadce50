"""Signatures are checked while the tests run, with and without shapes."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from beartype import beartype
from jaxtyping import TypeCheckError, jaxtyped

from layerprobe.probing.capture.content_hash import content_hash
from layerprobe.probing.metrics.classification import f1_score
from layerprobe.probing.solvers.scikit_learn_c import ScikitLearnC
from layerprobe.results.run_summary import RunSummary
from layerprobe.statistics.intervals import wilson_interval


def test_axes_of_one_name_have_one_size() -> None:
    two, three = torch.tensor([0, 1]), torch.tensor([0, 1, 1])
    assert f1_score(two, two, 2) == 1.0
    with pytest.raises(TypeCheckError):
        f1_score(two, three, 2)


def test_a_signature_without_shapes_is_checked_too() -> None:
    assert wilson_interval(1, 2)[0] > 0
    with pytest.raises(TypeCheckError):
        wilson_interval("1", 2)  # type: ignore[arg-type]


def test_so_is_what_is_made_of_a_dataclass_and_what_a_method_takes() -> None:
    with pytest.raises(TypeCheckError):
        RunSummary(3, [])  # type: ignore[arg-type]
    with pytest.raises(TypeCheckError):
        ScikitLearnC().l2("10", 2)  # type: ignore[arg-type]


def test_what_is_inside_another_function_is_like_the_first_of_its_code() -> None:
    def made() -> Callable[[int], int]:
        @jaxtyped(typechecker=beartype)
        def doubled(value: int) -> int:
            return 2 * value

        return doubled

    first, second = made(), made()
    assert content_hash(first) == content_hash(second)
    for function in (first, second):
        assert function(3) == 6
        with pytest.raises(TypeCheckError):
            function("3")  # type: ignore[arg-type]
