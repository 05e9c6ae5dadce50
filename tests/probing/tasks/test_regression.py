from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge as ScikitLearnRidge
from sklearn.metrics import r2_score
from torch import Tensor, nn

import layerprobe
from helpers.reference import standardise
from layerprobe.probing.metrics.intervals import unexplained_interval
from layerprobe.probing.pipeline import probe_checkpoint
from layerprobe.probing.protocol import ProbeProtocol
from layerprobe.probing.solvers.logistic import Logistic
from layerprobe.probing.solvers.ridge import Ridge
from layerprobe.probing.tasks.regression import Regression

Pairs = dict[str, tuple[Tensor, Tensor]]


def made(noise: float = 0.5) -> Pairs:
    generator = torch.Generator().manual_seed(0)
    data = {}
    for split, n in (("train", 300), ("val", 100), ("test", 200)):
        x = torch.randn(n, 5, generator=generator)
        y = x @ torch.tensor([[1.0, -2, 0, 0, 0.5], [0, 0, 3, 0, 0]]).T + noise * torch.randn(n, 2, generator=generator)
        data[split] = x, y * torch.tensor([100.0, 0.01]) + torch.tensor([1e3, -5.0])
    return data


@pytest.mark.parametrize("several", [True, False])
def test_r2_is_that_of_scikit_learn_in_the_targets_own_units(several: bool) -> None:
    data = {split: (x, y if several else y[:, 0]) for split, (x, y) in made().items()}
    protocol = ProbeProtocol(layers="input", l2=(1e-2,), solvers=(Ridge(),), task=Regression())
    (result,) = probe_checkpoint(nn.Sequential(nn.Linear(5, 5)), data, protocol)
    train, test = (data[split][0].numpy().astype(np.float64) for split in ("train", "test"))
    mean, scale = train.mean(0), train.std(0)
    reference = ScikitLearnRidge(alpha=1e-2 * len(train)).fit(standardise(train), data["train"][1])
    expected = reference.predict((test - mean) / scale)
    assert result.record.test_r2 == pytest.approx(r2_score(data["test"][1], expected), abs=1e-5)
    assert result.record.test_error == pytest.approx(1 - result.record.test_r2)
    assert result.record.test_error_low < result.record.test_error < result.record.test_error_high
    assert result.record.majority_error == pytest.approx(1, abs=0.05)
    assert result.record.status == "converged"
    assert len(result.correct) == 0

    head = result.head  # the saved head gives the targets in their own units
    scores = (data["test"][0] - head["mean"]) / head["scale"] @ head["weight"].T + head["bias"]
    values = scores * head["target_scale"] + head["target_mean"]
    np.testing.assert_allclose(values.squeeze(), expected, rtol=1e-3, atol=1e-3)


def test_what_is_not_in_the_layer_is_not_found() -> None:
    data = {
        split: (x, torch.randn(len(x), generator=torch.Generator().manual_seed(len(x))))
        for split, (x, _) in made().items()
    }
    found = layerprobe.probe(nn.Sequential(nn.Linear(5, 5)), data, task=Regression())
    assert (found["test_r2"].abs() < 0.1).all()
    assert (found["test_error_high"] > 1).all()


def noise(kind: str, n: int, generator: torch.Generator) -> Tensor:
    """Noise of variance 1."""
    z = torch.randn(n, 1, dtype=torch.float64, generator=generator)
    if kind == "lognormal":
        return (z.exp() - math.exp(0.5)) / math.sqrt((math.e - 1) * math.e)
    if kind == "t3":
        square = torch.randn(n, 3, dtype=torch.float64, generator=generator).square().sum(1, keepdim=True)
        return z / square.sqrt()
    return z


@pytest.mark.parametrize(
    ("kind", "least", "before"), [("normal", 0.91, 0.99), ("t3", 0.85, 0.84), ("lognormal", 0.9, 0.84)]
)
def test_the_interval_covers_the_true_value(kind: str, least: float, before: float) -> None:
    """ŷ = x for y = x + noise with variances 1 and 0.25: u = 0.2, also under heavy tails and skewness."""
    generator, z = torch.Generator().manual_seed(0), NormalDist().inv_cdf(0.975)
    n, covered, wald, widths = 200, 0, 0, []
    for _ in range(150):
        x = torch.randn(n, 1, dtype=torch.float64, generator=generator)
        y = x + 0.5 * noise(kind, n, generator)
        low, high = unexplained_interval(x, y)
        covered += low <= 0.2 <= high
        widths.append(high - low)
        squares, spread = (x - y).square(), (y - y.mean()).square()
        u = float(squares.mean() / spread.mean())
        half = z * float(((squares - u * spread) / spread.mean()).square().mean() / n) ** 0.5
        wald += u - half <= 0.2 <= u + half
    assert covered >= least * 150
    assert wald <= before * 150, "the positive control: u ± 1.96 standard errors covers less"
    assert kind != "normal" or sum(widths) / 150 < 0.13


def test_the_interval_of_several_values_and_of_too_few_samples() -> None:
    x = torch.randn(300, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    y = x + torch.randn(300, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    low, high = unexplained_interval(x, y)
    assert low < 0.5 < high < low + 0.2
    assert (low, high) == unexplained_interval(x, y), "seeded"
    assert all(math.isnan(end) for end in unexplained_interval(x[:9], y[:9]))
    assert unexplained_interval(x, x) == (0.0, 0.0)


@pytest.mark.parametrize(
    ("targets", "found"),
    [
        (torch.tensor([0.0, torch.nan]), "a value that is not finite"),
        (["a"], "a list"),
        (torch.zeros(2, 2, 2), "float32"),
    ],
)
def test_other_targets_are_refused(targets: object, found: str) -> None:
    with pytest.raises(TypeError, match=f"found {found}"):
        Regression().read(targets, "train")


def test_a_target_without_variance_and_a_solver_without_numbers_are_refused() -> None:
    data = {split: (x, torch.ones(len(x))) for split, (x, _) in made().items()}
    with pytest.raises(ValueError, match="one value only on the train split"):
        layerprobe.probe(nn.Linear(5, 5), data, task=Regression())
    with pytest.raises(ValueError, match=r"solver 'logistic'.*solver=\[ridge\]"):
        ProbeProtocol(task=Regression(), solvers=(Logistic(),))


def rounded(constant: float, n: int, dtype: torch.dtype) -> Tensor:
    """A constant as computing it in two ways gives it: neighbouring numbers."""
    values = torch.full((n,), constant, dtype=dtype)
    values[::2] = torch.nextafter(values[::2], torch.tensor(torch.inf, dtype=dtype))
    return values


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("constant", [0.0, 0.1, 0.3, -7.7, 1e-30, 12345.678, 1e20, 1 / 3])
def test_every_constant_is_found(constant: float, dtype: torch.dtype) -> None:
    varying = torch.linspace(0, 1, 97, dtype=dtype)
    for values in (torch.full((97,), constant, dtype=dtype), rounded(constant, 97, dtype) if constant else None):
        if values is None:
            continue
        column = Regression().read(values, "train")
        with pytest.raises(ValueError, match="one value only on the train split, "):
            Regression().labels({"train": column})
        both = Regression().read(torch.stack([varying, values], 1), "train")
        with pytest.raises(ValueError, match=r"train split \(column 1 of 2\)"):
            Regression().labels({"train": both})
        with pytest.raises(ValueError, match="one value only on the val split"):
            Regression().labels({"train": Regression().read(varying, "train"), "val": column})
    # The negative control: what varies little, by more than rounding, varies.
    few = torch.full((97,), constant, dtype=dtype)
    few[3] += max(abs(constant), 1e-30) * 1000 * torch.finfo(dtype).eps
    assert Regression().labels({"train": Regression().read(few, "train")}).splits["train"].std(
        correction=0
    ) == pytest.approx(1, abs=1e-2)


def test_half_precision_and_whole_numbers_vary_where_they_differ() -> None:
    for values in (torch.tensor([1000.0, 1001.0] * 20).half(), torch.tensor([2**40, 2**40 + 1] * 20)):
        assert Regression().labels({"train": Regression().read(values, "train")}).splits["train"].std(
            correction=0
        ) == pytest.approx(1, abs=1e-2)


def test_a_constant_on_test_has_no_r2_and_says_so() -> None:
    data = made()
    x, y = data["test"]
    data["test"] = x, torch.stack([torch.full_like(y[:, 0], 0.1), y[:, 1]], 1)
    found = layerprobe.probe(nn.Identity(), data, layers="input", task=Regression(), l2=[1e-2]).iloc[0]
    assert found["message"].startswith("1 of 2 values are constant on test")
    one = {split: (x, y[:, 1]) for split, (x, y) in data.items()}
    alone = layerprobe.probe(nn.Identity(), one, layers="input", task=Regression(), l2=[1e-2]).iloc[0]
    assert found["test_r2"] == pytest.approx(alone["test_r2"]), "the other value's"
    assert alone["message"] == ""

    none = {split: (x, y[:, 0]) for split, (x, y) in data.items()}
    found = layerprobe.probe(nn.Identity(), none, layers="input", task=Regression(), l2=[1e-2]).iloc[0]
    assert found["status"] == "converged"
    assert found["message"].startswith("the target is constant on test")
    assert np.isfinite(found["test_loss"])
    assert found[["test_error", "test_error_low", "test_error_high", "test_r2", "majority_error"]].isna().all()
