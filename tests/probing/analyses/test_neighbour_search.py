"""Against scikit-learn and all distances at once, whatever the size of the blocks."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.neighbors import KNeighborsClassifier, NearestNeighbors

from layerprobe.probing.analyses.neighbour_search import nearest_neighbours
from layerprobe.probing.features.row_blocks import JoinedRows
from layerprobe.probing.tasks.classification import Classification
from layerprobe.probing.tasks.multi_label import MultiLabel
from layerprobe.probing.tasks.regression import Regression


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
@pytest.mark.parametrize("elements", [100, 3000, 1 << 24])
def test_neighbours_are_scikit_learns(metric, elements):
    draws = torch.Generator().manual_seed(0)
    train, queries = (torch.randn(n, 6, generator=draws, dtype=torch.float64) for n in (230, 90))
    near = nearest_neighbours(train, queries, 40, metric, elements)
    reference = NearestNeighbors(n_neighbors=40, metric=metric, algorithm="brute").fit(train.numpy())
    assert np.array_equal(near.numpy(), reference.kneighbors(queries.numpy(), return_distance=False))


@pytest.mark.parametrize("elements", [50, 700, 1 << 24])
def test_of_equal_distances_the_earlier_sample_is_nearer(elements):
    draws = torch.Generator().manual_seed(0)
    train, queries = (torch.randint(0, 3, (n, 2), generator=draws).double() for n in (200, 60))
    every = (queries[:, None] - train[None]).square().sum(2).sort(dim=1, stable=True).indices
    for k in (1, 7, 150, 200):
        assert torch.equal(nearest_neighbours(train, queries, k, elements=elements), every[:, :k])


def test_rows_that_are_read_as_they_are_needed():
    draws = torch.Generator().manual_seed(0)
    train, queries = (torch.randn(n, 5, generator=draws) for n in (120, 30))
    rows = JoinedRows(train[:50], train[50:])
    assert torch.equal(nearest_neighbours(rows, queries, 9, elements=99), nearest_neighbours(train, queries, 9))


def test_votes_are_scikit_learns_and_ties_go_to_the_nearest():
    draws = torch.Generator().manual_seed(0)
    train, queries = (torch.randn(n, 3, generator=draws, dtype=torch.float64) for n in (300, 200))
    targets = torch.randint(0, 4, (300,), generator=draws)
    for k in range(1, 30):
        near = targets[nearest_neighbours(train, queries, k)]
        scores = Classification().vote(near, 4)
        counts = torch.nn.functional.one_hot(near, 4).sum(1)
        untied = (counts == counts.amax(1, keepdim=True)).sum(1) == 1
        expected = KNeighborsClassifier(k).fit(train.numpy(), targets.numpy()).predict(queries.numpy())
        assert np.array_equal(scores.argmax(1)[untied].numpy(), expected[untied.numpy()])
        for row, answer in zip(near[~untied].tolist(), scores.argmax(1)[~untied].tolist(), strict=True):
            most = max(map(row.count, row))
            assert answer == next(one for one in row if row.count(one) == most)


def test_votes_of_labels_and_numbers():
    near = torch.tensor([[[1, 0], [0, 0]], [[1, 0], [1, 1]]])
    assert (MultiLabel().vote(near, 2) > 0).tolist() == [[True, False], [True, False]]
    numbers = torch.tensor([[[1.0], [4.0]]])
    assert Regression().vote(numbers, 1).tolist() == [[2.5]]
