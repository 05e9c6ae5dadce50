"""Whatever a network or a source of data leads to is put back, to any depth; what cannot be is named."""

from __future__ import annotations

import io
import itertools
import random
from array import array
from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterator
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn

from layerprobe.probing.capture.freeze import freeze
from layerprobe.probing.capture.side_effects import Snapshot, put_back

TABLE: dict[str, int] = {}
COUNTED = 0


class Counting(type):
    made = 0


class OfCounting(metaclass=Counting):
    pass


class Slotted:
    __slots__ = ("count", "late")

    def __init__(self) -> None:
        self.count = 0


class Helper:
    made = 0

    def __init__(self) -> None:
        self.count = 0
        self.inner: dict[str, Any] = {"a": [{"b": 0}]}
        self.ring: deque[deque[int]] = deque([deque([1, 2], maxlen=2)])
        self.me = self

    @cached_property
    def table(self) -> list[int]:
        return [1]


def bump_attribute(h: Helper) -> None:
    h.count += 1


def bump_deep_dict(h: Helper) -> None:
    h.inner["a"][0]["b"] += 1


def bump_ring(h: Helper) -> None:
    h.ring[0].append(9)


def bump_class(h: Helper) -> None:
    type(h).made += 1


def bump_cached(h: Helper) -> None:
    h.table.append(2)


def make_closure() -> Callable[[], int]:
    n = 0

    def count() -> int:
        nonlocal n
        n += 1
        return n

    return count


def bump_globals() -> int:
    global COUNTED
    COUNTED += 1
    TABLE["x"] = TABLE.get("x", 0) + 1
    return COUNTED


def generator_state(generator: Any) -> Any:
    return generator.get_state().tolist()


def late(s: Slotted) -> None:
    s.count += 1
    s.late = 1


STATES: dict[str, tuple[Callable[[], Any], Callable[[Any], Any], Callable[[Any], Any]]] = {
    "attribute": (Helper, bump_attribute, lambda h: h.count),
    "dict in list in dict": (Helper, bump_deep_dict, lambda h: h.inner["a"][0]["b"]),
    "deque of deques": (Helper, bump_ring, lambda h: [list(d) for d in h.ring]),
    "class attribute": (Helper, bump_class, lambda h: h.made),
    "cached property": (Helper, bump_cached, lambda h: vars(h).get("table")),
    "cycle": (Helper, lambda h: bump_attribute(h.me.me), lambda h: h.count),
    "slots": (Slotted, late, lambda s: (s.count, hasattr(s, "late"))),
    "closure": (make_closure, lambda f: f(), lambda f: f.__closure__[0].cell_contents),
    "globals": (lambda: bump_globals, lambda f: f(), lambda f: (COUNTED, dict(TABLE))),
    "partial of a method": (
        lambda: partial(bump_attribute, Helper()),
        lambda f: f(),
        lambda f: f.args[0].count,
    ),
    "default argument": (
        lambda: lambda kept=[]: kept.append(1) or kept,
        lambda f: f(),
        lambda f: list(f.__defaults__[0]),
    ),
    "tensor in dict": (lambda: {"t": [torch.zeros(3)]}, lambda d: d["t"][0].add_(1), lambda d: d["t"][0].tolist()),
    "tensor's data": (
        lambda: [torch.zeros(3)],
        lambda s: setattr(s[0], "data", torch.ones(2)),
        lambda s: s[0].tolist(),
    ),
    "array": (lambda: {"a": np.zeros(3)}, lambda d: d["a"].__iadd__(1), lambda d: d["a"].tolist()),
    "array of objects": (lambda: np.array([{}, {}]), lambda a: a[0].update(x=1), lambda a: str(a.tolist())),
    "torch.Generator": (torch.Generator, lambda g: torch.rand(1, generator=g), generator_state),
    "np Generator": (lambda: np.random.default_rng(0), lambda g: g.normal(), lambda g: str(g.bit_generator.state)),
    "bound method of a generator": (
        lambda: {"draw": np.random.default_rng(0).normal},
        lambda d: d["draw"](),
        lambda d: str(d["draw"].__self__.bit_generator.state),
    ),
    "RandomState": (lambda: np.random.RandomState(0), lambda g: g.rand(), lambda g: str(g.get_state())),
    "random.Random": (lambda: random.Random(0), lambda g: g.random(), lambda g: g.getstate()),
    "set": (lambda: [{1}], lambda s: s[0].add(2), lambda s: set(s[0])),
    "defaultdict": (lambda: defaultdict(list, a=[1]), lambda d: d["b"].append(1), dict),
    "ordered": (lambda: OrderedDict(a=1, b=2), lambda d: d.move_to_end("a"), list),
    "bytes": (lambda: [bytearray(b"ab"), array("i", [1])], lambda s: (s[0].append(1), s[1].append(2)), str),
    "list iterator": (lambda: {"i": iter([1, 2])}, lambda d: list(d["i"]), lambda d: d["i"].__length_hint__()),
    "count": (lambda: {"i": itertools.count()}, lambda d: next(d["i"]), lambda d: repr(d["i"])),
    "zip of iterators": (
        lambda: {"i": zip(iter([1, 2, 3]), itertools.cycle("ab"), strict=False)},
        lambda d: next(d["i"]),
        lambda d: str(d["i"].__reduce__()),
    ),
    "file": (lambda: io.StringIO("a\nb\n"), lambda f: f.readline(), lambda f: f.tell()),
    "file that is iterated": (
        lambda: io.TextIOWrapper(io.BytesIO(b"a\nb\n")),
        next,
        lambda f: f.buffer.tell(),
    ),
    "class of a class": (
        OfCounting,
        lambda o: setattr(Counting, "made", Counting.made + 1),
        lambda o: Counting.made,
    ),
    "parameter's data": (
        lambda: nn.Linear(1, 1),
        lambda m: setattr(m.weight, "data", m.weight.data * 2),
        lambda m: m.weight.item(),
    ),
    "gradient": (
        lambda: nn.Linear(1, 1),
        lambda m: m(torch.ones(1, 1)).sum().backward(),
        lambda m: None if m.weight.grad is None else m.weight.grad.item(),
    ),
    "hook's own state": (
        lambda: hooked(nn.Linear(1, 1)),
        lambda m: m(torch.ones(1, 1)),
        lambda m: str(next(iter(m._forward_hooks.values())).__closure__[0].cell_contents),
    ),
}


def hooked(module: nn.Module) -> nn.Module:
    kept: list[int] = []
    module.register_forward_hook(lambda module, args, output: kept.append(1))
    return module


@pytest.mark.parametrize("name", STATES)
def test_put_back(name: str) -> None:
    make, change, read = STATES[name]
    thing = make()
    owner = nn.Module()
    owner.helper = [thing]  # type: ignore[assignment]
    before = read(thing)
    snapshot = Snapshot(owner)
    for _ in range(2):  # again and again
        change(thing)
        assert str(read(thing)) != str(before)  # positive control
        assert snapshot.reset() == []
    assert snapshot.restore() == []
    assert str(read(thing)) == str(before)


def drawn(n: int) -> Iterator[int]:
    yield from range(n)


def test_an_iterator_that_somebody_else_holds_is_left_alone() -> None:
    """A training loop in the middle of an epoch holds the iterator itself, used up or not."""
    owner = nn.Module()
    owner.stream = held = iter([1, 2, 3])  # type: ignore[assignment]
    snapshot = Snapshot(owner)
    assert list(owner.stream) == [1, 2, 3]
    snapshot.restore()
    assert owner.stream is held
    assert list(held) == [1, 2, 3]


@pytest.mark.parametrize(
    ("make", "change", "named"),
    [
        (lambda: drawn(5), next, "network.helper.stream (a generator, was moved on)"),
        (lambda: (iter([1, 2]),), lambda t: next(t[0]), "network.helper.stream (an iterator, was moved on)"),
        (
            lambda: np.random.SeedSequence(0),
            lambda s: s.spawn(1),
            "network.helper.stream (a seed sequence, was spawned from)",
        ),
        (
            lambda: pd.DataFrame({"a": [1, 2]}),
            lambda d: d.__setitem__("a", 0),
            "network.helper.stream._mgr (a BlockManager, holds other objects)",
        ),
        (lambda: torch.zeros(1000), lambda t: t.add_(1), "network.helper.stream (a large tensor, was written to)"),
        (lambda: np.zeros(1000), lambda a: a.__iadd__(1), "network.helper.stream (a large array, was written to)"),
    ],
)
def test_what_cannot_be_put_back_is_named_once(
    make: Callable[[], Any], change: Callable[[Any], Any], named: str, recwarn: pytest.WarningsRecorder
) -> None:
    owner, helper = nn.Module(), Helper()
    helper.stream = make()  # type: ignore[attr-defined]
    owner.helper = helper  # type: ignore[assignment]
    put_back(Snapshot(owner, each=100))
    assert not recwarn.list
    snapshot = Snapshot(owner, each=100)
    change(helper.stream)  # type: ignore[attr-defined]
    put_back(snapshot)
    (warning,) = recwarn.list
    assert named in str(warning.message)
    assert "random generators" in str(warning.message)


@pytest.mark.parametrize("through_data", [False, True])
def test_a_network_that_trains_itself_is_named(through_data: bool) -> None:
    class Trains(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            with torch.no_grad():
                (self.weight.data if through_data else self.weight).mul_(0.9)
            return super().forward(x)

    network = nn.Sequential(Trains(2, 2))
    with pytest.warns(UserWarning, match=r"network\.0\.weight \(a parameter, was written to\)"), freeze(network):
        network(torch.ones(1, 2))


def test_a_trainer_and_what_keeps_its_books_are_no_part_of_a_network() -> None:
    import pytorch_lightning as pl

    from layerprobe.training.callback import ProbeCallback

    module = pl.LightningModule()
    callback = ProbeCallback()
    module.trainer = pl.Trainer(logger=False, callbacks=[callback], enable_checkpointing=False, barebones=False)
    snapshot = Snapshot(module)
    callback._probed.append("initial")
    module.trainer.callback_metrics["loss"] = torch.ones(())
    snapshot.restore()
    assert callback._probed == ["initial"]


def test_large_data_are_shared_and_small_state_is_kept(tmp_path: Path) -> None:
    class Data:
        def __init__(self) -> None:
            self.images = np.zeros((3000, 28 * 28), np.float32)
            self.mapped = np.memmap(tmp_path / "m", np.float32, "w+", shape=(3000, 784))
            self.tensor = torch.zeros(3000, 784)
            self.samples = [(str(i), i) for i in range(5000)]
            self.generator = np.random.default_rng(0)

    data = Data()
    snapshot = Snapshot(data, "data", each=1024**2)
    first = data.generator.normal()
    assert sum(getattr(getattr(kept, "values", None), "nbytes", 0) for kept in snapshot._kept) < 10_000
    assert len(snapshot._kept) < 20
    assert snapshot.restore() == []
    assert data.generator.normal() == first


@pytest.mark.filterwarnings("ignore:Sparse CS:UserWarning", "ignore:torch.quantize_per_tensor:UserWarning")
@pytest.mark.parametrize("layout", ["sparse_coo", "sparse_csr", "sparse_csc", "quantised"])
def test_tensors_of_other_layouts_are_put_back_without_a_word(layout: str) -> None:
    """A graph network holds its adjacency as a sparse tensor."""

    def made(value: float) -> Tensor:
        if layout == "quantised":
            return torch.quantize_per_tensor(value * torch.eye(3), 0.1, 0, torch.qint8)
        return (value * torch.eye(3)).to_sparse(layout=getattr(torch, layout))

    def dense(tensor: Tensor) -> Tensor:
        return tensor.dequantize() if layout == "quantised" else tensor.to_dense()

    network = nn.Linear(3, 3)
    network.adjacency = made(1.0)
    snapshot = Snapshot(network)
    assert snapshot.restore() == []
    network.adjacency.copy_(made(2.0))
    assert not torch.equal(dense(network.adjacency), torch.eye(3)), "the negative control"
    assert snapshot.restore() == []
    torch.testing.assert_close(dense(network.adjacency), torch.eye(3))
