"""Resources that a probe may take: no part of what is asked, and without effect on the results."""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Integral
from pathlib import Path

from layerprobe.probing.features.free_memory import memory_budget


@dataclass(frozen=True)
class Resources:
    """What a probe may take.

    A network's own products of matrices may round differently for another number of samples at a time: then
    `batch_size` changes the last bits of features, on which the errors do not depend.

    Attributes:
        batch_size: Samples in one forward pass; by default what the data's loader has.
        max_memory: What features and fits may take beside the network: bytes, a size such as `8GiB`, or a share of the
            free memory such as `0.3`; by default half of what is free. On a GPU it holds for its memory and for the
            machine's own each: features that exceed the one are kept in the other, and beyond that on disk.
        spill_directory: Where; by default the system's directory for temporary files. Nothing stays there.
        keep: Where features stay, so that a later probe of the same network and data finds them; true for `features`
            in the working directory. By default none stay.
        processes: Processes of this machine that probe at the same time: each may take its part of the machine's own
            memory.
    """

    batch_size: int | None = None
    max_memory: int | float | str | None = None
    spill_directory: str | None = None
    keep: str | Path | bool | None = None
    processes: int = 1

    def __post_init__(self) -> None:
        if self.batch_size is not None and not (isinstance(self.batch_size, Integral) and self.batch_size >= 1):
            raise ValueError(f"`batch_size` of the probe is {self.batch_size}. Give a whole number of at least 1.")
        memory_budget(self.max_memory)
        for name, path in (("keep", self.keep_path), ("spill_directory", self.spill_path)):
            if path is not None and path.exists() and not path.is_dir():
                raise ValueError(f"`{name}` of the probe is {path}, a file. Give a folder.")

    @property
    def spill_path(self) -> Path | None:
        """Where features that do not fit are kept; None for the system's directory."""
        return None if self.spill_directory is None else Path(self.spill_directory)

    @property
    def keep_path(self) -> Path | None:
        """Where features stay; None where they do not."""
        return Path("features") if self.keep is True else Path(self.keep) if self.keep else None


DEFAULTS = Resources()
"""The data's own batches, half of the free memory, the system's directory for temporary files."""
