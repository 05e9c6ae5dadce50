from __future__ import annotations

from math import nan

import pytest

from layerprobe.probing.selection import Candidate, select


@pytest.mark.parametrize(
    ("candidates", "expected"),
    [
        ([Candidate(0.2, 1.0, 1.0), Candidate(0.1, 9.0, 1.0)], 1),
        ([Candidate(0.1, 1.0, 1.0), Candidate(0.1, 0.5, 0.1)], 1),
        ([Candidate(0.1, 0.5, 0.1), Candidate(0.1, 0.5, 1.0)], 1),
        ([Candidate(0.1, 0.5, 1.0), Candidate(0.1, 0.5, 1.0)], 0),
        ([Candidate(nan, 0.1, 1.0), Candidate(0.9, 9.0, 1.0)], 1),
        ([Candidate(0.1, nan, 1.0), Candidate(0.1, 9.0, 0.1)], 1),
        ([Candidate(nan, nan, 1.0)], None),
        ([], None),
    ],
)
def test_error_then_loss_then_larger_l2(candidates: list[Candidate], expected: int | None) -> None:
    assert select(candidates) == expected
