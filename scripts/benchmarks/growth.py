"""Time how the fit of the whole L2 path grows, one size at a time about a base, and draw it on logarithmic axes."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

import altair as alt
import hydra
import numpy as np
import pandas as pd
import torch
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig
from peers import gaussian
from rich.console import Console
from rich.table import Table

from layerprobe.probing.solvers.logistic import Logistic
from layerprobe.report.picture_files import save

NAMES = {"n": "samples", "d": "features", "c": "classes", "layers": "layers", "points": "L2 values"}


@hydra.main(version_base="1.3", config_path="../../conf", config_name="benchmark/growth")
def main(cfg: DictConfig) -> None:
    if cfg.threads is not None:
        torch.set_num_threads(cfg.threads)
    directory = Path(HydraConfig.get().runtime.output_dir)
    rows: list[dict[str, Any]] = []
    for repeat in range(cfg.repeats):
        for name in NAMES:
            for factor in cfg.factors:
                size = {**cfg.base, name: max(2 if name == "c" else 1, round(cfg.base[name] * factor))}
                rows.append({"size": name, "value": size[name], "repeat": repeat, "seconds": seconds(size, cfg.seed)})
    frame = pd.DataFrame(rows).drop_duplicates(["size", "value", "repeat"])
    frame.to_csv(directory / "growth.csv", index=False)
    best = frame.groupby(["size", "value"], sort=False)["seconds"].min().reset_index()
    slopes = {name: slope(best[best["size"] == name]) for name in NAMES}
    table = Table(title="Seconds grow with the power of")
    table.add_column("size")
    table.add_column("power", justify="right")
    for name, power in slopes.items():
        table.add_row(NAMES[name], f"{power:.2f}")
    Console().print(table)
    for file in save(picture(best, slopes), directory / "growth"):
        Console().print(str(file), soft_wrap=True)


def seconds(size: dict[str, int], seed: int) -> float:
    """Time the paths of all layers of one size; the data are made before."""
    l2 = torch.logspace(-6, 1, size["points"], dtype=torch.float64)
    total = 0.0
    for layer in gaussian(size["n"], size["d"], size["c"], size["layers"], seed):
        start = time.perf_counter()
        Logistic().solve(layer.x, layer.y, layer.c, l2)
        total += time.perf_counter() - start
    return total


def slope(part: pd.DataFrame) -> float:
    """Least-squares slope of log seconds over the log of the size."""
    return float(np.polyfit(np.log(part["value"]), np.log(part["seconds"]), 1)[0]) if len(part) > 1 else math.nan


def picture(best: pd.DataFrame, slopes: dict[str, float]) -> alt.FacetChart:
    """Draw a panel for each size."""
    titled = {name: f"{NAMES[name]}: power {power:.2f}" for name, power in slopes.items()}
    base = alt.Chart(best.assign(panel=best["size"].map(titled))).encode(
        x=alt.X("value:Q", scale=alt.Scale(type="log", nice=False), axis=alt.Axis(title=None, tickCount=3)),
        y=alt.Y("seconds:Q", scale=alt.Scale(type="log"), axis=alt.Axis(title="seconds", tickCount=4)),
    )
    lines = base.mark_line(point=alt.OverlayMarkDef(size=30))
    return lines.properties(width=140, height=140).facet(
        alt.Facet("panel:N", title=None, sort=list(titled.values())), columns=5
    ).resolve_scale(x="independent")  # fmt: skip


if __name__ == "__main__":
    main()
