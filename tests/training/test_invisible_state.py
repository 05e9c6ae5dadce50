"""State of any kind, in networks and data, is as without probing: weights and metrics are equal, bit for bit."""

from __future__ import annotations

import io
import random
import warnings
from collections import deque
from collections.abc import Callable, Iterator
from functools import cached_property, lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import CSVLogger
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, Sampler, SubsetRandomSampler
from torchmetrics import MeanMetric

from layerprobe.probing.capture.activations import activations
from layerprobe.probing.protocol import ProbeProtocol
from layerprobe.training.callback import ProbeCallback

N = 16
X = torch.randn(N, 4, generator=torch.Generator().manual_seed(0))
Y = (X[:, 0] > 0).long()
SCALE: list[float] = [1.0]


class Samples(Dataset[tuple[Tensor, Tensor]]):
    """Adds what its state draws to each sample."""

    def __init__(self, draw: Callable[[], float] = lambda: 0.0) -> None:
        self.draw = draw

    def __len__(self) -> int:
        return N

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
        return X[i] + self.draw(), Y[i]


class Cached(Samples):
    """Augments each sample once, when it is first read."""

    def __init__(self) -> None:
        super().__init__(np.random.default_rng(0).normal)
        self.cache: dict[int, Tensor] = {}

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
        if i not in self.cache:
            self.cache[i] = X[i] + self.draw()
        return self.cache[i], Y[i]


class Warmup:
    """Draws less and less, by a counter inside of a list inside of a helper."""

    def __init__(self) -> None:
        self.steps: dict[str, list[deque[int]]] = {"seen": [deque([0], maxlen=1)]}

    def __call__(self) -> float:
        self.steps["seen"][0].append(self.steps["seen"][0][0] + 1)
        return 1.0 / self.steps["seen"][0][0]


class Stream(IterableDataset[tuple[Tensor, Tensor]]):
    """Goes on where it was, in an order of its own."""

    def __init__(self) -> None:
        self.position = 0
        self.random = random.Random(3)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for _ in range(N):
            self.position += 1
            i = (self.position * 5 + self.random.randrange(2)) % N
            yield X[i], Y[i]


class Endless(IterableDataset[tuple[Tensor, Tensor]]):
    """Reads from an iterator that it was given."""

    def __init__(self) -> None:
        self.source = iter(list(range(N)) * 40)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for _, i in zip(range(N), self.source, strict=False):
            yield X[i] + 0.1 * i, Y[i]


class Lines(IterableDataset[tuple[Tensor, Tensor]]):
    """Reads on in an open file."""

    def __init__(self) -> None:
        self.file = io.TextIOWrapper(io.BytesIO("".join(f"{i * 7 % 13}\n" for i in range(N * 40)).encode()))

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for _ in range(N):
            i = int(self.file.readline())
            yield X[i], Y[i]


class Shuffle(Sampler[int]):
    def __init__(self) -> None:
        self.generator = torch.Generator().manual_seed(1)
        self.state = {"epochs": [0]}

    def __len__(self) -> int:
        return N

    def __iter__(self) -> Iterator[int]:
        self.state["epochs"][0] += 1
        shift = self.state["epochs"][0]
        yield from (torch.randperm(N, generator=self.generator) + shift).remainder(N).tolist()


class Jitter:
    """Collates with noise."""

    def __init__(self) -> None:
        self.generators = [torch.Generator().manual_seed(5)]

    def __call__(self, samples: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
        x = torch.stack([x for x, _ in samples])
        return x + 0.1 * torch.randn(x.shape, generator=self.generators[0]), torch.stack([y for _, y in samples])


def generator_function() -> Iterator[float]:
    n = 0
    while True:
        n += 1
        yield 1.0 / n


def with_one_generator(generator: torch.Generator) -> Any:
    return DataLoader(Samples(), 4, sampler=SubsetRandomSampler(range(N), generator), generator=generator)


LOADERS: dict[str, Callable[[], Any]] = {
    "numpy generator in a data set": lambda: DataLoader(Samples(np.random.default_rng(0).normal), 4),
    "Python generator in a partial function": lambda: DataLoader(Samples(partial(random.Random(0).uniform, -1, 1)), 4),
    "deque in a list in a dict in a helper": lambda: DataLoader(Samples(Warmup()), 4),
    "cache of augmented samples": lambda: DataLoader(Cached(), 4, shuffle=True),
    "stream with a position": lambda: DataLoader(Stream(), 4),
    "stream from an iterator": lambda: DataLoader(Endless(), 4),
    "stream from a file": lambda: DataLoader(Lines(), 4),
    "sampler with a generator": lambda: DataLoader(Samples(), 4, sampler=Shuffle()),
    "collation with a generator": lambda: DataLoader(Samples(), 4, collate_fn=Jitter()),
    "generator shared by the sampler and the loader": lambda: with_one_generator(torch.Generator().manual_seed(2)),
}


class Average:
    """A running average of what passes by: a tensor in a helper."""

    def __init__(self) -> None:
        self.shadow = {"mean": torch.zeros(4)}

    def __call__(self, x: Tensor) -> Tensor:
        self.shadow["mean"].mul_(0.9).add_(x.detach().mean(0), alpha=0.1)
        return self.shadow["mean"]


class Replay:
    """Mixes earlier batches in."""

    def __init__(self) -> None:
        self.buffer: deque[tuple[Tensor, ...]] = deque(maxlen=2)
        self.random = np.random.default_rng(0)

    def __call__(self, x: Tensor) -> Tensor:
        self.buffer.append((x.detach().mean(0),))
        return self.buffer[0][0] * self.random.normal()


class OfClass:
    """Counts in its class."""

    calls = 0

    def __call__(self, x: Tensor) -> Tensor:
        type(self).calls += 1
        return torch.tensor(1.0 / type(self).calls)


class Lazy:
    @cached_property
    def first(self) -> Tensor:
        return self.given.detach().mean(0)

    def __call__(self, x: Tensor) -> Tensor:
        self.given = x
        return self.first


class Table:
    """Kept by the module's own cache, outside of every object: it has to be of use to training later."""

    def __call__(self, x: Tensor) -> Tensor:
        return x * table(x.shape[1])


@lru_cache
def table(n: int) -> Tensor:
    return torch.linspace(0, 1, n)


def of_module(x: Tensor) -> Tensor:
    SCALE[0] *= 0.9
    return torch.tensor(SCALE[0])


def closing_over() -> Callable[[Tensor], Tensor]:
    calls = 0

    def add(x: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return torch.tensor(1.0 / calls)

    return add


PARTS: dict[str, Callable[[], Callable[[Tensor], Tensor]]] = {
    "average in a helper": Average,
    "replay buffer": Replay,
    "class attribute": OfClass,
    "global variable": lambda: of_module,
    "closure": closing_over,
    "cached property": Lazy,
}


class Learner(pl.LightningModule):
    def __init__(self, part: Callable[[Tensor], Tensor] | None = None) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 2)
        self.weight = nn.Parameter(torch.ones(4))
        self.parts = [part]
        self.logs = False
        self.kept = MeanMetric()

    def forward(self, x: Tensor) -> Tensor:
        for part in self.parts:
            x = x * self.weight
            x = x if part is None else x + part(x)
        if self.logs:
            self.log("norm", x.norm(), on_step=False, on_epoch=True)
            self.kept(x.mean())
            self.log_dict({"kept": self.kept}, on_step=False, on_epoch=True)
            self.logger.log_metrics({"direct": float(x.detach().mean())})  # type: ignore[union-attr]
            assert self.trainer.max_epochs
        return self.fc(x)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss = nn.functional.cross_entropy(self(batch[0]), batch[1])
        self.log("loss", loss)
        return loss

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def train(path: Path, loader: Any, part: Any = None, *, probed: bool, logs: bool = False) -> Any:
    OfClass.calls, SCALE[0] = 0, 1.0
    table.cache_clear()
    pl.seed_everything(7, verbose=False)
    learner = Learner(part)
    learner.logs = logs
    plain = DataLoader(Samples(), 8)
    given = {"train": loader, "val": plain, "test": plain}
    callback = ProbeCallback(
        ProbeProtocol(l2=(1e-1,)), every_n_steps=3, directory=path, data=given, progress=False
    )  # fmt: skip
    trainer = pl.Trainer(
        max_epochs=2, accelerator="cpu", logger=CSVLogger(path, "log", "0") if logs else False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False, log_every_n_steps=1,
        callbacks=[callback] if probed else [],
    )  # fmt: skip
    trainer.fit(learner, loader)
    log = path / "log" / "0" / "metrics.csv"
    return {
        "weights": {name: value.tolist() for name, value in learner.state_dict().items()},
        "metrics": {name: float(value) for name, value in trainer.callback_metrics.items()},
        "log": log.read_text() if logs else "",
    }, (set(callback.results()["status"]) if probed else set())


@pytest.fixture(autouse=True)
def without_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    """Planning times the machine, and has tests of its own."""
    monkeypatch.setattr("layerprobe.training.probe_session.announce", lambda *args, **kwargs: None)


@pytest.fixture
def careless(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Switches off that anything is put back."""

    def switch_off() -> None:
        monkeypatch.setattr("layerprobe.probing.capture.side_effects.Snapshot.restore", lambda snapshot: [])

    return switch_off


@pytest.mark.parametrize("kind", LOADERS)
def test_data(kind: str, tmp_path: Path, careless: Callable[[], None]) -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="Probing has changed")
        alone, _ = train(tmp_path, LOADERS[kind](), probed=False)
        probed, statuses = train(tmp_path / "1", LOADERS[kind](), probed=True)
    assert statuses == {"converged"}
    assert probed == alone
    careless()
    disturbed, _ = train(tmp_path / "2", LOADERS[kind](), probed=True)
    assert disturbed != alone  # positive control


@pytest.mark.parametrize("kind", PARTS)
def test_networks(kind: str, tmp_path: Path, careless: Callable[[], None]) -> None:
    def loader() -> Any:
        return DataLoader(Samples(), 8, shuffle=True)

    alone, _ = train(tmp_path, loader(), PARTS[kind](), probed=False)
    probed, _ = train(tmp_path / "1", loader(), PARTS[kind](), probed=True)
    assert probed == alone
    careless()
    disturbed, _ = train(tmp_path / "2", loader(), PARTS[kind](), probed=True)
    assert disturbed != alone  # positive control


def test_what_a_network_caches_while_it_is_recorded_serves_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def loader() -> Any:
        return DataLoader(Samples(), 8)

    alone, _ = train(tmp_path, loader(), Table(), probed=False)
    probed, _ = train(tmp_path / "1", loader(), Table(), probed=True)
    assert probed == alone
    monkeypatch.setattr("layerprobe.probing.capture.freeze.torch.no_grad", lambda: torch.inference_mode(True))
    with pytest.raises(RuntimeError, match="Inference tensors"):  # positive control
        train(tmp_path / "2", loader(), Table(), probed=True)


def test_logging_in_forward(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    alone, _ = train(tmp_path, DataLoader(Samples(), 8), probed=False, logs=True)
    probed, statuses = train(tmp_path / "1", DataLoader(Samples(), 8), probed=True, logs=True)
    assert {"norm", "kept", "loss"} <= alone["metrics"].keys()
    assert statuses == {"converged"}
    own = {line for line in probed["log"].splitlines() if "probe" not in line}
    assert probed["metrics"] == alone["metrics"]
    assert probed["weights"] == alone["weights"]
    assert own
    monkeypatch.setattr("layerprobe.probing.capture.freeze._silence", lambda network, restore: None)
    with pytest.raises(Exception, match="log"):  # positive control
        train(tmp_path / "2", DataLoader(Samples(), 8), probed=True, logs=True)


def test_a_generator_that_cannot_be_copied_is_named(tmp_path: Path) -> None:
    loader = DataLoader(Samples(generator_function().__next__), 8)
    with pytest.warns(UserWarning, match=r"data\.dataset\.draw.*a generator, was moved on"):
        train(tmp_path, loader, probed=True)


def test_workers_that_stay_are_not_called_back(tmp_path: Path) -> None:
    def loader() -> Any:
        return DataLoader(Stream(), 4, num_workers=1, persistent_workers=True)

    alone, _ = train(tmp_path, loader(), probed=False)
    probed, _ = train(tmp_path / "1", loader(), probed=True)
    assert probed == alone


def test_logging_where_a_trainer_never_fits() -> None:
    """As in scripts/probe.py."""
    learner = Learner()
    learner.logs = True
    learner.trainer = pl.Trainer(logger=False, accelerator="cpu", enable_checkpointing=False, max_epochs=1)
    before = dict(vars(learner))
    assert "fc" in activations(learner, X)
    assert vars(learner) == before
    assert learner.trainer.loggers == []
    assert learner.kept._update_count == 0
    with pytest.raises(Exception, match="log"):  # positive control
        learner(X)
