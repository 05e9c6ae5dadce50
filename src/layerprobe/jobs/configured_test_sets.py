"""Test sets in a configuration: the node `tests` of the data, each a data module or a data set by its name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_HOW = (
    "Give each test set by its name: '+data@data.tests.NAME=DATA' for one of conf/data, or "
    "'+data.tests.NAME._target_=package.Class' and its arguments."
)


def without_tests(data: Mapping[str, Any]) -> tuple[dict[str, Any], Mapping[str, Any]]:
    """Take further test sets, which no data module takes, out of a data node; their nodes come by name.

    Raises:
        ValueError: They are not given by their names, or one does not say what it is.
    """
    tests = data.get("tests") or {}
    if not isinstance(tests, Mapping):
        raise ValueError(f"data.tests is {tests!r}. {_HOW}")
    for name, node in tests.items():
        if node is not None and (not isinstance(node, Mapping) or "_target_" not in node):
            raise ValueError(f"Nothing says what the test set data.tests.{name} is: {node!r}. {_HOW}")
    return {key: value for key, value in data.items() if key != "tests"}, tests
