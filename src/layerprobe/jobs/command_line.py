"""Arguments of the scripts that compose no configuration: words `key=value` after a dataclass."""

from __future__ import annotations

import argparse
import re
import textwrap
from collections.abc import Sequence
from dataclasses import fields
from typing import Any, TypeVar

from omegaconf import OmegaConf, ValidationError

from layerprobe import program
from layerprobe.formatting import first_line, nearest

T = TypeVar("T")

_QUOTED = r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*\""""
_ITEM = re.compile(rf"\s*({_QUOTED}|[^,]*?)\s*(?:,|$)")


def read_arguments(kind: type[T], examples: str, words: Sequence[str] | None = None) -> T:
    """Read a command line of words `key=value`.

    A value is text as it stands: quotes around the whole are left out, `null` is None, `[a, "b, c"]` is a list.

    Args:
        kind: A dataclass whose docstring says what each attribute is; a `_` behind a name is no part of its key.
        examples: Command lines with what they do, for `--help`.
        words: The words; by default those of this process.

    Raises:
        SystemExit: After `--help`; or with a message where a key is not known or a value is of another type.
    """
    script = program.name()
    parser = argparse.ArgumentParser(
        script,
        usage=f"{script} [KEY=VALUE ...]",
        description=(kind.__doc__ or "").partition("\n")[0],
        epilog=f"{textwrap.dedent(examples).strip()}\n\n{_keys(kind)}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("words", nargs="*", help=argparse.SUPPRESS)
    keys = {one.name.rstrip("_"): one.name for one in fields(kind)}  # type: ignore[arg-type]
    found, patterns = OmegaConf.structured(kind), dict[str, bool]()
    for word in parser.parse_args(words).words:
        key, equals, value = word.partition("=")
        if not equals:
            raise SystemExit(f"{script}: {word!r} is no argument. Give KEY=VALUE; --help lists the keys.")
        if key not in keys:
            raise SystemExit(f"{script}: There is no {key!r}. {nearest(key, keys)}")
        try:
            said = _value(value)
            found[keys[key]] = "?" if said == "???" else said  # which to OmegaConf is a value that is missing
        except ValidationError as error:
            why = first_line(error).rstrip(".")
            advice = f" Give a list: {key}=[{value}]" if "is not a ListConfig" in why else ""
            raise SystemExit(f"{script}: {word}: {why}.{advice}") from None
        patterns[keys[key]] = said == "???"
    arguments: Any = OmegaConf.to_object(found)
    for name in (name for name, asked in patterns.items() if asked):
        setattr(arguments, name, "???")
    return arguments


def _value(text: str) -> str | list[str] | None:
    if text == "null":
        return None
    if text.startswith("[") and text.endswith("]"):
        inside = text[1:-1].strip()
        return [_unquoted(item) for item in _ITEM.findall(inside)[: -1 if inside else 0]]
    return _unquoted(text)


def _unquoted(text: str) -> str:
    """Leave out quotes around the whole, and within them backslashes that escape; `${` is no reference."""
    if re.fullmatch(_QUOTED, text):
        escaped = rf"(\\+)({text[0]}|\$\{{|\Z)"
        text = re.sub(escaped, lambda found: found[1][: len(found[1]) // 2] + found[2], text[1:-1])
    return re.sub(r"(\\*)\$\{", r"\1\1\\${", text)


def _keys(kind: Any) -> str:
    said = dict(re.findall(r"^ +(\w+): (.*)$", kind.__doc__ or "", re.MULTILINE))
    shown = {"True": "true", "False": "false", "None": "null"}
    words = [f"{one.name.rstrip('_')}={shown.get(str(one.default), one.default)}" for one in fields(kind)]
    width = max(map(len, words))
    return "\n".join(f"  {word:{width}}  {said[one.name]}" for word, one in zip(words, fields(kind), strict=True))
