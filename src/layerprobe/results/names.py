"""Names of checkpoints and layers as names of files."""

from __future__ import annotations

import hashlib
import re

_LONGEST = 96


def safe_name(name: str) -> str:
    """Turn any name into one that every file system takes; different names stay different.

    Args:
        name: Name of a checkpoint or a layer, such as "layer1.0.conv1#2".

    Returns:
        The name itself where it is harmless; else a readable part of it and a hash of the whole.
    """
    plain = re.sub(r"[^A-Za-z0-9._#=+-]", "_", name)[:_LONGEST].lstrip(".") or "_"
    if plain == name:
        return name
    return f"{plain}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"
