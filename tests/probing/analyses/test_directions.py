"""Directions of heads, and features without them, against NumPy, SciPy and scikit-learn."""

from __future__ import annotations

from typing import Any

import concept_erasure
import numpy as np
import pandas as pd
import pytest
import torch
from scipy.linalg import subspace_angles
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn

import layerprobe
from helpers.small_memory import probed_with
from layerprobe.probing.analyses import erasers
from layerprobe.probing.analyses.erasers import fit_eraser
from layerprobe.probing.analyses.stability import Stability
from layerprobe.probing.features.row_blocks import JoinedRows
from layerprobe.probing.protocol import ProbeProtocol
from layerprobe.probing.tasks.classification import Classification

Pairs = dict[str, tuple[Tensor, Tensor]]


def made(classes: int, d: int = 12, seed: int = 0) -> Pairs:
    """Gaussian classes with one strongly uneven covariance, and more of the first class than of the others."""
    random = np.random.default_rng(seed)
    means, mix = random.normal(size=(classes, d)), random.normal(size=(d, d)) * np.logspace(-1, 1, d)
    share = np.array([2.0] + [1.0] * (classes - 1))
    data = {}
    for split, n in (("train", 300), ("val", 100), ("test", 200)):
        y = random.choice(classes, n, p=share / share.sum())
        x = 2 * means[y] + random.normal(size=(n, d)) @ mix + 3
        data[split] = (torch.tensor(x, dtype=torch.float32), torch.tensor(y))
    return data


def asked(data: Pairs, analyses: object, **options: object) -> tuple[layerprobe.ProbeResults, pd.Series]:
    results = layerprobe.probe(nn.Identity(), data, analyses=analyses, layers="input", progress=False, **options)
    assert results.layers[0].record.message == ""
    found = results.metrics
    return results, found[found["metric"] != "seconds"].set_index("metric")


@pytest.mark.parametrize("standardise", [True, False])
def test_the_mean_difference_of_two_classes_is_numpys(standardise: bool) -> None:
    data = made(2)
    results, found = asked(data, "mean_difference", standardise=standardise, l2=[1e-2])
    x, y = (part.double().numpy() for part in data["train"])
    difference = x[y == 1].mean(0) - x[y == 0].mean(0)
    fitted = results.heads["input"].direction
    cosine = difference @ fitted / np.linalg.norm(difference) / np.linalg.norm(fitted)
    assert found.loc["cosine", "value"] == pytest.approx(cosine, abs=1e-6)
    assert found.loc["angle", "value"] == pytest.approx(np.degrees(np.arccos(abs(cosine))), abs=1e-4)
    assert found.loc["score_cosine", "value"] == pytest.approx(np.corrcoef(x @ difference, x @ fitted)[0, 1], abs=1e-6)
    assert found.loc["random_angle", "low"] < found.loc["random_angle", "value"] < found.loc["random_angle", "high"]
    assert set(found["head"]) == {"mean_difference"}
    assert set(found["test_set"]) == {""}


def test_the_mean_differences_of_several_classes_are_scipys() -> None:
    data = made(4)
    results, found = asked(data, "mean_difference")
    x, y = (part.double().numpy() for part in data["train"])
    differences = np.stack([x[y == i].mean(0) - x[y == 0].mean(0) for i in (1, 2, 3)])
    fitted = results.heads["input"].direction[:3]
    for name, one, other in (
        ("angle", differences.T, fitted.T),
        ("score_angle", (x - x.mean(0)) @ differences.T, (x - x.mean(0)) @ fitted.T),
    ):
        squared = np.mean(np.cos(subspace_angles(one, other)) ** 2)
        assert np.cos(np.radians(found.loc[name, "value"])) ** 2 == pytest.approx(squared, abs=1e-5)
    assert "cosine" not in found.index


def test_stability_is_the_angle_between_fits_to_two_halves() -> None:
    data = made(2)
    _, found = asked(data, layerprobe.Stability(divisions=1), l2=[1e-1], standardise=False)
    x, y = data["train"]
    generator = torch.Generator().manual_seed(0)
    order = torch.randperm(len(y), generator=generator)
    by_class = [order[y[order] == i] for i in (0, 1)]
    sorted_ = torch.cat(by_class)
    lines = []
    for half in (sorted_[::2], sorted_[1::2]):
        # Two scores with ½·l2·‖W‖² each have the difference w with ¼·l2·‖w‖².
        model = LogisticRegression(C=1 / (0.05 * len(half)), tol=1e-10, max_iter=5000).fit(x[half].double(), y[half])
        lines.append(model.coef_[0])
    cosine = lines[0] @ lines[1] / np.linalg.norm(lines[0]) / np.linalg.norm(lines[1])
    assert found.loc["cosine", "value"] == pytest.approx(cosine, abs=2e-4)
    assert found.loc["angle", "n_train"] == 150
    for i in (0, 1):
        assert abs(int((y[sorted_[::2]] == i).sum()) - int((y[sorted_[1::2]] == i).sum())) <= 1


def test_stability_over_several_divisions_has_an_interval_and_a_seed() -> None:
    data = made(3)
    _, one = asked(data, layerprobe.Stability(divisions=3), l2=[1e-2])
    _, again = asked(data, "stability", l2=[1e-2], seed=0)
    assert one.loc["angle", "low"] < one.loc["angle", "value"] < one.loc["angle", "high"]
    _, same = asked(data, layerprobe.Stability(divisions=3), l2=[1e-2])
    pd.testing.assert_frame_equal(one, same)
    assert again.loc["angle", "value"] != one.loc["angle", "value"]
    with pytest.raises(ValueError, match="`divisions` must be at least 1"):
        layerprobe.Stability(0)


def test_halves_of_features_on_disk_are_read_in_blocks(layer_data: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    class Kept(JoinedRows):
        def __getitem__(self, rows: slice) -> Tensor:
            read.append(len(range(*rows.indices(len(self)))))
            return super().__getitem__(rows)

    read: list[int] = []
    monkeypatch.setattr("layerprobe.probing.features.row_blocks.BLOCK", 240)
    (x, y), val = made(2)["train"], made(2)["val"]
    half = torch.arange(0, 300, 2)
    found = [
        Stability._directions(half, layer_data(Classification(), (features, y), val))
        for features in (x, Kept(x[:100], x[100:]))
    ]
    np.testing.assert_allclose(found[0], found[1], atol=1e-5)
    assert 0 < max(read) <= 20


def test_the_eraser_is_that_of_the_theorem() -> None:
    x, y = made(3)["train"]
    eraser = fit_eraser(x, y)
    wide = x.double().numpy() - x.double().numpy().mean(0)
    z = np.eye(3)[y] - np.eye(3)[y].mean(0)
    values, vectors = np.linalg.eigh(wide.T @ wide / (len(y) - 1))
    whiten, colour = (vectors * values**-0.5) @ vectors.T, (vectors * values**0.5) @ vectors.T
    u = np.linalg.svd(whiten @ wide.T @ z)[0][:, :2]
    np.testing.assert_allclose(eraser.P.numpy(), np.eye(12) - colour @ u @ u.T @ whiten, atol=1e-8)
    exact = {"shrinkage": False, "constrain_cov_trace": False, "svd_tol": 1e-8}
    own = concept_erasure.LeaceEraser.fit(x.double(), torch.eye(3, dtype=torch.float64)[y], **exact)
    torch.testing.assert_close(eraser.P, own.P)
    left = eraser(x.double()).numpy()
    assert np.abs((left - left.mean(0)).T @ z).max() < 1e-8 * np.abs(wide.T @ z).max()
    before = LogisticRegression(C=10, max_iter=5000).fit(wide, y)
    after = LogisticRegression(C=10, max_iter=5000, tol=1e-10, solver="newton-cg").fit(left, y)
    assert before.score(wide, y) > 0.8
    assert np.abs(after.coef_).max() < 1e-6
    assert 1 - after.score(left, y) == 1 - np.mean(y.numpy() == 0)


@pytest.mark.parametrize("several", [False, True])
def test_weights_of_classes_do_not_tie_what_is_erased(several: bool) -> None:
    data = made(3)
    if several:
        data = {split: (x, torch.stack([y == 0, y != 1], 1).long()) for split, (x, y) in data.items()}
    task = (layerprobe.MultiLabel if several else layerprobe.Classification)(class_weight="balanced")
    results, found = asked(data, "erased", task=task, l2=[1e-2, 1e-1])
    assert found.loc["error", "value"] == pytest.approx(results["majority_error"][0])


@pytest.mark.parametrize("wide", [False, True])
def test_erased_features_leave_the_majority(wide: bool) -> None:
    data = made(3, d=400 if wide else 12)  # more features than samples, too
    results, found = asked(data, "erased")
    assert found.loc["error", "value"] == results["majority_error"][0]
    assert found.loc["error", "test_set"] == "test"
    assert found.loc["error", "low"] < found.loc["error", "value"] < found.loc["error", "high"]
    assert results["test_error"][0] < 0.8 * found.loc["error", "value"]
    on_disk = probed_with(1 << 10, nn.Identity(), data, analyses=[layerprobe.Erased()], layers="input").metrics
    pd.testing.assert_frame_equal(on_disk[on_disk["metric"] != "seconds"].set_index("metric"), found)


def test_erased_numbers_are_not_explained_at_all() -> None:
    data = {split: (x, x[:, :2] @ torch.tensor([[1.0, 0.5], [2.0, 1.0]])) for split, (x, _) in made(2).items()}
    results, found = asked(data, "erased", task="regression", solver="ridge")
    assert results["test_error"][0] < 0.01
    assert found.loc["error", "value"] == pytest.approx(results["majority_error"][0], abs=1e-3)


def test_without_the_package_it_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(erasers, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"pip install 'layerprobe\[erasure\]'"):
        ProbeProtocol(analyses=(layerprobe.Erased(),))


def test_the_mean_difference_needs_classes() -> None:
    data = {split: (x, x[:, 0]) for split, (x, _) in made(2).items()}
    with pytest.raises(ValueError, match="`mean_difference` needs classes, found the task regression"):
        layerprobe.probe(nn.Identity(), data, task="regression", solver="ridge", analyses="mean_difference")
