"""Labelled texts: chosen from a table, noised, and divided."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from textwrap import shorten

import numpy as np
import pandas as pd
from sklearn.model_selection import GroupShuffleSplit, train_test_split

from layerprobe.data.errors import DataError
from layerprobe.types import Split

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Examples:
    """Texts with their classes, those of the first class first, else in the order of the table.

    Attributes:
        texts: The texts.
        targets: Class index of each.
        groups: What each belongs together with others by; None where each stands alone.
        classes: The label of each class index.
        spans: By name, where a part of each text begins and ends, in characters `(n, 2)`.
    """

    texts: list[str]
    targets: np.ndarray
    groups: np.ndarray | None
    classes: tuple[str, ...]
    spans: Mapping[str, np.ndarray] = field(default_factory=dict)

    def take(self, indices: np.ndarray) -> Examples:
        """Take some of the texts, in the order given."""
        groups = None if self.groups is None else self.groups[indices]
        spans = {name: ends[indices] for name, ends in self.spans.items()}
        return Examples([self.texts[i] for i in indices], self.targets[indices], groups, self.classes, spans)


def examples_of(
    table: pd.DataFrame,
    text: str | Sequence[str],
    label: str,
    classes: Sequence[object] | None = None,
    group: str | None = None,
    remove: str | None = None,
    spans: Mapping[str, str | Sequence[int | None]] | None = None,
) -> Examples:
    """Choose columns and classes.

    Args:
        table: The rows.
        text: Column of the text, or several that are joined by a space.
        label: Column of the label.
        classes: Labels in the order of their class index; rows with any other label are left out. By default every
            label, sorted.
        group: Column whose equal values belong together.
        remove: Regular expression; what it matches is taken out of each text column.
        spans: By name, a part of each text: the column that holds its words, or the characters `[start, end]` as in a
            Python slice.

    Raises:
        DataError: If a column or a label is not there, there are not two classes, a class has no text, or a span is
            not in a text.
    """
    columns = [text] if isinstance(text, str) else list(text)
    spans = spans or {}
    parts_of_text = [column for column in spans.values() if isinstance(column, str)]
    given = {"text": columns, "label": [label], "group": [group] if group else [], "spans.NAME": parts_of_text}
    _check_columns(table, given)
    labels = table[label].where(table[label].notna(), "").map(str).to_numpy()
    named = _classes(labels, label, classes)

    def words(column: str) -> pd.Series:
        part = table[column].fillna("").map(str)
        return part.str.replace(remove, "", regex=True) if remove else part

    parts = [words(name) for name in columns]
    texts = np.array([" ".join(row).strip() for row in zip(*parts, strict=True)], dtype=object)
    rows_of = {name: np.flatnonzero((labels == name) & (texts != "")) for name in named}
    if empty := [name for name, of_class in rows_of.items() if not len(of_class)]:
        raise DataError(
            f"No row with the label {empty[0]!r} has a text in {' or '.join(map(repr, columns))}. Choose the column "
            "that has them with data.text=…, or the labels with data.classes=[…]"
        )
    rows = np.concatenate(list(rows_of.values()))
    if len(rows) < len(labels):
        log.info("%d of %d rows are left out: of another class, or without text", len(labels) - len(rows), len(labels))
    place = {name: i for i, name in enumerate(named)}
    return Examples(
        [str(one) for one in texts[rows]],
        np.array([place[name] for name in labels[rows]], dtype=np.int64),
        table[group].map(str).to_numpy()[rows] if group else None,
        named,
        {
            name: _ends(name, rows, texts, words(where) if isinstance(where, str) else where)
            for name, where in spans.items()
        },
    )


def _check_columns(table: pd.DataFrame, wanted: Mapping[str, Sequence[str]]) -> None:
    for option, names in wanted.items():
        for name in names:
            if name not in table.columns:
                found = ", ".join(map(str, table.columns))
                raise DataError(f"There is no column {name!r}: found {found}. Choose one of them with data.{option}=…")


def _classes(labels: np.ndarray, label: str, chosen: Sequence[object] | None) -> tuple[str, ...]:
    """List the classes in their order: at least two, all of which some row has."""
    known = set(labels)
    named = tuple(map(str, chosen)) if chosen is not None else tuple(sorted(known - {""}))
    if missing := [name for name in named if name not in known]:
        some = ", ".join(repr(value) for value in sorted(known)[:8])
        raise DataError(f"The column {label!r} has no label {missing[0]!r}: found {some}. Choose with data.classes=[…]")
    if len(named) < 2:
        raise DataError(
            f"The column {label!r} has {f'one class only, {named[0]!r}' if named else 'no label'}. A probe tells at "
            "least two classes apart: give a table or data.classes with more."
        )
    return named


def _ends(name: str, rows: np.ndarray, texts: np.ndarray, where: pd.Series | Sequence[int | None]) -> np.ndarray:
    """Find where a span begins and ends in the text of each of these rows."""
    found = []
    for row in rows:
        text = texts[row]
        if isinstance(where, pd.Series):
            wanted = where.iloc[row].strip()
            start = text.find(wanted) if wanted else -1
            end = start + len(wanted)
            what = f"its words {wanted!r} are"
        else:
            start, end, _ = slice(*where).indices(len(text))
            what = f"the characters {list(where)} are"
        if not 0 <= start < end:
            raise DataError(
                f"The span {name!r} is not in row {row}: {what} not in {text[:80]!r}. Choose a column whose words "
                f"every text has, or characters: data.spans={{{name}: COLUMN}}, data.spans={{{name}: [START,END]}}; or "
                "leave the row out of the table."
            )
        found.append((start, end))
    return np.array(found, dtype=np.int64).reshape(-1, 2)


def limited(examples: Examples, per_class: int | None, balanced: bool, seed: int) -> Examples:
    """Keep at most so many of each class, in their order.

    The first `per_class` of each, or all; with `balanced`, as many of the larger classes are drawn as the smallest one
    has.
    """
    kept = [np.flatnonzero(examples.targets == i)[:per_class] for i in range(len(examples.classes))]
    if balanced:
        generator, size = np.random.default_rng((seed, 0)), min(map(len, kept))
        kept = [np.sort(generator.choice(one, size, replace=False)) for one in kept]
    return examples.take(np.concatenate(kept))


def noised(texts: Sequence[str], noise: Sequence[str], seed: int) -> list[str]:
    """Put one of several strings, drawn anew for each, directly before every text; none leaves the texts as they are.

    Source: Jin et al. (2024), whose strings are "aaa" and "bbb".
    """
    if not noise:
        return list(texts)
    drawn = np.random.default_rng((seed, 1)).integers(len(noise), size=len(texts))
    return [noise[i] + text for i, text in zip(drawn, texts, strict=True)]


def divide(
    examples: Examples,
    train_size: int | float | None,
    val_size: int | float,
    test_size: int | float,
    stratified: bool,
    seed: int,
) -> dict[Split, np.ndarray]:
    """Divide examples into splits that no group straddles.

    The test split is scikit-learn's `train_test_split(range(n), test_size=…, random_state=seed)`. Sizes are shares or
    numbers of examples; without one, train gets all that are left. With `stratified`, each split has the classes in the
    same shares, unless there are groups.

    Returns:
        Ascending indices of each split; no validation split where its size is 0. With groups, sizes are shares of
        the groups.

    Raises:
        DataError: If a split or class is left empty.
    """
    n = len(examples.targets)
    n_val, n_test = _count(val_size, n), _count(test_size, n)
    n_train = n - n_val - n_test if train_size is None else _count(train_size, n)
    if min(n_train, n_test) < 1 or n_val < 0 or n_train + n_val + n_test > n:
        raise DataError(
            f"{n:,} texts cannot be divided into {n_train:,} for train, {n_val:,} for val and {n_test:,} for test. "
            "Choose data.train_size, data.val_size and data.test_size to fit."
        )

    def apart(indices: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
        if size == 0:
            return indices, indices[:0]
        if examples.groups is not None:
            splitter = GroupShuffleSplit(1, test_size=size / len(indices), random_state=seed)
            large, small = next(splitter.split(indices, groups=examples.groups[indices]))
            return indices[large], indices[small]
        strata = examples.targets[indices] if stratified else None
        large, small = train_test_split(indices, test_size=size, random_state=seed, stratify=strata)
        return large, small

    try:
        rest, test = apart(np.arange(n), n_test)
        train, val = apart(np.sort(rest), n_val)
    except ValueError as error:
        reason = shorten(str(error), 300, placeholder=" …")
        raise DataError(
            f"The texts cannot be divided: {reason} Choose other sizes, or data.stratified=false or data.group=null."
        ) from error
    if n_train < len(train):
        train = np.random.default_rng((seed, 2)).choice(train, n_train, replace=False)
    parts: dict[Split, np.ndarray] = {"train": np.sort(train), "val": np.sort(val), "test": np.sort(test)}
    return {split: part for split, part in parts.items() if len(part)}


def _count(size: int | float, n: int) -> int:
    """Count texts: a share below 1 of n, or a number."""
    return round(size * n) if 0 < size < 1 else int(size)
