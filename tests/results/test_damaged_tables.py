"""Tables of results that are damaged: rebuilt from what is there, or named with the next step."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from helpers import made_results as made
from layerprobe.results.arrow_tables import DamagedTableError
from layerprobe.results.store import ProbeStore, restore_results
from layerprobe.types import PathRecord

HOW = ("empty", "half", "garbage")


def damage(file: Path, how: str) -> None:
    content = file.read_bytes()
    file.write_bytes({"empty": b"", "half": content[: len(content) // 2], "garbage": b"\xff\x00PAR1,\n" * 99}[how])


@pytest.fixture
def store(tmp_path: Path) -> ProbeStore:
    """Two checkpoints that are merged, one of them with a layer that failed, and parts of a third."""
    store = ProbeStore(tmp_path)
    for name, step in (("initial", 0), ("epoch=1,2", 50)):
        store.add(made.result(name, step, 0, "input", message='a "quoted", text'))
        store.add(made.of(made.failed(name, step, 1, "fc")))
    store.merge()
    store.add(made.result("final", 100, 0, "input"))
    store.add(made.result("final", 100, 1, "fc"))
    return store


@pytest.mark.parametrize("how", HOW)
def test_results_are_rebuilt_from_their_csv_to_the_bit(store: ProbeStore, how: str, caplog) -> None:
    file = store.directory / "results.parquet"
    before = store.results()
    damage(file, how)
    restore_results(store.directory)
    pd.testing.assert_frame_equal(made.read_frame(file), before, check_exact=True)
    assert "results.parquet is damaged; its 6 rows are read from results.csv." in caplog.text


@pytest.mark.parametrize("how", HOW)
def test_results_whose_csv_is_damaged_too_are_named(store: ProbeStore, how: str) -> None:
    damage(store.directory / "results.parquet", how)
    damage(store.directory / "results.csv", how)
    content = (store.directory / "results.parquet").read_bytes()
    with pytest.raises(DamagedTableError, match=r"results\.parquet is not a readable .*mv -- .*goes on without it"):
        restore_results(store.directory)
    assert (store.directory / "results.parquet").read_bytes() == content


@pytest.mark.parametrize("how", HOW)
def test_a_csv_alone_is_written_anew(store: ProbeStore, how: str) -> None:
    before = (store.directory / "results.csv").read_bytes()
    damage(store.directory / "results.csv", how)
    ProbeStore(store.directory).merge()
    assert (store.directory / "results.csv").read_bytes() == before


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("name", ["path", "correct"])
def test_what_nothing_else_holds_is_named_before_anything_is_computed(store: ProbeStore, name: str, how: str) -> None:
    file = store.directory / f"{name}.parquet"
    damage(file, how)
    opened = ProbeStore(store.directory)
    with pytest.raises(DamagedTableError, match=rf"{name}\.parquet is not .*mv -- .*what else .* is intact"):
        opened.prepare()
    pd.testing.assert_frame_equal(opened.results(), store.results())
    file.rename(f"{file}.damaged")
    opened.prepare()
    opened.merge()
    assert set(pd.read_parquet(file)["checkpoint"]) == {"final"}


@pytest.mark.parametrize("how", HOW)
def test_the_layer_of_a_damaged_part_is_probed_again(store: ProbeStore, how: str, caplog) -> None:
    before = store.results(), store.path()
    (part,) = (store.directory / "parts" / "final").glob("*fc*")
    damage(part, how)
    opened = ProbeStore(store.directory)
    assert opened.done("final") == {"input"}
    opened.prepare()
    assert f"{part} is damaged; its layer is probed again." in caplog.text
    opened.add(made.result("final", 100, 1, "fc"))
    opened.merge()
    pd.testing.assert_frame_equal(opened.results(), before[0])
    pd.testing.assert_frame_equal(made.read_frame(store.directory / "path.parquet", PathRecord), before[1])
