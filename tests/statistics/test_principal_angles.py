"""Principal angles agree with SciPy's, and their reference with random subspaces that are drawn."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.linalg import subspace_angles

from layerprobe.statistics.directions import principal_angles, random_angle, row_space


def squared(angles: np.ndarray | float) -> np.ndarray:
    return np.cos(np.radians(angles)) ** 2


@pytest.mark.parametrize(("k", "m", "d"), [(1, 1, 2), (1, 1, 40), (9, 9, 40), (3, 9, 20), (9, 4, 10), (1, 3, 3)])
def test_angles_are_those_of_scipy(k: int, m: int, d: int) -> None:
    random = np.random.default_rng(0)
    for _ in range(20):
        one, other = random.normal(size=(k, d)), random.normal(size=(m, d))
        found, expected = principal_angles(row_space(one), row_space(other)), subspace_angles(one.T, other.T)
        np.testing.assert_allclose(
            [found.smallest, found.largest], np.degrees([expected.min(), expected.max()]), atol=1e-6
        )
        assert squared(found.angle) == pytest.approx(np.mean(np.cos(expected) ** 2), abs=1e-12)


def test_angles_of_nearly_equal_subspaces_are_not_rounded_away() -> None:
    random = np.random.default_rng(0)
    rows = random.normal(size=(3, 30))
    turned = rows + 1e-9 * random.normal(size=rows.shape)
    found = principal_angles(row_space(rows), row_space(turned))
    assert found.largest == pytest.approx(np.degrees(subspace_angles(rows.T, turned.T).max()), rel=1e-4)
    assert principal_angles(row_space(rows), row_space(2.5 * rows[::-1])).largest < 1e-12
    crossed = np.eye(4)
    assert principal_angles(crossed[:2], crossed[2:]).smallest == 90


def test_a_row_space_counts_no_rounding() -> None:
    rows = np.random.default_rng(0).normal(size=(10, 40)).astype(np.float32)
    assert len(row_space(rows)) == 10
    assert len(row_space(rows.astype(np.float64) - rows.mean(0, dtype=np.float64))) == 9
    assert len(row_space(rows - rows.mean(0))) == 9
    assert len(row_space(np.zeros((3, 5)))) == 0


@pytest.mark.parametrize(("k", "m", "d"), [(1, 1, 2), (1, 1, 64), (9, 9, 64), (3, 9, 20), (9, 9, 10), (6, 6, 8)])
def test_the_reference_is_that_of_drawn_subspaces(k: int, m: int, d: int) -> None:
    random, drawn = np.random.default_rng(0), []
    for _ in range(1500):
        cosines = np.linalg.svd(
            np.linalg.qr(random.normal(size=(d, k)))[0].T @ np.linalg.qr(random.normal(size=(d, m)))[0],
            compute_uv=False,
        )
        drawn.append(np.mean(cosines**2))
    found = random_angle(k, m, d)
    error = np.std(drawn) / np.sqrt(len(drawn))
    assert squared(found.angle) == pytest.approx(np.mean(drawn), abs=4 * error)
    inside = np.mean((squared(found.high) <= drawn) & (drawn <= squared(found.low)))
    assert inside == pytest.approx(0.95, abs=0.02)


def test_subspaces_that_are_everything_have_no_angle() -> None:
    found = random_angle(2, 3, 3)
    assert (found.angle, found.low, found.high) == (0, 0, 0)
