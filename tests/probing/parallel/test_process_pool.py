from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn

from helpers.slurm_cluster import wait_until
from layerprobe.probing.capture.layers import Layer
from layerprobe.probing.fit_memory import workspace
from layerprobe.probing.parallel.process_pool import is_small, layers_in_parallel, parallel, small_workspace
from layerprobe.probing.pipeline import probe_checkpoint
from layerprobe.probing.protocol import ProbeProtocol
from layerprobe.probing.resources import Resources
from layerprobe.probing.solvers.ridge import Ridge
from layerprobe.probing.solvers.solution import Solution

FORK = multiprocessing.get_context("fork")


@pytest.fixture
def three_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


def at_a_time(items: Iterable[int], work: Callable[[int], Any], workers: int) -> Iterator[Any]:
    """Work that needs nothing to be held."""
    return parallel(items, lambda _: nullcontext(), lambda i, _: work(i), workers)


def test_as_many_at_a_time_as_there_are_workers_and_results_in_order() -> None:
    all_there, now, most = FORK.Barrier(3), FORK.Value("i", 0), FORK.Value("i", 0)

    def work(i: int) -> tuple[int, int]:
        with now.get_lock():
            now.value += 1
            most.value = max(most.value, now.value)
        if i < 3:
            all_there.wait(timeout=60)  # broken, and so an error, if they are not all at work together
        time.sleep(0.02 * (7 - i))
        with now.get_lock():
            now.value -= 1
        return i * i, os.getpid()

    results = list(at_a_time(range(7), work, 3))
    assert [square for square, _ in results] == [i * i for i in range(7)]
    assert most.value == 3
    assert os.getpid() not in {pid for _, pid in results}


def test_what_has_begun_is_handed_over_before_the_end_is_told() -> None:
    def items() -> Iterator[int]:
        yield from range(4)
        raise InterruptedError("stop")

    for workers in (1, 2, 9):
        found = []
        with pytest.raises(InterruptedError):
            for result in at_a_time(items(), lambda i: i, workers):
                found.append(result)  # noqa: PERF402 (what came before the error counts)
        assert found == [0, 1, 2, 3], workers


def test_an_error_of_the_work_comes_in_its_place() -> None:
    results = at_a_time(range(5), lambda i: 1 // (i - 2), 2)
    assert [next(results), next(results)] == [-1, -1]
    with pytest.raises(ZeroDivisionError):
        next(results)


def test_who_wants_no_more_gets_no_more() -> None:
    begun = FORK.Value("i", 0)

    def work(i: int) -> None:
        with begun.get_lock():
            begun.value += 1

    results = at_a_time(range(100), work, 2)
    next(results)
    results.close()  # type: ignore[attr-defined]
    assert begun.value <= 2


def test_what_work_changes_is_its_own() -> None:
    x = torch.zeros(1000)
    assert min(at_a_time(range(4), lambda i: float(x.add_(1).sum()), 2)) == 1000
    assert float(x.sum()) == 0


@pytest.mark.parametrize("workers", [1, 2])
def test_what_is_held_for_an_item_is_let_go_once_its_result_is_there(workers: int) -> None:
    held: list[int] = []

    @contextmanager
    def hold(i: int) -> Iterator[int]:
        held.append(i)
        try:
            yield 10 * i
        finally:
            held.remove(i)

    for i, (result, others) in enumerate(parallel(range(5), hold, lambda i, ten: (i + ten, list(held)), workers)):
        assert result == 11 * i
        assert others == [i], "a process holds what it works on and nothing else"
        assert held == []


def test_work_runs_on_one_thread_in_the_modes_of_the_caller(three_threads: None) -> None:
    def seen(_: int) -> tuple[bool, bool, int]:
        return torch.is_inference_mode_enabled(), torch.is_grad_enabled(), torch.get_num_threads()

    assert list(at_a_time(range(3), seen, 2)) == [(False, True, 1)] * 3
    with torch.inference_mode():
        assert list(at_a_time(range(3), seen, 2)) == [(True, False, 1)] * 3
    with torch.no_grad():
        assert list(at_a_time(range(3), seen, 2)) == [(False, False, 1)] * 3
    assert torch.get_num_threads() == 3


def test_where_a_process_dies_its_work_is_done_here(caplog: pytest.LogCaptureFixture) -> None:
    here = os.getpid()

    def work(i: int) -> int:
        if i == 2 and os.getpid() != here:
            os.kill(os.getpid(), signal.SIGKILL)  # as where memory runs out
        return i * i

    assert list(at_a_time(range(6), work, 2)) == [i * i for i in range(6)]
    assert "A process that fitted a layer died; the layer is fitted once more." in caplog.text


def test_processes_end_with_the_one_that_made_them(tmp_path: Path) -> None:
    code = (
        "import os, time; from contextlib import nullcontext; from pathlib import Path\n"
        "from layerprobe.probing.parallel.process_pool import parallel\n"
        f"def work(i): Path({str(tmp_path)!r}, str(os.getpid())).touch(); time.sleep(600)\n"
        "list(parallel(range(2), lambda _: nullcontext(), lambda i, _: work(i), 2))"
    )
    parent = subprocess.Popen([sys.executable, "-c", code])
    wait_until(lambda: parent.poll() is not None or len(list(tmp_path.iterdir())) == 2, "two processes")
    children = [psutil.Process(int(file.name)) for file in tmp_path.iterdir()]
    assert len(children) == 2
    parent.kill()
    parent.wait()
    psutil.wait_procs(children, timeout=30)
    assert not any(child.is_running() and child.status() != psutil.STATUS_ZOMBIE for child in children)


class Meets(Ridge):
    """Ridge whose fits, up to a number, wait for one another."""

    barrier = FORK.Barrier(3)

    def solve(self, *args: Any, **kwargs: Any) -> Solution:
        self.barrier.wait(timeout=60)
        return super().solve(*args, **kwargs)


def data() -> dict[str, Any]:
    x, y = load_digits(return_X_y=True)
    x, y = torch.tensor(x, dtype=torch.float32) / 16, torch.tensor(y)
    return {"train": (x[:1200], y[:1200]), "val": (x[1200:1500], y[1200:1500]), "test": (x[1500:], y[1500:])}


def network() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(64, 512), nn.ReLU(), nn.Linear(512, 256), nn.ReLU(), nn.Linear(256, 10))


def test_layers_are_probed_together_with_the_same_results(three_threads: None) -> None:
    def figures() -> list[tuple[Any, ...]]:
        names = ("layer", "depth", "l2", "val_error", "train_error", "test_error", "status")
        found = probe_checkpoint(network(), data(), ProbeProtocol(), resources=Resources(100))
        return [tuple(getattr(r.record, name) for name in names) for r in found]

    with torch.inference_mode():  # as the callback does
        together = figures()
    torch.set_num_threads(1)
    assert len(together) == 6
    assert together == figures()


def test_three_layers_meet(three_threads: None) -> None:
    results = list(probe_checkpoint(network(), data(), ProbeProtocol(solvers=[Meets()])))
    assert [result.record.status for result in results] == ["converged"] * 6


def test_a_stop_keeps_what_has_begun(three_threads: None) -> None:
    def on_progress(stage: str, i: int, total: int | None) -> None:
        if stage == "probe layers" and i == 4:
            raise InterruptedError("stop")

    found = []
    with pytest.raises(InterruptedError):
        for result in probe_checkpoint(network(), data(), ProbeProtocol(), on_progress=on_progress):
            found.append(result.record.layer)  # noqa: PERF401 (what came before the error counts)
    assert found == ["input", "0", "1", "2"]


def made_layers(*features: int) -> dict[Layer, int]:
    return {Layer(f"layer{i}", i, "Linear", (d,), (), ()): d for i, d in enumerate(features)}


def test_which_layers_are_fitted_together(three_threads: None) -> None:
    protocol, samples = ProbeProtocol(), {"train": 2_000, "val": 500, "test": 500}
    twelve = made_layers(*[768] * 12)
    small, workers = layers_in_parallel(twelve, samples, 2, protocol, None, 10**9)
    assert (list(small), workers) == (list(twelve), 3)
    assert layers_in_parallel(twelve, samples, 2, protocol, torch.device("cuda"), 10**9) == ((), 1)
    assert layers_in_parallel(made_layers(*[16] * 12), samples, 2, protocol, None, 10**9) == ((), 1), (
        "not worth a process"
    )
    mixed = made_layers(768, 768, 768, 25_000, 768)
    small, workers = layers_in_parallel(mixed, samples | {"train": 50_000}, 2, protocol, None, 10**9)
    assert [layer.name for layer in small] == ["layer0", "layer1", "layer2", "layer4"]
    few = made_layers(6_000, 6_000)
    small, _ = layers_in_parallel(few, samples | {"train": 6_000}, 2, protocol, None, 10**9)
    assert not small, "two layers do not keep three threads at work"


def test_no_more_layers_together_than_there_is_room_for(three_threads: None) -> None:
    n, d, c, p = 2_000, 768, 2, 12
    assert 4 * n * d < small_workspace(n, d, c, p) < 120 * n * d
    more = small_workspace(1_200, 8_192, c, p) - small_workspace(1_200, 4_096, c, p)
    assert more > 16 * 1_200 * 4_096, "Newton's method copies features in both precisions"
    wide, samples = made_layers(*[5_000] * 4), {"train": 5_000, "val": 1_000}
    largest, each = workspace(5_000, c, p), small_workspace(5_000, 5_000, c, p) + 4 * 1_000 * 5_000
    for left in (0, 2 * each - largest - 1, 2 * each - largest, 9 * each):
        _, workers = layers_in_parallel(wide, samples, c, ProbeProtocol(), None, left)
        assert workers == min(3, max(1, (largest + left) // each))
        _, fewer = layers_in_parallel(wide, samples, c, ProbeProtocol(), None, left, dict.fromkeys(wide, 20_000))
        assert fewer == min(3, max(1, (largest + left) // (each + 4 * 6_000 * 20_000))), "each copies positions too"
    assert is_small(n, d, c, p)
    assert not is_small(50_000, 784, 10, p)
    assert not is_small(7_000, 7_000, 2, 1), "a decomposition of a minute fills the processor"
