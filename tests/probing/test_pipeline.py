from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import layerprobe
from helpers.digits import Pairs, shuffled_digits
from layerprobe.data.xor import XorDataModule
from layerprobe.probing.budget import Budget
from layerprobe.probing.features.reducers import Flatten, RandomSubset
from layerprobe.probing.pipeline import probe_checkpoint
from layerprobe.probing.protocol import ProbeProtocol
from layerprobe.probing.resources import DEFAULTS, Resources
from layerprobe.probing.solvers.logistic import Logistic
from layerprobe.probing.solvers.ridge import Ridge
from layerprobe.probing.solvers.scikit_learn_c import ScikitLearnC
from layerprobe.probing.tasks.multi_label import MultiLabel


@pytest.fixture(scope="module")
def digits() -> Pairs:
    return shuffled_digits(0, 900, 400)


@pytest.fixture(scope="module")
def network() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(64, 32), nn.ReLU(inplace=True), nn.Dropout(0.5), nn.Linear(32, 10))


def by_hand(network: nn.Module, x: Tensor) -> dict[str, Tensor]:
    first, last = network[0], network[3]  # type: ignore[index]
    hidden = x @ first.weight.T + first.bias
    active = hidden.clamp(min=0)
    return {"input": x, "0": hidden, "1": active, "3": active @ last.weight.T + last.bias}


def by_scikit_learn(features: dict[str, np.ndarray], y: dict[str, np.ndarray], l2s: list[float]) -> tuple[float, float]:
    """Fit every head in float64, choose by validation error then loss, and read the test error: (l2, error)."""
    scaler = StandardScaler().fit(features["train"])
    x = {split: scaler.transform(value) for split, value in features.items()}
    best: tuple[Any, ...] = ()
    for l2 in sorted(l2s, reverse=True):
        head = LogisticRegression(C=1 / (l2 * len(y["train"])), tol=1e-8, max_iter=10_000).fit(x["train"], y["train"])
        probability = head.predict_proba(x["val"])[np.arange(len(y["val"])), y["val"]]
        rank = (1 - head.score(x["val"], y["val"]), -np.log(probability).mean())
        if not best or rank < best[0]:
            best = (rank, l2, 1 - head.score(x["test"], y["test"]))
    return best[1], best[2]


def test_every_figure_is_scikit_learns(digits: Pairs, network: nn.Module) -> None:
    l2s = [1e-4, 1e-2, 1.0]
    found = layerprobe.probe(network, digits, reducer=Flatten(), l2=l2s, batch_size=100)
    assert found["layer"].tolist() == ["input", "0", "1", "3"]
    assert found["depth"].tolist() == [0, 1, 2, 3]
    assert found["aliases"].tolist()[2] == "2", "dropout carries the same values as the layer before"
    with torch.no_grad():
        values = {split: by_hand(network.double(), x.double()) for split, (x, _) in digits.items()}
    network.float()
    y = {split: target.numpy() for split, (_, target) in digits.items()}
    for row in found.itertuples():
        features = {split: values[split][str(row.layer)].numpy() for split in digits}
        l2, test_error = by_scikit_learn(features, y, l2s)
        assert row.l2 == l2, row.layer
        assert row.test_error == pytest.approx(test_error, abs=1.5 / len(y["test"])), row.layer
        assert row.status == "converged"
        assert row.test_error_low < row.test_error < row.test_error_high
        assert (row.n_train, row.n_val, row.n_test, row.n_classes) == (900, 400, 497, 10)


def test_shuffled_labels_give_chance(digits: Pairs, network: nn.Module) -> None:
    found = layerprobe.probe(network, digits, layers=["input", "1"], l2=[1e-2, 1.0], controls=["shuffled"])
    assert (found["test_error"] < 0.2).all(), "positive control: digits are nearly separable"
    assert (found["shuffled_error"] > 0.8).all(), "negative control: nothing can be learnt of shuffled labels"
    assert found["selectivity"].isna().all(), "that is the control task's"
    assert (found["majority_error"] > 0.85).all()


def test_batch_size_workers_and_container_do_not_matter(digits: Pairs, network: nn.Module) -> None:
    def loaders(batch_size: int, num_workers: int, shuffle: bool) -> dict[str, Any]:
        return {
            split: DataLoader(TensorDataset(x, y), batch_size=batch_size, num_workers=num_workers, shuffle=shuffle)
            for split, (x, y) in digits.items()
        }

    options: dict[str, Any] = {"layers": "1", "l2": [1e-3, 1e-1]}
    first = layerprobe.probe(network, digits, **options)
    for data in (loaders(7, 0, False), loaders(128, 2, True)):
        other = layerprobe.probe(network, data, **options)
        pd.testing.assert_frame_equal(
            first.drop(columns="seconds"), other.drop(columns="seconds"), rtol=1e-4, atol=1e-6
        )


def test_batches_without_samples_do_not_matter(digits: Pairs, network: nn.Module) -> None:
    options: dict[str, Any] = {"layers": "1", "l2": [1e-3, 1e-1], "controls": ["control_task"]}

    whole = {split: list(zip(x.split(100), y.split(100), strict=True)) for split, (x, y) in digits.items()}
    gaps = {split: [pair for x, y in found for pair in ((x[:0], y[:0]), (x, y))] for split, found in whole.items()}

    first, other = (layerprobe.probe(network, data, **options) for data in (whole, gaps))
    pd.testing.assert_frame_equal(first.drop(columns="seconds"), other.drop(columns="seconds"))
    with pytest.raises(ValueError, match="train split is empty"):
        layerprobe.probe(network, {**gaps, "train": gaps["train"][:1]})


def test_sweep_over_reducers_solvers_and_seeds(digits: Pairs, network: nn.Module) -> None:
    protocol = ProbeProtocol(
        layers="input",
        reducers=(Flatten(), RandomSubset(8), RandomSubset(100)),
        solvers=(Logistic(), Ridge()),
        l2=(1e-3, 1e-1),
        seeds=(0, 1),
        controls=("shuffled",),
    )
    (result,) = probe_checkpoint(network, digits, protocol)
    swept = pd.DataFrame([vars(record) for record in result.path])
    true = swept[swept["control"] == "none"]
    # flatten once (RandomSubset(100) keeps all 64 units: the same features), the subset once for each seed
    assert len(true) == (1 + 2) * 2 * 2
    assert len(swept) == 2 * len(true)
    assert true["selected"].sum() == 1
    best = true[true["val_error"] == true["val_error"].min()]
    assert true[true["selected"]].index[0] in best.index
    assert result.record.reducer == "flatten"
    assert result.head["weight"].shape == (10, 64)


def test_a_head_can_be_used_on_raw_features(digits: Pairs, network: nn.Module) -> None:
    (result,) = probe_checkpoint(network, digits, ProbeProtocol(layers="input", l2=(1e-3,)))
    head = {name: torch.from_numpy(values) for name, values in result.head.items()}
    x, y = digits["test"]
    scores = ((x - head["mean"]) / head["scale"]) @ head["weight"].T + head["bias"]
    correct = head["classes"][scores.argmax(1)] == y
    assert np.array_equal(correct.numpy(), result.correct)
    assert 1 - correct.double().mean().item() == pytest.approx(result.record.test_error)


class Broken(nn.Module):
    """Its middle layer makes NaN of some samples, and the layer after it is constant."""

    def __init__(self, most: float) -> None:
        super().__init__()
        self.most = most
        self.bad, self.constant, self.last = nn.Identity(), nn.Identity(), nn.Linear(64, 4)

    def forward(self, x: Tensor) -> Tensor:
        self.bad(torch.where(x.sum(1, keepdim=True) > self.most, torch.nan, x))
        self.constant(x * 0 + 0.1)
        return self.last(x)


def test_a_layer_that_fails_is_reported_and_the_others_go_on(digits: Pairs) -> None:
    torch.manual_seed(0)
    layers = ["input", "bad", "constant", "last"]
    most = float(digits["train"][0].sum(1).max()) - 1e-3
    found = layerprobe.probe(Broken(most), digits, layers=layers, l2=[1e-2]).set_index("layer")
    assert found.loc["bad", "status"] == "failed"
    assert "NaN or infinite activations, first in train sample" in found.loc["bad", "message"]
    assert math.isnan(found.loc["bad", "test_error"])
    assert found.loc["constant", "test_error"] == found.loc["constant", "majority_error"]
    assert "no feature varies on train" in found.loc["constant", "message"]
    assert found.loc[["input", "last"], "test_error"].max() < 0.6


def without(split: str) -> Callable[[Pairs], dict[str, Any]]:
    return lambda data: {name: pair for name, pair in data.items() if name != split}


def changed(split: str, change: Callable[[Tensor, Tensor], Any]) -> Callable[[Pairs], dict[str, Any]]:
    return lambda data: data | {split: change(*data[split])}


@pytest.mark.parametrize(
    ("spoil", "error", "message"),
    [
        (without("val"), ValueError, "val: the head of each layer is chosen on it"),
        (changed("train", lambda x, y: (x, y * 0 + 3)), ValueError, "the class 3 only"),
        (changed("test", lambda x, y: (x[:0], y[:0])), ValueError, "The test split is empty"),
        (changed("train", lambda x, y: (x[:0], y[:0])), ValueError, "The train split is empty"),
        (changed("val", lambda x, y: (x, y + 0.5)), TypeError, "found float32 of shape .* in the val split"),
        (changed("val", lambda x, y: [x]), TypeError, r"batches of \(input, target\), found a Tensor"),
        (changed("val", lambda x, y: (x[:-1], y)), ValueError, "inputs and .* targets"),
    ],
)
def test_bad_data_gets_one_clear_error(
    digits: Pairs, network: nn.Module, spoil: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        layerprobe.probe(network, spoil(digits), l2=[1e-2, 1e-1])


def test_a_pattern_that_matches_nothing_is_named(digits: Pairs, network: nn.Module) -> None:
    with pytest.raises(ValueError, match="conv9"):
        layerprobe.probe(network, digits, layers="conv9*")


def test_a_class_that_train_does_not_have_is_always_wrong(digits: Pairs, network: nn.Module) -> None:
    (x, y), keep = digits["train"], digits["train"][1] != 9
    found = layerprobe.probe(network, digits | {"train": (x[keep], y[keep])}, layers="input", l2=[1e-2])
    share = (digits["test"][1] == 9).double().mean().item()
    assert found["test_error"].item() >= share
    assert found["n_classes"].item() == 9


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"l2": ()}, "`l2` of the probe is empty"),
        ({"l2": (-1.0,)}, "holds -1.0"),
        ({"reducers": ()}, "`reducers` of the probe is empty"),
        ({"controls": ("random",)}, "Choose one of: shuffled, control_task"),
        ({"l2": ScikitLearnC(), "solvers": (Ridge(),)}, r"C is that of LogisticRegression.*solver=\[logistic\]"),
        ({"l2": ScikitLearnC(), "solvers": (Logistic(), Ridge())}, "alpha / n_train"),
        ({"patience": 2, "solvers": (Ridge(),)}, "with solver ridge it has no effect"),
        ({"patience": 2, "task": MultiLabel()}, "with the task multi_label it has no effect"),
        ({"patience": 2, "solvers": (Ridge(),), "stream": True}, "with a stream it has no effect"),
        ({"seeds": (0, 1)}, r"no reducer is random \(average_pool\)"),
        ({"solvers": (Ridge(leave_one_out=True),), "stream": True}, "`leave_one_out` needs features that are kept"),
    ],
)
def test_a_protocol_that_cannot_be(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ProbeProtocol(**options)


def test_a_second_fit_needs_a_validation_split(digits: Pairs, network: nn.Module) -> None:
    data = {split: digits[split] for split in ("train", "test")}
    with pytest.raises(ValueError, match="found train, test"):
        list(probe_checkpoint(network, data, ProbeProtocol(layers="input", l2=(1e-2,), refit=True)))


@pytest.mark.parametrize("budget", [0, 200_000])
def test_what_does_not_fit_in_memory_is_probed_from_disk(
    digits: Pairs, network: nn.Module, budget: int, tmp_path: Path
) -> None:
    protocol = ProbeProtocol(l2=[1e-3, 1e-1], controls=["shuffled"], solvers=[Logistic(), Ridge()])
    expected = layerprobe_frame(network, digits, protocol)
    allowed = Budget(0, budget, 0)
    found = layerprobe_frame(network, digits, protocol, Resources(spill_directory=str(tmp_path)), allowed)
    pd.testing.assert_frame_equal(found, expected, rtol=1e-4)
    rounded = layerprobe_frame(network, digits, replace(protocol, spill_dtype="bfloat16"), allowed=allowed)
    assert (rounded["test_error"] - expected["test_error"]).abs().max() < 0.02
    if budget == 0:
        assert not np.array_equal(rounded["val_loss"], expected["val_loss"]), "nothing was rounded, so nothing spilled"


def test_a_layer_that_finds_no_room_on_disk_fails_and_the_others_go_on(
    digits: Pairs, network: nn.Module, tmp_path: Path
) -> None:
    resources = Resources(spill_directory=str(tmp_path / "none"))
    frame = layerprobe_frame(network, digits, ProbeProtocol(l2=[1e-2]), resources, Budget(0, 550_000, 0))
    assert frame.set_index("layer")["status"].to_dict() == {
        "input": "failed",
        "0": "converged",
        "1": "converged",
        "3": "converged",
    }
    assert "spill_directory" in frame["message"].iloc[0]


def test_too_little_memory_is_said_before_anything_is_recorded(digits: Pairs, network: nn.Module) -> None:
    with pytest.raises(ValueError, match=r"Probing needs .* [MG]B: .* `max_memory` allows 10 MB\. Raise it"):
        layerprobe.probe(network, digits, max_memory="10MB")


def layerprobe_frame(
    network: nn.Module,
    data: Pairs,
    protocol: ProbeProtocol,
    resources: Resources = DEFAULTS,
    allowed: Budget | None = None,
) -> pd.DataFrame:
    found = probe_checkpoint(network, data, protocol, resources=resources, allowed=allowed)
    return pd.DataFrame([vars(result.record) for result in found]).drop(columns="seconds")


@pytest.mark.parametrize("budget", [None, 0])
def test_the_selected_head_can_be_refitted_to_train_and_validation(
    digits: Pairs, network: nn.Module, budget: int | None
) -> None:
    allowed = None if budget is None else Budget(0, budget, 0)
    protocol = ProbeProtocol(l2=[1e-3, 1e-2, 1e-1], reducers=[Flatten()])
    chosen = layerprobe_frame(network, digits, protocol, allowed=allowed).set_index("layer")
    results = list(probe_checkpoint(network, digits, replace(protocol, refit=True), allowed=allowed))
    x = {split: by_hand(network, pair[0])["1"].detach().double().numpy() for split, pair in digits.items()}
    both = np.concatenate([x["train"], x["val"]])
    y = np.concatenate([digits["train"][1], digits["val"][1]])
    found = next(result for result in results if result.record.layer == "1")
    assert found.record.refit
    assert found.record.l2 == chosen.loc["1", "l2"], "validation has chosen before"
    assert found.record.status == "converged"
    scaler = StandardScaler().fit(both)
    head = LogisticRegression(C=1 / (found.record.l2 * len(y)), tol=1e-8, max_iter=10_000)
    head.fit(scaler.transform(both), y)
    scaled = (x["test"] - found.head["mean"].astype(float)) / found.head["scale"].astype(float)
    scores = scaled @ found.head["weight"].astype(float).T + found.head["bias"].astype(float)
    expected = head.predict_proba(scaler.transform(x["test"]))
    np.testing.assert_allclose(torch.tensor(scores).softmax(1), expected, atol=5e-3)
    assert found.record.train_error == pytest.approx(1 - head.score(scaler.transform(both), y), abs=2e-3)
    assert not chosen["refit"].any()


def test_a_data_module_that_is_the_whole_population_gives_no_interval() -> None:
    """The four points of exclusive or are all that there is."""
    network = nn.Sequential(nn.Linear(2, 8), nn.ReLU())
    ends = ["test_error_low", "test_error_high"]
    found = layerprobe.probe(network, XorDataModule(), layers=["input", "1"], l2=[1e-3])
    assert found[ends].isna().all(axis=None)
    assert found["test_error"].notna().all()
    points = torch.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]]), torch.tensor([0, 1, 1, 0])
    data = {"train": points, "val": points, "test": points}
    assert layerprobe.probe(network, data, layers="1", l2=[1e-3], population=True)[ends].isna().all(axis=None)
    sample = layerprobe.probe(network, data, layers="1", l2=[1e-3])
    assert (sample["test_error_high"] - sample["test_error_low"] > 0.4).all(), "the negative control"
