"""Store of features on disk, which later probes find by what made them.

Each entry is one file of the safetensors format: a table of named arrays behind a header in JSON, which any program
reads without running code, which is mapped into memory instead of read, and which does not open unless it is whole.

```
DIR/features.json                                   the version of this layout
DIR/<network>/<hash of the rest>.safetensors        features of one layer and split, made in one way
DIR/<network>/<hash of the rest>.json               which layers the network has
```
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from layerprobe.files.atomic import atomic, remove_stray, write_bytes
from layerprobe.probing.features.row_blocks import AbstractRows, Features, placed_blocks

FORMAT = 4
"""Version of the layout, of the metadata, and of what an address is made of."""

_MARK = "features.json"
_HASH = re.compile("[0-9a-f]{32}")
"""Names of the store's own folders and files: whatever else somebody puts there is left alone."""
_FEATURES = "features"
_STRAY = 24 * 3600.0
"""Seconds after which a temporary file is that of a process that was killed."""


class FeatureStoreError(ValueError):
    """A directory is no store of features, or one that another version wrote."""


@dataclass(frozen=True)
class StoredFeatures:
    """What is kept under one address.

    Attributes:
        file: Where it is.
        about: What made it, as text: network, layer, split, reduction, samples, ….
        size: Bytes on disk.
        used: When a probe last used it, in seconds since 1970.
    """

    file: Path
    about: Mapping[str, str]
    size: int
    used: float

    @property
    def network(self) -> str:
        """Hash of the network."""
        return self.file.parent.name


class FeatureStore:
    """A folder of features, shared by any number of processes.

    An entry's name is a hash of what made it, so that two processes that keep the same write the same file: each under
    a name of its own, which takes its place when it is whole and on the disk. No lock is needed.

    Raises:
        FeatureStoreError: It holds something else, or what another version kept.
        OSError: It cannot be read.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        try:
            version = json.loads((directory / _MARK).read_bytes())["format"]
        except FileNotFoundError:
            version = FORMAT
            found = {path.name for path in directory.iterdir() if path.name[0] != "."} if directory.exists() else set()
            if found and _MARK not in found:  # another process may be making it: the mark comes first
                raise FeatureStoreError(
                    f"{directory} holds other files than kept features. Give a folder of its own, which may be missing."
                ) from None
        except (ValueError, KeyError, TypeError):
            version = None
        if version != FORMAT:
            which = "an unknown format" if version is None else f"format {version}"
            raise FeatureStoreError(
                f"The features in {directory} were kept by another version of layerprobe ({which}; this one has format "
                f"{FORMAT}). They are left as they are: give another folder, or remove this one."
            )

    @cached_property
    def _marked(self) -> bool:
        if not (self.directory / _MARK).exists():
            write_bytes(self.directory / _MARK, json.dumps({"format": FORMAT}).encode())
        return True

    def knows(self, network: str) -> bool:
        """Tell whether anything is kept of a network, by its hash."""
        return (self.directory / network).is_dir()

    def file(self, network: str, *address: str, kind: str = "safetensors") -> Path:
        """Say where something is kept, by the hash of its network and what made it; `kind` is the file's ending."""
        name = hashlib.sha256("\0".join(address).encode()).hexdigest()[:32]
        return self.directory / network / f"{name}.{kind}"

    def find(self, file: Path) -> tuple[Float[Tensor, "n d"], Mapping[str, str]] | None:
        """Return the features in a file, mapped into memory, and what is known of them; None where there are none.

        Writing to them leaves the file as it is. A file that is damaged counts as none.
        """
        try:
            with safe_open(file, framework="pt") as opened:
                found = opened.get_tensor(_FEATURES), dict(opened.metadata() or {})
        except (OSError, SafetensorError):
            return None
        with suppress(OSError):  # of another user
            os.utime(file)
        return found

    def keep(self, file: Path, features: Features, about: Mapping[str, str]) -> None:
        """Write features, all or none.

        Raises:
            OSError: They cannot be written; nothing is left of them.
        """
        if not self._marked:
            return
        file.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=file.parent) as scratch, atomic(file) as temporary:
            values = features if isinstance(features, Tensor) else _whole(features, scratch)
            try:
                save_file({_FEATURES: values.detach().cpu().contiguous()}, temporary, dict(about))
            except SafetensorError as error:
                raise OSError(str(error).rpartition("I/O error: ")[2]) from error
            shutil.copymode(self.directory / _MARK, temporary)  # safetensors lets nobody else read what it writes

    def find_text(self, file: Path) -> Any:
        """Return what is in a JSON file; None where there is none, or a damaged one."""
        try:
            return json.loads(file.read_bytes())
        except (OSError, ValueError):
            return None

    def keep_text(self, file: Path, content: Any) -> None:
        """Write a JSON file.

        Raises:
            OSError: It cannot be written.
        """
        if self._marked:
            write_bytes(file, json.dumps(content).encode())

    def entries(self) -> list[StoredFeatures]:
        """List everything that is kept, that which was used last at the end."""
        found = []
        for file in (file for folder in self._networks() for file in _own(folder, "safetensors")):
            with suppress(OSError, SafetensorError):
                with safe_open(file, framework="np") as opened:
                    about = dict(opened.metadata() or {})
                stat = file.stat()
                found.append(StoredFeatures(file, about, stat.st_size, stat.st_mtime))
        return sorted(found, key=lambda entry: entry.used)

    def remove(self, entries: Iterable[StoredFeatures]) -> None:
        """Remove entries, and what is left behind by processes that were killed.

        A probe that reads one of them goes on reading.

        Raises:
            OSError: One cannot be removed.
        """
        for entry in entries:
            entry.file.unlink(missing_ok=True)
        for folder in self._networks():
            remove_stray(folder, age=_STRAY)
        for folder in self._networks():
            if not _own(folder, "safetensors"):
                for file in _own(folder, "json"):
                    file.unlink(missing_ok=True)
                with suppress(OSError):  # something is being written there
                    folder.rmdir()

    def _networks(self) -> list[Path]:
        return [path for path in self.directory.glob("*") if _HASH.fullmatch(path.name) and path.is_dir()]


def _own(folder: Path, kind: str) -> list[Path]:
    return [path for path in folder.glob(f"*.{kind}") if _HASH.fullmatch(path.stem)]


def _whole(rows: AbstractRows, scratch: Any) -> Tensor:
    """Write rows that are not in memory in one piece on disk, and return them as they are there."""
    # Room is taken beforehand: to write to mapped memory on a full disk ends the process.
    size = max(1, rows.shape[0] * rows.shape[1] * rows.dtype.itemsize)
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(scratch.fileno(), 0, size)
    else:  # macOS
        os.ftruncate(scratch.fileno(), size)
    values = torch.from_numpy(np.memmap(scratch, str(rows.dtype).removeprefix("torch."), "r+", shape=rows.shape))
    for place, block in placed_blocks(rows):
        values[place] = block
    return values
