"""Compare what the plan says of a probe with what the probe takes."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import hydra
import pandas as pd
import torch
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig
from peers import finish, gaussian, in_splits, mnist_samples, trained_mnist
from rich.console import Console
from rich.table import Table
from sklearn.datasets import load_digits
from torch import nn

from layerprobe.data.pretrained_tokenizer import PretrainedTokenizer
from layerprobe.data.text import TextDataModule
from layerprobe.data.text_table import LabelledLines, TextFile
from layerprobe.models.deep_mlp import DeepMLP
from layerprobe.models.digits_convnet import DigitsConvNet
from layerprobe.models.pretrained_text import encoder
from layerprobe.probing.batches import Data
from layerprobe.probing.cost.plan import make_plan
from layerprobe.probing.features.reducers import AbstractReducer, AveragePool, Flatten
from layerprobe.probing.features.token_reducers import MeanToken
from layerprobe.probing.pipeline import probe_checkpoint
from layerprobe.probing.protocol import ProbeProtocol
from layerprobe.probing.resources import DEFAULTS, Resources
from layerprobe.probing.solvers.ridge import Ridge
from layerprobe.probing.tasks.multi_label import MultiLabel
from layerprobe.probing.tasks.regression import Regression

log = logging.getLogger("layerprobe")


@dataclass(frozen=True)
class Case:
    """What is planned and probed.

    Attributes:
        network: The network.
        data: Its splits.
        protocol: The sweep.
        resources: What it may take.
    """

    network: nn.Module
    data: Data
    protocol: ProbeProtocol
    resources: Resources = DEFAULTS


def texts_of(name: str, cfg: DictConfig) -> Case:
    """The case `sentences` or `statements`: a text encoder's blocks.

    Raises:
        ValueError: Its texts or its encoder were not given.
    """
    if cfg.texts is None or cfg.encoder is None:
        raise ValueError(f"The case {name!r} needs texts=DIR and encoder=NAME. Give both, or leave it out of `cases`.")
    tokenizer = PretrainedTokenizer(cfg.encoder)
    if name == "sentences":
        lines = LabelledLines("stsa.binary.train")
        texts = TextDataModule(lines, tokenizer, root=cfg.texts, per_class=int(2_500 * cfg.scale))
    else:
        statements = TextFile("cities.csv")
        kept = int(1_150 * cfg.scale)
        texts = TextDataModule(statements, tokenizer, "statement", group="city", root=cfg.texts, per_class=kept)
    texts.setup()
    protocol = ProbeProtocol(reducers=(MeanToken(),), granularity="blocks")
    loaders = {"train": texts.train_dataloader(), "val": texts.val_dataloader(), "test": texts.test_dataloader()}
    data = {split: loader for split, loader in loaders.items() if loader is not None}
    return Case(encoder(cfg.encoder), data, protocol)


def of_deep_mlp(n: int, cfg: DictConfig, **fields: Any) -> Case:
    """A random MLP of 128 layers of 128 units on Gaussian samples; five directions, with noise, are to be read."""
    generator = torch.Generator().manual_seed(cfg.seed)
    n = int(n * cfg.scale)
    x = torch.randn(n + n // 4, 64, generator=generator)
    values = x @ torch.randn(64, 5, generator=generator) / 8 + torch.randn(len(x), 5, generator=generator)
    task = fields.get("task")
    y = values if isinstance(task, Regression) else values.argmax(1) if task is None else (values > 0).long()
    network = DeepMLP([64], 5, 128, 128, nn.ReLU(), None, partial(nn.init.kaiming_normal_, nonlinearity="relu"))
    return Case(network, in_splits(x, y, n), ProbeProtocol(granularity="blocks", reducers=(Flatten(),), **fields))


def case_of(name: str, cfg: DictConfig) -> Case:
    """A case by its name.

    Raises:
        ValueError: There is none, or it needs data that were not given.
    """
    if name == "digits":
        x, y = load_digits(return_X_y=True)
        images = torch.tensor(x, dtype=torch.float32).view(-1, 1, 8, 8) / 16
        return Case(DigitsConvNet(), in_splits(images, torch.tensor(y), 1197), ProbeProtocol())
    if name in ("gaussian", "hundred_classes"):
        n, c = (10_000, 10) if name == "gaussian" else (8_000, 100)
        layer = next(gaussian(int(n * cfg.scale), 512, c, 1, cfg.seed))
        x, y = torch.cat([layer.x, layer.x_val]), torch.cat([layer.y, layer.y_val])
        return Case(nn.Identity(), in_splits(x, y, layer.n), ProbeProtocol().for_features())
    if name in ("sentences", "statements"):
        return texts_of(name, cfg)

    def of_mnist(n: int, reducer: AbstractReducer, resources: Resources = DEFAULTS, **fields: Any) -> Case:
        if cfg.mnist is None:
            raise ValueError(f"The case {name!r} needs MNIST. Give mnist=DIR, or leave it out of `cases`.")
        n = int(n * cfg.scale)
        x, y = mnist_samples(cfg.mnist, n + n // 5)
        protocol = ProbeProtocol(reducers=(reducer,), **fields)
        return Case(trained_mnist(cfg.checkpoint), in_splits(x, y, n), protocol, resources)

    cases = {
        "mnist": partial(of_mnist, 5_000, AveragePool(256)),
        "on_disk": partial(of_mnist, 5_000, AveragePool(256), Resources(max_memory="680MB")),
        "many_samples": partial(of_mnist, 20_000, AveragePool(64)),
        "shuffled": partial(of_mnist, 3_000, AveragePool(128), controls=["shuffled"]),
        "ridge": partial(of_mnist, 10_000, AveragePool(1_024), solvers=(Ridge(),)),
        "streamed": partial(of_mnist, 3_000, AveragePool(256), solvers=(Ridge(),), stream=True),
        "wide": partial(of_mnist, 2_000, Flatten(), layers=["conv*"], exclude=["*postpool"]),
        "patience": partial(of_mnist, 5_000, AveragePool(256), patience=3),
        "all": partial(of_mnist, 50_000, Flatten()),
        "mlp": partial(of_deep_mlp, 6_000, cfg),
        "mlp_labels": partial(of_deep_mlp, 3_000, cfg, task=MultiLabel()),
        "mlp_values": partial(of_deep_mlp, 10_000, cfg, task=Regression(), solvers=(Ridge(),)),
    }
    if name not in cases:
        known = ", ".join(["digits", *cases, "gaussian", "hundred_classes", "sentences", "statements"])
        raise ValueError(f"There is no case {name!r}. There are: {known}.")
    return cases[name]()


def compared(name: str, cfg: DictConfig) -> dict[str, Any]:
    """Plan a case, then probe it.

    Returns:
        Seconds said and taken, and their ratio.
    """
    torch.manual_seed(cfg.seed)
    case, device = case_of(name, cfg), torch.device(cfg.device)
    network, data = case.network.to(device), case.data
    begin = time.perf_counter()
    plan = make_plan(network, data, case.protocol, resources=case.resources)
    start = time.perf_counter()
    results = list(probe_checkpoint(network, data, case.protocol, resources=case.resources))
    finish(device)
    taken = time.perf_counter() - start
    failed = [result.record for result in results if result.record.status == "failed"]
    if failed:
        raise RuntimeError(f"{name}: {failed[0].layer} could not be probed: {failed[0].message}")
    return {
        "case": name,
        "layers": len(results),
        "samples": results[0].record.n_train,
        "features": max(result.record.n_features for result in results),
        "planning": start - begin,
        "said": plan.seconds,
        "taken": taken,
        "ratio": plan.seconds / taken,
    }


@hydra.main(version_base="1.3", config_path="../../conf", config_name="benchmark/plan")
def main(cfg: DictConfig) -> None:
    directory = Path(HydraConfig.get().runtime.output_dir)
    rows: list[dict[str, Any]] = []
    for name in cfg.cases:
        rows.append(compared(name, cfg))
        pd.DataFrame(rows).to_csv(directory / "plan.csv", index=False)
        log.info("%s: said %.1f s, took %.1f s", name, rows[-1]["said"], rows[-1]["taken"])
    table = Table(title=f"{cfg.device}, {torch.get_num_threads()} threads; seconds")
    for column in rows[0]:
        table.add_column(column, justify="left" if column == "case" else "right")
    for row in rows:
        table.add_row(*(f"{value:.2f}" if isinstance(value, float) else str(value) for value in row.values()))
    Console().print(table)


if __name__ == "__main__":
    main()
