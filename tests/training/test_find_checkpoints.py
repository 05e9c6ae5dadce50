from __future__ import annotations

from pathlib import Path

import pytest
import torch

from layerprobe.training.checkpoints import find_checkpoints


def names(pattern: Path | str) -> list[str]:
    return [info.name for _, info in find_checkpoints(str(pattern))]


def save(file: Path, **content: int) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    weights = {"w": torch.ones(1)}
    torch.save({"state_dict": weights, **content} if content else weights, file)


def test_a_folder_in_the_order_of_steps(tmp_path: Path) -> None:
    tmp_path = tmp_path / "run" / "checkpoints"
    save(tmp_path / "b.ckpt", global_step=20)
    save(tmp_path / "a.ckpt", global_step=100)
    save(tmp_path / "net_step9.pt")
    save(tmp_path / "net_step10.pt")
    (tmp_path / "cut.ckpt").write_bytes(b"PK")
    (tmp_path / "notes.txt").write_text("")
    assert names(tmp_path) == ["net_step9", "net_step10", "b", "a", "cut"]
    assert names(tmp_path.parent) == names(tmp_path)
    assert names(tmp_path / "*.ckpt") == ["b", "a", "cut"]
    assert names(tmp_path / "a.ckpt") == ["a"]


def test_files_of_one_name_are_told_apart(tmp_path: Path) -> None:
    for run in ("one", "two"):
        save(tmp_path / run / "checkpoints" / "final.ckpt", global_step=5)
    save(tmp_path / "one" / "checkpoints" / "initial.ckpt", global_step=0)
    assert names(tmp_path / "*" / "checkpoints" / "*.ckpt") == [
        "initial", "one/checkpoints/final", "two/checkpoints/final",
    ]  # fmt: skip
    save(tmp_path / "same" / "x.pt")
    save(tmp_path / "same" / "x.pth")
    assert names(tmp_path / "same") == ["x.pt", "x.pth"]


def test_brackets_in_a_name_are_no_pattern_where_there_is_such_a_file(tmp_path: Path) -> None:
    save(tmp_path / "a[1].pt")
    assert names(tmp_path / "a[1].pt") == ["a[1]"]


def test_nothing_there(tmp_path: Path) -> None:
    for pattern in (tmp_path, tmp_path / "x.ckpt", tmp_path / "*.ckpt"):
        with pytest.raises(FileNotFoundError, match="No checkpoint at"):
            find_checkpoints(str(pattern))
