from __future__ import annotations

import numpy as np
import pytest
import torch

from helpers.reference import made
from layerprobe.probing.solvers.spectrum import Spectrum


@pytest.mark.parametrize(("n", "d", "within"), [(300, 12, 1e-5), (300, 300, 1e-5)])
def test_the_pairs_are_those_of_the_gram_matrix(n, d, within):
    features = torch.as_tensor(made(n, d, 3, 0.5)[0])
    found = Spectrum.of(features)
    gram = (features.double().T @ features.double() / n).numpy()
    vectors, values = found.vectors.double().numpy(), found.values.double().numpy()
    scale = np.linalg.norm(gram, 2)
    np.testing.assert_allclose((vectors * values) @ vectors.T, gram, atol=within * scale)
    np.testing.assert_allclose(vectors.T @ vectors, np.eye(len(values)), atol=10 * within)
    assert (found.values >= 0).all()


@pytest.mark.parametrize("in_axes", [False, True])
@pytest.mark.parametrize("distinct", [25, 10])
def test_more_features_than_samples_come_with_coordinates_of_the_same_geometry(in_axes, distinct):
    """Also where samples stand there several times, so that they span less."""
    features = torch.as_tensor(made(25, 100, 3, 0.5)[0])
    features[distinct:] = features[: 25 - distinct].repeat(2, 1)[: 25 - distinct]
    found = Spectrum.of(features)
    if in_axes:
        assert found.values is None and found.in_axes is found.in_axes
        found = found.in_axes
        assert found.in_axes is found
        squares = found.span.coordinates.square().mean(0)
        np.testing.assert_allclose(squares, found.values, atol=1e-5 * float(squares.max()))
        cosines = found.span.coordinates.T @ found.span.coordinates / 25 - torch.diag(squares)
        assert float(cosines.abs().max()) < 1e-5 * float(squares.max())
    coordinates = found.span.coordinates
    assert coordinates.shape[0] == 25
    np.testing.assert_allclose(coordinates @ coordinates.T, features.double() @ features.double().T, atol=1e-4)
    # Heads of samples, since where samples span less a head may have a part that no sample tells of.
    shares = torch.randn(2, 3, 25, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    heads = shares @ coordinates
    back = found.span.back(heads, features)
    np.testing.assert_allclose(back, shares @ features.double(), atol=1e-4)
    np.testing.assert_allclose(features.double() @ back[1].T, coordinates @ heads[1].T, atol=1e-3)
    np.testing.assert_allclose(back.square().sum(), heads.square().sum(), rtol=1e-5)
    np.testing.assert_allclose(
        coordinates @ found.span.along(back, features)[0].T, features.double() @ back[0].T, atol=1e-3
    )


@pytest.mark.parametrize(("n", "d"), [(30, 5), (5, 30)])
def test_features_that_are_all_zero(n, d):
    values = Spectrum.of(torch.zeros(n, d)).in_axes.values
    assert values is not None and (values < 1e-30).all()


@pytest.mark.parametrize(("n", "d"), [(30, 5), (5, 30)])
def test_features_that_are_not_finite_give_values_that_are_not(n, d):
    features = torch.ones(n, d)
    features[1, 1] = torch.inf
    found = Spectrum.of(features)
    assert not found.finite and torch.isnan(found.in_axes.values).all()


@pytest.mark.parametrize("n", [400, 60])
def test_the_axes_of_a_sample_of_the_rows_are_those_of_all(n):
    generator = torch.Generator().manual_seed(0)
    mixing = torch.randn(8, 50, generator=generator)
    features = torch.randn(n, 8, generator=generator) @ mixing + 0.3 * torch.randn(n, 50, generator=generator)
    found = Spectrum.of_sample(features)
    axes = found.vectors.double()
    np.testing.assert_allclose(axes.T @ axes, np.eye(axes.shape[1]), atol=2e-3)
    gram = features.double().T @ features.double() / n
    np.testing.assert_allclose(found.values[-1], (axes.T @ gram @ axes).diagonal()[-1], rtol=0.5)
    leading = np.linalg.eigh(gram.numpy())[1][:, -8:]
    assert np.linalg.norm(axes.T.numpy() @ leading) ** 2 > 7.5, "the leading directions are among the axes"
    assert 0 < found.rest < 10 * 0.3**2


@pytest.mark.parametrize("nan", [False, True])
def test_where_single_precision_does_not_converge_double_does(monkeypatch, nan):
    """LAPACK gives up on some matrices of rounding noise; which ones depends on the machine."""
    features = torch.as_tensor(made(60, 8, 3, 0.5)[0])
    expected, eigh = Spectrum.of(features), torch.linalg.eigh

    def gives_up(matrix):
        if matrix.dtype == torch.float32:
            if nan:  # seen of a layer with 61 constant features among 128
                return torch.full_like(matrix[0], torch.nan), torch.full_like(matrix, torch.nan)
            raise torch.linalg.LinAlgError("failed to converge")
        return eigh(matrix)

    monkeypatch.setattr(torch.linalg, "eigh", gives_up)
    found = Spectrum.of(features)
    assert found.values.dtype == found.vectors.dtype == torch.float32
    torch.testing.assert_close(found.values, expected.values, rtol=1e-4, atol=1e-6)
