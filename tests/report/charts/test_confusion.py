from __future__ import annotations

from pathlib import Path

import pandas as pd
import torch
from torch import nn

import layerprobe
from layerprobe.report.charts.confusion import confusion_chart
from layerprobe.report.run_figures import confusion_charts
from layerprobe.results.reader import Run


def test_rows_are_shares_of_their_class_and_a_class_without_a_sample_has_none() -> None:
    names = ["cat", "dog", "owl"]
    counts = pd.DataFrame([[8, 2, 0], [1, 3, 0], [0, 0, 0]], pd.Index(names), pd.Index(names))
    chart = confusion_chart(counts, "Answers").to_dict()
    cells = pd.DataFrame(next(iter(chart["datasets"].values())))
    shares = cells.pivot(index="target", columns="predicted", values="share")
    assert shares.loc["cat"].tolist() == [0.8, 0.2, 0.0]
    assert shares.loc["owl"].tolist() == [0.0, 0.0, 0.0]
    assert set(cells.loc[cells["right"], "target"]) == set(names)
    assert chart["title"]["text"] == "Answers"
    empty, *drawn = [layer for layer in chart["layer"] if layer["mark"]["type"] == "rect"]
    assert empty["transform"] == [{"filter": "(datum.samples === 0)"}]
    assert all("datum.samples > 0" in layer["transform"][0]["filter"] for layer in drawn)


def test_a_run_has_the_figure_where_its_scores_are_kept(tmp_path: Path) -> None:
    x = torch.randn(90, 4, generator=torch.Generator().manual_seed(0))
    for scores in (True, False):
        results = layerprobe.probe(nn.Identity(), (x, torch.arange(90) % 3), l2=[0.1], scores=scores)
        results.save(tmp_path / str(scores) / "probes")
    kept, without = (confusion_charts(Run.read(tmp_path / str(scores))) for scores in (True, False))
    assert list(kept) == ["confusion"] and without == {}
    assert "18 test samples" in " ".join(kept["confusion"].to_dict()["title"]["subtitle"])
