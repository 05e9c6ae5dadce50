"""Command lines that can be typed again: quoted for Hydra's grammar, and for the shell."""

from __future__ import annotations

import re
import shlex
from typing import Any

from layerprobe import program

# Of what Hydra reads as text without quotes; `null`, `true`, `nan` and numbers it reads as values.
_PLAIN = re.compile(
    r"(?!(?:null|true|false|nan|inf)\Z)(?:/|\.{1,2}/|[A-Za-z])[A-Za-z0-9_./-]*", re.IGNORECASE | re.ASCII
)


def override(key: str, value: Any) -> str:
    """Write `key=value` in Hydra's grammar, for a text with whatever is in it; with quotes where they are needed."""
    return f"{key}={quoted(str(value))}"


def quoted(text: str) -> str:
    r"""Write a text in Hydra's grammar: as it is where Hydra reads it so, else in single quotes.

    `${` would refer to another value, and gets a backslash; backslashes are doubled before it, before a quote and at
    the end, where they would escape what follows, and nowhere else.

    Args:
        text: Any text without line breaks but `???`, which OmegaConf takes as a value that is missing however it is
            quoted.
    """
    if _PLAIN.fullmatch(text):
        return text
    return expression(re.sub(r"(\\*)\$\{", r"\1\1\\${", text))


def expression(text: str) -> str:
    """Write a text without line breaks in single quotes, in Hydra's grammar; `${key}` in it stands for a value."""
    text = re.sub(r"(\\*)('|\Z)", lambda found: found[1] * 2 + ("\\'" if found[2] else ""), text)
    return f"'{text}'"


def command(script: str, *words: str) -> str:
    """Write a command for a shell."""
    return shlex.join([*program.words(script), *words])
