"""Shards: a job's share of a list of work."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")


def share(work: Sequence[T], shard: str | None) -> Sequence[T]:
    """Deal work out to jobs, one piece at a time in turn.

    Args:
        work: All of it.
        shard: `i/n` for the i-th of n shares, from 1; None for everything.

    Raises:
        ValueError: Where `shard` is not such a pair.
    """
    if shard is None:
        return work
    found = re.fullmatch(r"(\d+)/(\d+)", shard)
    if found is None or not 1 <= int(found[1]) <= int(found[2]):
        raise ValueError(
            f"shard={shard} is not a share. Give i/n with i from 1 to n, such as shard=1/4,2/4,3/4,4/4 with -m."
        )
    return work[int(found[1]) - 1 :: int(found[2])]
