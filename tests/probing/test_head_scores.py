from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.special import softmax
from sklearn import metrics as sk
from sklearn.datasets import load_digits
from torch import Tensor, nn

import layerprobe
from layerprobe.probing.tasks.multi_label import MultiLabel
from layerprobe.probing.tasks.regression import Regression
from layerprobe.results.arrow_tables import DamagedTableError
from layerprobe.results.merge import merge_results
from layerprobe.results.reader import Run

L2 = [1e-3, 1e-1]


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 12), nn.ReLU())


def digits(n: int = 600) -> tuple[Tensor, Tensor]:
    x, y = load_digits(return_X_y=True)
    return torch.tensor(x[:n] / 16).float(), torch.tensor(y[:n])


def splits() -> dict[str, tuple[Tensor, Tensor]]:
    x, y = digits()
    return {split: (x[i::3], y[i::3]) for i, split in enumerate(("train", "val", "test"))}


def test_metrics_are_those_of_scores_made_from_the_saved_weights() -> None:
    data = splits()
    results = layerprobe.probe(network(), data, l2=L2, metrics="all", scores=True)
    x, truth = data["test"][0].numpy().astype(np.float64), data["test"][1].numpy()
    first = network()[0]
    z = x @ first.weight.detach().double().numpy().T + first.bias.detach().double().numpy()
    for layer, features in (("input", x), ("0", z)):
        arrays = next(one.head for one in results.layers if one.record.layer == layer)
        standardised = (features - arrays["mean"]) / arrays["scale"]
        scores = standardised @ arrays["weight"].astype(np.float64).T + arrays["bias"]
        kept = results.scores(layer)
        np.testing.assert_allclose(kept.filter(like="score_").to_numpy(), scores, atol=1e-4)
        assert kept["predicted"].tolist() == arrays["classes"][scores.argmax(1)].tolist()
        rows = results.metrics[(results.metrics["layer"] == layer) & (results.metrics["head"] == "selected")]
        found = rows.set_index("metric")["value"]
        p = softmax(scores, 1)
        assert found["balanced_accuracy"] == pytest.approx(sk.balanced_accuracy_score(truth, scores.argmax(1)))
        assert found["auc"] == pytest.approx(sk.roc_auc_score(truth, p, multi_class="ovr"), abs=1e-3)
        assert found["brier"] == pytest.approx(np.square(p - np.eye(10)[truth]).sum(1).mean(), abs=1e-4)
        assert set(rows["test_set"]) == {"test"}
        inside = rows["low"].isna() | ((rows["low"] <= rows["value"]) & (rows["value"] <= rows["high"]))
        assert inside.all()
        assert (1 - found["balanced_accuracy"]) == pytest.approx(
            results.loc[results["layer"] == layer, "test_error"].item(), abs=0.05
        )


def test_records_are_the_same_with_and_without() -> None:
    plain, more = (
        layerprobe.probe(network(), splits(), l2=L2, **kw) for kw in ({}, {"metrics": ["brier"], "scores": True})
    )
    assert plain.metrics.empty
    pd.testing.assert_frame_equal(
        pd.DataFrame(plain).drop(columns="seconds"), pd.DataFrame(more).drop(columns="seconds")
    )


def test_scores_come_back_from_files(tmp_path: Path) -> None:
    x, y = digits(300)
    words = np.array(["even", "odd"])[y.numpy() % 2]
    results = layerprobe.probe(network(), (x, words), l2=L2, scores=True, metrics=["macro_f1"])
    kept = results.scores("0")
    assert set(kept["target"]) == {"even", "odd"}
    assert kept.index.get_level_values("sample").tolist() == results.correct.index.tolist()
    assert ((kept["target"] == kept["predicted"]).to_numpy() == results.correct["0"].to_numpy()).all()
    results.save(tmp_path / "a" / "probes")
    back = layerprobe.load(tmp_path / "a")
    for layer in ("input", "0"):
        pd.testing.assert_frame_equal(back.scores(layer), results.scores(layer))
        pd.testing.assert_frame_equal(back.confusion(layer), results.confusion(layer))
        assert back.heads[layer].wrong.tolist() == results.heads[layer].wrong.tolist()
    pd.testing.assert_frame_equal(back.metrics, results.metrics)
    pd.testing.assert_frame_equal(Run.read(tmp_path / "a").scores("network", "0"), kept)
    back.save(tmp_path / "a" / "probes", overwrite=True)
    merge_results([tmp_path / "a" / "probes"], tmp_path / "b" / "probes")
    pd.testing.assert_frame_equal(layerprobe.load(tmp_path / "b").scores("0"), kept)
    file = next((tmp_path / "b").rglob("scores/*/*_input.parquet"))
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(DamagedTableError, match="move it away"):
        Run.read(tmp_path / "b").scores("network", "input")
    layerprobe.probe(network(), (x, words), l2=L2).save(tmp_path / "a" / "probes", overwrite=True)
    with pytest.raises(ValueError, match="Probe with scores=True"):
        layerprobe.load(tmp_path / "a").scores("0")
    with pytest.raises(KeyError, match=r"probe\.scores=true"):
        Run.read(tmp_path / "a").scores("network", "0")


def test_confusion_counts_samples() -> None:
    data = splits()
    results = layerprobe.probe(network(), data, l2=L2, scores=True)
    counts, kept = results.confusion("0"), results.scores("0")
    np.testing.assert_array_equal(counts.to_numpy(), sk.confusion_matrix(kept["target"], kept["predicted"]))
    assert counts.loc[3].sum() == int((data["test"][1] == 3).sum())
    assert np.trace(counts.to_numpy()) == results.correct["0"].sum()
    with pytest.raises(KeyError, match="no test set 'shifted'"):
        results.confusion("0", "shifted")
    unseen = {**data, "train": tuple(part[data["train"][1] != 3] for part in data["train"])}
    counts = layerprobe.probe(network(), unseen, l2=L2, scores=True).confusion("0")
    assert counts.index.tolist() == [0, 1, 2, 4, 5, 6, 7, 8, 9, 3]
    assert counts[3].sum() == 0


def test_labels_and_numbers_are_kept_in_their_terms() -> None:
    data = splits()
    labels = {s: (x, torch.stack([y % 2, (y > 4).long()], 1)) for s, (x, y) in data.items()}
    results = layerprobe.probe(network(), labels, l2=L2, task=MultiLabel(), scores=True, metrics="all")
    kept = results.scores("0")
    assert list(kept) == ["target_0", "target_1", "predicted_0", "predicted_1", "score_0", "score_1"]
    right = (kept[["target_0", "target_1"]].to_numpy() == kept[["predicted_0", "predicted_1"]].to_numpy()).all(1)
    assert right.tolist() == results.correct["0"].tolist()
    assert len(results.metrics) == 8 * len(results)
    with pytest.raises(ValueError, match="one of classes"):
        results.confusion("0")
    numbers = {s: (x, 3.0 * y + 100) for s, (x, y) in data.items()}
    results = layerprobe.probe(network(), numbers, l2=L2, task=Regression(), scores=True)
    kept = results.scores("0")
    error = np.square(kept["target_0"] - kept["score_0"]).mean() / kept["target_0"].var(ddof=0)
    assert error == pytest.approx(results.loc[results["layer"] == "0", "test_error"].item(), rel=1e-3)


@dataclass
class Named:
    """Batches of (inputs, targets, ids)."""

    ids: Any

    def batches(self) -> dict[str, Any]:
        def of(split: str, x: Tensor, y: Tensor) -> list[Any]:
            return [(x[i : i + 50], y[i : i + 50], self.ids(split, i, len(x[i : i + 50]))) for i in range(0, 200, 50)]

        return {split: of(split, x, y) for split, (x, y) in splits().items()}


def probed(ids: Any, **kwargs: Any) -> Any:
    options = {"inputs": 0, "targets": 1, "sample_ids": 2, "scores": True, "l2": L2, **kwargs}
    return layerprobe.probe(network(), Named(ids).batches(), **options)


def test_ids_are_a_column_of_the_data(tmp_path: Path) -> None:
    words = probed(lambda split, i, n: [f"image {i + j}" for j in range(n)])
    assert words.scores("0").index.get_level_values("sample")[:2].tolist() == ["image 0", "image 1"]
    assert words.heads["0"].wrong.dtype.kind == "U"
    words.save(tmp_path)
    pd.testing.assert_frame_equal(layerprobe.load(tmp_path).scores("0"), words.scores("0"))
    numbers = probed(lambda split, i, n: torch.arange(i, i + n).float() * 10)
    assert numbers.scores("0").index.get_level_values("sample")[:3].tolist() == [0, 10, 20]
    assert set(numbers.heads["0"].wrong) <= set(range(0, 2000, 10))


@pytest.mark.parametrize(
    ("ids", "error", "message"),
    [
        (lambda split, i, n: [f"a{j}" for j in range(n)], ValueError, "50 ids to several samples .* 'a0' to 4"),
        (lambda split, i, n: [1.5] * n, TypeError, "whole number or text"),
        (lambda split, i, n: torch.arange(n - 1), ValueError, "50 targets and 49 ids"),
    ],
)  # fmt: skip
def test_ids_that_name_no_sample_are_one_error(ids: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        probed(ids)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"metrics": ["accuracy"]}, "'accuracy'. With the task classification there is: balanced_accuracy"),
        ({"metrics": "brier", "task": Regression()}, "holds 'brier'.* there is: none .* Leave `metrics` out"),
        ({"metrics": "all", "task": Regression()}, "holds 'all'.* there is: none"),
        ({"sample_ids": 2}, "Set scores=true"),
    ],
)
def test_what_cannot_be_asked_is_refused(kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        layerprobe.probe(network(), splits(), l2=L2, **kwargs)


def test_every_test_set_has_its_scores_and_metrics() -> None:
    data: dict[str, Any] = splits()
    x, y = data["test"]
    data["test"] = {
        "in": (x, y),
        "noisy": (x + 0.3 * torch.randn(x.shape, generator=torch.Generator().manual_seed(0)), y),
    }
    results = layerprobe.probe(network(), data, l2=L2, scores=True, metrics=["auc", "macro_f1"])
    kept = results.scores("0")
    assert kept.index.get_level_values("test_set").unique().tolist() == ["in", "noisy"]
    for name in ("in", "noisy"):
        wrong = (kept.loc[name, "target"] != kept.loc[name, "predicted"]).to_numpy()
        assert (wrong == ~results.correct_on(name)["0"].to_numpy()).all()
        assert results.confusion("0", name).to_numpy().trace() == (~wrong).sum()
    rows = results.metrics[(results.metrics["layer"] == "0") & (results.metrics["head"] == "selected")]
    assert not rows.duplicated(["test_set", "metric"]).any()
    assert rows.loc[rows["metric"] == "auc", "low"].notna().all()
