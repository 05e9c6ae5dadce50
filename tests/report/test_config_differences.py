"""Names of runs are made of what tells them apart, and of nothing that says no more."""

from __future__ import annotations

from layerprobe.report.config_differences import telling_keys


def test_a_key_that_tells_nothing_further_is_left_out() -> None:
    named = [{"data": name, "data.classes": kind} for name, kind in (("a", "1"), ("b", "1"), ("c", "True"))]
    assert telling_keys(named) == ["data"]
    assert telling_keys([{"data.classes": one["data.classes"], "data.z": one["data"]} for one in named]) == [
        "data.classes",
        "data.z",
    ]


def test_a_key_that_all_have_comes_before_one_that_some_lack() -> None:
    configs = [{"data.table.path": path} for path in ("a", "b", "c")]
    assert telling_keys([{**configs[0], "data.kind": "noise"}, *configs[1:]]) == ["data.table.path"]


def test_repetitions_are_not_told_apart() -> None:
    assert telling_keys([{"data": "a", "seed": 1, "data.seed": 1}, {"data": "a", "seed": 2, "data.seed": 2}]) == []
