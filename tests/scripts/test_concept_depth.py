"""A sweep over concepts, as a user runs it on a real encoder."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from helpers.command import run


@pytest.mark.slow
def test_a_sweep_ends_in_one_picture_and_one_table(shared: Path, tmp_path: Path) -> None:
    said = run(
        "probe.py",
        "-m",
        "experiment=concept_depth",
        f"model.name={shared / 'models' / 'all-MiniLM-L6-v2'}",
        f"data.root={shared / 'data' / 'concepts'}",
        "data=coinflip",
        "data.per_class=60",
        "data.batch_size=8",
        "data.noise=[aaa,bbb]",
        "model.weights=pretrained,random",
        "model.dtype=bfloat16",
        "probe.layers=[encoder.layer.0,encoder.layer.5]",
        "probe.l2=[1e-2,1e-1]",
        "logger=none",
        "report.figures=false",
        "trainer=cpu",
        "hydra.sweep.dir=sweep",
        cwd=tmp_path,
    ).stdout
    sweep = tmp_path / "sweep"
    table = pd.read_csv(sweep / "concept_depth_table.csv")
    assert table["model"].tolist() == ["all-MiniLM-L6-v2", "all-MiniLM-L6-v2 (untrained)"]
    assert table["data"].eq("coinflip").all()
    assert table["noise"].eq("aaa/bbb").all()
    assert table["precision"].eq("bf16").all()
    assert table["bag_of_words_accuracy"].between(0.2, 1).all()
    assert len(pd.read_csv(sweep / "concept_depth.csv")) == 4
    assert (sweep / "concept_depth.png").stat().st_size > 10_000
    results = pd.read_parquet(sweep / "0" / "probes" / "results.parquet")
    assert set(results["checkpoint"]) == {"bag_of_words", "text_length", "pretrained"}
    assert results["reducer"].tolist() == ["flatten", "flatten", "mean_token", "mean_token"]
    assert "acc / AUC / F1 by depth" in said
