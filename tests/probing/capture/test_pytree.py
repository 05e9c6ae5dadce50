from __future__ import annotations

import copy
from collections import OrderedDict, UserDict, defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import attrs
import numpy as np
import pytest
import torch
from torch import Tensor, nn
from transformers import BatchEncoding
from transformers.modeling_outputs import BaseModelOutput

import layerprobe
from helpers.discovered import discover
from layerprobe.probing.capture.call_arguments import Arguments
from layerprobe.probing.capture.pytree import map_tensors, named_tensors
from layerprobe.probing.data_adapters import sources_of
from layerprobe.probing.data_fingerprint import Fingerprint


@dataclass
class Batch:
    x: Tensor
    note: str = "kept"
    parts: list[Any] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Frozen:
    x: Tensor


class Named(NamedTuple):
    x: Tensor
    rest: Any = None


@attrs.frozen
class Attrs:
    x: Tensor


class Slots:
    __slots__ = ("__hidden", "x")

    def __init__(self, x: Tensor) -> None:
        self.x, self.__hidden = x, x + 1


class Store(UserDict[str, Any]):
    pass


class Graph:
    """As of a library for graphs: attributes in a mapping of a store of its own, and a way back up."""

    def __init__(self, x: Tensor) -> None:
        self._store, self.parent = Store(x=x), self

    @property
    def x(self) -> Tensor:
        return self._store["x"]


class CallableGraph(Graph):
    """As a graph of PyTorch Geometric, which can be called."""

    def __call__(self) -> list[str]:
        return list(self._store)


HOLDERS: list[Callable[[Tensor], Any]] = [
    Batch, Frozen, Named, Attrs, Slots, Graph, CallableGraph,
    lambda x: BatchEncoding({"x": x}), lambda x: BaseModelOutput(last_hidden_state=x),
    lambda x: {"x": x}, lambda x: [x], lambda x: deque([x], 3), lambda x: OrderedDict(x=x),
    lambda x: defaultdict(list, x=x), lambda x: Batch(torch.zeros(4), parts=[{"deep": (Frozen(x), Named(x, [x]))}]),
    lambda x: torch.return_types.max((x, x)), lambda x: torch.distributions.Normal(x, torch.ones(4, 3)),
]  # fmt: skip
"""Each takes a batch of four samples by three features."""


@pytest.mark.parametrize("hold", HOLDERS)
def test_whatever_holds_tensors_is_cut_and_copied_and_keeps_its_class(hold: Callable[[Tensor], Any]) -> None:
    x = torch.arange(12.0).reshape(4, 3)
    given = hold(x.clone())
    held = len(named_tensors(given, state=True))
    arguments = Arguments.of((given,))
    part = arguments.take([2, 0]).args[0]
    whole = arguments.copy_to(None).args[0]
    for made, rows in ((part, [2, 0]), (whole, [0, 1, 2, 3])):
        assert type(made) is type(given)
        found = named_tensors(made, state=True)
        assert len(found) == held
        assert all(tensor.shape[0] == len(rows) for _, tensor in found)
        assert any(torch.equal(tensor, x[rows]) for _, tensor in found)
        for _, tensor in found:
            tensor.fill_(-1)
    assert any(torch.equal(tensor, x) for _, tensor in named_tensors(given, state=True)), "the given one is left alone"


def test_a_copy_keeps_the_rest_and_what_is_one_thing_stays_one() -> None:
    x, network = torch.zeros(2, 3), nn.Linear(3, 3)
    given = {"a": Batch(x), "b": x, "network": network, "numbers": np.arange(2), "graph": Graph(x), "names": [["a"]]}
    made = map_tensors(given, torch.clone)
    assert made["a"].note == "kept"
    assert made["a"].x is made["b"] is made["graph"].x
    assert made["a"].x is not x
    assert made["graph"].parent is made["graph"]
    assert made["network"] is network
    assert made["names"] == [["a"]]
    assert made["names"][0] is not given["names"][0], "a network may append to it"
    made["numbers"][:] = 7
    assert given["numbers"].tolist() == [0, 1]


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ((torch.zeros(2, 3), iter([1])), "hold a list_iterator at '1', which cannot be looked into"),
        ({"x": Batch(torch.zeros(2, 3), parts=[{torch.zeros(2)}])}, "hold a set at 'x.parts.0'"),
        ({"x": torch.zeros(2, 3), "names": np.array(["a", "b"], dtype=object)}, "hold a ndarray at 'names'"),
        (7, "inputs are a int, which it cannot be called with"),
    ],
)
def test_what_cannot_be_looked_into_is_refused(inputs: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        Arguments.of(inputs)


class OneOnly(Graph):
    def __deepcopy__(self, memo: dict[int, Any]) -> OneOnly:
        raise TypeError("there is one only")


def test_what_cannot_be_copied_is_refused() -> None:
    with pytest.raises(TypeError, match=r"hold an object that cannot be copied \(there is one only\)"):
        Arguments.of((OneOnly(torch.zeros(2, 3)),)).copy_to(None)


class InPlaceOfBatch(nn.Module):
    """Takes an object, works in place on its tensors, and gives back an object."""

    def __init__(self, made: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.made, self.body, self.head = made, nn.Linear(3, 5), nn.Linear(5, 2)

    def forward(self, batch: Any) -> Any:
        return self.made(self.head(self.body(batch.x.mul_(-1))))


@pytest.mark.parametrize("hold", [Batch, Frozen, Attrs, Slots, Graph])
def test_a_network_of_objects_is_probed_and_leaves_them_alone(hold: Callable[[Tensor], Any]) -> None:
    generator = torch.Generator().manual_seed(0)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = InPlaceOfBatch(hold)
    x, y = torch.randn(60, 3, generator=generator), torch.arange(60) % 2
    data = {split: (hold(x.clone()), y) for split in ("train", "val", "test")}
    before = copy.deepcopy(named_tensors(data["train"][0], state=True))
    results = layerprobe.probe(network, data, l2=[1e-2], batch_size=20)
    after = named_tensors(data["train"][0], state=True)
    assert all(torch.equal(a, b) for (_, a), (_, b) in zip(before, after, strict=True))
    assert results["status"].eq("converged").all(), results[["layer", "message"]]
    assert {"input", "body"} <= {name.split(".")[0] for name in results["layer"]}
    assert results["n_train"].eq(60).all()


def test_layers_inside_an_object_that_a_module_returns_are_found() -> None:
    class Head(nn.Module):
        def forward(self, x: Tensor) -> Graph:
            return Graph(x.exp())

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head, self.last = Head(), nn.Linear(3, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(self.head(x).x)

    assert [layer.name for layer in discover(Net(), torch.randn(4, 3), granularity="modules")] == [
        "input", "head", "last",
    ]  # fmt: skip


def test_what_an_object_keeps_in_another_object_is_its_state_and_no_output() -> None:
    """As the layers of a cache of keys and values, which language models return."""
    outer = Graph(torch.zeros(1))
    outer.inner = Graph(torch.ones(1))
    assert [path for path, _ in named_tensors((outer, torch.zeros(2)))] == [("0", "_store", "x"), ("1",)]


def test_objects_are_divided_into_splits_and_their_samples_told_apart() -> None:
    x, y = torch.arange(30.0).reshape(10, 3), torch.arange(10) % 2
    splits = sources_of((Graph(x), y), seed=0)
    parts = [splits[split][0].x for split in ("train", "val", "test")]
    assert sorted(torch.cat(parts)[:, 0].tolist()) == x[:, 0].tolist()

    def digest(inputs: Any) -> str:
        fingerprint = Fingerprint()
        fingerprint.update((inputs, y))
        return fingerprint.digest()

    assert digest(Graph(x)) == digest(Graph(x.clone())) != digest(Graph(x + 1))
