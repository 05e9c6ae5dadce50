"""The log that wandb keeps of a run on this machine, read for how far its history has been written.

A `.wandb` file is a seven-byte header and then blocks of 32 KiB; each block holds chunks of (checksum u32, length u16,
type u8, bytes), where the type says whether a chunk is a whole record or its first, middle or last piece.
"""

from __future__ import annotations

import os
import shutil
import zlib
from collections.abc import Iterator
from pathlib import Path

from layerprobe.compat.wandb import history_step

_MAGIC = b":W&B"
_HEADER, _CHUNK, _BLOCK = 7, 7, 1 << 15
_WHOLE, _FIRST, _LAST = 1, 2, 4


def mend(log: Path) -> int:
    """Make a log that a killed process left fit for `wandb sync`, which stops at a record that is cut short.

    What follows the last whole record is cut off; a log without any is removed with its folder.

    Args:
        log: A file `<folder of one start>/run-<id>.wandb` that nobody writes to.

    Returns:
        One more than the step of the last row of history; 0 where there is none.
    """
    content = log.read_bytes()
    records = list(_records(content))
    if not records and len(content) < _BLOCK:
        shutil.rmtree(log.parent, ignore_errors=True)
        return 0
    if records and records[-1][0] < len(content):
        os.truncate(log, records[-1][0])
    steps = (history_step(message) for _, message in reversed(records))
    return next((step + 1 for step in steps if step is not None), 0)


def _records(content: bytes) -> Iterator[tuple[int, bytes]]:
    """Read each whole record, and where it ends."""
    if content[:4] != _MAGIC:
        return
    at, pieces = _HEADER, b""
    while at + _CHUNK <= len(content):
        if _BLOCK - at % _BLOCK < _CHUNK:
            at += _BLOCK - at % _BLOCK
            continue
        length, kind = int.from_bytes(content[at + 4 : at + 6], "little"), content[at + 6]
        piece = content[at + _CHUNK : at + _CHUNK + length]
        checksum = zlib.crc32(piece, zlib.crc32(bytes([kind])))
        if kind == 0 or len(piece) < length or checksum != int.from_bytes(content[at : at + 4], "little"):
            return
        at += _CHUNK + length
        pieces = piece if kind in (_WHOLE, _FIRST) else pieces + piece
        if kind in (_WHOLE, _LAST):
            yield at, pieces
