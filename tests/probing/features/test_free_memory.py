from __future__ import annotations

import pytest

from layerprobe.probing.features.free_memory import _control_group, free_memory, memory_budget


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [("8GiB", 8 * 2**30), ("500 MB", 5e8), (2e9, 2e9), ("1e9", 1e9), ("1.5 kib", 1536), (1024, 1024)],
)
def test_sizes_are_read(wanted, expected) -> None:
    assert memory_budget(wanted) == expected


@pytest.mark.parametrize("wanted", [0.25, "25%", " 25 % ", "0.25"])
def test_a_share_of_what_is_free(wanted) -> None:
    assert memory_budget(wanted) == pytest.approx(0.25 * free_memory(), rel=0.05)


def test_a_share_of_another_memory() -> None:
    assert [memory_budget(wanted, 1000) for wanted in (None, 0.25, "10%", "2KB")] == [500, 250, 100, 2000]


@pytest.mark.parametrize("wanted", ["much", 0, -1, "8 apples", "", "nan", float("inf")])
def test_anything_else_is_refused(wanted) -> None:
    with pytest.raises(ValueError, match="max_memory"):
        memory_budget(wanted)


@pytest.mark.parametrize(
    ("line", "group", "names"),
    [
        ("0::/job/step", "", ("memory.max", "memory.current")),
        ("5:memory:/job/step", "memory", ("memory.limit_in_bytes", "memory.usage_in_bytes")),
    ],
)
def test_the_limit_of_a_control_group_counts_also_further_up(tmp_path, line, group, names) -> None:
    step = tmp_path / "fs" / group / "job" / "step"
    step.mkdir(parents=True)
    own = tmp_path / "cgroup"
    own.write_text(f"{line}\n3:cpu:/job\n")
    for folder, limit in ((step, "max"), (step.parent, "1000")):
        (folder / names[0]).write_text(limit + "\n")
        (folder / names[1]).write_text("400\n")
    assert _control_group(tmp_path / "fs", own) == [600]
