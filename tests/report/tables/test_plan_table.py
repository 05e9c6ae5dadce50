from __future__ import annotations

import io

import pandas as pd
import pytest
from rich.console import Console

from layerprobe.formatting import count_text, size_text, time_text
from layerprobe.report.tables.plan_table import plan_table


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.0, "0 s"), (0.0042, "4.2 ms"), (0.42, "0.42 s"), (99, "99 s"), (600, "10 min"), (7200, "2.0 h"),
     (864_000, "10 days"), (float("nan"), "?")],
)  # fmt: skip
def test_durations_read_easily(seconds: float, text: str) -> None:
    assert time_text(seconds) == text


@pytest.mark.parametrize(("n_bytes", "text"), [(12, "12 B"), (71_900, "71.9 kB"), (5e9, "5 GB"), (2.6e14, "260 TB")])
def test_sizes_read_easily(n_bytes: float, text: str) -> None:
    assert size_text(n_bytes) == text


def test_one_thing_is_no_plural() -> None:
    assert [count_text(n, "job") for n in (0, 1, 2, 1000)] == ["0 jobs", "1 job", "2 jobs", "1,000 jobs"]


def test_every_layer_has_a_whole_line_in_a_terminal_of_80_columns() -> None:
    row = {"shape": "64x112x112", "n_features": 1024, "bytes": 5_751_000_000, "record_seconds": 0.12, "seconds": 7000.0}
    layers = pd.DataFrame(
        [row | {"depth": i, "layer": f"layer{i}.0.conv1", "place": ["memory", "disk"][i % 2]} for i in range(20)]
    )
    console = Console(file=io.StringIO(), width=80)
    console.print(plan_table(layers))
    lines = console.file.getvalue().splitlines()
    found = [line.split() for line in lines if ".0.conv1" in line]
    assert [words[1] for words in found] == layers["layer"].tolist()
    assert found[3][2:] == ["64x112x112", "1,024", "5.75", "GB", "disk", "0.12", "s", "1.9", "h"]
