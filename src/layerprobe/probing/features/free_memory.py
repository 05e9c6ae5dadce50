"""Free memory of the machine, and how much of it probing may take."""

from __future__ import annotations

from pathlib import Path

import psutil

from layerprobe.formatting import n_bytes

SHARE = 0.5
"""The share of the free memory that is taken by default."""


def memory_budget(wanted: int | float | str | None, free: int | None = None) -> int:
    """Return the budget in bytes.

    Args:
        wanted: Bytes, or text such as `8GiB` or `500 MB`, or the share of the free memory such as `0.3` or `30%`; by
            default half of what is free. Free is what the machine has left and the control group (a container's or
            SLURM's limit) allows.
        free: Bytes that are free where another memory than the machine's own is meant.

    Raises:
        ValueError: Where it is none of these.
    """
    free = free_memory() if free is None else free
    if wanted is None:
        return int(SHARE * free)
    text = str(wanted).strip()
    value = n_bytes(text.removesuffix("%"))
    if text.endswith("%") or 0 < value <= 1:
        value *= free / 100 if text.endswith("%") else free
    if not 0 < value < float("inf"):
        raise ValueError(
            f"`max_memory` is {wanted!r}. Give bytes (8e9), a size (8GiB, 500MB), or a share of the free memory "
            "(0.5, 50%)."
        )
    return int(value)


def free_memory() -> int:
    """Count the bytes that this process can still take before the machine or its control group runs out."""
    return min([psutil.virtual_memory().available, *_control_group()])


def _control_group(root: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> list[int]:
    """Read what the limits of this process' control groups leave, version 2 or 1."""
    left = []
    try:
        lines = own.read_text().splitlines()
    except OSError:
        return []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers not in ("", "memory"):
            continue
        base = root / "memory" if controllers else root
        names = ("memory.limit_in_bytes", "memory.usage_in_bytes") if controllers else ("memory.max", "memory.current")
        group = base / path.lstrip("/")
        for folder in [group, *(parent for parent in group.parents if parent.is_relative_to(base))]:
            try:
                limit, used = ((folder / name).read_text().strip() for name in names)
                left.append(max(int(limit) - int(used), 0))
            except (OSError, ValueError):
                continue
    return left
