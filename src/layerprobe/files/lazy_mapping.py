"""Lazy mappings: the content of a file, read when it is first asked for."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import TypeVar

Value = TypeVar("Value")


class AbstractFileMapping(Mapping[str, Value]):
    """The content of a file, read when it is first asked for."""

    @abstractmethod
    def read(self) -> Mapping[str, Value]:
        """Read the file."""

    @cached_property
    def _content(self) -> Mapping[str, Value]:
        return self.read()

    def __getitem__(self, name: str) -> Value:
        return self._content[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._content)

    def __len__(self) -> int:
        return len(self._content)
