"""An objective on a GPU whose kernels are recorded once and launched together."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from layerprobe.probing.solvers.softmax import Evaluation

Objective = Callable[[Float[Tensor, "p m e"], Float[Tensor, " p"], bool], Evaluation]


class Graphed:
    """The same objective as a CUDA graph, one for each number of heads, with or without curvature.

    An evaluation is some forty kernels, most of them on a few numbers for each sample: launching them one by one takes
    longer than running them. What one evaluation computes in between is kept for the next, in one pool for all graphs.

    Args:
        objective: An objective of samples that stay where they are, on a GPU; it reads nothing back.
        dtype: Its precision.
    """

    def __init__(self, objective: Objective, dtype: torch.dtype) -> None:
        self.objective, self.dtype = objective, dtype
        self._recorded: dict[tuple[int, bool], _Recorded] = {}

    def __call__(self, heads: Float[Tensor, "p m e"], l2: Float[Tensor, " p"], with_curvature: bool) -> Evaluation:
        """Evaluate heads, each at its own L2 value."""
        key = len(heads), with_curvature
        if key not in self._recorded:
            another = next(iter(self._recorded.values()), None)
            self._recorded[key] = _Recorded(self.objective, heads, l2, with_curvature, another)
        return self._recorded[key](heads, l2)


class _Recorded:
    def __init__(
        self, objective: Objective, heads: Tensor, l2: Tensor, with_curvature: bool, another: _Recorded | None
    ) -> None:
        self.heads, self.l2, self.graph = heads.clone(), l2.clone(), torch.cuda.CUDAGraph()
        pool = None if another is None else another.graph.pool()
        now, stream = torch.cuda.current_stream(heads.device), torch.cuda.Stream(heads.device)
        stream.wait_stream(now)
        with torch.cuda.stream(stream):
            # Once beforehand: libraries make their handles at the first call, which cannot be recorded.
            objective(self.heads, self.l2, with_curvature)
            # Only this thread is kept from calls that would end the recording: others may be loading data.
            self.graph.capture_begin(pool=pool, capture_error_mode="thread_local")
            try:
                self.found = objective(self.heads, self.l2, with_curvature)
            finally:
                self.graph.capture_end()
        now.wait_stream(stream)

    def __call__(self, heads: Tensor, l2: Tensor) -> Evaluation:
        self.heads.copy_(heads)
        self.l2.copy_(l2)
        self.graph.replay()
        found = self.found
        curvature = None if found.curvature is None else found.curvature.clone()
        return Evaluation(found.objective.clone(), found.gradient.clone(), curvature)
