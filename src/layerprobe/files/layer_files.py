"""Files of layers: one of a kind for each layer, in the folder of its checkpoint."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from layerprobe.files.atomic import atomic
from layerprobe.files.safe_names import safe_name


@dataclass(frozen=True)
class LayerFiles:
    """Files of one kind in a folder of results: `<kind>/<checkpoint>/<depth>_<layer><suffix>`.

    Attributes:
        kind: Name of their folder.
        suffix: What their names end in, the dot with it.
    """

    kind: str
    suffix: str

    def folder(self, directory: Path, checkpoint: str) -> Path:
        """The folder of a checkpoint's files.

        Args:
            directory: The folder of the results.
            checkpoint: Name of the checkpoint.
        """
        return directory / self.kind / safe_name(checkpoint)

    def find(self, directory: Path, checkpoint: str, layer: str) -> list[Path]:
        """Find the files of a layer, whatever its depth was; of more than one, all but one are left from a kill."""
        name = re.compile(rf"\d+_{re.escape(safe_name(layer) + self.suffix)}")
        found = self.folder(directory, checkpoint).glob(f"*{self.suffix}")
        return sorted(file for file in found if name.fullmatch(file.name))

    @contextmanager
    def write(self, directory: Path, checkpoint: str, depth: int, layer: str) -> Iterator[Path]:
        """Write the file of a layer, atomically, in place of earlier ones, whatever their depth was.

        Yields:
            Where to write it.

        Raises:
            OSError: If it cannot be written; the earlier ones stay.
        """
        file = self.folder(directory, checkpoint) / f"{depth:03d}_{safe_name(layer)}{self.suffix}"
        with atomic(file) as temporary:
            yield temporary
        self.remove(directory, checkpoint, layer, but=file)

    def remove(self, directory: Path, checkpoint: str, layer: str, but: Path | None = None) -> None:
        """Remove the files of a layer, but for one that stays."""
        for file in self.find(directory, checkpoint, layer):
            if file != but:
                file.unlink()

    def layers(self, directory: Path) -> set[tuple[str, str]]:
        """List the checkpoints and layers that have a file, by their `safe_name`."""
        found = (directory / self.kind).glob(f"*/*{self.suffix}")
        return {(file.parent.name, file.name.partition("_")[2].removesuffix(self.suffix)) for file in found}
