"""Frames of a small network's plane: read back, and left out where a file is damaged."""

from __future__ import annotations

import logging
from pathlib import Path

import pandas as pd
import pytest

from layerprobe.results.plane_frames import NAMES, read_plane_frames


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("spoil", [lambda b: b"", lambda b: b[: len(b) // 2], lambda b: b"\x13" * len(b)])
def test_a_damaged_frame_is_left_out_and_named(tmp_path: Path, caplog: pytest.LogCaptureFixture, name, spoil) -> None:
    for kept in NAMES:
        pd.DataFrame({"step": [0, 1], "h1": [0.5, 1.5]}).to_parquet(tmp_path / f"{kept}.parquet")
    assert read_plane_frames(tmp_path).keys() == set(NAMES)
    file = tmp_path / f"{name}.parquet"
    file.write_bytes(spoil(file.read_bytes()))
    with caplog.at_level(logging.WARNING, "layerprobe"):
        found = read_plane_frames(tmp_path)
    assert found.keys() == set(NAMES) - {name}
    assert f"{file} is damaged" in caplog.text
    file.unlink()
    assert read_plane_frames(tmp_path).keys() == set(NAMES) - {name}
