"""Lazy mappings: the content of a file, read when it is first asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar, final

Value = TypeVar("Value")


@final
@dataclass(frozen=True)
class LazyMapping(Mapping[str, Value]):
    """The content of a file, read when one of its entries is first asked for."""

    read: Callable[[], Mapping[str, Value]]
    exists: bool

    @cached_property
    def _content(self) -> Mapping[str, Value]:
        return self.read()

    def __getitem__(self, name: str) -> Value:
        return self._content[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._content)

    def __len__(self) -> int:
        return len(self._content)

    def __bool__(self) -> bool:
        return self.exists
