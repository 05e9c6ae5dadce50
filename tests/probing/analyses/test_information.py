"""Description length, V-information and few-shot curves against scikit-learn and numpy in float64, with controls."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import ClassVar

import numpy as np
import pytest
import torch
from scipy.stats import ttest_1samp
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn

from helpers.small_memory import ROOM, probed_with
from layerprobe.probing.analyses.analysis import AbstractAnalysis, LayerData, Metric, Reading, TestSet
from layerprobe.probing.analyses.code_length import code_length
from layerprobe.probing.analyses.description_length import DescriptionLength
from layerprobe.probing.analyses.few_shot import FewShot
from layerprobe.probing.analyses.v_information import VInformation
from layerprobe.probing.features.row_blocks import AbstractRows, PickedRows
from layerprobe.probing.heads import Heads
from layerprobe.probing.metrics.intervals import mean_interval
from layerprobe.probing.pipeline import probe_checkpoint
from layerprobe.probing.protocol import ProbeProtocol
from layerprobe.probing.solvers.logistic import Logistic
from layerprobe.probing.solvers.ridge import Ridge
from layerprobe.probing.tasks.regression import Regression

L2 = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)
Pairs = dict[str, tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Seen(AbstractAnalysis):
    """Keeps the layer and the test sets that it is given."""

    given: list[object]
    name: ClassVar[str] = "seen"

    def fit(self, layer: LayerData) -> Reading:
        def read(test_sets: Mapping[str, TestSet]) -> Iterable[Metric]:
            self.given.extend([layer, test_sets])
            return []

        return read


def layer_of(data: Pairs, **options: object) -> tuple[LayerData, Mapping[str, TestSet]]:
    """What analyses are given of features, in float64 and with heads that are as exact as it."""
    given: list[object] = []
    solvers = (Logistic(tolerance=1e-12),)
    protocol = ProbeProtocol(**{"l2": L2, "solvers": solvers, **options}, analyses=(Seen(given),)).for_features()  # type: ignore[arg-type]
    assert [result.record.status for result in probe_checkpoint(nn.Identity(), data, protocol)] == ["converged"]
    layer, tests = given
    assert isinstance(layer, LayerData)
    assert isinstance(tests, Mapping)
    return layer, tests


def split(x: np.ndarray, y: np.ndarray, *ends: int) -> Pairs:
    parts = zip(("train", "val", "test"), (0, *ends[:-1]), ends, strict=True)
    return {name: (torch.tensor(x[a:b], dtype=torch.float64), torch.tensor(y[a:b])) for name, a, b in parts}


@pytest.fixture(scope="module")
def digits() -> Pairs:
    x, y = load_digits(return_X_y=True)
    order = np.random.default_rng(1).permutation(len(x))
    return split(x[order][:, 10:34], y[order], 160, 240, 400)


@pytest.fixture(scope="module")
def layer(digits: Pairs) -> tuple[LayerData, Mapping[str, TestSet]]:
    return layer_of(digits)


def values(analysis: AbstractAnalysis, given: tuple[LayerData, Mapping[str, TestSet]]) -> dict[str, float]:
    return {metric.metric: metric.value for metric in analysis.fit(given[0])(given[1])}


def fitted(x: np.ndarray, y: np.ndarray, l2: float) -> LogisticRegression:
    c = 1 / (len(y) * l2) * (2 if len(np.unique(y)) == 2 else 1)
    return LogisticRegression(C=c, tol=1e-10, max_iter=20_000).fit(x, y)


def probabilities(model: LogisticRegression, x: np.ndarray, n_classes: int) -> np.ndarray:
    """All classes; those without a sample have 0."""
    every = np.zeros((len(x), n_classes))
    every[:, model.classes_] = model.predict_proba(x)
    return every


def chosen_by_loss(x: np.ndarray, y: np.ndarray, x_val: np.ndarray, y_val: np.ndarray) -> LogisticRegression:
    known = np.isin(y_val, y)
    models = [fitted(x, y, l2) for l2 in L2]
    losses = [-np.log(probabilities(m, x_val[known], 10)[np.arange(known.sum()), y_val[known]]).mean() for m in models]
    return models[int(np.argmin(losses))]


def test_the_online_code_is_that_of_a_plain_loop(layer: tuple[LayerData, Mapping[str, TestSet]]) -> None:
    data, _ = layer
    analysis = DescriptionLength(blocks=(0.001, 0.0125, 0.05, 0.25, 0.5, 1.0))
    x, y = data.train[:].numpy(), data.labels.splits["train"].numpy()
    assert data.val is not None
    x_val, y_val = data.val[:].numpy(), data.labels.splits["val"].numpy()
    order = analysis.order(data).numpy()
    x, y = x[order], y[order]
    ends = [2, 8, 40, 80, 160]
    assert {len(set(y[:end])) for end in ends} >= {2, 10}, "blocks with and without unseen classes"
    bits, prior = [2 * math.log2(10)], [2 * math.log2(10)]
    for t, end in pairwise(ends):
        counts = np.bincount(y[:t], minlength=10)
        p = probabilities(chosen_by_loss(x[:t], y[:t], x_val, y_val), x[t:end], 10)
        p = p * (1 - (counts == 0).sum() / (t + 10)) + (counts == 0) / (t + 10)
        np.testing.assert_allclose(p.sum(1), 1)
        bits.append(-np.log2(p[np.arange(end - t), y[t:end]]).sum())
        prior.append(-np.log2((counts[y[t:end]] + 1) / (t + 10)).sum())
    found = analysis.code(data)
    assert [block.end for block in found] == ends
    assert [block.bits for block in found] == pytest.approx(bits, rel=1e-5)
    assert [block.prior_bits for block in found] == pytest.approx(prior, rel=1e-12)
    metrics = values(analysis, layer)
    assert metrics["bits"] == pytest.approx(sum(bits), rel=1e-5)
    assert metrics["compression"] == pytest.approx(160 * math.log2(10) / sum(bits), rel=1e-5)
    assert metrics["prior_compression"] == pytest.approx(160 * math.log2(10) / sum(prior))
    assert 0 < metrics["gap"] < 1e-5


def test_v_information_is_the_difference_of_log_losses(layer: tuple[LayerData, Mapping[str, TestSet]]) -> None:
    data, tests = layer
    x, y = data.train[:].numpy(), data.labels.splits["train"].numpy()
    assert data.val is not None
    head = chosen_by_loss(x, y, data.val[:].numpy(), data.labels.splits["val"].numpy())
    x_test, y_test = tests["test"].features[:].numpy(), tests["test"].targets.numpy()
    rows = np.arange(len(y_test))
    losses = -np.log2(head.predict_proba(x_test)[rows, y_test])
    constant = -np.log2(np.bincount(y) / len(y))[y_test]
    (information, *_) = VInformation().fit(data)(tests)
    assert information.value == pytest.approx((constant - losses).mean(), rel=1e-5)
    interval = ttest_1samp(constant - losses, 0).confidence_interval(0.95)
    assert (information.low, information.high) == pytest.approx((interval.low, interval.high), rel=1e-5)
    found = values(VInformation(), layer)
    assert found["entropy"] == pytest.approx(constant.mean())
    assert found["conditional_entropy"] == pytest.approx(losses.mean(), rel=1e-5)
    assert found["unknown"] == 0


def test_few_shot_errors_are_those_of_fits_to_the_same_draws(layer: tuple[LayerData, Mapping[str, TestSet]]) -> None:
    data, tests = layer
    x, y = data.train[:].numpy(), data.labels.splits["train"].numpy()
    assert data.val is not None
    x_val, y_val = data.val[:].numpy(), data.labels.splits["val"].numpy()
    x_test, y_test = tests["test"].features[:].numpy(), tests["test"].targets.numpy()
    analysis = FewShot(samples=(1, 4, 1000), draws=2)
    errors = [metric for metric in analysis.fit(data)(tests) if metric.metric == "error"]
    assert [error.n_train for error in errors] == [10, 40], "what the smallest class does not have is left out"
    draws = [analysis.draw(data, draw).numpy() for draw in range(2)]
    assert len({tuple(draw.flatten()) for draw in draws}) == 2
    for count, found in zip((1, 4), errors, strict=True):
        expected = []
        for draw in draws:
            rows = draw[:, :count].flatten()
            assert np.bincount(y[rows]).tolist() == [count] * 10
            models = [fitted(x[rows], y[rows], l2) for l2 in L2]
            ranks = [
                (
                    np.mean(model.predict(x_val) != y_val),
                    -np.log(model.predict_proba(x_val)[np.arange(len(y_val)), y_val]).mean(),
                    -l2,
                )
                for model, l2 in zip(models, L2, strict=True)
            ]
            best = models[min(range(len(L2)), key=lambda i: ranks[i])]
            expected.append(np.mean(best.predict(x_test) != y_test))
        interval = ttest_1samp(expected, 0).confidence_interval(0.95)
        assert found.value == pytest.approx(np.mean(expected))
        assert (found.low, found.high) == pytest.approx((max(interval.low, 0), min(interval.high, 1)))
    assert errors[1].value < errors[0].value


def test_random_labels_have_no_information_and_separable_ones_nearly_all() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((800, 8)), rng.integers(0, 2, 800)
    random = layer_of(split(x, y, 400, 600, 800))
    assert values(DescriptionLength(), random)["compression"] <= 1
    found = {metric.metric: metric for metric in VInformation().fit(random[0])(random[1])}
    assert found["v_information"].low < 0.01
    x[:, 0] += 12 * (y - 0.5)
    separable = layer_of(split(x, y, 400, 600, 800), l2=(1e-6, *L2))
    assert values(DescriptionLength(), separable)["compression"] > 10
    assert values(VInformation(), separable)["v_information"] == pytest.approx(1, abs=0.02)


def test_unequal_classes_compress_by_themselves() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((800, 4)), (rng.random(800) < 0.1).astype(np.int64)
    found = values(DescriptionLength(), layer_of(split(x, y, 400, 600, 800)))
    assert found["prior_compression"] > 1.5
    assert found["compression"] == pytest.approx(found["prior_compression"], rel=0.02), "of features that say nothing"


def test_a_class_that_train_does_not_have_is_left_out_of_v_information(digits: Pairs) -> None:
    x, y = digits["test"]
    strange = digits | {"test": (torch.cat([x, x[:40]]), torch.cat([y, torch.full((40,), 77)]))}
    found, known = values(VInformation(), layer_of(strange)), values(VInformation(), layer_of(digits))
    assert found["unknown"] == pytest.approx(0.2)
    assert {**found, "unknown": 0.0} == pytest.approx(known)


def test_the_probabilities_of_a_code_add_up_to_one() -> None:
    generator = torch.Generator().manual_seed(0)
    heads = Heads(torch.randn(2, 4, 3, generator=generator), torch.randn(2, 4, generator=generator))
    features, seen = torch.randn(5, 3, generator=generator), torch.tensor([True, False, True, True])
    total = sum(2 ** -code_length(heads, features, torch.full((5,), c), seen) for c in (0, 2, 3))
    torch.testing.assert_close(total, torch.ones(2, 5, dtype=torch.float64))


def test_the_choice_by_loss_is_not_made_again_where_it_stands(digits: Pairs) -> None:
    data, tests = layer_of(digits, selection="loss")
    assert values(VInformation(), (data, tests)) == pytest.approx(values(VInformation(), layer_of(digits)))
    (information, *_) = VInformation().fit(replace(data, train=torch.full_like(data.train[:], math.nan)))(tests)
    assert math.isfinite(information.value), "train is not fitted to again"


def test_without_validation_the_l2_value_is_that_of_the_head(digits: Pairs) -> None:
    alone = {name: pair for name, pair in digits.items() if name != "val"}
    given = layer_of(alone, l2=(1e-2,))
    assert {block.l2 for block in DescriptionLength().code(given[0])[5:]} == {1e-2}
    assert values(FewShot(samples=(2,), draws=2), given)["error"] < 0.8
    assert values(VInformation(), given)["v_information"] > 0.5


def test_without_validation_a_leave_one_out_error_that_is_not_known_chooses_nothing(digits: Pairs) -> None:
    alone = {name: pair for name, pair in digits.items() if name != "val"}
    given = layer_of(alone, l2=(1e-2,), solvers=(Ridge(leave_one_out=True),))
    exact = replace(given[0], head=replace(given[0].head, l2=(0.0,)))
    assert values(FewShot(samples=(1, 2), draws=1), (exact, given[1]))["error"] < 0.8


def test_draws_of_a_class_that_is_too_small_say_so(layer: tuple[LayerData, Mapping[str, TestSet]]) -> None:
    smallest = int(torch.bincount(layer[0].labels.splits["train"]).min())
    with pytest.raises(ArithmeticError, match=f"the smallest class has {smallest} samples, fewer than {smallest + 1}"):
        FewShot(samples=(smallest + 1, 500)).fit(layer[0])


def test_values_that_agree_have_no_interval() -> None:
    assert mean_interval(torch.full((5,), 0.1, dtype=torch.float64))[0] == 0.1
    assert np.isnan(mean_interval(torch.full((5,), 0.1, dtype=torch.float64))[1:]).all()
    assert mean_interval(torch.tensor([0.0, 0.1], dtype=torch.float64), 0.0, 0.5)[1:] == (0.0, 0.5)


def test_layers_on_disk_and_records_and_least_squares(digits: Pairs) -> None:
    asked = [DescriptionLength(blocks=(0.1, 0.5)), VInformation(), FewShot(samples=(1, 4), draws=2)]
    single = {name: (x.float(), y) for name, (x, y) in digits.items()}

    def metrics(room: int = ROOM, **options: object) -> dict[tuple[str, str, int], float]:
        found = probed_with(room, nn.Identity(), single, analyses=asked, l2=L2, **options).metrics
        found = found[~found["metric"].isin(("seconds", "gap"))]
        return found.set_index(["head", "metric", "n_train"])["value"].dropna().to_dict()

    in_memory = metrics()
    assert {head for head, _, _ in in_memory} == {"description_length", "v_information", "few_shot"}
    assert {n for head, _, n in in_memory if head == "few_shot"} == {10, 40}
    assert metrics(solvers=[Ridge()])["v_information", "v_information", 160] == pytest.approx(
        in_memory["v_information", "v_information", 160], rel=1e-4
    )
    assert metrics(1 << 12) == pytest.approx(in_memory, rel=1e-4)


def test_rows_are_picked_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    class Kept(AbstractRows):
        def __init__(self, rows: Tensor) -> None:
            self.rows, self.shape, self.dtype, self.device = rows, tuple(rows.shape), rows.dtype, rows.device  # type: ignore[assignment]

        def __getitem__(self, rows: slice) -> Tensor:
            read.append(len(self.rows[rows]))
            return self.rows[rows].clone()

    read: list[int] = []
    monkeypatch.setattr("layerprobe.probing.features.row_blocks.BLOCK", 30)
    rows, which = torch.arange(100.0).reshape(50, 2), torch.tensor([0, 3, 16, 44, 49])
    picked = PickedRows(Kept(rows), which)
    assert torch.equal(picked[:], rows[which])
    assert torch.equal(picked[1:3], rows[which[1:3]])
    assert picked[2:2].shape == (0, 2)
    assert max(read) <= 15


@pytest.mark.parametrize("analysis", [DescriptionLength(), VInformation(), FewShot()])
def test_what_is_refused_before_anything_is_recorded(analysis: AbstractAnalysis) -> None:
    with pytest.raises(ValueError, match=f"`{analysis.name}` .* found the task regression"):
        ProbeProtocol(task=Regression(), solvers=(Ridge(),), analyses=(analysis,))
    with pytest.raises(ValueError, match="`analyses` needs features that are kept"):
        ProbeProtocol(solvers=(Ridge(),), stream=True, analyses=(analysis,))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: DescriptionLength(blocks=(0.5, 2.0)), "`blocks` of description_length holds 2.0"),
        (lambda: FewShot(samples=()), "`samples` of few_shot"),
        (lambda: FewShot(samples=(0, 1)), "`samples` of few_shot"),
        (lambda: FewShot(draws=0), "`draws` of few_shot is 0"),
    ],
)
def test_settings_that_cannot_be(make: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()  # type: ignore[operator]
