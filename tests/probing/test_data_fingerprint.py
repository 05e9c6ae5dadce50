"""Fingerprints of samples: equal for equal ones in equal order, and for no others."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from layerprobe.probing.data_fingerprint import Fingerprint
from layerprobe.probing.pipeline import probe_checkpoint
from layerprobe.probing.protocol import ProbeProtocol
from layerprobe.probing.solvers.ridge import Ridge


@dataclass
class _Graphs:
    x: torch.Tensor
    y: torch.Tensor


def _drawn(seed: int = 0, n: int = 30) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, 3, 8, 8, generator=generator), torch.randint(0, 3, (n,), generator=generator)


def _of(batches) -> str:
    fingerprint = Fingerprint()
    for batch in batches:
        fingerprint.update(batch)
    return fingerprint.digest()


def _split(size: int, *parts):
    return list(zip(*(part.split(size) for part in parts), strict=True))


def test_the_same_samples_have_one_fingerprint_however_they_are_batched():
    x, y = _drawn()
    whole = _of([(x, y)])
    assert len(whole) == 32
    assert _of(_split(7, x, y)) == _of(_split(1, x, y)) == whole
    assert _of([(x.double().numpy(), y.int().numpy())]) == whole


@pytest.mark.parametrize(
    "change",
    [
        lambda x, y: (x.flip(0), y.flip(0)),
        lambda x, y: (x[1:], y[1:]),
        lambda x, y: (x, y.roll(1)),
        lambda x, y: (x.roll(1, 0), y),
        lambda x, y: (x + 1e-3, y),
        lambda x, y: _drawn(1),
    ],
)
def test_others_or_another_order_have_another(change):
    x, y = _drawn()
    assert _of([change(x, y)]) != _of([(x, y)])


def test_padding_of_a_batch_is_no_part_of_its_samples():
    generator = torch.Generator().manual_seed(0)
    texts = [
        torch.randint(1, 50, (int(k),), generator=generator) for k in torch.randint(2, 12, (20,), generator=generator)
    ]

    def batch(some):
        ids = nn.utils.rnn.pad_sequence(some, batch_first=True)
        return {"input_ids": ids, "attention_mask": (ids != 0).long()}, torch.zeros(len(some))

    whole = _of([batch(texts)])
    assert _of([batch(texts[i : i + 3]) for i in range(0, 20, 3)]) == whole
    assert _of([batch(texts[::-1])]) != whole


def test_dataclasses_texts_and_lists_are_read_too():
    x, y = _drawn()
    assert _of([_Graphs(x, y)]) != _of([_Graphs(x.flip(0), y)])
    assert _of([(["a", "b"], [1, 2])]) == _of([(["a"], [1]), (["b"], [2])]) != _of([(["b", "a"], [1, 2])])
    assert _of([{"id": np.array(["a", "b"])}]) != _of([{"id": np.array(["b", "a"])}])


def test_what_cannot_be_read_has_none():
    class Strange(torch.Tensor):
        @classmethod
        def __torch_function__(cls, function, types, args=(), kwargs=None):
            raise TypeError("no function takes this")

    x, y = _drawn()
    assert _of([]) == _of([object()]) == _of([(x, y), x.as_subclass(Strange)]) == ""


@pytest.mark.parametrize(("solver", "stream"), [(Ridge(), False), (Ridge(), True)])
def test_every_layer_says_which_samples_it_was_tested_on(solver, stream):
    network = nn.Sequential(nn.Flatten(), nn.Linear(192, 5), nn.ReLU())

    def samples(test: int, batch_size: int = 8) -> set[str]:
        data = {
            split: DataLoader(TensorDataset(*_drawn(seed)), batch_size=batch_size)
            for split, seed in {"train": 1, "val": 2, "test": test}.items()
        }
        protocol = ProbeProtocol(solvers=[solver], l2=[1e-2], stream=stream)
        return {result.samples for result in probe_checkpoint(network, data, protocol)}

    (first,) = samples(3)
    assert {first} == samples(3, 30) == {_of([_drawn(3)])}
    assert {first} != samples(4)


def _whole_of(batches) -> str:
    fingerprint = Fingerprint(whole=True)
    for batch in batches:
        fingerprint.update(batch)
    return fingerprint.digest()


def test_a_whole_fingerprint_reads_every_bit_however_samples_are_batched():
    x, y = _drawn()
    whole = _whole_of([(x, y)])
    assert {_whole_of(_split(size, x, y)) for size in (1, 7, 30)} == {whole}
    for index in ((0, 0, 0, 1), (29, 2, 7, 6)):
        other = x.clone()
        other[index] = torch.nextafter(other[index], torch.tensor(9.0))
        assert _whole_of([(other, y)]) != whole
    assert _of([(x, y)]) == _of([(x.double(), y)]), "the other one tells samples apart and no more"
    others = [(x.double(), y), (x, y.int()), (x.reshape(30, 3, 64), y), (x.flip(0), y), (x[:-1], y[:-1])]
    assert whole not in {_whole_of([other]) for other in others}


def test_a_whole_fingerprint_knows_where_tokens_stand():
    def padded(*rows, left=False, size=6):
        ids, mask = torch.zeros(len(rows), size, dtype=torch.long), torch.zeros(len(rows), size, dtype=torch.long)
        for i, row in enumerate(rows):
            place = slice(size - len(row), size) if left else slice(0, len(row))
            ids[i, place], mask[i, place] = torch.tensor(row), 1
        return {"input_ids": ids, "attention_mask": mask}

    rows = [[1, 2, 3], [4, 5], [6]]
    whole = _whole_of([padded(*rows)])
    assert _whole_of([padded(*rows[:2], size=4), padded(rows[2], size=1)]) == whole
    assert _whole_of([padded(*rows, left=True)]) != whole
    assert _whole_of([padded([1, 2], [3, 4, 5], [6])]) != whole


def test_a_whole_fingerprint_is_none_where_something_cannot_be_read():
    assert _whole_of([{"x": torch.ones(2, 3), "odd": object()}]) == ""
    assert _of([{"x": torch.ones(2, 3), "odd": object()}]) != ""


class _Held:
    """Inputs of a class of their own, with whatever attributes they are given."""

    def __init__(self, **held):
        vars(self).update(held)


def test_a_whole_fingerprint_reads_the_attributes_of_inputs():
    x, _ = _drawn()
    of_scale = {_whole_of([_Held(x=x, sigma=sigma)]) for sigma in (0.1, 0.2, None, "a", torch.tensor(0.1), (3, 5))}
    assert len(of_scale) == 6
    assert "" not in of_scale
    assert _whole_of([_Held(x=x, sigma=0.1)]) == _whole_of([_Held(x=part, sigma=0.1) for part in x.split(7)])
    assert _whole_of([_Held(x=x, of=_Held(k=1))]) != _whole_of([_Held(x=x, of=_Held(k=2))])
    for unknown in (object(), iter([1]), lambda: 1, {1, 2}):
        assert _whole_of([_Held(x=x, sigma=unknown)]) == ""


def test_a_whole_fingerprint_knows_for_which_samples_a_value_of_a_batch_holds():
    x, _ = _drawn()

    def of(first, shared):
        return _whole_of([{"x": x[:first], "s": shared(1)}, {"x": x[first:], "s": shared(2)}])

    for shared in (float, torch.tensor, lambda k: torch.full((2, 2), k), lambda k: [k, k]):
        assert of(7, shared) != of(9, shared)
    assert _whole_of([[x[:1], x[1:2]], [x[2:3]]]) != _whole_of([[x[:1]], [x[2:3], x[1:2]]])


def test_a_whole_fingerprint_knows_what_padding_holds_where_it_is_asked_for():
    def of(padding, *, size=3):
        ids, mask = torch.full((2, size), padding), torch.zeros(2, size, dtype=torch.long)
        ids[:, :2], mask[:, :2] = 5, 1
        fingerprint = Fingerprint(whole=True)
        fingerprint.update({"input_ids": ids, "attention_mask": mask})
        return fingerprint.digest(), fingerprint.digest(padding=True)

    assert of(0)[0] == of(7)[0] == of(0, size=4)[0]
    assert len({of(0)[1], of(7)[1], of(0, size=4)[1]}) == 3
    assert of(0) == of(0)
