"""Several processes probe one network together, as one would alone."""

from __future__ import annotations

import os
import signal
import time
import warnings
from dataclasses import replace
from pathlib import Path
from threading import Event, Thread
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from pytorch_lightning.utilities.rank_zero import rank_zero_only
from torch import Tensor, nn
from torch.utils.data import DataLoader, DistributedSampler, IterableDataset, TensorDataset

from helpers.ranks import together
from layerprobe.probing import activation_recorder
from layerprobe.probing.activation_recorder import ActivationRecorder
from layerprobe.probing.analyses.mean_difference import MeanDifference
from layerprobe.probing.analyses.nearest_mean import NearestMean
from layerprobe.probing.budget import feature_budget, least_memory, processes_with_room
from layerprobe.probing.capture.activations import LayerReader
from layerprobe.probing.capture.freeze import freeze
from layerprobe.probing.capture.random_generators import random_states
from layerprobe.probing.discovery import discover_layers
from layerprobe.probing.features.feature_store import FeatureStore
from layerprobe.probing.features.reducers import AveragePool, RandomSubset
from layerprobe.probing.protocol import ProbeProtocol
from layerprobe.probing.resources import DEFAULTS, Resources
from layerprobe.probing.solvers.ridge import Ridge
from layerprobe.results.checkpoint_ledger import Entry
from layerprobe.results.scores import read_scores
from layerprobe.results.store import ProbeStore, StoreError
from layerprobe.training import probe_session, sharing, team
from layerprobe.training.collectives import Ranks
from layerprobe.training.continued_loggers import SteadyWandbLogger
from layerprobe.training.probe_session import ProbeSession
from layerprobe.training.progress_bar import ProbeProgress
from layerprobe.training.rank_exchange import OtherProcessError
from layerprobe.training.signals import StopSignals
from layerprobe.training.team import ProbingStopped
from layerprobe.types import CheckpointInfo, LayerResult

INFO = CheckpointInfo("final", 7, 1)
PROTOCOL = ProbeProtocol(solvers=(Ridge(),), l2=(1e-2, 1.0))
LAYERS = ["input", "0", "1", "2", "3"]
FIRST, SECOND = {"0", "2"}, {"input", "1", "3"}
"""What falls to each of two processes."""


class Noise(nn.Module):
    """Adds what it draws from the global generator, in eval mode too."""

    def forward(self, x: Tensor) -> Tensor:
        return x + 0.1 * torch.randn_like(x)


def network() -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), Noise(), nn.Linear(8, 3))


def pairs(seed: int = 0) -> dict[str, tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    y = {split: torch.arange(n) % 3 for split, n in (("train", 90), ("val", 30), ("test", 31))}
    return {split: (torch.randn(len(v), 6, generator=generator) + v[:, None], v) for split, v in y.items()}


def loaders(rank: int = 0, size: int = 1) -> dict[str, DataLoader[Any]]:
    """As Lightning makes them for distributed training: each process has a share of each split."""
    sets = {split: TensorDataset(*pair) for split, pair in pairs().items()}
    return {
        split: DataLoader(data, 16, sampler=DistributedSampler(data, size, rank, shuffle=True) if size > 1 else None)
        for split, data in sets.items()
    }


def session(folder: Path, **options: Any) -> ProbeSession:
    return ProbeSession(folder, ranks=Ranks(), **{"progress": False, "resources": Resources(None, "8GB"), **options})


def probe(session: ProbeSession, data: Any, own: nn.Module | None = None, protocol: ProbeProtocol = PROTOCOL) -> None:
    session.probe(own or network(), data, protocol, INFO, plan=False)


def counted() -> list[int]:
    """How many processes of this machine probe, each time that layers are dealt out from now on."""
    found: list[int] = []

    def count(*args: Any, **options: Any) -> Any:
        own = sharing.share(*args, **options)
        found.append(own.processes)
        return own

    probe_session.share = count
    return found


def same(found: Path, expected: Path) -> None:
    stores = [ProbeStore(folder) for folder in (found, expected)]
    for name in ("results", "path", "correct", "answers", "metrics"):
        left, right = (getattr(store, name)().drop(columns="seconds", errors="ignore") for store in stores)
        if name == "metrics":
            left, right = (table[table["metric"] != "seconds"].reset_index(drop=True) for table in (left, right))
        pd.testing.assert_frame_equal(left, right, check_exact=True)


def test_layers_are_dealt_out_evenly() -> None:
    with freeze(network()) as frozen:
        found = discover_layers(frozen, pairs(), PROTOCOL, DEFAULTS)
    assert [[layer.name for layer in part.ways] for part in found.dealt(2)] == [["0", "2"], ["input", "1", "3"]]
    assert found.dealt(1) == [found]
    assert [len(part.ways) for part in found.dealt(7)] == [1, 1, 1, 1, 1, 0, 0]


@pytest.mark.parametrize(("size", "layers"), [(2, "*"), (3, ("0", "1"))])
def test_results_are_those_of_one_process(tmp_path: Path, size: int, layers: Any) -> None:
    """Bit for bit, also where there are fewer layers than processes; and nothing changes by it."""
    protocol = ProbeProtocol(layers, solvers=(Ridge(),), l2=(1e-2, 1.0), controls=("shuffled",))
    probe(session(tmp_path / "one"), loaders(), protocol=protocol)

    def work(rank: int) -> Any:
        own = network()
        with torch.no_grad():
            own[1].running_mean.add_(rank)  # as the last batches of training leave it
        before = {name: value.clone() for name, value in own.state_dict().items()}
        state = torch.get_rng_state()
        processes = counted()
        probe(session(tmp_path / "several"), loaders(rank, size), own, protocol)
        untouched = all(torch.equal(value, before[name]) for name, value in own.state_dict().items())
        return untouched and torch.equal(torch.get_rng_state(), state), processes

    assert together(size, tmp_path / "ranks", work) == [(True, [size])] * size
    same(tmp_path / "several", tmp_path / "one")


class Fragile(nn.Module):
    """Gives no number for a sample that is far out."""

    def forward(self, x: Tensor) -> Tensor:
        return x.masked_fill(x[:, :1] > 1.1, torch.inf)


class Counting(nn.Module):
    """Adds how often it has been called."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return x + self.calls


class Drifting(nn.Module):
    """Keeps a state that hardly shows."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.seen += 1e-6 * len(x)
        return x * (1 + self.seen)


class DrawingLater(nn.Module):
    """Draws a number, without an effect, for a batch of another size than the first."""

    def forward(self, x: Tensor) -> Tensor:
        return x if len(x) != 14 else x + 0 * torch.rand(())


@pytest.fixture(autouse=True)
def _draws_of_type_checkers_do_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests check types while they run, which draws from Python's own generator."""
    monkeypatch.setattr(activation_recorder, "random_states", lambda: random_states()[1:])


def steady(*more: nn.Module) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), *more, nn.Linear(8, 3))


def counted_batches() -> list[int]:
    """The sizes of the batches that are recorded by a pass of the network from now on."""
    found: list[int] = []
    read = LayerReader.__call__

    def counted_read(self: LayerReader, given: Any, on_activation: Any) -> Any:
        found.append(given.batch_size)
        return read(self, given, on_activation)

    LayerReader.__call__ = counted_read  # type: ignore[method-assign]
    return found


@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize("kind", ["features", "streamed", "a layer that fails"])
def test_batches_are_shared_and_results_are_those_of_one_process(tmp_path: Path, size: int, kind: str) -> None:
    """Bit for bit, though each process runs its share of 6, 2 and 2 batches, and all the very first one."""
    more = [Fragile()] if kind == "a layer that fails" else []
    protocol = replace(asked(), layers="*")
    if kind == "streamed":
        protocol = replace(PROTOCOL, stream=True)
    probe(session(tmp_path / "one"), loaders(), steady(*more), protocol)

    def work(rank: int) -> list[int]:
        batches = counted_batches()
        probe(session(tmp_path / "several"), loaders(rank, size), steady(*more), protocol)
        return batches

    shares = {
        2: [[16, 16, 16, 10, 16, 16], [16, 16, 16, 14, 15]],
        3: [[16, 16, 16, 16, 16], [16, 16, 10, 14, 15], [16, 16]],
    }
    assert together(size, tmp_path / "ranks", work) == shares[size]
    same(tmp_path / "several", tmp_path / "one")
    failed = ProbeStore(tmp_path / "several").results().query("status == 'failed'")
    assert list(failed["layer"]) == (["3", "4"] if more else [])
    assert failed["message"].str.endswith("first in train sample 16").all()


@pytest.mark.parametrize("kind", ["random", "stateful", "drifting", "kept"])
def test_batches_are_not_shared_where_another_pass_might_lead_to_something_else(tmp_path: Path, kind: str) -> None:
    more = {"random": [Noise()], "stateful": [Counting()], "drifting": [Drifting()], "kept": []}[kind]
    resources = Resources(None, "8GB", keep=tmp_path / "features" if kind == "kept" else None)
    probe(session(tmp_path / "one"), loaders(), steady(*more))

    def work(rank: int) -> int:
        batches = counted_batches()
        probe(session(tmp_path / "several", resources=resources), loaders(rank, 2), steady(*more))
        return sum(batches)

    assert together(2, tmp_path / "ranks", work) == [90 + 30 + 31] * 2
    same(tmp_path / "several", tmp_path / "one")


def test_a_network_that_begins_to_draw_in_a_later_batch_is_not_shared_silently(tmp_path: Path) -> None:
    def work(rank: int) -> None:
        probe(session(tmp_path / "several"), loaders(rank, 2), steady(DrawingLater()))

    first, second = together(2, tmp_path / "ranks", work, timeout=60)
    assert isinstance(first, OtherProcessError) and "draws random numbers in a batch of the val split" in str(first)
    assert isinstance(second, SystemExit)


@pytest.mark.parametrize(("at", "more"), [(1, []), (1, [Noise()]), (3, [])], ids=["deciding", "declining", "a round"])
def test_a_process_that_dies_in_the_middle_of_a_swap_leaves_nobody_waiting(
    tmp_path: Path, at: int, more: list[nn.Module]
) -> None:
    """It has given one of the two others what it had to give."""

    def work(rank: int) -> None:
        swap, calls = Ranks.swap, []

        def swap_with_one(self: Ranks, given: Any) -> Any:
            calls.append(None)
            if rank == 2 and len(calls) == at:
                swap(self, {0: given[0]})
                os._exit(9)
            return swap(self, given)

        Ranks.swap = swap_with_one  # type: ignore[method-assign]
        probe(session(tmp_path / "several"), loaders(rank, 3), steady(*more))

    first, second, third = together(3, tmp_path / "ranks", work, timeout=60)
    assert isinstance(first, OtherProcessError) and "rank 2 has ended" in str(first)
    assert isinstance(second, SystemExit) and second.code == 0
    assert third is None


@pytest.mark.parametrize("how", ["error", "signal", "death"])
def test_who_leaves_the_recording_leaves_nobody_waiting(tmp_path: Path, how: str) -> None:
    """In the middle of a round, of a split that is not the first."""

    class Leaving(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            if len(x) == 14 and how == "error":  # the last batch of validation, which the second process runs
                raise KeyError("a fault of the network")
            if len(x) == 14 and how == "death":
                os._exit(9)
            if len(x) == 14:
                os.kill(os.getpid(), signal.SIGTERM)
            return x

    def work(rank: int) -> None:
        signals = StopSignals()
        with signals.listening():
            probe(session(tmp_path / "several", signals=signals), loaders(rank, 3), steady(Leaving()))

    first, second, third = together(3, tmp_path / "ranks", work, timeout=60)
    if how == "signal":
        assert all(isinstance(each, ProbingStopped) for each in (first, second, third))
        assert "recording" in str(first)
        return
    assert isinstance(first, OtherProcessError)
    assert ("a fault of the network" if how == "error" else "rank 1 has ended") in str(first)
    assert isinstance(third, SystemExit) and third.code == 0
    assert ProbeStore(tmp_path / "several").done("final") == set()


def asked() -> ProbeProtocol:
    """Everything that one sweep may ask beside the error, by what is quick to fit."""
    return ProbeProtocol(
        layers=("input", "0", "1"),
        reducers=(AveragePool(), RandomSubset(4)),
        solvers=(Ridge(),),
        l2=(1e-2, 1.0),
        seeds=(0, 1),
        controls=("shuffled", "control_task"),
        control_key=lambda batch: (batch[0][:, 0] > 0).long(),
        metrics=("auc", "brier"),
        scores=True,
        each_reducer=True,
        analyses=(NearestMean(), MeanDifference()),
    )


def test_test_sets_scores_analyses_controls_and_kept_features_are_those_of_one_process(tmp_path: Path) -> None:
    """Bit for bit; and the second question is answered from what both have kept, without the network."""
    data = pairs() | {"far": pairs(3)["test"]}

    def ask(folder: Path, keep: Path | None) -> None:
        probe(session(folder, resources=Resources(None, "8GB", keep=keep)), data, protocol=asked())

    ask(tmp_path / "one", None)

    def work(rank: int) -> None:
        ask(tmp_path / "several", tmp_path / "features")
        ActivationRecorder.__call__ = recorded  # type: ignore[method-assign,assignment]
        ask(tmp_path / "again", tmp_path / "features")

    def recorded(self: ActivationRecorder, batch: Any) -> None:
        raise AssertionError("features that are kept were recorded")

    assert together(2, tmp_path / "ranks", work) == [None, None]
    for folder in ("several", "again"):
        same(tmp_path / folder, tmp_path / "one")
        for layer in ("input", "0", "1"):
            found, expected = (read_scores(tmp_path / name, "final", layer) for name in (folder, "one"))
            assert list(found) == ["test", "far"]
            assert all(np.array_equal(found[name].scores, expected[name].scores) for name in expected)
    kept = [entry.about["layer"] for entry in FeatureStore(tmp_path / "features").entries()]
    assert {layer: kept.count(layer) for layer in kept} == dict.fromkeys(("input", "0", "1"), 4 * 3)


def test_memory_of_a_machine_is_shared_and_that_of_a_gpu_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    assert feature_budget(None, "1GiB", 0, 0, 2) == 2**29
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (2**30, 2**30))
    assert feature_budget(torch.device("cuda"), 1.0, 0, 0, 2) == 2**30
    assert processes_with_room(torch.device("cuda"), 1.0, 2**31, 0, 8) == 8
    assert [processes_with_room(None, "4GB", 10**9, 10**8, n) for n in (2, 8)] == [2, 3]
    with pytest.raises(ValueError, match=r"`max_memory` allows 4 GB"):
        feature_budget(None, "4GB", 5 * 10**9, 0, 8)


@pytest.mark.parametrize("able", [1, 2])
def test_as_many_processes_probe_as_the_memory_holds(tmp_path: Path, able: int) -> None:
    probe(session(tmp_path / "one"), loaders())
    with freeze(network()) as frozen:
        allowed = (able + 0.5) * sum(least_memory(PROTOCOL, discover_layers(frozen, loaders(), PROTOCOL, DEFAULTS)))

    def work(rank: int) -> Any:
        processes = counted()
        probe(session(tmp_path / "several", resources=Resources(None, allowed)), loaders(rank, 3))
        return processes

    assert together(3, tmp_path / "ranks", work) == [[able]] * 3
    same(tmp_path / "several", tmp_path / "one")


def test_a_signal_to_one_stops_all_and_they_go_on_from_there(tmp_path: Path) -> None:
    probe(session(tmp_path / "one"), loaders())
    entry = Entry("final.ckpt", "123", {"seed": 0})
    kept: list[str] = []

    def work(rank: int) -> Any:
        signals = StopSignals()
        with signals.listening():
            several = session(tmp_path / "several", signals=signals)
            add = several.store.add

            def add_and_signal(result: LayerResult) -> None:
                add(result)
                kept.append(result.record.layer)

            several.store.add = add_and_signal  # type: ignore[method-assign]
            if rank == 1 and not several.store.done("final"):
                Ridge.solve = lambda *args, **options: (os.kill(os.getpid(), signal.SIGTERM), solve(*args, **options))[
                    1
                ]
            try:
                several.probe(network(), loaders(rank, 2), PROTOCOL, INFO, entry=entry, plan=False)
            except ProbingStopped as stop:
                return str(stop), kept
        return "", kept

    solve = Ridge.solve
    (first, begun), (second, _) = together(2, tmp_path / "ranks", work)
    assert first
    assert second == "layer 2 of 3 of final"
    assert {"input"} == SECOND & set(begun), "a layer was probed after the signal, or the one at it was lost"
    assert not session(tmp_path / "several").is_complete("final", entry)
    (again, rest), (other, _) = together(2, tmp_path / "more", work)
    assert again == other == ""
    assert sorted(begun + rest) == sorted(LAYERS), "a layer was probed twice, or not at all"
    same(tmp_path / "several", tmp_path / "one")
    assert session(tmp_path / "several").is_complete("final", entry)


def test_an_error_in_one_is_reported_once_with_its_layer(tmp_path: Path) -> None:
    def work(rank: int) -> None:
        if rank == 1:

            def faulty(*args: Any, **options: Any) -> Any:
                raise KeyError("a fault of the program")

            Ridge.solve = faulty  # type: ignore[method-assign]
        probe(session(tmp_path / "several"), loaders(rank, 2))

    first, second = together(2, tmp_path / "ranks", work)
    assert isinstance(first, OtherProcessError)
    assert str(first) == (
        "Probing failed in the process of rank 1, in layer input of final: KeyError: 'a fault of the program'"
    )
    assert "in faulty" in first.__notes__[0], "no traceback"
    assert isinstance(second, SystemExit) and second.code == 0
    assert ProbeStore(tmp_path / "several").done("final") <= FIRST


def test_an_error_of_the_first_is_its_own(tmp_path: Path) -> None:
    def work(rank: int) -> None:
        several = session(tmp_path / "several")

        def full(result: LayerResult) -> None:
            raise StoreError("the disk is full")

        several.store.add = full  # type: ignore[method-assign]
        probe(several, loaders(rank, 3))

    first, *others = together(3, tmp_path / "ranks", work)
    assert isinstance(first, StoreError)
    assert all(isinstance(other, SystemExit) and other.code == 0 for other in others)


def test_an_error_of_all_is_that_of_one(tmp_path: Path) -> None:
    def work(rank: int) -> None:
        probe(session(tmp_path / "several"), loaders(rank, 2), protocol=ProbeProtocol("no_such_layer"))

    first, second = together(2, tmp_path / "ranks", work)
    assert isinstance(first, ValueError) and "no_such_layer" in str(first)
    assert isinstance(second, SystemExit)


def test_a_process_that_dies_ends_the_others(tmp_path: Path) -> None:
    def work(rank: int) -> None:
        if rank == 1:
            Ridge.solve = lambda *args, **options: os._exit(9)  # type: ignore[method-assign,assignment]
        probe(session(tmp_path / "several"), loaders(rank, 2))

    first, second = together(2, tmp_path / "ranks", work)
    assert isinstance(first, OtherProcessError) and "rank 1 has ended" in str(first)
    assert second is None


class Stream(IterableDataset):  # type: ignore[type-arg]
    def __init__(self, rank: int, pair: tuple[Tensor, Tensor]) -> None:
        self.rank, self.pair = rank, pair

    def __iter__(self) -> Any:
        assert self.rank == 0, "read by another process than the first"
        return iter(zip(*self.pair, strict=True))


class Unreadable:
    """A batch in which there is nothing that a fingerprint could read."""

    def __init__(self, samples: list[tuple[Tensor, Tensor]]) -> None:
        self.read = lambda: tuple(map(torch.stack, zip(*samples, strict=True)))


@pytest.mark.parametrize("kind", ["streams", "others", "unreadable"])
def test_samples_that_others_do_not_have_are_probed_by_the_first(tmp_path: Path, kind: str) -> None:
    """Streams, of which each process may have a part; data sets that differ from process to process; and those of which
    it cannot be told."""
    protocol = PROTOCOL
    if kind == "unreadable":
        protocol = replace(protocol, inputs=lambda batch: batch.read()[0], targets=lambda batch: batch.read()[1])

    def data(rank: int) -> dict[str, Any]:
        if kind == "others":
            return {split: DataLoader(TensorDataset(*pair), 16) for split, pair in pairs(rank).items()}
        if kind == "unreadable":
            sets = {split: TensorDataset(*pair) for split, pair in pairs(rank).items()}
            return {split: DataLoader(data, 16, collate_fn=Unreadable) for split, data in sets.items()}
        return {split: DataLoader(Stream(rank, pair), 16) for split, pair in pairs().items()}

    def work(rank: int) -> list[int]:
        processes = counted()
        probe(session(tmp_path / "several"), data(rank), protocol=protocol)
        return processes

    probe(session(tmp_path / "one"), data(0), protocol=protocol)
    assert together(2, tmp_path / "ranks", work) == [[1], [1]]
    same(tmp_path / "several", tmp_path / "one")


@pytest.mark.parametrize("split", ["train", "test"])
def test_samples_that_differ_behind_the_first_batch_are_not_mixed(tmp_path: Path, split: str) -> None:
    def work(rank: int) -> None:
        own = pairs()
        own[split][0][-1] += rank
        data = {name: DataLoader(TensorDataset(*pair), 16) for name, pair in own.items()}
        probe(session(tmp_path / "several"), data)

    first, second = together(2, tmp_path / "ranks", work)
    assert isinstance(first, OtherProcessError) and "have read different samples" in str(first)
    assert isinstance(second, SystemExit) and second.code == 0
    assert ProbeStore(tmp_path / "several").done("final") <= FIRST


def test_no_process_is_forked_while_a_result_is_kept(tmp_path: Path) -> None:
    """It would wait for the lock of stderr, which the thread that shows and keeps may hold."""
    keeping, done = Event(), []

    def keep() -> None:
        with team._taking:
            keeping.set()
            time.sleep(0.1)
            done.append(True)

    listener = Thread(target=keep)
    listener.start()
    keeping.wait()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of forks beside threads
        child = os.fork()
    if child == 0:
        os._exit(0 if done and team._taking.acquire(blocking=False) else 1)
    listener.join()
    assert os.waitpid(child, 0)[1] == 0


def test_only_the_first_has_a_run_of_weights_and_biases(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setattr(rank_zero_only, "rank", 1)
    ranks = Ranks()
    ranks.rank, ranks.size = 1, 2
    ProbeSession(tmp_path / "probes", [SteadyWandbLogger(save_dir=tmp_path, offline=True)], ranks=ranks)
    assert list(tmp_path.iterdir()) == []


def test_the_bar_of_the_first_shows_the_layers_of_all(tmp_path: Path) -> None:
    shown: list[tuple[str, int, int | None]] = []

    def work(rank: int) -> Any:
        ProbeProgress.__call__ = lambda self, *stage: shown.append(stage)  # type: ignore[method-assign,assignment]
        probe(session(tmp_path / "several"), loaders(rank, 2))
        return shown

    first, second = together(2, tmp_path / "ranks", work)
    assert first[-1] == ("probe layers", 5, 5)
    assert {stage for stage, *_ in second} == {"record train", "record val", "record test"}
