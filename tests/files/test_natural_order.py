from __future__ import annotations

import random
from pathlib import Path

from layerprobe.files.natural_order import natural_order


def test_numbers_go_by_their_value_and_folders_before_what_is_in_others() -> None:
    ordered = [
        "a/1²",
        "a/9",
        "a/10",
        "a/10/2",
        "a/b",
        "a/run_2",
        "a/run_9.ckpt",
        "a/run_10.ckpt",
        "a/x²",
        "a-b/1",
        "b/1",
    ]
    paths = [Path(name) for name in ordered]
    mixed = random.Random(0).sample(paths, len(paths))
    assert sorted(mixed, key=natural_order) == paths
