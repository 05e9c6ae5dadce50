"""Find the checkpoints that a path, a folder or a pattern names."""

from __future__ import annotations

import glob
import os
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from layerprobe.training.checkpoints import CheckpointError, load
from layerprobe.types import CheckpointInfo

SUFFIXES = (".ckpt", ".pt", ".pth", ".bin", ".safetensors")


def find_checkpoints(pattern: str, *, trust: bool = False) -> list[tuple[Path, CheckpointInfo]]:
    """Name the files that are meant, in the order of their steps.

    Args:
        pattern: A file, a glob pattern, or a folder: then the checkpoints in it, or else in the folders below.
        trust: As for `load`.

    Returns:
        Each file and what it is called: its own name, or where several have the same, its path below the folder that
        all are in. A file that cannot be read comes last, so that the others are probed first.

    Raises:
        FileNotFoundError: Where there is none.
    """
    paths = [Path(path) for path in glob.glob(pattern, recursive=True)]
    if Path(pattern).exists():
        paths = [Path(pattern)]
    files = [file for path in paths for file in (_inside(path) if path.is_dir() else [path])]
    if not files:
        raise FileNotFoundError(
            f"No checkpoint at {pattern}. Give a file, a folder with files such as *.ckpt, or a pattern in quotes: "
            "'checkpoint=\"RUN/checkpoints/*.ckpt\"'."
        )
    found: list[tuple[float, list[tuple[int, str]], Path, CheckpointInfo]] = []
    for file in files:
        try:
            info = load(file, trust=trust).info
            found.append((info.step, _natural(str(file)), file, info))
        except CheckpointError:
            found.append((float("inf"), _natural(str(file)), file, CheckpointInfo(file.stem)))
    return _told_apart([(file, info) for _, _, file, info in sorted(found, key=lambda entry: entry[:2])])


def _inside(folder: Path) -> list[Path]:
    for files in (folder.glob("*"), folder.rglob("*")):
        if found := [file for file in files if file.suffix in SUFFIXES and file.is_file()]:
            return found
    return []


def _natural(text: str) -> list[tuple[int, str]]:
    """Numbers in a name by their value: step_9 before step_10."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", text)]


def _told_apart(found: Iterable[tuple[Path, CheckpointInfo]]) -> list[tuple[Path, CheckpointInfo]]:
    named = list(found)
    times = Counter(info.name for _, info in named)
    if max(times.values()) == 1:
        return named
    common = Path(os.path.commonpath([file.absolute().parent for file, _ in named]))
    below = [file.absolute().relative_to(common) for file, _ in named]
    short = [path.with_suffix("") for path in below]
    unique = below if len(set(short)) < len(short) else short
    return [
        (file, info if times[info.name] == 1 else replace(info, name=path.as_posix()))
        for (file, info), path in zip(named, unique, strict=True)
    ]
