"""Files of layers: one of a kind for each layer, in the folder of its checkpoint."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from layerprobe.files.atomic import atomic
from layerprobe.files.safe_names import safe_name
from layerprobe.types import ProbeRecord


@dataclass(frozen=True)
class LayerFiles:
    """Files of one kind in a folder of results: `<kind>/<checkpoint>/<depth>_<layer><suffix>`."""

    kind: str
    suffix: str

    def folder(self, directory: Path, checkpoint: str) -> Path:
        """Return the folder of a checkpoint's files."""
        return directory / self.kind / safe_name(checkpoint)

    def find(self, directory: Path, checkpoint: str, layer: str) -> list[Path]:
        """Find the files of a layer, whatever its depth was; of more than one, all but one are left from a kill."""
        name = re.compile(rf"\d+_{re.escape(safe_name(layer) + self.suffix)}")
        found = self.folder(directory, checkpoint).glob(f"*{self.suffix}")
        return sorted(file for file in found if name.fullmatch(file.name))

    def put(self, directory: Path, record: ProbeRecord, write: Callable[[Path], object] | None) -> None:
        """Write the file of a layer, atomically, in place of earlier ones, whatever their depth was.

        `write` writes it where it is told to; None puts nothing in place of the earlier ones.

        Raises:
            OSError: If it cannot be written; the earlier ones stay.
        """
        name = f"{record.depth:03d}_{safe_name(record.layer)}{self.suffix}"
        written = self.folder(directory, record.checkpoint) / name
        if write is not None:
            with atomic(written) as temporary:
                write(temporary)
        for file in self.find(directory, record.checkpoint, record.layer):
            if write is None or file != written:
                file.unlink()

    def layers(self, directory: Path) -> set[tuple[str, str]]:
        """List the checkpoints and layers that have a file, by their `safe_name`."""
        found = (directory / self.kind).glob(f"*/*{self.suffix}")
        return {(file.parent.name, file.name.partition("_")[2].removesuffix(self.suffix)) for file in found}
