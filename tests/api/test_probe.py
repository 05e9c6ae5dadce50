"""What `layerprobe.probe` takes: everything that a user would pass, with the same records."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

import layerprobe
from layerprobe.models.classifier import trainable
from layerprobe.probing.data_adapters import division_of, sources_of
from layerprobe.probing.solvers.solver import AbstractSolver
from layerprobe.types import SPLITS, named_classes

SIZES = {"train": 60, "val": 30, "test": 40}


def made(dtype: torch.dtype = torch.float32) -> dict[str, tuple[Tensor, Tensor]]:
    random = torch.Generator().manual_seed(0)
    data = {}
    for split, n in SIZES.items():
        x = torch.randn(n, 5, generator=random, dtype=torch.float32).to(dtype)
        data[split] = (x, (x[:, 0] + 0.7 * torch.randn(n, generator=random) > 0).long() + 2 * (x[:, 1] > 0.5))
    return data


def network(dtype: torch.dtype = torch.float32) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3)).to(dtype)


def probed(data: Any, net: nn.Module | None = None, **options: Any) -> pd.DataFrame:
    found = layerprobe.probe(net or network(), data, l2=[1e-2, 1e-1], progress=False, **options)
    return found.drop(columns="seconds")


class Pairs(Dataset[Any]):
    def __init__(self, pair: tuple[Tensor, Tensor]) -> None:
        self.pair = pair

    def __len__(self) -> int:
        return len(self.pair[1])

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        return self.pair[0][i], int(self.pair[1][i])


class Stream(IterableDataset[Any]):
    def __init__(self, pair: tuple[Tensor, Tensor]) -> None:
        self.pair = pair

    def __iter__(self) -> Any:
        yield from zip(*self.pair, strict=True)


WORDS = np.array(["ant", "bee", "cat", "dog"])


def of_hugging_face(x: Tensor, y: Tensor) -> Any:
    import datasets

    return datasets.Dataset.from_dict({"x": x.tolist(), "y": y.tolist(), "word": WORDS[y.numpy()].tolist()})


WAYS = {
    "numpy": lambda x, y: (x.numpy().astype(np.float64), y.numpy()),
    "numpy of few bits": lambda x, y: (x.numpy(), y.numpy().astype(np.int8)),
    "mixed": lambda x, y: (x, y.numpy()),
    "pandas": lambda x, y: (pd.DataFrame(x.numpy(), index=range(7, 7 + len(x))), pd.Series(y.numpy(), name="label")),
    "lists": lambda x, y: (x.tolist(), y.tolist()),
    "a list of tensors": lambda x, y: [list(x), list(y)],
    "whole floats": lambda x, y: (x, y.double()),
    "a column": lambda x, y: (x.numpy(), y.numpy()[:, None]),
    "words": lambda x, y: (x, WORDS[y.numpy()]),
    "a list of words": lambda x, y: (x, WORDS[y.numpy()].tolist()),
    "pandas' words": lambda x, y: (x, pd.Series(WORDS[y.numpy()]).astype("category")),
    "columns of a Hugging Face data set": lambda x, y: (of_hugging_face(x, y)["x"], of_hugging_face(x, y)["word"]),
    "its columns as tensors": lambda x, y: tuple(of_hugging_face(x, y).with_format("torch")[name] for name in "xy"),
    "columns of pyarrow": lambda x, y: (
        pa.FixedSizeListArray.from_arrays(pa.array(x.numpy().ravel()), x.shape[1]),
        pa.array(y.numpy()),
    ),
    "columns of pyarrow in chunks, with words": lambda x, y: (
        pa.chunked_array([pa.array(list(x[:9].numpy())), pa.array(list(x[9:].numpy()))]),
        pa.array(WORDS[y.numpy()]).dictionary_encode(),
    ),
    "a table of pyarrow": lambda x, y: (pa.table({str(i): x[:, i].numpy() for i in range(5)}), pa.array(y.numpy())),
    "a TensorDataset": TensorDataset,
    "a Dataset": lambda x, y: Pairs((x, y)),
    "a stream": lambda x, y: Stream((x, y)),
    "a DataLoader": lambda x, y: DataLoader(TensorDataset(x, y), batch_size=16, shuffle=True),
    "a list of batches": lambda x, y: [(x[:9], y[:9]), (x[9:], y[9:])],
    "a loader of NumPy targets": lambda x, y: DataLoader(
        Pairs((x, y)), 16, collate_fn=lambda rows: (torch.stack([r[0] for r in rows]), np.array([r[1] for r in rows]))
    ),
}


@pytest.fixture(scope="module")
def expected() -> pd.DataFrame:
    found = probed(made())
    assert found["layer"].tolist() == ["input", "0", "1", "2"]
    assert found["test_error"].between(0.01, 0.6).all()
    return found


@pytest.mark.parametrize("way", WAYS)
def test_every_way_to_give_a_split_gives_the_same_records(expected: pd.DataFrame, way: str) -> None:
    pd.testing.assert_frame_equal(probed({split: WAYS[way](*pair) for split, pair in made().items()}), expected)


@pytest.mark.parametrize("name", ["validation", "valid", "dev"])
def test_the_validation_split_goes_by_its_usual_names(expected: pd.DataFrame, name: str, tmp_path: Path) -> None:
    train, val, test = made().values()
    pd.testing.assert_frame_equal(probed({"train": train, name: val, "test": test}), expected)
    with pytest.raises(ValueError, match=rf"have a split '{name}'. Call them train, val and test"):
        probed({"train": train, name: val, "val": val, "test": test})
    callback = layerprobe.ProbeCallback(data={"train": train, name: val, "test": test})
    net = trainable(network(), lambda named: torch.optim.SGD(dict(named).values(), lr=0.1), None)
    trainer = pl.Trainer(
        max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, callbacks=[callback], default_root_dir=tmp_path,
    )  # fmt: skip
    loader = DataLoader(TensorDataset(train[0], train[1] % 3), batch_size=60)
    trainer.fit(net, loader, loader)
    assert not callback.results().empty


def test_two_classes_may_be_minus_one_and_one() -> None:
    binary = {split: (x, (y > 0).long()) for split, (x, y) in made().items()}
    signed = {split: (x, 2 * y - 1) for split, (x, y) in binary.items()}
    asked: dict[str, Any] = {"controls": ["shuffled"], "metrics": "all", "analyses": ["nearest_mean", "knn"]}
    net = network()
    pd.testing.assert_frame_equal(probed(signed, net, **asked), probed(binary, net, **asked))
    head = layerprobe.probe(net, signed, progress=False).heads["1"]
    assert head.classes.tolist() == [-1, 1]
    assert set(head.predict(net, signed["test"][0]).tolist()) == {-1, 1}
    for other in (torch.zeros(60), torch.full((60,), 2)):
        train = (signed["train"][0], torch.where(torch.arange(60) % 2 == 0, -1, other))
        with pytest.raises(TypeError, match="found the negative value -1"):
            probed(signed | {"train": train}, net)
    with pytest.raises(TypeError, match="found the negative value -1 in the test split"):
        probed(binary | {"test": (binary["test"][0], -torch.ones(40))}, net)


def test_words_in_batches_are_answered_with_a_way_to_number_them() -> None:
    words = [("a", "b")[int(y > 0)] for y in made()["train"][1]]
    batches = [(made()["train"][0], words)]
    with pytest.raises(TypeError, match=r"a list in the train split: words \(a, b\), to be numbered such as by tar"):
        probed(dict.fromkeys(SPLITS, batches))


def test_samples_that_are_lists_of_numbers_are_answered_with_a_message() -> None:
    x, y = made()["train"]
    rows = [{"x": row.tolist(), "y": int(label)} for row, label in zip(x, y, strict=True)]
    batches = dict.fromkeys(SPLITS, DataLoader(rows, batch_size=20))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"let them be tensors, .* with_format\('torch'\)"):
        probed(batches, inputs="x", targets="y")
    arrays = [(x.numpy(), y)]
    with pytest.raises(TypeError, match=r"of an array, inputs=lambda batch: torch.as_tensor"):
        probed(dict.fromkeys(SPLITS, arrays))


def test_one_way_for_each_split(expected: pd.DataFrame) -> None:
    x = made()
    data = {"train": WAYS["numpy"](*x["train"]), "val": WAYS["a Dataset"](*x["val"]), "test": x["test"]}
    pd.testing.assert_frame_equal(probed(data), expected)


def test_numbers_become_what_the_network_computes_in() -> None:
    net = network(torch.float64)
    as_tensors = probed(made(torch.float64), net)
    as_arrays = probed({s: (x.numpy(), y.numpy()) for s, (x, y) in made().items()}, net)
    pd.testing.assert_frame_equal(as_arrays, as_tensors)
    with pytest.raises(TypeError, match=r"computes in torch.float64, .*same dtype"):
        probed(made(), net)  # the negative control: a tensor is taken as it is


def test_several_inputs_by_name_or_place() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = network()

        def forward(self, a: Tensor, b: Tensor) -> Tensor:
            return self.body(torch.cat([a, b], 1))

    cut = {split: (x[:, :2], x[:, 2:], y) for split, (x, y) in made().items()}
    by_name = probed({s: ({"a": a.numpy(), "b": b.tolist()}, y) for s, (a, b, y) in cut.items()}, Two())
    by_place = probed({s: ((a.numpy(), b), y) for s, (a, b, y) in cut.items()}, Two())
    whole = probed(made(), network())
    names = ["body.0", "body.1", "body.2"]
    for found in (by_name, by_place):
        columns = ["test_error", "test_loss", "l2"]
        assert found.set_index("layer").loc[names, columns].to_numpy() == pytest.approx(
            whole.set_index("layer").loc[["0", "1", "2"], columns].to_numpy()
        )


@pytest.mark.parametrize("way", ["pair", "words", "TensorDataset", "Dataset"])
def test_data_without_splits_are_divided_by_the_seed(way: str) -> None:
    x, y = (torch.cat([pair[i] for pair in made().values()]) for i in (0, 1))
    y = (y > 2).long()  # few of one class
    given: Any = {
        "pair": (x.numpy(), y.numpy()),
        "words": (x, WORDS[y.numpy()]),
        "TensorDataset": TensorDataset(x, y),
        "Dataset": Pairs((x, y)),
    }[way]
    first = probed(given, layers="2")
    assert first[["n_train", "n_val", "n_test"]].to_numpy().tolist() == [[78, 26, 26]]
    pd.testing.assert_frame_equal(probed(given, layers="2"), first)
    assert not probed(given, layers="2", seed=1).equals(first)
    if way != "Dataset":
        parts: Any = sources_of(given)
        shares = [float(parts[split][1].float().mean()) for split in ("train", "val", "test")]
        assert max(shares) - min(shares) < 1.5 / 26, "stratified"
        assert sorted(torch.cat([part[0][:, 0] for part in parts.values()]).tolist()) == sorted(x[:, 0].tolist())


def test_names_stand_for_what_is_called_so(expected: pd.DataFrame) -> None:
    named = probed(made(), reducer="flatten", solver=["ridge", "logistic"], task="classification")
    objects = probed(
        made(), reducer=layerprobe.Flatten(), solver=[layerprobe.Ridge(), layerprobe.Logistic],
        task=layerprobe.Classification,
    )  # fmt: skip
    pd.testing.assert_frame_equal(named, objects)
    assert not named.equals(expected)
    y = {split: (x, x[:, 0].double().numpy()) for split, (x, _) in made().items()}
    assert set(probed(y, task="regression", solver="ridge")["task"]) == {"regression"}
    assert set(probed(y, task="regression")["solver"]) == {"ridge"}
    rows = {s: (x, torch.stack([y > 1, y == 0], 1).numpy().tolist()) for s, (x, y) in made().items()}
    assert set(probed(rows, task="multi_label")["n_classes"]) == {2}
    with pytest.raises(
        ValueError, match=r"reducer 'flattn' is not known. Did you mean flatten\? Choose one of: average_pool"
    ):
        probed(made(), reducer="flattn")
    solvers = sorted(named_classes(AbstractSolver))  # those of other tests may be among them
    assert {"logistic", "ridge"} <= set(solvers)
    with pytest.raises(ValueError, match=rf"solver 'svm' is not known. Choose one of: {', '.join(solvers)}\. Or give"):
        probed(made(), solver=["svm"])
    with pytest.raises(ValueError, match=r"TokenIndex needs `index`: give TokenIndex\(index=…\)"):
        probed(made(), reducer="token_index")


def test_a_batch_is_taken_apart_by_keys(expected: pd.DataFrame) -> None:
    batches = {s: [{"x": x, "y": y, "z": 1}] for s, (x, y) in made().items()}
    pd.testing.assert_frame_equal(probed(batches, inputs="x", targets="y"), expected)
    pd.testing.assert_frame_equal(probed(batches, inputs=["x"], targets="y"), expected)


class _Theirs(pl.LightningDataModule):
    def __init__(self) -> None:
        super().__init__()
        self.data: Any = None

    def setup(self, stage: str) -> None:
        self.data = made()

    def train_dataloader(self) -> Any:
        return DataLoader(TensorDataset(*self.data["train"]), 16, shuffle=True)

    def val_dataloader(self) -> Any:
        return DataLoader(TensorDataset(*self.data["val"]), 16)

    def test_dataloader(self) -> Any:
        return [DataLoader(TensorDataset(*self.data["test"]), 16)]


def other_package(monkeypatch: pytest.MonkeyPatch) -> type:
    """Lightning's data module as the other package has it: classes of its own, with the same methods."""
    module = ModuleType("lightning.pytorch.core.datamodule")
    copies = {}
    for name in ("train_dataloader", "val_dataloader", "test_dataloader", "prepare_data", "setup"):

        def hook(self: Any, *args: Any) -> None:
            raise NotImplementedError("not overridden")

        hook.__module__ = module.__name__
        copies[name] = hook
    base = type("LightningDataModule", (), copies)
    base.__module__ = module.__name__
    monkeypatch.setitem(sys.modules, module.__name__, module)
    overridden = {k: v for k, v in vars(_Theirs).items() if k.endswith("_dataloader") or k == "setup"}
    return type("Theirs", (base,), overridden | {"prepare_data": lambda self: None, "data": None})


def test_data_modules_of_either_package(expected: pd.DataFrame, monkeypatch: pytest.MonkeyPatch) -> None:
    pd.testing.assert_frame_equal(probed(_Theirs()), expected)
    theirs = other_package(monkeypatch)
    assert not issubclass(theirs, pl.LightningDataModule)
    pd.testing.assert_frame_equal(probed(theirs()), expected)
    del theirs.val_dataloader
    with pytest.raises(ValueError, match="val: the head of each layer is chosen on it"):
        probed(theirs())


@pytest.mark.filterwarnings("ignore:'pin_memory' argument")
def test_a_data_module_made_of_data_sets(expected: pd.DataFrame) -> None:
    sets = {f"{s}_dataset": TensorDataset(*pair) for s, pair in made().items()}
    module = pl.LightningDataModule.from_datasets(**sets, batch_size=32)
    pd.testing.assert_frame_equal(probed(module), expected)


WRONG = [
    ({"train": 3, "val": 3, "test": 3}, "The train split is a int. Give a data module; or"),
    ({"train": (torch.ones(4, 5), torch.zeros(3)), "val": 1, "test": 1}, "has 4 inputs and 3 targets"),
    ({"training": 3}, "have a split 'training'. Call them train, val and test"),
    ([1, 2, 3], "The data are a list of 3"),
    (torch.ones(3, 5), "The data are a Tensor. Give a data module; or"),
    (None, "The data are None"),
    ((np.array([["a"], ["b"]] * 5), np.arange(10) % 2), "An array of <U1 cannot be read"),
    ((torch.ones(3, 5), [0, 1, 0]), "3 samples cannot be divided"),
    (
        {"train": (torch.ones(2, 5), ["a", "b"]), "val": (torch.ones(2, 5), [0, 1])},
        "words and those of another numbers",
    ),
]


@pytest.mark.parametrize(("data", "message"), WRONG, ids=[message[:20] for _, message in WRONG])
def test_what_is_none_of_these_is_told_what_is(data: Any, message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        probed(data)


@pytest.mark.parametrize(
    ("bad", "found"), [(math.nan, "such as nan"), (0.5, r"such as 0\.5"), (-1.0, r"the negative value -1\.0")]
)
def test_numbers_that_are_no_classes_are_refused(bad: float, found: str) -> None:
    data = {s: (x.numpy(), y.double().numpy()) for s, (x, y) in made().items()}
    data["train"][1][3] = bad
    with pytest.raises(TypeError, match=rf"found .* in the train split.*{found}|found {found} in the train split"):
        probed(data)


def _pair(inputs: Any = None, targets: Any = None) -> tuple[Any, Any]:
    x = np.random.default_rng(0).normal(size=(60, 3)) if inputs is None else inputs
    return x, np.arange(60) % 2 if targets is None else targets


ABSENT = (
    (_pair(targets=np.array(["a", np.nan], dtype=object)[np.arange(60) % 2]), "words and, at 1, nan"),
    (_pair(targets=pd.Series(["a", None, "b"] * 20)), "words and, at 1, (None|nan)"),
    (
        _pair(inputs=np.ma.masked_less(np.random.default_rng(0).normal(size=(60, 3)), -1)),
        "values of an array are masked",
    ),
)


@pytest.mark.parametrize(("data", "message"), ABSENT, ids=[message for _, message in ABSENT])
def test_what_has_no_value_is_no_class_and_no_number(data: Any, message: str) -> None:
    with pytest.raises(TypeError, match=f"{message}.*Leave out samples without a value"):
        layerprobe.probe(nn.Linear(3, 2), data, l2=0.1)


@pytest.mark.parametrize("kind", [list, lambda split: DataLoader(split, batch_size=None)])
def test_samples_in_the_place_of_batches_are_answered_with_a_message(kind: Callable[[Any], Any]) -> None:
    data = {split: kind(Pairs(pair)) for split, pair in made().items()}
    with pytest.raises(TypeError, match=r"train split has one target, .*, without an axis of samples.* DataLoader\("):
        layerprobe.probe(network(), data, l2=0.1)


def test_a_list_with_something_that_is_no_target_names_it() -> None:
    with pytest.raises(TypeError, match=r"a tuple of 2 \(ndarray, list, with the target None at 1\)"):
        layerprobe.probe(nn.Linear(3, 2), _pair(targets=[0, None, *[1] * 58]), l2=0.1)


@pytest.mark.parametrize("kind", [np.ones, torch.ones, lambda n: [1.0] * n])
def test_samples_of_several_shapes_are_answered_with_a_message(kind: Callable[[int], Any]) -> None:
    with pytest.raises(ValueError, match=r"a list of samples of several shapes(, \(1,\) and \(2,\))?\. Pad or crop"):
        layerprobe.probe(nn.Linear(3, 2), _pair(inputs=[kind(1 + i % 2) for i in range(60)]), l2=0.1)


def test_arrays_of_any_byte_order_and_width() -> None:
    x, y = _pair()
    wanted = layerprobe.probe(nn.Identity(), (x, y), l2=0.1)["test_error"].tolist()
    words = np.array([b"no", b"yes"])[y]
    for data in ((x.astype(">f8"), y.astype(">i4")), (x.astype(np.longdouble), y), (x, words)):
        found = layerprobe.probe(nn.Identity(), data, l2=np.float32(0.1), seed=np.int64(0))  # type: ignore[arg-type]
        assert found["test_error"].tolist() == wanted


@pytest.mark.parametrize(
    ("options", "message"),
    [({"l2": "foo"}, "`l2` of the probe holds 'foo'"), ({"batch_size": -1}, "`batch_size` of the probe is -1")],
)
def test_values_that_cannot_be_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        layerprobe.probe(nn.Linear(3, 2), _pair(), **options)


def test_pandas_rows_with_the_same_names_in_another_order_are_refused() -> None:
    inputs = pd.DataFrame(np.eye(5, dtype=np.float32))
    targets = pd.Series([0, 1, 0, 1, 0]).sample(frac=1, random_state=1)
    with pytest.raises(ValueError, match=r"of the train split have the same index in different orders.*loc\["):
        sources_of({"train": (inputs, targets)})
    for given in (targets.loc[inputs.index], targets.to_numpy(), targets.reset_index(drop=True)):
        assert len(sources_of({"train": (inputs, given)})["train"][1]) == 5
    some, others = inputs.loc[[2, 0, 1]], targets.loc[[0, 1, 3]]
    with pytest.raises(ValueError, match=r"of the train split have indices that differ, and rows are paired by their"):
        sources_of({"train": (some, others)})
    for part in (some.reset_index(drop=True), some.set_axis([7, 8, 9])):
        assert len(sources_of({"train": (part, others)})["train"][1]) == 3, "an index that names nothing, or others"


def test_a_data_set_need_not_be_of_torch_s_class() -> None:
    class Table:
        """Gives samples by their numbers, many at once, as Hugging Face's data sets do."""

        def __len__(self) -> int:
            return 20

        def __getitem__(self, row: int) -> tuple[Tensor, int]:
            return torch.full((3,), float(row)), row % 2

        def __getitems__(self, rows: list[int]) -> list[tuple[Tensor, int]]:
            return [self[row] for row in rows]

        def __iter__(self) -> Any:
            return map(self.__getitem__, range(20))

    [(x, y)] = sources_of({"train": Table()})["train"]
    assert (x.shape, y.tolist()) == ((20, 3), [0, 1] * 10)
    assert [len(part.dataset) for part in sources_of(Table()).values()] == [12, 4, 4]


def test_heads_are_fitted_and_read_in_full_precision_inside_autocast() -> None:
    data, net = made(), nn.Linear(5, 4)
    with torch.autocast("cpu", torch.bfloat16):
        found = layerprobe.probe(net, data, l2=[1e-3, 1e-1], analyses="nearest_mean")
        scores = found.heads["input"].decision_function(net, data["test"][0])
        near = found.heads["input"].references["nearest_mean"].predict(net, data["test"][0])
    expected = layerprobe.probe(net, data, l2=[1e-3, 1e-1], analyses="nearest_mean")
    assert found["test_loss"][0] == expected["test_loss"][0]
    assert torch.equal(scores, expected.heads["input"].decision_function(net, data["test"][0]))
    assert torch.equal(near, expected.heads["input"].references["nearest_mean"].predict(net, data["test"][0]))


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta")
@pytest.mark.parametrize("layout", [torch.sparse_coo, torch.sparse_csr])
def test_sparse_inputs_are_refused_in_every_form(layout: torch.layout) -> None:
    pair = torch.eye(20).to_sparse(layout=layout), torch.arange(20) % 2
    for data in (pair, dict.fromkeys(SPLITS, pair), {split: [pair] for split in SPLITS}):
        with pytest.raises(TypeError, match=r"hold a sparse tensor \(torch\.sparse_c.+\.to_dense\(\)"):
            layerprobe.probe(nn.Linear(20, 2), data)


class Scaled(nn.Module):
    """Takes what is no tensor of samples beside its samples."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 3)

    def forward(self, x: torch.Tensor, scale: Any, mode: str | None = None, shift: Any = None) -> torch.Tensor:
        assert mode in (None, "plain") and shift is None
        return self.layer(x) * scale


@pytest.mark.parametrize(
    "of",
    [
        lambda x: (x, 2.0, "plain", None),
        lambda x: (x.numpy(), torch.tensor(2.0)),
        lambda x: {"x": x, "scale": 2, "shift": None},
    ],
)
def test_arguments_that_hold_no_samples_go_with_every_batch(of: Any) -> None:
    torch.manual_seed(0)
    x, y = torch.randn(40, 3), torch.arange(40) % 2
    network = Scaled()
    found = layerprobe.probe(network, (of(x), y), layers=["layer", "mul"], l2=0.1)
    alone = layerprobe.probe(nn.Sequential(network.layer), (x, y), layers="0", l2=0.1)
    assert found.test_error.tolist() == alone.test_error.tolist() * 2


@pytest.mark.parametrize("inputs", [{"scale": 2.0, "mode": "plain"}, [1.0, 2.0, 3.0], ({"x": [1.0] * 39},)])
def test_arguments_without_samples_are_refused(inputs: Any) -> None:
    with pytest.raises(TypeError, match=r"The inputs .*are a (dict|list)"):
        layerprobe.probe(Scaled(), (inputs, torch.arange(40) % 2))


def test_targets_of_one_column_are_divided_as_those_without_columns() -> None:
    y = (torch.arange(60) % 10 == 0).long()
    flat, column = (division_of((torch.zeros(60, 2), targets)) for targets in (y, y[:, None]))
    assert flat is not None and column is not None
    assert all(torch.equal(flat[split], column[split]) for split in flat)
    assert all(abs(int(y[rows].sum()) - len(rows) / 10) < 1 for rows in flat.values()), "stratified"
