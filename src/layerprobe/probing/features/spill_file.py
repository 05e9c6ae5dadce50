"""Features on disk, in a file without a name."""

from __future__ import annotations

import math
import os
import tempfile
import weakref
from bisect import bisect_right
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from layerprobe.formatting import size_text
from layerprobe.probing.features.host_rows import pinned
from layerprobe.probing.features.row_blocks import AbstractRows

_AS_BYTES = {2: torch.int16, 4: torch.int32, 8: torch.int64}


class SpillError(RuntimeError):
    """Features could not be written to disk."""


class SpillFile:
    """A file that only this process knows, and that is gone when the process is, however that ends.

    It is unlinked as soon as it is open, so that no other process meets it and a killed one leaves nothing behind. The
    space is given back by `close`, or when nothing refers to the file any more.

    Args:
        directory: A directory on a disk with enough space; by default the system's for temporary files (`TMPDIR`).
    """

    def __init__(self, directory: Path | None = None) -> None:
        self.directory = Path(directory or tempfile.gettempdir())
        try:
            with tempfile.TemporaryFile(dir=self.directory) as file:
                self._file = os.dup(file.fileno())
        except OSError as error:
            raise SpillError(
                f"Features that exceed the memory budget are kept in {self.directory}, where no file can be made: "
                f"{error.strerror}. Give `spill_directory` a directory that can be written."
            ) from error
        self.close = weakref.finalize(self, os.close, self._file)
        self._end = 0

    def write(self, values: Float[Tensor, "k d"]) -> int:
        """Append rows, and return where they start, in bytes.

        Raises:
            SpillError: Where the disk is full or fails.
        """
        start = self._end
        content = _content(values.contiguous())
        written = 0
        try:
            while written < len(content):
                written += os.pwrite(self._file, content[written:], start + written)
        except OSError as error:
            raise SpillError(
                f"Writing features to {self.directory} failed after {size_text(start)}: {error.strerror}. Give "
                "`spill_directory` a disk with more space, raise `max_memory`, or reduce the layers further."
            ) from error
        self._end += len(content)
        return start

    def read(self, values: Float[Tensor, "k d"], offset: int) -> None:
        """Fill rows, on the CPU and contiguous, with what stands from `offset`, in bytes, on.

        Raises:
            SpillError: Where the file is shorter than that.
        """
        content = _content(values)
        done = 0
        while done < len(content):
            got = os.preadv(self._file, [content[done:]], offset + done)
            if got == 0:
                raise SpillError(f"The features kept in {self.directory} end early.")
            done += got


class SpilledRows(AbstractRows):
    """Rows in a spill file, in the pieces that they were written in."""

    def __init__(
        self,
        file: SpillFile,
        n_features: int,
        kept_as: torch.dtype,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self.file, self.kept_as, self.dtype, self.device = file, kept_as, dtype, device
        self.shape = (0, n_features)
        self._starts: list[int] = []
        self._offsets: list[int] = []

    def append(self, rows: Float[Tensor, "k d"]) -> None:
        """Write rows behind those that are there.

        Raises:
            SpillError: Where the disk is full or fails.
        """
        self._offsets.append(self.file.write(rows.to("cpu", self.kept_as)))
        self._starts.append(self.shape[0])
        self.shape = (self.shape[0] + len(rows), self.shape[1])

    def __getitem__(self, rows: slice) -> Float[Tensor, "k d"]:
        """See `AbstractRows.__getitem__`."""
        start, stop, _ = rows.indices(len(self))
        return self._read(start, stop).to(self.device).to(self.dtype)

    def _read(self, start: int, stop: int) -> Float[Tensor, "k d"]:
        shape = max(stop - start, 0), self.shape[1]
        found = pinned(math.prod(shape), self.kept_as, self.device).view(shape)
        size = self.shape[1] * self.kept_as.itemsize
        row = start
        while row < stop:
            piece = bisect_right(self._starts, row) - 1
            end = min(stop, self._starts[piece + 1] if piece + 1 < len(self._starts) else len(self))
            self.file.read(found[row - start : end - start], self._offsets[piece] + (row - self._starts[piece]) * size)
            row = end
        return found


def _content(values: Tensor) -> memoryview:
    """Return the bytes of a tensor, taken as integers, since NumPy has no bfloat16."""
    integers: Any = values.detach().view(_AS_BYTES[values.dtype.itemsize]).numpy()
    return memoryview(integers).cast("B")
