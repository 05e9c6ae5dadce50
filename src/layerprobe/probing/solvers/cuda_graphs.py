"""CUDA graphs: what a GPU does again and again, recorded once and launched as a whole."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import cache
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from layerprobe.probing.features.oom import free_cache

T = TypeVar("T")


class Graphed(Generic[T]):
    """A function of tensors on a GPU as CUDA graphs, one for each combination of shapes and flags.

    A step of a fit is more than a hundred kernels on few numbers: launching them one by one takes many times longer
    than running them. What the function computes in between is kept for the next call, in one pool for all graphs.

    Args:
        function: Takes tensors, then flags. It reads nothing back, and what else it works on stays where it is.
    """

    def __init__(self, function: Callable[..., T]) -> None:
        self.function = function
        self._recorded: dict[tuple[object, ...], _Recorded[T]] = {}

    def __call__(self, *tensors: Tensor, **flags: bool) -> T:
        """Call the function.

        Args:
            tensors: Its tensors, on the GPU or small ones of the machine's own memory.
            flags: Its flags.

        Returns:
            What it returns; the tensors in it are overwritten by the next call.
        """
        key = (*(part.shape for part in tensors), *sorted(flags.items()))
        if key not in self._recorded:
            another = next(iter(self._recorded.values()), None)
            self._recorded[key] = _Recorded(self.function, tensors, flags, another)
        return self._recorded[key](*tensors)


@cache
def _stream(device: torch.device) -> torch.cuda.Stream:
    """Return one stream of a GPU for all recordings: libraries keep memory for each that they have seen."""
    return torch.cuda.Stream(device)


class _Recorded(Generic[T]):
    graph: torch.cuda.CUDAGraph
    found: T

    def __init__(
        self,
        function: Callable[..., T],
        tensors: tuple[Tensor, ...],
        flags: dict[str, bool],
        another: _Recorded[T] | None,
    ) -> None:
        device = next(part.device for part in tensors if part.is_cuda)
        self.given = [part.to(device, copy=True) for part in tensors]
        pool = None if another is None else another.graph.pool()
        recorded = None
        with suppress(torch.OutOfMemoryError):
            recorded = self._record(function, flags, pool, _stream(device))
        if recorded is None:
            # While it records, the allocator cannot give back what it keeps for later.
            free_cache()
            recorded = self._record(function, flags, pool, _stream(device))
        self.graph, self.found = recorded

    def _record(
        self, function: Callable[..., T], flags: dict[str, bool], pool: Any, stream: torch.cuda.Stream
    ) -> tuple[torch.cuda.CUDAGraph, T]:
        now, graph = torch.cuda.current_stream(stream.device), torch.cuda.CUDAGraph()
        stream.wait_stream(now)
        with torch.cuda.stream(stream):
            # Once beforehand: libraries make their handles at the first call, which cannot be recorded.
            function(*self.given, **flags)
            # Only this thread is kept from calls that would end the recording: others may be loading data.
            graph.capture_begin(pool=pool, capture_error_mode="thread_local")
            try:
                found = function(*self.given, **flags)
            except BaseException:  # whatever it is, the stream must not go on recording
                with suppress(RuntimeError, UserWarning):  # of a recording that is broken or empty
                    graph.capture_end()
                raise
            graph.capture_end()
        now.wait_stream(stream)
        return graph, found

    def __call__(self, *tensors: Tensor) -> T:
        for place, part in zip(self.given, tensors, strict=True):
            place.copy_(part, non_blocking=True)
        self.graph.replay()
        return self.found
