"""Pool of processes: several layers are fitted at a time, where one does not fill the processor."""

from __future__ import annotations

import ctypes
import logging
import os
import pickle
import signal
import sys
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import AbstractContextManager
from multiprocessing import get_context
from types import MappingProxyType
from typing import Any, TypeVar

import torch

from layerprobe.probing.capture.layers import Layer
from layerprobe.probing.fit_memory import path_bytes, workspace
from layerprobe.probing.protocol import ProbeProtocol
from layerprobe.probing.solvers.newton import newton_bytes
from layerprobe.probing.solvers.spectrum import LARGEST
from layerprobe.probing.solvers.threads import WORTH, evaluation_operations
from layerprobe.types import Split

T = TypeVar("T")
H = TypeVar("H")
R = TypeVar("R")

log = logging.getLogger("layerprobe")

_PARENT_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of prctl(2)

_WORTH_PROCESSES = 2e8
"""Operations of one evaluation of all layers below which making processes, about 0.05 s, costs more than they bring."""

_work: Callable[[Any], Any] | None = None
"""What a process was made for; it came with the fork, so that it need not be sent."""


def parallel(
    items: Iterable[T], hold: Callable[[T], AbstractContextManager[H]], work: Callable[[T, H], R], workers: int
) -> Iterator[R]:
    """Work on several items at a time, each in a process of one thread.

    Fits of small layers are many short calls, for which threads would wait for the interpreter in turn: with two of
    them, twelve layers took 0.9 of the time of one after the other, and with two processes 0.6. A process is a fork,
    so that features are there without being sent, and what it changes is its own. It ends with the one that made it.
    Where a process dies, its items are worked on here; likewise all of them on systems other than Linux, whose
    libraries do not stand a fork.

    Where asking for an item fails, what has been begun is still handed over before the error is raised.

    Args:
        items: What to work on; an item is asked for when its turn comes.
        hold: Opens what the work on an item needs. A process opens and closes its own, and the one that made it closes
            its own once the result is there.
        work: What to do with an item and what is held. Its result is pickled.
        workers: How many at a time.

    Yields:
        The results, in the order of the items.
    """

    def done(item: T) -> R:
        with hold(item) as held:
            return work(item, held)

    if workers < 2 or sys.platform != "linux":
        yield from map(done, items)
        return
    waiting, running = iter(items), deque[tuple[T, Future[bytes]]]()
    failure: Exception | None = None

    def result() -> R:
        item, future = running.popleft()
        with hold(item) as held:
            try:
                return pickle.loads(future.result())
            except BrokenProcessPool as broken:
                log.warning("A process that fitted a layer died; the layer is fitted once more. %s", broken)
                return work(item, held)

    with ProcessPoolExecutor(workers, get_context("fork"), _begin, (done, os.getpid())) as pool:
        while True:
            try:
                item = next(waiting)
            except StopIteration:
                break
            except Exception as error:  # raised again when the layers that are being fitted are done
                failure = error
                break
            running.append((item, _submitted(pool, item)))
            if len(running) == workers:
                yield result()
        while running:
            yield result()
    if failure is not None:
        raise failure


def _submitted(pool: ProcessPoolExecutor, item: Any) -> Future[bytes]:
    try:
        return pool.submit(_done, item)
    except BrokenProcessPool as broken:
        future: Future[bytes] = Future()
        future.set_exception(broken)
        return future


def _begin(work: Callable[[Any], Any], parent: int) -> None:
    global _work
    _work = work
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # who made this process answers it
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    ctypes.CDLL(None).prctl(_PARENT_DEATH_SIGNAL, int(signal.SIGKILL))
    if os.getppid() != parent:
        os._exit(1)
    torch.set_num_threads(1)  # more would wait for threads that the fork has left behind


def _done(item: Any) -> bytes:
    assert _work is not None
    # By itself, a queue would keep tensors in shared memory, of which containers have little.
    return pickle.dumps(_work(item))


def layers_in_parallel(
    features: Mapping[Layer, int],
    samples: Mapping[Split, int],
    outputs: int,
    protocol: ProbeProtocol,
    device: torch.device | None,
    left: int,
    unfitted: Mapping[Layer, int] = MappingProxyType({}),
) -> tuple[Collection[Layer], int]:
    """Choose what is fitted at a time: layers that take little of the CPU, as many as there is memory for.

    Args:
        features: Of the layers that are in memory, the number of features.
        samples: Samples of each split.
        outputs: Classes, labels or values.
        protocol: The sweep.
        device: Where the network is.
        left: Bytes that neither features nor the fit of the largest layer take.
        unfitted: The number of features beside those, of which a process has a copy of its own too.
    """
    if protocol.stream or (device is not None and device.type == "cuda"):
        return (), 1
    n, p, threads = samples["train"], len(protocol.l2), torch.get_num_threads()
    others = sum(samples.values()) - n
    _, columns = protocol.task.fits(outputs)
    small = [layer for layer, d in features.items() if is_small(n, d, columns, p, threads)]
    if len(small) < threads:
        small = [layer for layer, d in features.items() if is_small(n, d, columns, p)]
    if sum(evaluation_operations(n, features[layer], columns, p) for layer in small) < _WORTH_PROCESSES:
        return (), 1
    each = max(
        small_workspace(n, features[layer], outputs, p)
        + 4 * (others * features[layer] + (n + others) * unfitted.get(layer, 0))
        for layer in small
    )
    room = (workspace(max(features.values()), outputs, p) + left) // each
    return small, max(1, min(threads, len(small), room))


def is_small(n: int, d: int, c: int, p: int, threads: int = 1) -> bool:
    """Tell whether the fit of a layer is faster on one thread while others are fitted beside it.

    Args:
        n: Training samples.
        d: Features.
        c: Classes.
        p: L2 values.
        threads: What it would have for itself. For one, a second would not be worth it.
    """
    worth = WORTH if threads == 1 else 1.5 * WORTH * threads
    return min(n, d) <= LARGEST and evaluation_operations(n, d, c, p) < worth


def small_workspace(n: int, d: int, c: int, p: int) -> int:
    """Return the bytes that fitting such a layer takes at most, its own copy of the features with it.

    Returns:
        Bytes: features, the decomposition with its working copies, coordinates in float64, a Hessian, the heads and
        their curvature pairs, scores.
    """
    e = min(n, d)
    newton = max(newton_bytes(d, c, n), newton_bytes(e, c, n))  # in the features' own axes, or in the samples' span
    return 4 * n * d + 48 * e * e + 16 * n * e + newton + path_bytes(d, c, p) + 48 * n * c * p
