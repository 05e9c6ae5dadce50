"""The map of sites: a cell for each site of each block, with the error of its record."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
import torch
from torch import nn

import layerprobe
from layerprobe.report.run_figures import write_run_figures
from layerprobe.results.reader import Run

HEADS = ["head 0", "head 1"]
ORDER = ["resid_pre", "attn_out", "resid_mid", "resid_mid_normalised", "mlp_out", "resid_post", "resid_post_normalised"]


class Network(nn.Module):
    """Two blocks of attention in a path that an axis would not hold."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            block = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
            self.encoder_of_a_long_name = nn.TransformerEncoder(block, 2, enable_nested_tensor=False)
            self.last = nn.Linear(8, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.encoder_of_a_long_name(x).mean(1))


def probed(granularity: str = "sites") -> layerprobe.ProbeResults:
    generator = torch.Generator().manual_seed(0)
    data = {}
    for split, n in {"train": 60, "val": 20, "test": 30}.items():
        x = torch.randn(n, 3, 8, generator=generator)
        data[split] = x, (x[:, 0, 0] > 0).long()
    return layerprobe.probe(Network(), data, l2=[1e-1], granularity=granularity, reducer="flatten", progress=False)


def cells_of(chart: object) -> pd.DataFrame:
    return max(map(pd.DataFrame, chart.to_dict()["datasets"].values()), key=len)


def test_each_site_of_each_block_has_a_cell_with_its_error(tmp_path: Path) -> None:
    found = probed()
    found.save(tmp_path)
    errors = found.set_index("layer")["test_error"]
    names = {
        name: error
        for layer, error, aliases in zip(errors.index, errors, found["aliases"], strict=True)
        for name in (layer, *str(aliases).split(", "))
    }
    for source in (found, tmp_path):
        chart = layerprobe.site_map(source)
        cells = cells_of(chart)
        columns = chart.to_dict()["layer"][0]["encoding"]["x"]["sort"]
        assert columns == [name for name in ORDER if name in set(cells["column"])] + HEADS
        blocks = {f"encoder_of_a_long_name.layers.{row}": row for row in (0, 1)}
        assert len(cells) == len(blocks) * len(columns)
        for block, row in blocks.items():
            for column in columns:
                [value] = cells.loc[(cells["row"] == row) & (cells["column"] == column), "value"]
                assert value == names[f"{block}.{column.replace(' ', '.')}"], (block, column)
    written = {file.name for file in write_run_figures(Run.read(tmp_path), tmp_path / "figures")}
    assert {"site_map.png", "site_map.svg"} <= written


def test_the_stream_between_two_blocks_is_a_site_of_both() -> None:
    cells = cells_of(layerprobe.site_map(probed())).set_index(["row", "column"])
    [after] = [name for name in ("resid_post_normalised", "resid_post") if (0, name) in cells.index][:1]
    assert cells.loc[(1, "resid_pre"), "layer"] == cells.loc[(0, after), "layer"]


def test_where_there_are_no_sites_an_error_says_how_to_get_them(tmp_path: Path) -> None:
    found = probed("modules")
    with pytest.raises(ValueError, match=r"no sites of blocks\. Probe a transformer with granularity=sites"):
        layerprobe.site_map(found)
    with pytest.raises(ValueError, match=r"no checkpoint 'first'\. There is: network"):
        layerprobe.site_map(probed(), "first")
    found.save(tmp_path)
    assert not [file for file in write_run_figures(Run.read(tmp_path), tmp_path / "figures") if "site" in file.name]
