"""A function whose annotations are as many write them: some are no types, others may not be asked what they hold."""

# mypy: ignore-errors
# ruff: noqa: RUF013
from typing import Literal, Protocol, TypedDict, runtime_checkable

import torch


class Sized(Protocol):
    """May not be asked at all."""

    size: int


@runtime_checkable
class Shaped(Protocol):
    """May be asked of objects, and not of classes."""

    shape: int


class Options(TypedDict):
    """May not be asked at all."""

    size: int


def loosely_typed(
    norm: callable = None,
    size: (int, float) = None,
    sizes: [int] = None,
    whatever: any = None,
    sized: Sized = None,
    shaped: Shaped = None,
    options: Options = None,
    device: torch.device = None,
    how: Literal["a"] | int = "a",
) -> None:
    """Take what is given."""
