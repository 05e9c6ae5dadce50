"""The user's cache: texts that are slow to make."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from layerprobe.files.atomic import write_bytes


def cached_text(name: str, make: Callable[[], str]) -> str:
    """Return what `make` returns, from the user's cache, `XDG_CACHE_HOME` or `~/.cache`, where it is there.

    The file begins with a checksum of the rest; one that is damaged is written anew. A cache that cannot be read or
    written is gone without.

    Args:
        name: Of the file; it tells what the text depends on.
        make: Makes the text.
    """
    path = Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "layerprobe", name)
    with suppress(OSError):
        checksum, _, found = path.read_bytes().partition(b"\n")
        if checksum == _checksum(found):
            return found.decode()
    text = make()
    made = text.encode()
    if path.is_absolute():  # or there is no home
        with suppress(OSError):
            write_bytes(path, _checksum(made) + b"\n" + made, durable=False)
    return text


def _checksum(content: bytes) -> bytes:
    return hashlib.sha256(content).hexdigest().encode()
