"""Features that are kept: found by whoever asks for the same, never by anyone else."""

from __future__ import annotations

import json
import logging
import os
import resource
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from enum import Enum
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

import layerprobe
from layerprobe.probing.data_fingerprint import Fingerprint
from layerprobe.probing.feature_keeper import _numbers
from layerprobe.probing.features.reducers import AveragePool, RandomSubset
from layerprobe.probing.features.token_reducers import LastToken, MeanToken
from layerprobe.probing.pipeline import probe_checkpoint
from layerprobe.probing.protocol import ProbeProtocol
from layerprobe.probing.resources import Resources
from layerprobe.probing.solvers.ridge import Ridge
from layerprobe.results.arrow_tables import to_frame

PASSES = os.memfd_create("passes")
"""A file that each sample moves on in: what the network has in memory is put back after its passes."""


def passed() -> int:
    return os.lseek(PASSES, 0, os.SEEK_CUR)


class Net(nn.Module):
    """Two layers, whose passes are counted where no hash sees it."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.first, self.last = nn.Linear(6, 8), nn.Linear(8, 3)
        self.slope = 0.1

    def forward(self, x: Tensor) -> Tensor:
        os.lseek(PASSES, len(x), os.SEEK_CUR)
        return self.last(F.leaky_relu(self.first(x), self.slope))


class Elu(Net):
    """The same weights, another function."""

    def forward(self, x: Tensor) -> Tensor:
        os.lseek(PASSES, len(x), os.SEEK_CUR)
        return self.last(F.elu(self.first(x), self.slope))


def splits(seed: int = 0, n: int = 60) -> dict[str, tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    return {
        split: (torch.randn(n + i, 6, generator=generator), torch.arange(n + i) % 3)
        for i, split in enumerate(("train", "val", "test"))
    }


def ask(network: nn.Module, data: Any, keep: Path | None, **asked: Any) -> tuple[pd.DataFrame, int]:
    """The records without their times, and how many samples went through the network."""
    before = passed()
    batch_size = asked.pop("batch_size", None)
    protocol = ProbeProtocol(solvers=(Ridge(),), l2=(1e-2, 1.0), **asked)
    results = list(probe_checkpoint(network, data, protocol, resources=Resources(batch_size, keep=keep)))
    frame = to_frame([result.record for result in results])
    return frame.drop(columns=[name for name in frame if "seconds" in name]), passed() - before


def equal(left: pd.DataFrame, right: pd.DataFrame) -> None:
    pd.testing.assert_frame_equal(left, right, check_exact=True)


def test_the_second_question_runs_no_network_and_gives_the_same_bits(tmp_path: Path) -> None:
    plain, _ = ask(Net(), splits(), None)
    first, passes = ask(Net(), splits(), tmp_path / "kept")
    second, none = ask(Net(), splits(), tmp_path / "kept")
    assert passes > 180
    assert none == 0
    equal(plain, first)
    equal(first, second)


@pytest.mark.parametrize(
    "asked",
    [
        {"seeds": (7,)},
        {"controls": ("shuffled", "control_task")},
        {"layers": "last"},
        {"exclude": "input"},
        {"targets": lambda batch: batch[1] // 2},
        {"batch_size": 7},
        {"standardise": False},
        {"refit": True},
    ],
    ids=lambda asked: next(iter(asked)),
)
def test_whatever_has_no_part_in_features_is_asked_without_the_network(tmp_path: Path, asked: dict[str, Any]) -> None:
    ask(Net(), splits(), tmp_path / "kept")
    found, passes = ask(Net(), splits(), tmp_path / "kept", **asked)
    assert passes == 0
    asked = {name: value for name, value in asked.items() if name != "batch_size"}
    equal(found, ask(Net(), splits(), None, **asked)[0])


def changed(index: int, row: int) -> dict[str, tuple[Tensor, Tensor]]:
    """One value of one sample of one split is another in its last bit."""
    data = splits()
    x = data[("train", "val", "test")[index]][0]
    x[row, 5] = torch.nextafter(x[row, 5], torch.tensor(9.0))
    return data


def other_slope() -> Net:
    network = Net()
    network.slope = 0.2
    return network


def with_hook() -> Net:
    network = Net()
    network.first.register_forward_hook(lambda module, args, output: output * 2)
    return network


@pytest.mark.parametrize(
    ("network", "data", "asked"),
    [
        (lambda: Net(1), splits, {}),
        (Elu, splits, {}),
        (other_slope, splits, {}),
        (with_hook, splits, {}),
        (lambda: Net().double(), lambda: {s: (x.double(), y) for s, (x, y) in splits().items()}, {}),
        (Net, lambda: changed(0, 0), {}),
        (Net, lambda: changed(2, 61), {}),
        (Net, lambda: splits() | {"val": tuple(part.flip(0) for part in splits()["val"])}, {}),
        (Net, lambda: splits() | {"val": tuple(part[:-1] for part in splits()["val"])}, {}),
        (Net, splits, {"reducers": (AveragePool(4),)}),
        (Net, splits, {"reducers": (RandomSubset(4),), "seeds": (1,)}),
    ],
    ids=["weights", "code", "attribute", "hook", "double", "bit", "last bit", "order", "number", "reducer", "seed"],
)
def test_whatever_makes_other_features_is_recorded(
    tmp_path: Path, network: Callable[[], nn.Module], data: Callable[[], Any], asked: dict[str, Any]
) -> None:
    ask(Net(), splits(), tmp_path / "kept")
    ask(Net(), splits(), tmp_path / "kept", reducers=(RandomSubset(4),), seeds=(0,))
    found, passes = ask(network(), data(), tmp_path / "kept", **asked)
    assert passes > 0
    equal(found, ask(network(), data(), None, **asked)[0])


def test_layers_that_are_not_there_are_recorded_beside_those_that_are(tmp_path: Path) -> None:
    ask(Net(), splits(), tmp_path / "kept", layers="last")
    found, passes = ask(Net(), splits(), tmp_path / "kept")
    assert passes > 0
    equal(found, ask(Net(), splits(), None)[0])
    assert ask(Net(), splits(), tmp_path / "kept")[1] == 0


class Tokens(nn.Module):
    """A vector for each token, which knows its place."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.embed, self.mix = nn.Embedding(20, 8), nn.Linear(8, 8)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        os.lseek(PASSES, len(input_ids), os.SEEK_CUR)
        places = torch.arange(input_ids.shape[1])[:, None] / 10
        return self.mix(self.embed(input_ids) + places)


def padded(rows: list[Tensor], *, left: bool = False) -> dict[str, Tensor]:
    size = max(map(len, rows))
    ids, mask = torch.zeros(len(rows), size, dtype=torch.long), torch.zeros(len(rows), size, dtype=torch.long)
    for i, row in enumerate(rows):
        place = slice(size - len(row), size) if left else slice(0, len(row))
        ids[i, place], mask[i, place] = row, 1
    return {"input_ids": ids, "attention_mask": mask}


class Sentences(Dataset[Any]):
    def __init__(self, n: int) -> None:
        generator = torch.Generator().manual_seed(n)
        lengths = torch.randint(3, 9, (n,), generator=generator)
        self.rows = [torch.randint(1, 20, (int(size),), generator=generator) for size in lengths]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.rows[index], int(self.rows[index].sum()) % 2


def sentences(size: int, *, left: bool = False) -> dict[str, DataLoader[Any]]:
    def collate(samples: Any) -> Any:
        rows, targets = zip(*samples, strict=True)
        return padded(list(rows), left=left), torch.tensor(targets)

    return {
        s: DataLoader(Sentences(n), size, collate_fn=collate) for s, n in (("train", 50), ("val", 30), ("test", 31))
    }


def test_sequences_are_found_whatever_their_batches_are_padded_to(tmp_path: Path) -> None:
    asked: dict[str, Any] = {"reducers": (LastToken(), MeanToken())}
    first, _ = ask(Tokens(), sentences(8), tmp_path / "kept", **asked)
    second, passes = ask(Tokens(), sentences(13), tmp_path / "kept", reducers=(LastToken(), MeanToken()))
    assert passes == 0
    equal(first, second)
    assert ask(Tokens(), sentences(8), tmp_path / "kept", reducers=(MeanToken(),))[1] == 0
    assert ask(Tokens(), sentences(8, left=True), tmp_path / "kept", **asked)[1] > 0, "other places of the same tokens"
    half = asked | {
        "mask": lambda batch: batch[0]["attention_mask"] * (torch.arange(batch[0]["input_ids"].shape[1]) < 2)
    }
    found, passes = ask(Tokens(), sentences(8), tmp_path / "kept", **half)
    assert passes > 0
    equal(found, ask(Tokens(), sentences(8), None, **half)[0])


class Noisy(Net):
    def forward(self, x: Tensor) -> Tensor:
        os.lseek(PASSES, len(x), os.SEEK_CUR)
        return self.last(F.dropout(self.first(x), 0.5, training=True))


def test_random_layers_are_not_kept(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    ask(Noisy(), splits(), tmp_path / "kept")
    found, passes = ask(Noisy(), splits(), tmp_path / "kept")
    assert passes > 0
    equal(found, ask(Noisy(), splits(), None)[0])
    assert sum("its values are random" in message for message in caplog.messages) == 2, "once in each probe"
    assert ask(Noisy(), splits(), tmp_path / "kept", layers="first")[1] == 0


class Infinite(Net):
    def forward(self, x: Tensor) -> Tensor:
        os.lseek(PASSES, len(x), os.SEEK_CUR)
        return self.last(self.first(x) / x[:, :1].clamp(min=0))


def test_a_layer_without_features_is_known_to_have_none(tmp_path: Path) -> None:
    first, _ = ask(Infinite(), splits(), tmp_path / "kept")
    second, passes = ask(Infinite(), splits(), tmp_path / "kept")
    assert passes == 0
    assert "NaN or infinite" in second.set_index("layer").loc["last", "message"]
    equal(first, second)


class Augmented(Dataset[Any]):
    def __len__(self) -> int:
        return 60

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return torch.full((6,), float(index)) + os.urandom(1)[0], index % 3


def test_data_that_come_out_different_each_time_are_not_kept(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    data: dict[str, Any] = splits() | {"train": DataLoader(Augmented(), 16)}
    ask(Net(), data, tmp_path / "kept", layers="first")
    before = sorted((tmp_path / "kept").rglob("*"))
    frame, passes = ask(Net(), data, tmp_path / "kept")
    assert passes > 180
    assert frame["status"].tolist() == ["converged"] * 3
    assert sum("gives other inputs, or in another order" in message for message in caplog.messages) == 1
    assert sorted((tmp_path / "kept").rglob("*")) == before


READS = os.memfd_create("reads")


class Moving(Dataset[tuple[Tensor, int]]):
    """Gives other samples whenever it is read from the start, in a way that nothing puts back."""

    def __len__(self) -> int:
        return 30

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.at(os.lseek(READS, index == 0, os.SEEK_CUR), index)

    @staticmethod
    def at(read: int, index: int) -> tuple[Tensor, int]:
        return torch.full((6,), 0.5 * read) + torch.arange(6) * index, index % 3


def test_what_is_compared_elsewhere_are_the_samples_that_were_recorded(tmp_path: Path) -> None:
    kept, read, expected = Resources(keep=tmp_path / "kept"), Fingerprint(), Fingerprint()
    ask(Net(), splits(), kept.keep, layers="first")
    data: dict[str, Any] = splits() | {"train": DataLoader(Moving(), 30)}
    protocol = ProbeProtocol(solvers=(Ridge(),), l2=(1.0,))
    assert len(list(probe_checkpoint(Net(), data, protocol, resources=kept, read=read))) == 3
    last = os.lseek(READS, 0, os.SEEK_CUR)
    for x, y in ((*zip(*(Moving.at(last, i) for i in range(30)), strict=True),), data["val"], data["test"]):
        expected.update([torch.stack(x) if isinstance(x, tuple) else x, torch.as_tensor(y)])
    assert read.digest() == expected.digest()


@pytest.mark.parametrize(
    ("data", "asked", "message"),
    [
        (lambda: {s: [pair] for s, pair in splits().items()}, {}, "the train split can only be iterated"),
        (splits, {"stream": True}, "stream=true makes no features of train"),
        (splits, {"spill_dtype": "bfloat16"}, "spill_dtype=bfloat16 rounds"),
    ],
)
def test_where_nothing_can_be_kept_a_probe_says_why_and_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, data: Any, asked: dict[str, Any], message: str
) -> None:
    found, _ = ask(Net(), data(), tmp_path / "kept", **asked)
    equal(found, ask(Net(), data(), None, **asked)[0])
    assert [message in text for text in caplog.messages].count(True) == 1
    assert not (tmp_path / "kept").exists()


def other_version(folder: Path) -> None:
    (folder / "features.json").write_text(json.dumps({"format": 1}))


def damaged_mark(folder: Path) -> None:
    (folder / "features.json").write_text("")


def other_folder(folder: Path) -> None:
    (folder / "results.csv").write_text("")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (other_version, "were kept by another version of layerprobe (format 1; this one has format 4). They are left"),
        (damaged_mark, "were kept by another version of layerprobe (an unknown format"),
        (other_folder, "holds other files than kept features. Give a folder of its own"),
        (lambda folder: (folder / "features.json").mkdir(), "cannot be read (Is a directory)"),
    ],
)
def test_a_folder_that_is_no_store_of_this_version_is_left_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, make: Callable[[Path], Any], message: str
) -> None:
    folder = tmp_path / "kept"
    folder.mkdir()
    make(folder)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    found, _ = ask(Net(), splits(), folder)
    equal(found, ask(Net(), splits(), None)[0])
    assert [message in text for text in caplog.messages].count(True) == 1
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


@pytest.fixture
def full_disk() -> Iterator[Callable[[int], None]]:
    """Lets files have so many bytes, as on a disk that is full by then."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("size", [10, 1900])
def test_a_full_disk_ends_the_keeping_and_not_the_probe(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, full_disk: Callable[[int], None], size: int
) -> None:
    full_disk(size)
    found, _ = ask(Net(), splits(), tmp_path / "kept")
    equal(found, ask(Net(), splits(), None)[0])
    told = [text for text in caplog.messages if "Features are not kept from here on" in text]
    assert len(told) == 1
    assert f"{tmp_path / 'kept'} cannot be written (File too large" in told[0]
    assert not [path for path in tmp_path.rglob("*") if path.name.startswith(".")], "nothing is half there"
    full_disk(resource.RLIM_INFINITY)
    equal(ask(Net(), splits(), tmp_path / "kept")[0], found)
    assert ask(Net(), splits(), tmp_path / "kept")[1] == 0


def test_features_of_a_test_set_are_found_under_any_name(tmp_path: Path) -> None:
    data = splits()
    first, second = data.pop("test"), splits(seed=1)["test"]
    found, passes = ask(Net(), {**data, "in": first, "shifted": second}, tmp_path)
    assert passes
    again, passes = ask(Net(), {**data, "out": second, "in": first}, tmp_path)
    assert not passes
    alone, _ = ask(Net(), {**data, "test": second}, None)
    equal(again, alone)
    equal(found, ask(Net(), {**data, "test": first}, None)[0])
    assert ask(Net(), {**data, "in": first, "new": splits(seed=2)["test"]}, tmp_path)[1]


def test_a_file_that_is_cut_short_counts_as_none(tmp_path: Path) -> None:
    first, _ = ask(Net(), splits(), tmp_path / "kept")
    for file in (tmp_path / "kept").rglob("*.safetensors"):
        content = file.read_bytes()
        file.write_bytes(content[: len(content) // 2])
    for file in (tmp_path / "kept").glob("*/*.json"):
        file.write_text("{")
    found, passes = ask(Net(), splits(), tmp_path / "kept")
    assert passes > 0
    equal(first, found)
    assert ask(Net(), splits(), tmp_path / "kept")[1] == 0


def test_kept_features_are_not_changed_by_the_fit(tmp_path: Path) -> None:
    ask(Net(), splits(), tmp_path / "kept")
    before = {file: file.read_bytes() for file in (tmp_path / "kept").rglob("*.*")}
    ask(Net(), splits(), tmp_path / "kept")
    assert {file: file.read_bytes() for file in (tmp_path / "kept").rglob("*.*")} == before


def test_from_python(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "layerprobe")
    layerprobe.probe(Net(), splits(), l2=[0.1], keep=tmp_path / "kept")
    before = passed()
    layerprobe.probe(Net(), splits(), l2=[0.1, 1.0], keep=str(tmp_path / "kept"))
    assert passed() == before
    assert f"The features of 3 layers are in {tmp_path / 'kept'}, and the network does not run." in caplog.messages


def test_features_that_went_to_disk_are_kept_like_those_in_memory(tmp_path: Path) -> None:
    def files(keep: Path, max_memory: Any) -> Mapping[str, list[float]]:
        resources = Resources(keep=keep, max_memory=max_memory)
        list(probe_checkpoint(Net(), splits(), ProbeProtocol(solvers=(Ridge(),)), resources=resources))
        return {file.name: load_file(file)["features"].tolist() for file in keep.rglob("*.safetensors")}

    assert files(tmp_path / "a", None) == files(tmp_path / "b", 1)


def test_where_targets_and_inputs_differ_in_number_kept_features_change_nothing(tmp_path: Path) -> None:
    ask(Net(), splits(), tmp_path / "kept")
    for keep in (None, tmp_path / "kept"):
        with pytest.raises(ValueError, match="A batch of the train split has 60 inputs and 59 targets"):
            ask(Net(), splits(), keep, targets=lambda batch: batch[1][: 59 if len(batch[1]) == 60 else None])


class Pooled(Tokens):
    """Looks at padding, whatever the mask says."""

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        os.lseek(PASSES, len(input_ids), os.SEEK_CUR)
        return self.mix(self.embed(input_ids).mean(1))


def test_what_padding_holds_counts_for_layers_that_are_not_reduced_by_tokens(tmp_path: Path) -> None:
    def padded_with(value: int) -> dict[str, list[Any] | DataLoader[Any]]:
        def collate(samples: Any) -> Any:
            rows, targets = zip(*samples, strict=True)
            batch = padded(list(rows))
            return batch | {"input_ids": batch["input_ids"].where(batch["attention_mask"] > 0, value)}, torch.tensor(
                targets
            )

        return {
            s: DataLoader(Sentences(n), n, collate_fn=collate) for s, n in (("train", 50), ("val", 30), ("test", 31))
        }

    ask(Pooled(), padded_with(0), tmp_path / "kept", layers="mix")
    assert ask(Pooled(), padded_with(0), tmp_path / "kept", layers="mix")[1] == 0
    found, passes = ask(Pooled(), padded_with(7), tmp_path / "kept", layers="mix")
    assert passes > 0
    equal(found, ask(Pooled(), padded_with(7), None, layers="mix")[0])


class Unkind(Enum):
    """Raises what nobody expects when it is looked into."""

    ONE = 1

    def __repr__(self) -> str:
        raise KeyError("unkind")


def test_whatever_goes_wrong_in_hashing_a_probe_goes_on(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    network = Net()
    object.__setattr__(network, "mode", Unkind.ONE)
    ask(network, splits(), tmp_path / "kept", layers="last")
    assert sum("Features are not kept: looking into it fails (KeyError: " in text for text in caplog.messages) == 1


def test_a_flag_that_refuses_to_be_read_has_no_part_in_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> str:
        raise RuntimeError("mix of the legacy and new APIs")

    before = _numbers(None, nullcontext)
    monkeypatch.setattr(torch, "get_float32_matmul_precision", refuse)
    assert _numbers(None, nullcontext) == before | {"matmul": "unreadable"}
    assert {name for name in before if name.startswith("mkldnn")}
