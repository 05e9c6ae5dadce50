"""Several test sets: each head is fitted and chosen once, and read on each as a run with that one alone reads it."""

from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import layerprobe
from layerprobe.api.results import ProbeResults
from layerprobe.probing.cost.plan import make_plan
from layerprobe.probing.data_adapters import sources_of
from layerprobe.probing.pipeline import probe_checkpoint
from layerprobe.probing.protocol import ProbeProtocol
from layerprobe.probing.solvers.ridge import Ridge

Pair = tuple[Tensor, Tensor]
FIGURES = {
    "error": "test_error", "loss": "test_loss", "f1": "test_f1", "auc": "test_auc", "r2": "test_r2", "n_test": "n_test",
    "majority_error": "majority_error", "shuffled_error": "shuffled_error", "control_error": "control_error",
    "selectivity": "selectivity",
}  # fmt: skip


def made(n: int, shift: float = 0.0, seed: int = 0) -> Pair:
    random = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 6, generator=random)
    y = (x[:, 0] + 0.4 * torch.randn(n, generator=random) > 0).long() + (x[:, 1] > 0.8)
    return x + shift * torch.randn(n, 6, generator=random), y


SPLITS = {"train": made(90), "val": made(50, seed=1)}
TESTS = {"in": made(60, seed=2), "noisy": made(45, 1.0, seed=3), "few": made(12, seed=4)}


def network() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 4))


def probed(data: Any, **options: Any) -> ProbeResults:
    return layerprobe.probe(network(), data, l2=[1e-3, 1e-1], layers=["input", "2"], progress=False, **options)


def plain(results: ProbeResults) -> pd.DataFrame:
    return pd.DataFrame(results).drop(columns="seconds")


OPTIONS: dict[str, dict[str, Any]] = {
    "classification": {"controls": ("shuffled", "control_task")},
    "regression": {"task": "regression", "targets": lambda batch: batch[0][:, :2].sum(1) + batch[1]},
    "multi_label": {"task": "multi_label", "targets": lambda batch: torch.stack([batch[1] > 0, batch[1] > 1], 1)},
    "flatten_and_ridge": {"reducer": ["flatten", "average_pool"], "solver": ["ridge", "logistic"]},
}


@pytest.mark.parametrize("kind", OPTIONS)
def test_each_test_set_is_read_as_where_it_is_the_only_one(kind: str) -> None:
    several = probed({**SPLITS, "test": TESTS}, **OPTIONS[kind])
    assert several.test_sets == ("in", "noisy", "few")
    metrics = several.metrics.set_index(["layer", "test_set", "metric"])
    assert set(metrics["head"]) == {"selected"}
    for name, pair in TESTS.items():
        alone = probed({**SPLITS, "test": pair}, **OPTIONS[kind])
        if name == "in":
            pd.testing.assert_frame_equal(plain(several), plain(alone), check_exact=True)
        assert not len(alone.metrics)
        for row, layer in zip(alone.to_dict("records"), alone.layers, strict=True):
            for metric, column in FIGURES.items():
                if not math.isnan(row[column]):
                    assert metrics.loc[(row["layer"], name, metric), "value"] == row[column], (name, metric)
                else:
                    assert (row["layer"], name, metric) not in metrics.index
            error = metrics.loc[(row["layer"], name, "error")]
            assert (error["low"], error["high"]) == (row["test_error_low"], row["test_error_high"])
            answers = next(one for one in several.layers if one.record.layer == row["layer"]).answers[name]
            assert answers.samples == layer.samples
            assert np.array_equal(answers.correct, layer.correct)


def test_the_test_sets_are_kept_and_read_back(tmp_path: Path) -> None:
    found = probed({**SPLITS, "test": TESTS})
    found.save(tmp_path / "probes")
    back = layerprobe.load(tmp_path)
    assert back.test_sets == ("in", "noisy", "few")
    pd.testing.assert_frame_equal(back.metrics, found.metrics)
    for name in TESTS:
        pd.testing.assert_frame_equal(back.correct_on(name), found.correct_on(name))
    with pytest.raises(ValueError, match=r"No head was read on a test set 'nosy'\. Did you mean noisy"):
        back.correct_on("nosy")
    one = probed({**SPLITS, "test": TESTS["in"]})
    one.save(tmp_path / "one")
    assert not (tmp_path / "one" / "answers.parquet").exists()
    assert layerprobe.load(tmp_path / "one").test_sets == ("test",)
    probed({**SPLITS, "test": {"in": TESTS["in"]}}).save(tmp_path / "named")
    assert layerprobe.load(tmp_path / "named").test_sets == ("in",)


class Module(pl.LightningDataModule):
    def __init__(self, test: Any) -> None:
        super().__init__()
        self.pairs = {**SPLITS, "test": test}

    def train_dataloader(self) -> Any:
        return self._loader("train")

    def val_dataloader(self) -> Any:
        return self._loader("val")

    def test_dataloader(self) -> Any:
        return self._loader("test")

    def _loader(self, split: str) -> Any:
        return None if self.pairs[split] is None else DataLoader(TensorDataset(*self.pairs[split]), batch_size=32)


def test_a_test_set_may_be_given_in_every_form_that_data_may() -> None:
    wanted = probed({**SPLITS, "test": TESTS})
    x, y = TESTS["noisy"]
    other = {
        "test": {
            "in": Module(TESTS["in"]),
            "noisy": (x.numpy(), y.tolist()),
            "few": DataLoader(TensorDataset(*TESTS["few"]), batch_size=5),
        }
    }
    for found in (
        probed({**SPLITS, **other}),
        probed({**SPLITS, "test": {"in": TESTS["in"]}}, tests={"noisy": TESTS["noisy"], "few": Module(TESTS["few"])}),
    ):
        pd.testing.assert_frame_equal(plain(found), plain(wanted), check_exact=True)
        pd.testing.assert_frame_equal(found.metrics, wanted.metrics)
    beside = probed(Module(TESTS["in"]), tests={"noisy": TESTS["noisy"], "few": TESTS["few"]})
    assert beside.test_sets == ("test", "noisy", "few")
    pd.testing.assert_frame_equal(plain(beside), plain(wanted), check_exact=True)
    words = {split: (pair[0], np.array(["no", "so", "yes"])[pair[1]]) for split, pair in {**SPLITS, **TESTS}.items()}
    tests = {name: words.pop(name) for name in TESTS}
    in_words = probed({**words, "test": tests})
    pd.testing.assert_frame_equal(in_words.metrics, wanted.metrics)
    divided = probed(made(200), tests={"noisy": TESTS["noisy"]})
    assert divided.test_sets == ("test", "noisy")


BAD: dict[str, tuple[dict[Any, Any], str]] = {
    "none": ({}, "test: the error is read on it"),
    "a slash": ({"in": TESTS["in"], "a/b": TESTS["few"]}, "called 'a/b'. Give a name of at least one letter"),
    "no text": ({0: TESTS["in"]}, "called 0. Give a name"),
    "a split": ({"in": TESTS["in"], "val": TESTS["few"]}, "called 'val', as a split is"),
    "the primary": ({"in": TESTS["in"], "test": TESTS["few"]}, "called 'test', as a split is"),
    "empty": ({"in": TESTS["in"], "out": (torch.zeros(0, 6), torch.zeros(0))}, "The test set 'out' is empty"),
    "other classes": (
        {"in": TESTS["in"], "out": (TESTS["in"][0], TESTS["in"][1] + 7)},
        "'out' has no sample of a class that train has (it has 7, 8, 9; train has 0, 1, 2)",
    ),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_test_set_that_cannot_be_read_is_refused_by_its_name(kind: str) -> None:
    tests, message = BAD[kind]
    with pytest.raises(ValueError) as error:
        probed({**SPLITS, "test": tests})
    assert message in str(error.value)


def test_other_things_that_are_wrong_with_a_test_set() -> None:
    with pytest.raises(ValueError, match="Two test sets are called 'in'"):
        probed({**SPLITS, "test": {"in": TESTS["in"]}}, tests={"in": TESTS["few"]})
    with pytest.raises(TypeError, match="The out split is a float"):
        probed({**SPLITS, "test": {"in": TESTS["in"], "out": 3.0}})
    with pytest.raises(ValueError, match="The data module of the test set 'out' has no test split"):
        probed({**SPLITS, "test": {"in": TESTS["in"], "out": Module(None)}})
    rows = {split: (x, torch.stack([y, y > 0, y > 1], 1) > 0) for split, (x, y) in {**SPLITS, **TESTS}.items()}
    wide = rows["few"][0], rows["few"][1][:, :2]
    with pytest.raises(ValueError, match="'few' has 2 labels or values for each sample, and train has 3"):
        probed(
            {"train": rows["train"], "val": rows["val"], "test": {"in": rows["in"], "few": wide}}, task="multi_label"
        )


def test_a_class_that_train_does_not_have_is_named_and_counts_as_wrong(caplog: pytest.LogCaptureFixture) -> None:
    x, y = TESTS["few"]
    strange = torch.where(torch.arange(len(y)) < 3, 9, y)
    with caplog.at_level(logging.WARNING):
        found = probed({**SPLITS, "test": {"in": TESTS["in"], "few": (x, strange)}})
    assert "3 of the 12 samples of the test set 'few' are of classes that train does not have (9)" in caplog.text
    assert not found.correct_on("few").iloc[:3].to_numpy().any()


def test_streamed_training_samples_and_done_layers_change_nothing() -> None:
    data = {**SPLITS, **TESTS}
    protocol = ProbeProtocol(solvers=(Ridge(),), l2=(1e-2, 1e-1))
    whole = list(probe_checkpoint(network(), data, protocol))
    streamed = list(probe_checkpoint(network(), data, ProbeProtocol(solvers=(Ridge(),), l2=(1e-2, 1e-1), stream=True)))
    rest = list(probe_checkpoint(network(), data, protocol, done=["input", "0"]))
    assert [result.record.layer for result in whole] == ["input", "0", "1", "2"]
    for one, other in zip(whole, streamed, strict=True):
        assert [m.value for m in one.metrics] == pytest.approx([m.value for m in other.metrics], abs=1e-4)
    for one, other in zip(whole[2:], rest, strict=True):
        assert one.metrics == other.metrics
        assert all(np.array_equal(one.answers[name].correct, other.answers[name].correct) for name in TESTS)


def test_a_plan_counts_the_samples_of_every_test_set() -> None:
    plan = make_plan(network(), {**SPLITS, **TESTS}, ProbeProtocol(l2=(1e-2,)))
    assert plan.samples == {"train": 90, "val": 50, "in": 60, "noisy": 45, "few": 12}
    assert "257 samples" in plan.lines()[0]
    assert plan.layers[0].bytes == 4 * 6 * 257


def test_values_that_are_not_finite_name_the_test_set() -> None:
    x, y = TESTS["few"]
    found = probed({**SPLITS, "test": {"in": TESTS["in"], "few": (x.index_fill(0, torch.tensor([4]), math.inf), y)}})
    assert set(found["status"]) == {"failed"}
    assert "first in few sample 4" in found["message"][0]
    assert found.test_sets == ()


def test_words_of_a_test_set_need_those_of_train() -> None:
    x, y = torch.randn(20, 3, generator=torch.Generator().manual_seed(0)), torch.arange(20) % 2
    train = DataLoader(TensorDataset(x, y), 5)
    with pytest.raises(TypeError, match=r"are words \(ant, zebra, …\), and nothing says which class each is"):
        sources_of({"train": train, "test": train}, tests={"more": (x, ["zebra", "ant"] * 10)})


def test_a_test_set_that_is_called_like_an_analysis_is_refused() -> None:
    x, y = torch.randn(20, 3, generator=torch.Generator().manual_seed(0)), torch.arange(20) % 2
    data = {"train": (x, y), "val": (x, y), "test": {"test": (x, y), "nearest_mean": (x, y)}}
    with pytest.raises(ValueError, match="'nearest_mean' is a test set and an analysis"):
        layerprobe.probe(nn.Identity(), data, analyses="nearest_mean")
