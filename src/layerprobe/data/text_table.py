"""Tables of labelled texts: files of the usual kinds, and data sets of the Hugging Face hub."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from layerprobe.data.errors import CorruptDataError, DataError, DataNotFoundError
from layerprobe.formatting import first_line


class AbstractTable(ABC):
    """Gives rows with named columns."""

    @abstractmethod
    def read(self, root: Path) -> pd.DataFrame:
        """Read every row, in their own order.

        Args:
            root: Folder that a relative path starts from.

        Raises:
            DataError: If they cannot be read.
        """


@dataclass(frozen=True)
class TextFile(AbstractTable):
    """A file of CSV, TSV, JSON or JSON lines, by its ending.

    Values inside nested JSON have columns of their own: `{"a": {"b": 1}}` is the column `a.b`.

    Attributes:
        path: The file.
        rows: The key that the rows lie under, where a JSON file is not a list.
    """

    path: str
    rows: str | None = None

    def read(self, root: Path) -> pd.DataFrame:
        """See `AbstractTable.read`."""
        path = _existing(root, self.path)
        readers = {".csv": _separated, ".tsv": _separated, ".json": self._json, ".jsonl": self._json}
        reader = readers.get(path.suffix.lower())
        if reader is None:
            raise DataError(
                f"{path} ends in {path.suffix or 'nothing'!r}: expected {', '.join(readers)}. Rename it, or read it "
                "with a table of its own: data.table._target_=package.Class"
            )
        try:
            frame = reader(path)
        except UnicodeDecodeError as error:
            raise _of_another_encoding(path, error) from error
        except (ValueError, KeyError) as error:
            reason = first_line(error)
            raise CorruptDataError(f"{path} is no readable {path.suffix[1:].upper()}: {reason}. Replace it.") from error
        return frame

    def _json(self, path: Path) -> pd.DataFrame:
        text = path.read_text(encoding="utf-8")
        try:
            content: Any = json.loads(text)
        except json.JSONDecodeError:
            content = [json.loads(line) for line in text.splitlines() if line.strip()]
        if self.rows is not None and isinstance(content, dict):
            if self.rows not in content:
                raise KeyError(f"no rows under {self.rows!r}, there is {', '.join(map(repr, content))}")
            content = content[self.rows]
        if not isinstance(content, list):
            raise ValueError("not a list of rows; name the key that they lie under with data.table.rows=KEY")
        return pd.json_normalize(content)


@dataclass(frozen=True)
class LabelledLines(AbstractTable):
    """A text file whose every line is a label, a space and a text; the columns are `label` and `text`.

    Attributes:
        path: The file.
    """

    path: str

    def read(self, root: Path) -> pd.DataFrame:
        """See `AbstractTable.read`."""
        path = _existing(root, self.path)
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise _of_another_encoding(path, error) from error
        lines = [line.split(maxsplit=1) for line in text.split("\n") if line.strip()]
        if bad := next((line for line in lines if len(line) != 2), None):
            raise CorruptDataError(f"{path} has the line {' '.join(bad)!r}: expected a label, a space and a text.")
        return pd.DataFrame(lines, columns=["label", "text"])


@dataclass(frozen=True)
class HubDataset(AbstractTable):
    """A data set of the Hugging Face hub, or a folder that `datasets.load_dataset` reads.

    Attributes:
        name: Name or folder.
        split: Which of its splits.
        config: Which of its configurations.
        revision: Commit, tag or branch.
    """

    name: str
    split: str = "train"
    config: str | None = None
    revision: str | None = None

    def read(self, root: Path) -> pd.DataFrame:
        """See `AbstractTable.read`."""
        try:
            import datasets
        except ImportError as error:
            raise DataError(
                "A data set of the Hugging Face hub needs the package `datasets`: pip install 'layerprobe[text]'. "
                "Or give a file: data/table=file data.table.path=PATH"
            ) from error
        local = root / self.name
        name = str(local) if local.is_dir() else self.name
        try:
            rows = datasets.load_dataset(name, self.config, split=self.split, revision=self.revision)
        except Exception as error:  # of many kinds, from several packages
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise DataNotFoundError(
                f"The data set {name!r} could not be read: {reason} Check the name, the network and your access "
                "(hf auth login), or give a folder or file of it."
            ) from error
        return rows.to_pandas()


def _existing(root: Path, name: str) -> Path:
    path = root.expanduser() / Path(name).expanduser()
    if not path.is_file():
        raise DataNotFoundError(
            f"{path} is not there. Give the folder that holds it (data.root=DIR) "
            "or its own path (data.table.path=FILE)."
        )
    return path


def _of_another_encoding(path: Path, error: UnicodeDecodeError) -> CorruptDataError:
    return CorruptDataError(f"{path} is not encoded as UTF-8: {error}. Save it as UTF-8.")


def _separated(path: Path) -> pd.DataFrame:
    separator, name = ("\t", "a tab") if path.suffix.lower() == ".tsv" else (",", "a comma")
    frame = pd.read_csv(path, sep=separator, dtype=str, keep_default_na=False)
    if len(frame.columns) == 1 and (other := next((sign for sign in ";\t,|" if sign in frame.columns[0]), None)):
        raise ValueError(f"its columns are divided by {other!r} and not by {name}")
    return frame
