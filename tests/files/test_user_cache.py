from __future__ import annotations

from pathlib import Path

import pytest

from layerprobe.files.user_cache import cached_text


def never() -> str:
    raise AssertionError("made again")


@pytest.mark.parametrize("where", ["XDG_CACHE_HOME", "HOME"])
def test_a_text_is_made_once_and_kept_in_the_users_cache(
    where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv(where, str(tmp_path))
    text = "a\r\nb\n\u2028\u00e9"
    assert [cached_text("one.js", lambda: text), cached_text("one.js", never)] == [text, text]
    assert cached_text("two.js", lambda: "other") == "other"
    folder = tmp_path / "layerprobe" if where == "XDG_CACHE_HOME" else tmp_path / ".cache" / "layerprobe"
    assert sorted(file.name for file in folder.iterdir()) == ["one.js", "two.js"]


@pytest.mark.parametrize("damage", [lambda b: b[:-1], lambda b: b[:70] + b"X" + b[71:], lambda b: b"", lambda b: b"\n"])
def test_a_damaged_file_is_made_anew(damage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cached_text("one.js", lambda: "text " * 9) == "text " * 9
    file = tmp_path / "layerprobe" / "one.js"
    whole = file.read_bytes()
    file.write_bytes(damage(whole))
    assert cached_text("one.js", lambda: "text " * 9) == "text " * 9
    assert file.read_bytes() == whole


def test_a_cache_that_cannot_be_used_is_gone_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "layerprobe").write_text("a file where the folder would be")
    monkeypatch.chdir(tmp_path)
    for cache in (str(tmp_path), "relative"):
        monkeypatch.setenv("XDG_CACHE_HOME", cache)
        assert cached_text("one.js", lambda: "text") == "text"
    assert [path.name for path in tmp_path.iterdir()] == ["layerprobe"]
