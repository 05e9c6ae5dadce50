"""Probe without keeping a feature: heads learn from activations as they pass by, and are measured likewise."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Any

import torch
from torch import Tensor, nn

from layerprobe.probing.batches import Data, in_order, reshuffled
from layerprobe.probing.capture.freeze import frozen
from layerprobe.probing.capture.inputs import device_of
from layerprobe.probing.capture.layers import Layer
from layerprobe.probing.features.cache import FeatureBank
from layerprobe.probing.features.memory_budget import memory_budget
from layerprobe.probing.features.reducers import Reduction
from layerprobe.probing.features.scaler import Standardiser
from layerprobe.probing.fingerprint import Fingerprint
from layerprobe.probing.fitting import FeatureWay, Fit, Selected, Sweep, Ways, judged
from layerprobe.probing.heads import Heads
from layerprobe.probing.protocol import ProbeProtocol
from layerprobe.probing.recording import Context, Progress, Use, run_split
from layerprobe.probing.records import failed, measured
from layerprobe.probing.resources import Resources
from layerprobe.probing.solvers.streaming_solver import AbstractStream, AbstractStreamingSolver
from layerprobe.probing.targets import Labels
from layerprobe.types import CheckpointInfo, LayerName, LayerResult, Split


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


@dataclass
class _Passes:
    """Runs splits through the network and hands features out; layers that failed once are left out from then on."""

    network: nn.Module
    data: Data
    protocol: ProbeProtocol
    resources: Resources
    on_progress: Progress
    context: Context
    samples: Fingerprint | None = None
    problems: dict[LayerName, str] = field(default_factory=dict)

    def run(
        self,
        split: Split,
        wanted: Ways,
        use: Use,
        stage: str,
        *,
        order: int | None = None,
        targets: Callable[[Any, Split], Tensor] | None = None,
    ) -> Tensor:
        """One pass over a split; its targets.

        Args:
            split: Which.
            wanted: What to make features of, and how.
            use: See `run_split`.
            stage: What this is, for the progress bar.
            order: Seed of the order of the samples; by default that of the data.
            targets: Takes the targets out of a batch; by default as the protocol does.
        """
        protocol, number = self.protocol, count(1)
        seed, source, size = protocol.seeds[0], self.data[split], self.resources.batch_size
        read = in_order(source, size, seed) if order is None else reshuffled(source, size, order)
        with frozen(self.network, seed=seed), closing(read) as batches:
            found = run_split(
                self.network,
                self.samples.watch(batches) if self.samples is not None and split == "test" else batches,
                split,
                {
                    layer: [way.reduction for way in ways]
                    for layer, ways in wanted.items()
                    if layer.name not in self.problems
                },
                protocol.inputs,
                targets or protocol.targets_of,
                protocol.mask_of,
                use,
                on_batch=lambda: self.on_progress(stage, next(number), None),
                context=self.context,
            )
        self.problems |= found.problems
        return found.targets


def stream_checkpoint(
    network: nn.Module,
    data: Data,
    protocol: ProbeProtocol,
    resources: Resources,
    ways: Ways,
    checkpoint: CheckpointInfo,
    on_progress: Progress,
    context: Context = nullcontext,
    samples: Fingerprint | None = None,
) -> Iterator[LayerResult]:
    """Probe every layer with memory that does not grow with the number of samples.

    Heads learn during as many passes over train as their solvers ask for; one pass over val measures the path of every
    head, and one over test the selected ones, of which scores alone are kept.

    Args:
        network: The network.
        data: The three splits.
        protocol: The sweep, of streaming solvers.
        resources: What it may take.
        ways: The layers, and how features are made of them.
        checkpoint: Which frozen network this is.
        on_progress: Told how far the work is.
        context: Makes what the network's passes run in.
        samples: Takes in the samples of test.

    Yields:
        One result for each layer. The training error is not known.
    """
    start = time.perf_counter()
    passes = _Passes(network, data, protocol, resources, on_progress, context, samples)
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
    train = protocol.task.labels({"train": _learn(passes, courses, ways, protocol.seeds[0])})
    alive = {layer: found for layer, found in ways.items() if layer.name not in passes.problems}
    for (layer, _), of_layer in courses.items():
        for course in of_layer if layer in alive else ():
            _conclude(course, train, l2)

    def placed(batch: Any, split: Split) -> Tensor:
        raw = protocol.targets_of(batch, split)
        return protocol.task.labels({"train": train.outputs, split: raw}).splits[split]

    def judge(layer: Layer, reduction: Reduction, features: Tensor, targets: Tensor) -> None:
        truth = targets.to(features.device)
        for course in courses[layer, reduction.description]:
            assert course.standardiser is not None
            x = course.standardiser.apply_(features.clone())
            errors, losses = protocol.task.evaluate(course.heads, x, truth, course.solver)
            # Counted, so that ties stay ties whatever the batch size.
            course.wrong = course.wrong.to(errors.device) + (errors * len(x)).round()
            course.loss = course.loss.to(losses.device) + losses * len(x)
            course.n += len(x)

    splits = dict(train.splits)
    if data.get("val") is not None:
        splits["val"] = passes.run("val", alive, judge, "stream val", targets=placed)
    sweeps = {
        layer: _select([c for way in found for c in courses[layer, way.reduction.description]], l2)
        if layer in alive
        else Sweep()
        for layer, found in ways.items()
    }
    bank, chosen = FeatureBank(memory_budget(resources.max_memory), resources.spill_path), {}
    for layer, sweep in sweeps.items():
        if sweep.selected is not None:
            chosen[layer] = [sweep.selected.fit.way]

    def answer(layer: Layer, reduction: Reduction, features: Tensor, targets: Tensor) -> None:
        selected = sweeps[layer].selected
        assert selected is not None
        scores = selected.heads.scores(selected.standardiser.apply_(features.clone()))
        bank.append((layer.name, "test", ""), scores)

    splits["test"] = passes.run("test", chosen, answer, "stream test", targets=placed)
    labels = replace(train, splits=splits)
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
                {},
                seconds,
                protocol.population,
            )
            bank.drop(layer.name)
    finally:
        bank.close()


def _learn(passes: _Passes, courses: Mapping[tuple[Layer, str], Sequence[_Course]], ways: Ways, seed: int) -> Tensor:
    """Show train to every stream as often as it asks for; the targets, in the order of the data."""
    every = [course for found in courses.values() for course in found]
    total = max(course.solver.n_passes for course in every)
    targets = torch.empty(0)
    for number in range(total):

        def learn(layer: Layer, reduction: Reduction, features: Tensor, targets: Tensor, number: int = number) -> None:
            for course in courses[layer, reduction.description]:
                if number < course.solver.n_passes:
                    assert course.stream is not None
                    course.stream.see(features, targets)

        stage = f"stream train {number + 1}/{total}"
        seen = passes.run("train", ways, learn, stage, order=seed + number if number else None)
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


def _select(courses: Sequence[_Course], l2: Tensor) -> Sweep:
    """The best head of one layer over ways, solvers and L2 values."""
    sweep = Sweep()
    for course in courses:
        assert course.fit is not None
        assert course.standardiser is not None
        figures = (course.wrong / course.n, course.loss / course.n) if course.n else None
        fit, index = judged(course.way, course.solver, course.fit.solution, l2, figures)
        sweep.fits.append(fit)
        if index is not None and sweep.is_beaten_by(fit.candidates[index]):
            sweep.selected = Selected(fit, index, course.heads[index], course.standardiser, math.nan)
    return sweep
