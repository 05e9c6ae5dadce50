"""A hash by which two processes know that networks compute the same, and that others do not."""

from __future__ import annotations

import functools
import importlib
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import FunctionType
from typing import Any

import pytest
import torch
from torch import nn

from layerprobe.probing.capture import content_hash as module
from layerprobe.probing.capture.content_hash import Named, NoContentHashError, content_hash, package_version
from layerprobe.probing.capture.freeze import freeze


def scaled(factor: float, source: str = "x * scale + shift(x)", helper: str = "return 1") -> nn.Module:
    """A network whose forward pass names a helper and encloses a number."""
    code = f"""
import torch
from torch import nn

def shift(x):
    {helper}

def make(scale):
    class Net(nn.Module):
        def forward(self, x):
            return {source}
    return Net()
"""
    names: dict[str, Any] = {"__name__": "own_code"}
    exec(code, names)
    made: nn.Module = names["make"](factor)
    return made


def seeded(build: Callable[[], nn.Module], seed: int = 0) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return build()


def test_what_is_made_alike_has_one_hash() -> None:
    for build in (lambda: scaled(2.0), lambda: seeded(lambda: nn.TransformerEncoderLayer(8, 2))):
        assert content_hash(build()) == content_hash(build())


def test_whatever_changes_what_is_computed_changes_the_hash() -> None:
    found = [
        content_hash(network)
        for network in (
            scaled(2.0),
            scaled(3.0),
            scaled(2.0, source="x * scale - shift(x)"),
            scaled(2.0, helper="return 2"),
            scaled(2.0, helper="return torch.relu(x)"),
            seeded(lambda: nn.Linear(3, 3), 0),
            seeded(lambda: nn.Linear(3, 3), 1),
            seeded(lambda: nn.Linear(3, 3)).double(),
            seeded(lambda: nn.Sequential(nn.Linear(3, 3), nn.ReLU())),
            seeded(lambda: nn.Sequential(nn.Linear(3, 3), nn.GELU())),
            seeded(lambda: nn.Sequential(nn.Linear(3, 3), nn.GELU("tanh"))),
            nn.LayerNorm(3),
            nn.LayerNorm(3, eps=1e-3),
        )
    ]
    assert len(set(found)) == len(found)


def test_mode_and_what_only_training_needs_are_no_part_of_it() -> None:
    network = seeded(lambda: nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3)))
    before = content_hash(network)
    with freeze(network):
        assert content_hash(network) == before, "its hooks only look on"
    network.eval().requires_grad_(False)
    assert content_hash(network) == before
    network[1].running_mean += 1  # type: ignore[operator]
    assert content_hash(network) != before


def shifted(x: float) -> float:
    return x + 1


def scaling(factor: float) -> Callable[[float], float]:
    return lambda x: factor * shifted(x)


def test_code_that_several_values_name_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    functions = [scaling(factor) for factor in (1.0, 2.0, 2.0)]
    alone = [content_hash(function, named={}) for function in functions]
    assert alone[0] != alone[1] == alone[2]
    read: list[FunctionType] = []
    imports = module._imports
    monkeypatch.setattr(module, "_imports", lambda *given: (read.append(given[1]), imports(*given))[1])
    named: Named = {}
    assert [content_hash(function, named=named) for function in functions] == alone
    assert read.count(shifted) == 1
    assert [function in read for function in functions] == [True] * 3


def test_shared_weights_are_not_equal_ones() -> None:
    class Two(nn.Module):
        def __init__(self, shared: bool) -> None:
            super().__init__()
            self.a = nn.Parameter(torch.ones(2))
            self.b = self.a if shared else nn.Parameter(torch.ones(2))

    assert content_hash(Two(shared=True)) != content_hash(Two(shared=False))


def test_attributes_of_all_kinds() -> None:
    def holding(value: Any) -> str:
        network = nn.Identity()
        network.held = value  # type: ignore[assignment]
        return content_hash(network)

    class Config:
        def __init__(self, size: int) -> None:
            self.size, self._name_or_path = size, f"/somewhere/{id(self)}"

    values: list[Any] = [1, True, 1.0, "1", None, [1], (1,), {"a": 1}, {"a": 2}, {"b": 1}, {1, 2}, {1, 3}]
    values += [torch.relu, torch.tanh, functools.partial(torch.add, alpha=2), functools.partial(torch.add, alpha=3)]
    values += [lambda x: x + 1, lambda x: x + 2, Config(1), Config(2), torch.ones(2), torch.ones(1, 2), torch.float16]
    found = list(map(holding, values))
    assert len(set(found)) == len(found)
    assert holding(Config(1)) == holding(Config(1)), "where a network was read from is all the same"
    loop: list[Any] = []
    loop.append(loop)
    assert holding(loop) == holding(loop)


def test_private_slots_are_a_part_of_it() -> None:
    class Scale:
        __slots__ = ("__by", "name")

        def __init__(self, by: float) -> None:
            self.__by, self.name = by, "scale"

    def holding(by: float) -> str:
        network = nn.Identity()
        network.scale = Scale(by)  # type: ignore[assignment]
        return content_hash(network)

    assert holding(2.0) == holding(2.0)
    assert holding(2.0) != holding(3.0)


@pytest.mark.parametrize(
    ("held", "named"),
    [
        (threading.Lock(), "held is a lock, of which nothing shows what it does"),
        (torch.ones(2).to_sparse(), "held is of a layout"),
        (torch.ones(2, device="meta"), "held is of a layout that is not read, or has no values here"),
        (torch.jit.script(nn.Linear(1, 1)), "held is TorchScript"),
    ],
)
def test_what_cannot_be_looked_into_is_named(held: Any, named: str) -> None:
    network = nn.Sequential(nn.Identity())
    object.__setattr__(network[0], "held", held)
    with pytest.raises(NoContentHashError, match=named):
        content_hash(network)


def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, ops: str = "def f(x): return x") -> str:
    """Hash a network of `own_net.py`, beside which lies `own_kit/ops.py`, as a new process finds it."""
    for name in [name for name in sys.modules if name.partition(".")[0] in ("own_net", "own_kit")]:
        del sys.modules[name]
    (tmp_path / "own_kit").mkdir(exist_ok=True)
    (tmp_path / "own_kit" / "__init__.py").write_text("")
    (tmp_path / "own_kit" / "ops.py").write_text(ops + "\ndef unused(): return 1")
    (tmp_path / "own_net.py").write_text(f"import torch\nfrom torch import nn\n{code}")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    importlib.invalidate_caches()
    package_version.cache_clear()
    return content_hash(importlib.import_module("own_net").Net())


IN_FORWARD = "class Net(nn.Module):\n    def forward(self, x):\n        "


@pytest.mark.parametrize(
    "code",
    [
        "SIZES = {}\n" + IN_FORWARD + "return x * SIZES[0]",
        "class Net(nn.Module):\n    sizes = {}\n    def forward(self, x): return x * self.sizes[0]",
        "class Net(nn.Module):\n    def forward(self, x, sizes={}): return x * sizes[0]",
        "class Held:\n    def __init__(self): self.sizes = {}\nHELD = Held()\n"
        + IN_FORWARD
        + "return x * HELD.sizes[0]",
        "def f(x): return x * f.sizes[0]\nf.sizes = {}\n" + IN_FORWARD + "return f(x)",
    ],
    ids=["global", "class", "default", "object", "attribute"],
)
@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("(3, 5)", "(3, 6)"),
        ("[3]", "[4]"),
        ("{0: 3}", "{0: 4}"),
        ("{3}", "{4}"),
        ("__import__('numpy').array([3])", "__import__('numpy').array([4])"),
        ("[torch.relu]", "[torch.tanh]"),
        ("type('F', (float,), {})(1)", "type('F', (float,), {})(2)"),
        ("{0: 3}.get", "{0: 4}.get"),
    ],
)
def test_what_code_names_is_read_by_its_content(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, one: str, other: str
) -> None:
    first = own(tmp_path, monkeypatch, code.replace("{}", one, 1))
    assert own(tmp_path, monkeypatch, code.replace("{}", one, 1)) == first
    assert own(tmp_path, monkeypatch, code.replace("{}", other, 1)) != first


def test_builtins_in_a_class_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = "class Net(nn.Module):\n    act = staticmethod(torch.{})\n    def forward(self, x): return self.act(x)"
    assert own(tmp_path, monkeypatch, code.format("relu")) != own(tmp_path, monkeypatch, code.format("tanh"))


@pytest.mark.parametrize(
    "code",
    [
        "import own_kit.ops\n" + IN_FORWARD + "return own_kit.ops.f(x)",
        "import own_kit.ops as o\n" + IN_FORWARD + "return o.f(x)",
        "from own_kit import ops\n" + IN_FORWARD + "return (lambda: ops.f(x))()",
        "from own_kit import ops\ndef g(m, x): return m.f(x)\n" + IN_FORWARD + "return g(ops, x)",
        "from own_kit import ops\nALL = {'ops': ops}\n" + IN_FORWARD + "return ALL['ops'].f(x)",
        IN_FORWARD + "import own_kit.ops\n        return own_kit.ops.f(x)",
        IN_FORWARD + "import own_kit.ops as o\n        return (lambda: o.f(x))()",
        IN_FORWARD + "from own_kit.ops import f as g, unused\n        return g(x)",
        IN_FORWARD + "from own_kit import ops\n        return ops.f(x)",
    ],
)
def test_own_modules_are_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    first = own(tmp_path, monkeypatch, code)
    assert own(tmp_path, monkeypatch, code) == first
    assert own(tmp_path, monkeypatch, code, "A = [2]\ndef f(x): return x * A[0]") != first


@pytest.mark.parametrize(
    ("code", "named"),
    [
        ("import threading\nHELD = threading.Lock()\n" + IN_FORWARD + "return HELD", "HELD is a lock"),
        (IN_FORWARD + "return eval('x')", "calls eval, and nothing says with what"),
        ("import importlib\n" + IN_FORWARD + "return importlib.import_module('own_kit').f(x)", "calls importlib"),
        (IN_FORWARD + "from own_kit.ops import f\n        return f(x)", "imports own_kit.ops, which fails"),
    ],
)
def test_code_that_cannot_be_looked_into_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, named: str
) -> None:
    with pytest.raises(NoContentHashError, match=named):
        own(tmp_path, monkeypatch, code, "raise ImportError('no such library')")


def test_own_classes_are_seen_through_those_that_torch_makes_of_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = (
        "class Own(nn.Linear):\n    def forward(self, x): return super().forward(x) {}\n"
        "def Net():\n    net = Own(1, 1)\n    nn.init.ones_(net.weight)\n    nn.init.ones_(net.bias)\n"
        "    return nn.utils.parametrizations.weight_norm(net)"
    )
    assert own(tmp_path, monkeypatch, code.format("* 2")) == own(tmp_path, monkeypatch, code.format("* 2"))
    assert own(tmp_path, monkeypatch, code.format("* 2")) != own(tmp_path, monkeypatch, code.format("* 3"))


def test_what_is_put_into_a_class_of_a_package_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    found = [content_hash(nn.Identity())]
    for forward in (lambda self, x: x + 1, lambda self, x: x + 2):
        monkeypatch.setattr(nn.Identity, "forward", forward)
        found.append(content_hash(nn.Identity()))
    assert len(set(found)) == 3


def test_other_processes_find_the_same(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(
        "import sys, torch\nfrom torch import nn\n"
        "from layerprobe.probing.capture.content_hash import content_hash\n"
        "class Net(nn.Module):\n    kinds = {'a', 'b', 'c'}\n"
        "    def forward(self, x):\n        return x if x in {'d', 'e', 'f'} else (1, 'g')\n"
        "torch.manual_seed(0)\nprint(content_hash(nn.Sequential(Net(), nn.Linear(2, 2))))\n"
    )
    command = [sys.executable, str(tmp_path / "own.py")]
    environments = [os.environ | {"PYTHONHASHSEED": seed} for seed in ("1", "2")]
    running = [subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True) for env in environments]
    first, second = (process.communicate(timeout=120)[0] for process in running)
    assert len(first) == 33
    assert first == second
