"""Probe without keeping a feature: heads learn from activations as they pass by, and are measured likewise."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from layerprobe.probing.activations import record
from layerprobe.probing.bank import FeatureBank
from layerprobe.probing.batches import Data, in_order, reshuffled
from layerprobe.probing.frozen import frozen
from layerprobe.probing.heads import Heads
from layerprobe.probing.inputs import device_of
from layerprobe.probing.labels import Labels
from layerprobe.probing.layers import Layer
from layerprobe.probing.protocol import ProbeProtocol
from layerprobe.probing.rows import failed, measured
from layerprobe.probing.selection import Candidate, select
from layerprobe.probing.sequences import token_mask
from layerprobe.probing.solvers.solution import Status
from layerprobe.probing.solvers.streaming import AbstractStream, AbstractStreamingSolver
from layerprobe.probing.standardise import Standardiser
from layerprobe.probing.sweep import FeatureWay, Fit, Selected, Sweep
from layerprobe.types import CheckpointInfo, LayerName, LayerResult, Split

Progress = Callable[[str, int, int | None], None]
Context = Callable[[], AbstractContextManager[Any]]


@dataclass
class _Course:
    """One layer, way and solver, from the first sample to the last."""

    way: FeatureWay
    solver: AbstractStreamingSolver
    stream: AbstractStream | None
    fit: Fit | None = None
    standardiser: Standardiser | None = None
    wrong: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.float64))
    loss: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.float64))
    n: int = 0

    @property
    def heads(self) -> Heads:
        assert self.fit is not None
        return Heads(self.fit.solution.weight, self.fit.solution.bias)


class _Pass:
    """Runs splits through the network and hands features out."""

    def __init__(
        self, network: nn.Module, data: Data, protocol: ProbeProtocol, on_progress: Progress, context: Context
    ) -> None:
        self.context = context
        self.network, self.data, self.protocol, self.on_progress = network, data, protocol, on_progress
        self.problems: dict[LayerName, str] = {}

    def run(
        self,
        split: Split,
        wanted: Mapping[Layer, Sequence[FeatureWay]],
        use: Callable[[Layer, FeatureWay, Tensor, Tensor], None],
        *,
        order: int | None = None,
        stage: str,
    ) -> Tensor:
        """One pass over a split.

        Args:
            split: Which.
            wanted: What to make features of, and how.
            use: Gets each layer's features with the batch's targets.
            order: Seed of the order of the samples; by default that of the data.
            stage: What this is, for the progress bar.

        Returns:
            The targets.
        """
        protocol, seen = self.protocol, []
        seed = protocol.seeds[0]
        with frozen(self.network, seed=seed):
            source, size = self.data[split], protocol.batch_size
            batches = in_order(source, size, seed) if order is None else reshuffled(source, size, order)
            for i, batch in enumerate(batches, 1):
                targets = protocol.targets_of(batch, split)
                seen.append(targets)
                held = token_mask(protocol.mask_of(batch))

                def give(layer: Layer, activation: Tensor, targets: Tensor = targets, held: Any = held) -> None:
                    if layer.name in self.problems:
                        return
                    shape = tuple(activation.shape)[1:]
                    for way in wanted[layer]:
                        if not way.reduction.fits(shape, layer.shape):
                            self.problems[layer.name] = f"of another shape in a batch of the {split} split"
                            return
                        features = way.reduction(activation, held)
                        if not torch.isfinite(features).all():
                            self.problems[layer.name] = f"NaN or infinite activations in the {split} split"
                            return
                        use(layer, way, features, targets)

                inputs = protocol.inputs(batch)
                with self.context():
                    missing = record(self.network, inputs, tuple(wanted), give, same_shape=False)
                for name in missing:
                    self.problems.setdefault(name, f"not reached in a batch of the {split} split")
                self.on_progress(stage, i, None)
        if not seen:
            raise ValueError(f"The {split} split is empty. Probing needs samples in train, val and test.")
        return torch.cat(seen)


def stream_checkpoint(
    network: nn.Module,
    data: Data,
    protocol: ProbeProtocol,
    ways: Mapping[Layer, Sequence[FeatureWay]],
    checkpoint: CheckpointInfo,
    on_progress: Progress,
    context: Context = nullcontext,
) -> Iterator[LayerResult]:
    """Probe every layer with memory that does not grow with the number of samples.

    Heads learn during as many passes over train as their solvers ask for; one pass over val measures the path of every
    head, and one over test the selected ones, of which scores alone are kept.

    Args:
        network: The network.
        data: The three splits.
        protocol: The sweep, of streaming solvers.
        ways: The layers, and how features are made of them.
        checkpoint: Which frozen network this is.
        on_progress: Told how far the work is.
        context: Makes what the network's passes run in.

    Yields:
        One result for each layer. The training error is not known.
    """
    start = time.perf_counter()
    passes = _Pass(network, data, protocol, on_progress, context)
    device = device_of(network) or torch.device("cpu")
    l2 = torch.tensor(protocol.l2_values(0, 0), dtype=torch.float64)
    courses = {
        (layer, way.reduction.description): [
            _Course(way, solver, solver.stream(way.reduction.n_features, l2, device))
            for solver in protocol.solvers
            if isinstance(solver, AbstractStreamingSolver)
        ]
        for layer, found in ways.items()
        for way in found
    }
    targets: dict[Split, Tensor] = {"train": _learn(passes, courses, ways, protocol.seeds[0])}
    classes = protocol.task.labels({"train": targets["train"]})
    alive = {layer: found for layer, found in ways.items() if layer.name not in passes.problems}
    for (layer, _), of_layer in courses.items():
        for course in of_layer if layer in alive else ():
            _conclude(course, classes, l2)

    def judge(layer: Layer, way: FeatureWay, features: Tensor, raw: Tensor) -> None:
        truth = _placed(protocol, classes, raw).to(features.device)
        for course in courses[layer, way.reduction.description]:
            assert course.standardiser is not None
            x = course.standardiser.apply_(features.clone())
            errors, losses = protocol.task.evaluate(course.heads, x, truth, course.solver)
            # Counted, so that ties stay ties whatever the batch size.
            course.wrong = course.wrong.to(errors.device) + (errors * len(x)).round()
            course.loss = course.loss.to(losses.device) + losses * len(x)
            course.n += len(x)

    if data.get("val") is not None:
        targets["val"] = passes.run("val", alive, judge, stage="stream val")
    sweeps = {
        layer: _select([c for way in found for c in courses[layer, way.reduction.description]], l2)
        if layer in alive
        else Sweep()
        for layer, found in ways.items()
    }
    bank, chosen = FeatureBank(1 << 30, protocol.spill_path), {}
    for layer, sweep in sweeps.items():
        if sweep.selected is not None:
            chosen[layer] = [sweep.selected.fit.way]

    def answer(layer: Layer, way: FeatureWay, features: Tensor, raw: Tensor) -> None:
        selected = sweeps[layer].selected
        assert selected is not None
        scores = selected.heads.scores(selected.standardiser.apply_(features.clone()))
        bank.append((layer.name, "test", ""), scores)

    targets["test"] = passes.run("test", chosen, answer, stage="stream test")
    labels = protocol.task.labels(targets)
    seconds = (time.perf_counter() - start) / max(len(ways), 1)
    try:
        for layer, sweep in sweeps.items():
            problem = passes.problems.get(layer.name) or bank.problems.get(layer.name)
            if problem or sweep.selected is None:
                yield failed(
                    layer,
                    checkpoint,
                    labels,
                    protocol.task,
                    {"none": sweep},
                    problem or "every head diverged",
                    seconds,
                    protocol.seeds[0],
                )
                continue
            scores, c = bank.take((layer.name, "test", "")), len(labels.outputs)
            same = Heads(torch.eye(c, dtype=scores.dtype, device=scores.device)[None], torch.zeros(1, c).to(scores[:0]))
            found = protocol.task.measure(
                same, scores, labels.splits["test"].to(scores.device), sweep.selected.fit.solver
            )
            yield measured(
                layer,
                checkpoint,
                labels,
                protocol.task,
                {"none": sweep},
                sweep.selected,
                found,
                math.nan,
                seconds,
            )
            bank.drop(layer.name)
    finally:
        bank.close()


def _learn(
    passes: _Pass,
    courses: Mapping[tuple[Layer, str], Sequence[_Course]],
    ways: Mapping[Layer, Sequence[FeatureWay]],
    seed: int,
) -> Tensor:
    """Show train to every stream as often as it asks for."""
    every = [course for found in courses.values() for course in found]
    total = max(course.solver.n_passes for course in every)
    targets = torch.empty(0)
    for number in range(total):

        def learn(layer: Layer, way: FeatureWay, features: Tensor, raw: Tensor, number: int = number) -> None:
            for course in courses[layer, way.reduction.description]:
                if number < course.solver.n_passes:
                    assert course.stream is not None
                    course.stream.see(features, raw)

        seen = passes.run(
            "train", ways, learn, order=seed + number if number else None, stage=f"stream train {number + 1}/{total}"
        )
        targets = seen if number == 0 else targets
        for course in every:
            if number < course.solver.n_passes and course.stream is not None:
                course.stream.end_pass()
    return targets


def _conclude(course: _Course, classes: Labels, l2: Tensor) -> None:
    assert course.stream is not None
    solution, course.standardiser = course.stream.finish(classes.outputs)
    course.fit, course.stream = Fit(course.way, course.solver, solution, ()), None
    course.wrong = course.loss = torch.zeros(len(l2), dtype=torch.float64)


def _placed(protocol: ProbeProtocol, classes: Labels, raw: Tensor) -> Tensor:
    return protocol.task.labels({"train": classes.outputs, "val": raw}).splits["val"]


def _select(courses: Sequence[_Course], l2: Tensor) -> Sweep:
    """The best head of one layer over ways, solvers and L2 values."""
    sweep, best = Sweep(), None
    for course in courses:
        assert course.fit is not None
        assert course.standardiser is not None
        n, solution = course.n, course.fit.solution
        errors, losses = (course.wrong / n).tolist() if n else [math.nan] * len(l2), (course.loss / max(n, 1)).tolist()
        candidates = tuple(
            Candidate(math.nan if status is Status.DIVERGED else error, loss, value)
            for status, error, loss, value in zip(solution.status, errors, losses, l2.tolist(), strict=True)
        )
        fit = Fit(course.way, course.solver, solution, candidates)
        sweep.fits.append(fit)
        index = select(candidates) if n else 0
        if index is None:
            continue
        if best is None or select([best, candidates[index]]) == 1:
            best = candidates[index]
            sweep.selected = Selected(fit, index, course.heads[index], course.standardiser, math.nan)
    return sweep
