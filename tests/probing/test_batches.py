from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    IterableDataset,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
    get_worker_info,
)

from layerprobe.probing.batches import check_splits, in_order, inputs_of, length, n_samples, targets_of
from layerprobe.probing.tasks.classification import Classification


def samples(source: object, **options: int) -> list[int]:
    return [int(x) for batch in in_order(source, **options) for x in inputs_of(batch)]  # type: ignore[arg-type]


DATASET = TensorDataset(torch.arange(10.0), torch.arange(10))


@pytest.mark.parametrize("workers", [0, 2])
def test_a_shuffled_loader_is_read_in_order_and_whole(workers: int) -> None:
    loader = DataLoader(DATASET, batch_size=4, shuffle=True, drop_last=True, num_workers=workers)
    before = torch.get_rng_state()
    assert samples(loader) == list(range(10))
    assert torch.equal(before, torch.get_rng_state())


class Streamed(IterableDataset):  # type: ignore[type-arg]
    def __init__(self, shards: bool) -> None:
        self.shards = shards

    def __iter__(self) -> Any:
        worker = get_worker_info()
        start, step = (worker.id, worker.num_workers) if self.shards and worker is not None else (0, 1)
        return ((torch.tensor(float(i)), i) for i in range(start, 10, step))


@pytest.mark.parametrize("shards", [False, True], ids=["every worker gives all", "each gives its share"])
@pytest.mark.parametrize("workers", [0, 1, 2])
def test_a_stream_is_read_once_whatever_the_number_of_workers(workers: int, shards: bool) -> None:
    loader = DataLoader(Streamed(shards), batch_size=4, num_workers=workers, persistent_workers=workers > 0)
    assert samples(loader) == samples(loader) == list(range(10))
    assert loader.num_workers == workers


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_what_can_be_read_once_only_is_refused(split: str) -> None:
    batches = [(torch.zeros(2, 1), torch.tensor([0, 1]))]
    data: dict[str, Any] = {"train": batches, "val": batches, "test": batches}
    check_splits(data)
    with pytest.raises(TypeError, match=f"The data of '{split}' are a generator, which can be read once.*list"):
        check_splits(data | {split: (batch for batch in batches)})


def test_a_subset_sampler_keeps_its_subset_and_its_generator() -> None:
    generator = torch.Generator().manual_seed(3)
    state = generator.get_state()
    loader = DataLoader(DATASET, batch_size=2, sampler=SubsetRandomSampler([8, 1, 5], generator))
    assert samples(loader) == [1, 5, 8], "samples outside the sampler's subset would leak between splits"
    assert torch.equal(state, generator.get_state())


def test_a_sampler_with_replacement_gives_each_sample_once() -> None:
    sampler = WeightedRandomSampler([1.0, 0.0, 1.0], 20, generator=torch.Generator().manual_seed(0))
    assert samples(DataLoader(TensorDataset(torch.arange(3.0), torch.arange(3)), sampler=sampler)) == [0, 2]


def test_a_weighted_sampler_gives_all_that_it_may_draw() -> None:
    sampler = WeightedRandomSampler([1.0, 0.0, *[1e-6] * 8], 4)
    loader = DataLoader(DATASET, batch_size=4, sampler=sampler)
    assert samples(loader) == [0, *range(2, 10)]
    assert n_samples(loader) == 9
    assert length(loader) == 10


def test_a_batch_sampler() -> None:
    assert samples(DataLoader(DATASET, batch_sampler=[[3, 4], [0]])) == [0, 3, 4]


def test_an_iterable_data_set_is_iterated() -> None:
    class Stream(IterableDataset):  # type: ignore[type-arg]
        def __iter__(self):
            return ((torch.tensor(float(i)), i) for i in (2, 0, 1))

    assert samples(DataLoader(Stream(), batch_size=2)) == [2, 0, 1]


def test_a_pair_of_tensors_is_cut_into_batches() -> None:
    pair = (torch.arange(5.0), torch.arange(5))
    assert [len(inputs_of(batch)) for batch in in_order(pair, batch_size=2)] == [2, 2, 1]
    assert samples(pair) == [0, 1, 2, 3, 4]


def test_a_pair_with_a_mapping_of_inputs() -> None:
    batch = next(in_order(({"ids": torch.arange(5), "mask": torch.ones(5)}, torch.arange(5)), batch_size=2))
    assert inputs_of(batch)["ids"].tolist() == [0, 1]
    assert targets_of(batch).tolist() == [0, 1]


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_a_missing_split_is_named(split: str) -> None:
    data = dict.fromkeys(("train", "val", "test"), object()) | {split: None}
    with pytest.raises(ValueError, match=rf"{split}_dataloader\(\)"):
        check_splits(data)


@pytest.mark.parametrize(
    ("batch", "found"),
    [
        (torch.zeros(4, 2), r"a Tensor of shape \(4, 2\)"),
        ({"x": 1, "y": 2}, "a dict with the keys x, y"),
        ((1, 2, 3), "a tuple of 3 parts"),
    ],
)
def test_a_batch_that_is_not_a_pair(batch: object, found: str) -> None:
    with pytest.raises(TypeError, match=found):
        inputs_of(batch)


@pytest.mark.parametrize(
    ("targets", "found"),
    [
        (torch.rand(4), r"float32 of shape \(4,\)"),
        (torch.eye(4, dtype=torch.int64), r"int64 of shape \(4, 4\)"),
        (torch.tensor([1, -2]), "the negative value -2"),
        (["cat", "dog"], "a list"),
    ],
)
def test_targets_that_are_not_class_indices(targets: object, found: str) -> None:
    with pytest.raises(TypeError, match=f"found {found} in the val split"):
        Classification().read(targets, "val")


def test_one_hot_rows_are_named_as_such() -> None:
    with pytest.raises(TypeError, match=r"in the val split: rows with one place that is not 0, whose class is `\.argm"):
        Classification().read(torch.eye(4)[[2, 0, 1]], "val")
    with pytest.raises(TypeError, match=r"float32 of shape \(4, 3\) in the val split\. Map"):
        Classification().read(torch.ones(4, 3), "val")


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.bool])
def test_any_integers_are_class_indices(dtype: torch.dtype) -> None:
    assert Classification().read(torch.tensor([0, 1], dtype=dtype), "train").dtype == torch.int64


class Endless(IterableDataset):  # type: ignore[type-arg]
    def __iter__(self):
        return iter(range(3))


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ((torch.zeros(7, 2), torch.zeros(7)), 7),
        (DataLoader(DATASET, 4, shuffle=True, drop_last=True), 10),
        (DataLoader(DATASET, sampler=SubsetRandomSampler([8, 1, 5])), 3),
        (DataLoader(DATASET, batch_sampler=[[1, 2], [3]]), None),
        (DataLoader(DATASET, batch_sampler=BatchSampler(SubsetRandomSampler([8, 1, 5]), 2, True)), 3),
        (DataLoader(Endless(), 2), None),
        ([(torch.zeros(2, 2), torch.zeros(2))], None),
    ],
)
def test_the_length_is_known_where_something_says_it(source: Any, expected: int | None) -> None:
    state = torch.get_rng_state()
    assert length(source) == expected
    assert torch.equal(torch.get_rng_state(), state)
    assert expected is None or n_samples(source) == expected


def test_a_sampler_with_replacement_says_more_than_it_gives_and_no_more_than_there_is() -> None:
    loader = DataLoader(DATASET, sampler=WeightedRandomSampler([1.0, 0.0] * 5, 20))
    assert length(loader) == 10 >= n_samples(loader)


class Graphs:
    """A batch whose parts are behind `keys` and `[]`, as a batch of graphs is."""

    def __init__(self, **parts: Any) -> None:
        self._store = parts

    def keys(self) -> list[str]:
        return list(self._store)


class Encoded:
    def __init__(self) -> None:
        self.pixel_values, self.labels, self._rest = torch.zeros(2, 3), torch.zeros(2), None


@pytest.mark.parametrize(
    ("batch", "described"),
    [
        (Graphs(x=1, edge_index=2, batch=3, y=4), "a Graphs with x, edge_index, batch, y.*Item('x'), .*Item('y')"),
        (Encoded(), "an? Encoded with pixel_values, labels.*Item('pixel_values'), .*Item('labels')"),
        ({"image": 0, "id": 1, "label": 2}, "a dict with the keys image, id, label.*Item('image'), .*Item('label')"),
        ((1, 2, 3), "a tuple of 3 parts.*Item(0), targets=layerprobe.Item(1)"),
        (torch.zeros(2, 3), r"a Tensor of shape (2, 3).*take a batch apart\.$"),
        (7, r"a int.*take a batch apart\.$"),
    ],
)
def test_a_batch_that_is_no_pair_is_described_with_the_way_to_take_it_apart(batch: Any, described: str) -> None:
    with pytest.raises(TypeError, match=described.replace("(", r"\(").replace(")", r"\)")):
        inputs_of(batch)
