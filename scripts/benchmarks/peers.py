"""Time the whole L2 path of every layer, with selection on validation, against other ways to fit it.

All see the same standardised features, the same targets and the same L2 values. Runs are interleaved: one of each in
turn, then the next round. Small layers are fitted side by side, as probing does it, and share the time equally. What
was fitted is judged afterwards, untimed, in float64: `excess` is the largest share by which the objective lies above
ours over the L2 values, `gap` the largest that our certificate leaves, `limit` the share of what this machine's matrix
products and memory allow our algorithm. `median` and `worst` are those of a contender's time over ours, layer by layer
or problem by problem; the seeds of random problems are drawn anew unless `seed` says them.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
import math
import secrets
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from types import ModuleType
from typing import Any

import hydra
import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from scipy.ndimage import gaussian_filter
from sklearn.linear_model import LogisticRegression
from torch import Tensor
from torchvision.datasets.mnist import read_image_file, read_label_file

from layerprobe.api.layer_list import layers as list_layers
from layerprobe.models.mnist_convnet import MnistConvNet
from layerprobe.probing.capture.activations import record
from layerprobe.probing.capture.freeze import freeze
from layerprobe.probing.features.reducers import AveragePool, FeatureWay, Flatten
from layerprobe.probing.features.scaler import Standardiser
from layerprobe.probing.fitting import Validation
from layerprobe.probing.head_path import HeadPath
from layerprobe.probing.heads import Heads
from layerprobe.probing.parallel.process_pool import is_small, parallel
from layerprobe.probing.protocol import ProbeProtocol
from layerprobe.probing.selection import PATIENCE, PastBest, with_certified_best
from layerprobe.probing.solvers.duality_gap import certify
from layerprobe.probing.solvers.logistic import Logistic
from layerprobe.probing.solvers.newton import possible
from layerprobe.probing.solvers.solution import Status
from layerprobe.report.tables.table_width import needed_width
from layerprobe.training.checkpoints import load
from layerprobe.types import SPLITS, Split

log = logging.getLogger("layerprobe")


@dataclass(frozen=True)
class Layer:
    """What every contender gets: standardised features of train and val, float32."""

    x: Tensor
    y: Tensor
    x_val: Tensor
    y_val: Tensor
    c: int

    @property
    def n(self) -> int:
        """Training samples."""
        return len(self.x)

    def to(self, device: torch.device) -> Layer:
        """The same on another device."""
        return Layer(self.x.to(device), self.y.to(device), self.x_val.to(device), self.y_val.to(device), self.c)

    def arrays(self) -> tuple[np.ndarray, np.ndarray]:
        """What is fitted, for libraries that have no other device."""
        return self.x.cpu().numpy(), self.y.cpu().numpy()


Path_ = list[tuple[Tensor, Tensor]]
"""Weights (c, d) and biases (c) for each L2 value, in the order of the values."""

Fit = Callable[[Layer, list[float]], Path_]


class TimedPath(Path_):
    """A path that knows better how long it took.

    Attributes:
        seconds: How long.
    """

    seconds: float


class CertifiedPath(Path_):
    """A path of ours.

    Attributes:
        evaluations: Evaluations of the objective that it took.
        gap: The largest gap on it.
    """

    evaluations: int
    gap: float


# Cases -----------------------------------------------------------------------------------------------------------


def gaussian(n: int, d: int, c: int, layers: int, seed: int) -> Iterator[Layer]:
    """Classes with overlapping means under a decaying spectrum, differently mixed in each layer."""
    for i in range(layers):
        g = torch.Generator().manual_seed(1000 * seed + i)
        scale = torch.arange(1, d + 1, dtype=torch.float32) ** -0.5
        means = torch.randn(c, d, generator=g) * 0.1
        total = n + n // 4
        y = torch.randint(c, (total,), generator=g)
        x = (means[y] + torch.randn(total, d, generator=g)) * scale
        x = x @ torch.linalg.qr(torch.randn(d, d, generator=g))[0]
        yield split(x, y, n, c)


def deep_relu(n: int, seed: int) -> Iterator[Layer]:
    """Three hidden layers of a random ReLU network, before the ReLU; classes of another such network, a tenth wrong."""
    r = np.random.default_rng(seed)
    total, c = n + n // 4, 10
    h = r.normal(size=(total, 32))
    y = (np.tanh(h @ r.normal(size=(32, 16))) @ r.normal(size=(16, c))).argmax(1)
    y = np.where(r.random(total) < 0.1, r.integers(0, c, total), y)
    for _ in range(3):
        z = h @ (r.normal(size=(h.shape[1], 512)) * math.sqrt(2 / h.shape[1]))
        yield split(torch.from_numpy(z).float(), torch.from_numpy(y), n, c)
        h = np.maximum(z, 0)


_KINDS = ("power law", "deep ReLU", "rare pixels", "deep ReLU, noisy labels", "separable")


def random_problems(
    count: int, seed: int, scale: float, classes: tuple[int, ...], wide: bool = False
) -> Iterator[Layer]:
    """Problems of five kinds: n from 1,000 to 3,000, d from 64 to 784.

    Args:
        count: How many.
        seed: Their seed.
        scale: What n is multiplied by.
        classes: Numbers of classes to draw from.
        wide: Whether to draw what is worst: d from 400, n up to 1,500, 28 × 28 pixels.
    """
    r = np.random.default_rng(seed)
    for i in range(count):
        n = int(r.integers(1000, 1501 if wide else 3001) * scale)
        d = int(r.integers(400, 785)) if wide else int(math.exp(r.uniform(math.log(64), math.log(784))))
        c, kind, total = int(r.choice(classes)), _KINDS[i % (4 if wide else 5)], n + n // 4
        side = 28 if wide or kind != "rare pixels" else int(r.integers(14, 29))
        yield split(*drawn(r, kind, total, d, c, side), n, c)


def wide_layers(scale: float, seed: int) -> Iterator[Layer]:
    """Two classes of samples as wide as a language model's layers, of two kinds."""
    r, c = np.random.default_rng(seed), 2
    for n, d in ((1200, 4096), (2000, 2048), (3500, 4096)):
        n = int(n * scale)
        for kind in ("power law", "deep ReLU, noisy labels"):
            yield split(*drawn(r, kind, n + n // 4, d, c, 28), n, c)


def drawn(r: np.random.Generator, kind: str, total: int, d: int, c: int, side: int) -> tuple[Tensor, Tensor]:
    """Samples of one of `_KINDS` and their classes, every one of which is there; `side` is that of rare pixels."""
    if kind == "power law":
        z = r.normal(size=(total, d)) * np.arange(1, d + 1) ** (-r.uniform(0.25, 1))
        x = z @ np.linalg.qr(r.normal(size=(d, d)))[0]
        scores = x @ r.normal(size=(d, c))
        y = (3 * scores / scores.std() + r.gumbel(size=(total, c))).argmax(1)
    elif kind == "rare pixels":
        place = np.arange(side) - side / 2
        window = np.exp(-(place[:, None] ** 2 + place**2) / (0.08 * side**2)).ravel()
        blobs = gaussian_filter(r.normal(size=(3 * c, side, side)), (0, 2, 2)).reshape(3 * c, -1)
        k = r.integers(0, 3 * c, total)
        noise = gaussian_filter(r.normal(size=(total, side, side)), (0, 1, 1)).reshape(total, -1)
        x = np.maximum(blobs[k] / blobs.std() + 0.8 * noise / noise.std() - 1, 0) * window
        x[x < 0.15] = 0
        y = np.where(r.random(total) < 0.02, r.integers(0, c, total), k % c)
    elif kind == "separable":
        y = r.integers(0, c, total)
        x = r.normal(size=(total, d)) * np.arange(1, d + 1) ** -0.5 + 0.6 * r.normal(size=(c, d))[y]
    else:
        x = r.normal(size=(total, 32))
        y = (np.tanh(x @ r.normal(size=(32, 16))) @ r.normal(size=(16, c))).argmax(1)
        for _ in range(int(r.integers(2, 5))):
            x = np.maximum(x @ (r.normal(size=(x.shape[1], d)) * math.sqrt(2 / x.shape[1])), 0)
        if kind != "deep ReLU":
            y = np.where(r.random(total) < r.uniform(0.05, 0.25), r.integers(0, c, total), y)
    y[:c] = np.arange(c)
    return torch.from_numpy(x).float(), torch.from_numpy(y)


def split(x: Tensor, y: Tensor, n: int, c: int) -> Layer:
    standardiser = Standardiser.fit(x[:n])
    standardiser.apply_(x)
    return Layer(x[:n].contiguous(), y[:n], x[n:].contiguous(), y[n:], c)


def mnist_samples(directory: str, n: int) -> tuple[Tensor, Tensor]:
    """At most the first n training images of MNIST, as its network takes them, and their classes."""
    raw = Path(directory) / "MNIST" / "raw"
    images = read_image_file(str(raw / "train-images-idx3-ubyte"))[:n, None].float() / 255 - 0.5
    return images, read_label_file(str(raw / "train-labels-idx1-ubyte"))[:n]


def in_splits(x: Tensor, y: Tensor, n: int) -> dict[Split, Any]:
    """The first n samples for training, half of the others for validation and half for test."""
    others = (len(x) - n) // 2
    sizes = [n, others, len(x) - n - others]
    return dict(zip(SPLITS, zip(x.split(sizes), y.split(sizes), strict=True), strict=True))


def trained_mnist(checkpoint: str | None) -> MnistConvNet:
    """MNIST's network with the weights of a checkpoint of `scripts/train.py`, or as it is built."""
    network = MnistConvNet().eval()
    if checkpoint is not None:
        state = load(Path(checkpoint)).state_dict
        network.load_state_dict({name.removeprefix("network."): value for name, value in state.items()})
    return network


def mnist(cfg: DictConfig, n: int) -> Iterator[Layer]:
    """The MNIST convnet's ten layers, pooled to at most `max_features` features."""
    if cfg.mnist is None:
        raise ValueError("The case 'mnist' needs the data set. Give mnist=DIR, or leave it out of `cases`.")
    images, y = mnist_samples(cfg.mnist, n + n // 5)
    torch.manual_seed(cfg.seed)
    network = trained_mnist(cfg.checkpoint)
    network.to(cfg.device)
    for layer in list_layers(network, images[:2].to(cfg.device), granularity="modules").layers:
        found: list[Tensor] = []
        reduction = AveragePool(max_features=cfg.max_features).fit(layer.shape, 0)
        with freeze(network) as frozen:
            for part in images.split(500):
                record(frozen, part, [layer], lambda _, a, r=reduction, f=found: f.append(r(a)))  # type: ignore[misc]
        yield split(torch.cat(found), y, n, 10)


def layers_of(case: str, cfg: DictConfig) -> Iterator[Layer]:
    """The layers of a case, one at a time."""

    def size(n: int) -> int:
        return max(200, int(n * cfg.scale))

    if case == "synthetic":
        return gaussian(size(10_000), 512, 10, 4, cfg.seed)
    if case == "transformer":
        return gaussian(size(2_000), 768, 2, 12, cfg.seed)
    if case == "imagenet":
        return gaussian(size(50_000), 2048, 1000, 1, cfg.seed)
    if case == "mnist":
        return mnist(cfg, size(50_000))
    if case == "deep_relu":
        return deep_relu(size(10_000), cfg.seed)
    if case == "random":
        return random_problems(cfg.problems, cfg.seed, cfg.scale, (2, 3, 5, 10))
    if case == "two_classes":
        return random_problems(cfg.problems, cfg.seed, cfg.scale, (2,), wide=True)
    if case == "wide_layers":
        return wide_layers(cfg.scale, cfg.seed)
    cases = "synthetic, transformer, mnist, imagenet, deep_relu, random, two_classes, wide_layers"
    raise ValueError(f"There is no case {case!r}. There are: {cases}.")


# Contenders ------------------------------------------------------------------------------------------------------


def descending(l2s: list[float], fit: Callable[[float], tuple[Tensor, Tensor]]) -> Path_:
    """Fit from the strongest penalty to the weakest, as warm starts want it; hand back in the order given."""
    found = {l2: fit(l2) for l2 in sorted(set(l2s), reverse=True)}
    return [found[l2] for l2 in l2s]


class Ours:
    """The logistic solver with the choice on validation.

    Args:
        path: As `probe.path`.
    """

    def __init__(self, path: str) -> None:
        self.rough = path == "chosen"

    def __call__(self, layer: Layer, l2s: list[float]) -> CertifiedPath:
        """Fit the path, or the part of it that is wanted."""
        solver = Logistic()
        evaluate = Validation(ProbeProtocol(), layer.x_val, layer.y_val, solver)
        stop = PastBest(PATIENCE, evaluate.chosen_by) if self.rough else None
        values = torch.tensor(l2s, dtype=torch.float64)
        solution = solver.solve(layer.x, layer.y, layer.c, values, stop=stop, rough=self.rough)
        errors, losses, _ = evaluate(Heads(solution.weight, solution.bias))
        way, scale = FeatureWay(Flatten(), Flatten().fit(layer.x.shape[1:], 0), 0), layer.x.new_ones(layer.x.shape[1])
        scaler = Standardiser(torch.zeros_like(scale), scale, torch.zeros_like(scale, dtype=torch.bool))
        judged = HeadPath(way, solver, scaler, tuple(l2s), solution, (tuple(errors.tolist()), tuple(losses.tolist())))
        solution = with_certified_best(judged, evaluate).solution
        known = [i for i, status in enumerate(solution.status) if status is not Status.SKIPPED]
        exact = [i for i in known if solution.status[i] is not Status.ROUGH]
        path = CertifiedPath(zip(solution.weight[known], solution.bias[known], strict=True))
        path.evaluations, path.gap = int(solution.iterations.sum()), float(solution.gap[exact].max())
        return path


def as_two(weight: np.ndarray | Tensor, bias: Any) -> tuple[Tensor, Tensor]:
    """A binary model's single vector w is W = (-w/2, w/2) here."""
    w, b = torch.as_tensor(weight).reshape(1, -1), torch.as_tensor(bias).reshape(1)
    return torch.cat([-w / 2, w / 2]), torch.cat([-b / 2, b / 2])


def scikit_c(layer: Layer, l2: float) -> float:
    return (2 if layer.c == 2 else 1) / (l2 * layer.n)


def of_scikit(model: Any, layer: Layer) -> tuple[Tensor, Tensor]:
    if layer.c == 2:
        return as_two(model.coef_.copy(), model.intercept_.copy())
    return torch.from_numpy(model.coef_.copy()), torch.from_numpy(model.intercept_.copy())


def scikit_learn(layer: Layer, l2s: list[float]) -> Path_:
    """Lbfgs with its default tolerance, each value from the one before."""
    model, (x, y) = LogisticRegression(warm_start=True, max_iter=1000), layer.arrays()

    def fit(l2: float) -> tuple[Tensor, Tensor]:
        model.set_params(C=scikit_c(layer, l2)).fit(x, y)
        return of_scikit(model, layer)

    return descending(l2s, fit)


def certified_scikit_learn(layer: Layer, l2s: list[float]) -> Path_:
    """The same to our gap: with the largest of some tolerances at which our certificate holds for every value.

    Float64, since it does not get there in float32. Only the path that gets there is timed; where none does, the last.
    """
    values = torch.tensor(l2s, dtype=torch.float64)
    (x, y), path = layer.arrays(), TimedPath()
    x = x.astype(np.float64)
    for tolerance in (1e-4, 1e-5, 1e-6, 1e-7, 1e-8):
        model = LogisticRegression(warm_start=True, max_iter=20_000, tol=tolerance)
        start = time.perf_counter()

        def fit(l2: float, model: Any = model) -> tuple[Tensor, Tensor]:
            model.set_params(C=scikit_c(layer, l2)).fit(x, y)
            return of_scikit(model, layer)

        path = TimedPath(descending(l2s, fit))
        path.seconds = time.perf_counter() - start
        weight, bias = (torch.stack(part).double() for part in zip(*path, strict=True))
        weight, bias = weight - weight.mean(1, keepdim=True), bias - bias.mean(1, keepdim=True)
        found = certify(layer.x.cpu(), layer.y.cpu(), weight, bias, values)
        if bool(((found.objective - found.bound) <= Logistic.tolerance * found.objective + 1e-15).all()):
            break
    return path


def one_scikit_learn(layer: Layer, l2s: list[float]) -> Path_:
    """One fit at scikit-learn's own defaults, C = 1: no path, no selection."""
    model = LogisticRegression(max_iter=1000).fit(*layer.arrays())
    return [of_scikit(model, layer)]


def elk(module: ModuleType) -> Fit:
    """eleuther-elk's Classifier: its own L-BFGS, one module along the path as in its `fit_cv`."""

    def run(layer: Layer, l2s: list[float]) -> Path_:
        model = module.Classifier(layer.x.shape[1], layer.c, device=layer.x.device)

        def fit(l2: float) -> tuple[Tensor, Tensor]:
            # Its penalty is l2_penalty·‖w‖², and with two classes ‖W‖² = ‖w‖²/2.
            model.fit(layer.x, layer.y, l2_penalty=l2 / (4 if layer.c == 2 else 2))
            weight, bias = model.linear.weight.detach().clone(), model.linear.bias.detach().clone()
            return as_two(weight, bias) if layer.c == 2 else (weight, bias)

        return descending(l2s, fit)

    return run


def probekit(module: ModuleType) -> Fit:
    """Probekit's batched Newton for two classes, one value after the other: it has no warm start."""

    def run(layer: Layer, l2s: list[float]) -> Path_:
        if layer.c != 2:
            raise NotImplementedError("two classes only")

        def fit(l2: float) -> tuple[Tensor, Tensor]:
            probes = module.fit_logistic_batch(
                layer.x[None], layer.y, c_param=scikit_c(layer, l2), normalize=False, max_iter=100
            )
            return as_two(np.asarray(probes[0].weights), probes[0].bias)

        return descending(l2s, fit)

    return run


def lmprobe(module: ModuleType) -> Fit:
    """Lmprobe's built-in logistic regression, a new one for each value."""

    def run(layer: Layer, l2s: list[float]) -> Path_:
        def fit(l2: float) -> tuple[Tensor, Tensor]:
            options = {"C": scikit_c(layer, l2)}
            model = module.build_classifier("logistic_regression", random_state=0, classifier_kwargs=options)
            return of_scikit(model.fit(*layer.arrays()), layer)

        return descending(l2s, fit)

    return run


def adamw(layer: Layer, l2s: list[float]) -> Path_:
    """Heads of 13 learning rates side by side, ten epochs of AdamW on a cosine, as in DINOv2's linear evaluation.

    It chooses among learning rates, not penalties: there is no objective to compare, only the validation error.
    """
    device = layer.x.device
    rates = torch.tensor([1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2, 0.1], device=device)
    h, d, c = len(rates), layer.x.shape[1], layer.c
    weight, bias = (torch.zeros(size, device=device, requires_grad=True) for size in ((h, c, d), (h, c)))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        weight.copy_(0.01 * torch.randn(h, c, d, generator=generator))
    # One optimizer with unit rate; the rates scale its steps, which is the same as thirteen optimizers.
    optimizer = torch.optim.AdamW([weight, bias], lr=1.0, weight_decay=0.0)
    epochs, size = 10, 128
    steps = epochs * math.ceil(layer.n / size)
    for step in range(steps):
        if step % math.ceil(layer.n / size) == 0:
            batches = iter(torch.randperm(layer.n, generator=generator).to(device).split(size))
        rows = next(batches)
        scores = torch.addmm(bias.view(-1), layer.x[rows], weight.view(h * c, d).T).view(-1, h, c)
        loss = F.cross_entropy(scores.flatten(0, 1), layer.y[rows].repeat_interleave(h)) * h
        before = weight.detach().clone(), bias.detach().clone()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        pace = rates * 0.5 * (1 + math.cos(math.pi * step / steps))
        with torch.no_grad():
            weight.copy_(before[0] + pace[:, None, None] * (weight - before[0]))
            bias.copy_(before[1] + pace[:, None] * (bias - before[1]))
    return list(zip(weight.detach(), bias.detach(), strict=True))


OWN: dict[str, Fit] = {
    "layerprobe": Ours("chosen"),
    "layerprobe-full": Ours("full"),
    "scikit-learn": scikit_learn,
    "scikit-learn-certified": certified_scikit_learn,
    "one-scikit-learn": one_scikit_learn,
    "adamw": adamw,
}
OTHERS = {
    "elk": (elk, "elk/training/classifier.py"),
    "probekit": (probekit, "probekit.fitters.batch.logistic"),
    "lmprobe": (lmprobe, "lmprobe/classifiers.py"),
}
"""Other libraries: what makes a contender of a module, and where that is."""


def names(cfg: DictConfig) -> list[str]:
    """The contenders that are asked for; by default all, other libraries only where `peers_dir` says where they are."""
    return list(cfg.peers) if cfg.peers is not None else [*OWN, *(OTHERS if cfg.peers_dir is not None else ())]


def contender(name: str, directory: str | None) -> Fit:
    """What a name stands for.

    Raises:
        ValueError: There is none, or its library is not there.
    """
    if name in OWN:
        return OWN[name]
    if name not in OTHERS:
        raise ValueError(f"There is no contender {name!r}. There are: {', '.join([*OWN, *OTHERS])}.")
    wrap, place = OTHERS[name]
    if directory is None:
        raise ValueError(
            f"The contender {name!r} is a library of its own. Install it with 'uv pip install --no-deps --target "
            "PEERS eleuther-elk probekit lmprobe' and give peers_dir=PEERS, or leave it out of `peers`."
        )
    return wrap(imported(name, Path(directory) / place if place.endswith(".py") else place, Path(directory)))


def imported(name: str, place: Path | str, directory: Path) -> ModuleType:
    """One module of a library whose other parts need more than is installed."""
    if isinstance(place, str):
        sys.path.append(str(directory))
        return importlib.import_module(place)
    spec = importlib.util.spec_from_file_location(f"{name}_module", place)
    if spec is None or spec.loader is None:
        raise ValueError(f"{name} has no {place}.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


# Judging ---------------------------------------------------------------------------------------------------------


def objective(layer: Layer, weight: Tensor, bias: Tensor, l2: float) -> float:
    """Mean cross-entropy + ½·l2·‖W‖², in float64; W is centred, which no softmax sees and the penalty likes."""
    weight, bias = weight.to(layer.x.device, torch.float64), bias.to(layer.x.device, torch.float64)
    w, b, loss = weight - weight.mean(0), bias, 0.0
    for x, y in zip(layer.x.split(4096), layer.y.split(4096), strict=True):
        loss += float(F.cross_entropy(x.double() @ w.T + b, y, reduction="sum"))
    return loss / layer.n + 0.5 * l2 * float(w.square().sum())


def chosen(layer: Layer, path: Path_) -> float:
    """Validation error of the head that validation prefers."""
    return min(
        float((((layer.x_val @ w.to(layer.x).T) + b.to(layer.x)).argmax(1) != layer.y_val).float().mean())
        for w, b in path
    )


def finish(device: torch.device) -> None:
    """Wait for a GPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@dataclass(frozen=True)
class Machine:
    """What this machine can do at most.

    Attributes:
        products: Floating-point operations per second of a float32 matrix product that fits the caches' blocking.
        bandwidth: Bytes per second that are read from memory and written to it by a copy.
    """

    products: float
    bandwidth: float

    @classmethod
    def measured(cls, device: torch.device) -> Machine:
        """The best of several tries."""
        size = 2048 if device.type == "cpu" else 8192
        a, b = torch.randn(size, size, device=device), torch.randn(size, size, device=device)
        source = torch.empty(1 << 27, device=device)
        target = torch.empty_like(source)

        def best(work: Callable[[], Any]) -> float:
            times = []
            for _ in range(7):
                start = time.perf_counter()
                work()
                finish(device)
                times.append(time.perf_counter() - start)
            return min(times)

        return cls(2 * size**3 / best(lambda: a @ b), 2 * source.nbytes / best(lambda: target.copy_(source)))

    def limit(self, layer: Layer, evaluations: int, points: int) -> float:
        """Seconds below which the solver's own algorithm cannot come here.

        An evaluation is two products of 2·n·d·(c - 1) operations and one reading of the features; the certificate does
        as much twice for every value, in float64 at half the rate; the Gram matrix, which Newton's method does without,
        is 2·n·d², its eigenvectors 9·d³ (Golub & Van Loan). Everything else, such as exponentials, is left out.
        """
        (n, d), c = layer.x.shape, layer.c
        size = min(n, d)
        products = 4.0 * n * d * (c - 1) * evaluations + 2 * 2 * 4.0 * n * size * c * points
        decomposition = 0.0 if possible(layer.x, c) else 2.0 * n * d * size + 9.0 * size**3
        read = 4.0 * n * d * (evaluations + 2 * points + 1)
        return max((products + decomposition) / self.products, read / self.bandwidth)


def groups(case: str, cfg: DictConfig) -> Iterator[list[Layer]]:
    """The layers of a case: small ones all together, as they are fitted side by side, others one at a time."""
    device = torch.device(cfg.device)

    def small(layer: Layer) -> bool:
        on_cpu = device.type == "cpu"
        return on_cpu and is_small(layer.n, layer.x.shape[1], layer.c, len(cfg.l2), torch.get_num_threads())

    for together, layers in groupby((layer.to(device) for layer in layers_of(case, cfg)), small):
        if together:
            yield list(layers)
        else:
            yield from ([layer] for layer in layers)


def timed(fit: Fit, layers: list[Layer], l2s: list[float], max_seconds: float) -> list[tuple[float, Path_, float]]:
    """Seconds, path and validation error for each layer, as far as one did not take too long.

    Selection is part of the work; it is the same for all.
    """

    def one(layer: Layer) -> tuple[float, Path_, float]:
        finish(layer.x.device)
        start = time.perf_counter()
        path = fit(layer, l2s)
        error = chosen(layer, path)
        seconds = path.seconds if isinstance(path, TimedPath) else time.perf_counter() - start
        return seconds, path, error

    workers = min(len(layers), torch.get_num_threads())
    if isinstance(fit, Ours) and workers > 1:
        start = time.perf_counter()
        found = list(parallel(range(len(layers)), lambda _: nullcontext(), lambda i, _: one(layers[i]), workers))
        share = (time.perf_counter() - start) / len(layers)
        return [(share, path, error) for _, path, error in found]
    found = []
    for layer in layers:
        found.append(one(layer))
        if found[-1][0] > max_seconds:
            break
    return found


def measure(case: str, cfg: DictConfig) -> Iterator[list[dict[str, Any]]]:
    """Run every contender on every layer of a case, in turn, several times; layer after layer."""
    l2s, first = [float(value) for value in cfg.l2], 0
    given_up: set[str] = set()
    contenders = {name: contender(name, cfg.peers_dir) for name in names(cfg)}
    machine = Machine.measured(torch.device(cfg.device))
    log.info("Products %.0f GFLOP/s, copies %.1f GB/s", machine.products / 1e9, machine.bandwidth / 1e9)
    for layers in groups(case, cfg):
        for (n, d), c in dict.fromkeys((layer.x.shape, layer.c) for layer in layers):
            log.info("%s, layers from %d on: %d samples x %d features x %d classes", case, first, n, d, c)
        best: dict[int, list[float]] = {}
        rows: list[dict[str, Any]] = []
        for repeat in range(cfg.repeats):
            for name, fit in contenders.items():
                if name in given_up:
                    continue
                try:
                    found = timed(fit, layers, l2s, cfg.max_seconds)
                except NotImplementedError as reason:
                    log.info("%s: %s", name, reason)
                    given_up.add(name)
                    continue
                for i, (layer, (seconds, path, val_error)) in enumerate(zip(layers, found, strict=False), first):
                    row = {"case": case, "layer": i, "repeat": repeat, "contender": name, "seconds": seconds}
                    row["val_error"] = val_error
                    if isinstance(path, CertifiedPath):
                        row["limit"], row["gap"] = machine.limit(layer, path.evaluations, len(path)), path.gap
                    if repeat == 0 and len(path) == len(l2s) and name not in ("adamw", "one-scikit-learn"):
                        values = [objective(layer, w, b, l2) for (w, b), l2 in zip(path, l2s, strict=True)]
                        if name == "layerprobe-full":
                            best[i] = values
                        if i in best:
                            row["excess"] = max(v / o - 1 for v, o in zip(values, best[i], strict=True))
                            row["deficit"] = max(o / v - 1 for v, o in zip(values, best[i], strict=True))
                    rows.append(row)
                if found[-1][0] > cfg.max_seconds and not isinstance(fit, Ours):
                    log.info("%s: %.0f s, not repeated", name, found[-1][0])
                    given_up.add(name)
        first += len(layers)
        yield rows


def summary(rows: pd.DataFrame) -> pd.DataFrame:
    """Seconds of all layers together, minimum and median over the repeats, and how far the path is from the best.

    Who was too slow to go on has fewer layers; `times` compares with our time for the same ones.
    """
    of_layer = rows.groupby(["case", "contender", "layer"], sort=False).agg(
        seconds_min=("seconds", "min"), seconds_median=("seconds", "median"), limit=("limit", "min")
    )
    ours = of_layer["seconds_min"].xs("layerprobe", level="contender")
    places = pd.MultiIndex.from_frame(of_layer.index.to_frame(index=False)[["case", "layer"]])
    of_layer["ours"] = ours.reindex(places).to_numpy()
    of_layer["ratio"] = of_layer["seconds_min"] / of_layer["ours"]
    grouped = of_layer.groupby(["case", "contender"], sort=False)
    table = grouped[["seconds_min", "seconds_median", "limit", "ours"]].sum()
    table["times_median"], table["times_worst"] = grouped["ratio"].median(), grouped["ratio"].min()
    table["layers"] = of_layer.groupby(["case", "contender"], sort=False).size()
    table["times"] = table["seconds_min"] / table["ours"]
    table["share"] = (table["limit"] / table["seconds_min"]).where(table["limit"] > 0)
    first = rows[rows["repeat"] == 0].groupby(["case", "contender"], sort=False)
    table["val_error"] = first["val_error"].mean()
    for name in ("gap", "excess", "deficit"):
        table[name] = first[name].max() if name in rows else np.nan
    return table.reset_index()


def show(table: pd.DataFrame) -> None:
    """Print a table for each case."""
    for case, rows in table.groupby("case", sort=False):
        title = f"{case}: all layers, whole path, selection on validation"
        shown = Table(title=title, box=SIMPLE_HEAD, padding=0, collapse_padding=True)
        for name in ("contender", "layers", "s", "× ours", "median", "worst", "gap", "excess", "error", "limit"):
            shown.add_column(name, justify="left" if name == "contender" else "right", no_wrap=True)
        for row in rows.to_dict("records"):
            shown.add_row(
                row["contender"],
                str(row["layers"]),
                f"{row['seconds_min']:.2f}",
                f"{row['times']:.2f}",
                f"{row['times_median']:.2f}",
                f"{row['times_worst']:.2f}",
                *("" if math.isnan(row[name]) else f"{row[name]:.1e}" for name in ("gap", "excess")),
                f"{row['val_error']:.4f}",
                "" if math.isnan(row["share"]) else f"{row['share']:.0%}",
            )
        console = Console()
        console.width = max(console.width, needed_width(shown))  # no figure is cut
        console.print(shown)


@hydra.main(version_base="1.3", config_path="../../conf", config_name="benchmark/peers")
def main(cfg: DictConfig) -> None:
    warnings.filterwarnings("ignore")
    if cfg.threads is not None:
        torch.set_num_threads(cfg.threads)
    if cfg.seed is None:
        cfg.seed = secrets.randbits(31)
        log.info("seed=%d", cfg.seed)
    directory = Path(HydraConfig.get().runtime.output_dir)
    rows: list[dict[str, Any]] = []
    for case in cfg.cases:
        for found in measure(case, cfg):
            rows += found
            pd.DataFrame(rows).to_csv(directory / "runs.csv", index=False)
    table = summary(pd.DataFrame(rows))
    table.to_csv(directory / "summary.csv", index=False)
    show(table)
    log.info("Table: %s", directory / "summary.csv")


if __name__ == "__main__":
    main()
