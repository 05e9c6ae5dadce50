"""Whether a file can be written is known before the work for it."""

from __future__ import annotations

from pathlib import Path

import pytest

from layerprobe.files.atomic import check_writable


def test_nothing_is_left_where_a_file_can_be_written(tmp_path: Path) -> None:
    check_writable(tmp_path / "a" / "b" / "page.html")
    (tmp_path / "there.html").write_text("kept")
    check_writable(tmp_path / "there.html")
    assert [path.name for path in tmp_path.iterdir()] == ["there.html"]
    assert (tmp_path / "there.html").read_text() == "kept"


def test_where_it_cannot_it_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path, tmp_path / "file" / "page.html", Path("/proc/page.html")):
        with pytest.raises(OSError):
            check_writable(path)
