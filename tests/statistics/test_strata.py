"""A stratified order has the classes in their shares wherever it is cut."""

from __future__ import annotations

import numpy as np
import pytest

from layerprobe.statistics.strata import stratified_order


@pytest.mark.parametrize("counts", [(1,), (7, 7), (1, 50, 9), (3, 400, 20, 77)])
def test_every_part_has_the_classes_in_their_shares(counts: tuple[int, ...]) -> None:
    random, n = np.random.default_rng(0), sum(counts)
    samples = np.split(random.permutation(n), np.cumsum(counts)[:-1])
    order = stratified_order(n, [(some, random.random()) for some in samples])
    assert sorted(order) == list(range(n))
    seen = np.cumsum([np.isin(order, some) for some in samples], axis=1)
    expected = np.outer(counts, np.arange(1, n + 1)) / n
    assert abs(seen - expected).max() < len(counts)
    for some in samples:  # whose own order stays
        assert [i for i in order if i in set(some)] == list(some)
