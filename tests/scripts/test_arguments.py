"""Words `key=value` of the scripts that compose no configuration."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from layerprobe.jobs.command_line import read_arguments
from layerprobe.quoting import override


@dataclass
class Arguments:
    """What is read here.

    Attributes:
        runs: Some directories.
        where: A condition.
        class_: A word of Python's own.
        interval: Seconds.
        watch: Whether to wait.
        compare: Two names.
    """

    runs: Any = "outputs"
    where: str | None = None
    class_: str | None = None
    interval: int = 10
    watch: bool = False
    compare: list[str] | None = None


def read(*words: str) -> Arguments:
    return read_arguments(Arguments, "", words)


@pytest.mark.parametrize(
    ("word", "key", "value"),
    [
        ("runs=a", "runs", "a"),
        ("runs=multirun/*/2026*", "runs", "multirun/*/2026*"),
        ('runs="multirun/*/2026*"', "runs", "multirun/*/2026*"),
        ("runs=2026", "runs", "2026"),
        ("runs=???", "runs", "???"),
        ("runs=[a, 'b, c',d/*]", "runs", ["a", "b, c", "d/*"]),
        ("runs=[]", "runs", []),
        ("where=model=='net' and lr<1", "where", "model=='net' and lr<1"),
        ("where='net'==model", "where", "'net'==model"),
        ("where='a' == m or m == 'b'", "where", "'a' == m or m == 'b'"),
        ("where=\"model == 'net'\"", "where", "model == 'net'"),
        ("where=null", "where", None),
        ("class=x", "class_", "x"),
        ("interval=3", "interval", 3),
        ("watch=true", "watch", True),
    ],
)
def test_a_value_is_text_as_it_stands(word: str, key: str, value: object) -> None:
    assert getattr(read(word), key) == value


@settings(max_examples=200)
@given(st.text(st.sampled_from(list("ab/\\'\"${}=,()[] :#~üж%*?@!&|;<>^`-_.+1")), max_size=14))
@example("${seed}")
@example("a\\${b}\\")
@example("null")
@example("???")
@example("it's")
def test_what_was_quoted_for_hydra_is_read_back(text: str) -> None:
    """Earlier versions print `sweep.py continue=…` so."""
    assert read(override("where", text)).where == text


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("intervall=3", "There is no 'intervall'. Did you mean interval?"),
        ("interval=soon", "interval=soon: Value 'soon' of type 'str' could not be converted to Integer."),
        ("watch=maybe", "watch=maybe: Value 'maybe' is not a valid bool"),
        ("interval=null", "interval=null: "),
        ("class_=x", "There is no 'class_'. Did you mean class?"),
        ("interval=???", "interval=???: Value '?' of type 'str'"),
        ("compare=a", "not a ListConfig, list or tuple. Give a list: compare=[a]"),
        ("interval", "'interval' is no argument. Give KEY=VALUE"),
    ],
)
def test_a_mistake_is_one_message(word: str, message: str) -> None:
    with pytest.raises(SystemExit, match=r"^\S+: ") as error:
        read(word)
    assert message in str(error.value)


def test_help_shows_every_key_with_its_default(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        read_arguments(Arguments, "an example", ["--help"])
    shown = capsys.readouterr().out
    assert "What is read here.\n" in shown and "an example" in shown
    assert "  watch=false   Whether to wait." in shown and "  class=null    A word of Python's own." in shown
