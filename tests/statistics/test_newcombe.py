from __future__ import annotations

import pytest

from layerprobe.statistics.intervals import newcombe_interval


def test_independent_samples_by_a_published_example() -> None:
    # Newcombe (1998), table II: 56/70 less 48/80, method 10: 0.0524 to 0.3339; 0/10 less 0/10: ±0.2775.
    assert newcombe_interval(48, 80, 56, 70) == pytest.approx((0.0524, 0.3339), abs=1e-4)
    assert newcombe_interval(0, 10, 0, 10) == pytest.approx((-0.2775, 0.2775), abs=1e-4)
