"""Sources of a split: what it may be given as, and the batches or tensors that it is read as."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from types import NoneType
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Subset, TensorDataset

from layerprobe.probing.batches import Data, samples_of
from layerprobe.probing.capture.pytree import named_tensors
from layerprobe.statistics.strata import stratified_order
from layerprobe.types import SPLITS, Split

ACCEPTED = (
    'a data module; or {"train": …, "val": …, "test": …} of DataLoaders, Datasets, or pairs (inputs, targets) of '
    "tensors, NumPy arrays, pandas columns or lists; or one Dataset or pair, which is divided. Several test sets go by "
    'their names: {…, "test": {"in": …, "shifted": …}}'
)
_VALIDATION = ("validation", "valid", "dev")
"""What others call the validation split."""
_MISSING = "Leave out samples without a value, or fill them in first."
_BATCH = 256
_CONSTANTS = (int, float, str, NoneType)


def sources_of(
    data: Any, *, tests: Mapping[str, Any] | None = None, seed: int = 0, dtype: torch.dtype = torch.float32
) -> Data:
    """Lay out what was given as the data of each split.

    Arrays become tensors; numbers that are floating in NumPy, pandas or a list get the network's type, so that NumPy's
    float64 does not meet a float32 network. Labels that are words are numbered in sorted order, over all splits.

    Args:
        data: The splits, or one data set without splits: three fifths of it are for train, one for val, one for test,
            with the classes in their shares where targets are a pair's and few. What is given as test may be several
            test sets by name, of which the first is the primary one.
        tests: Further test sets, by name.
        seed: Seed of that division.
        dtype: What floating-point inputs become.

    Returns:
        A DataLoader, a pair of tensors or what was given, for each split and test set that is not None.

    Raises:
        TypeError: If it is nothing of the kind; naming what is accepted.
        ValueError: If inputs and targets are not equally many, a split has another name, or a test set one that it
            cannot have.
    """
    data, words = _unpacked(data), class_words(data, tests)
    if isinstance(data, Mapping):
        return {split: _source(given, split, dtype, words) for split, given in _by_name(data, tests).items()}
    parts = division_of(data, seed=seed)
    if parts is None:
        raise TypeError(f"The data are {_described(data)}. Give {ACCEPTED}.")
    further = {name: _source(one, name, dtype, words) for name, one in named_tests(tests or {}, taken=parts).items()}
    if not _is_pair(data):
        return {**{split: _loader(Subset(data, rows.tolist())) for split, rows in parts.items()}, **further}
    inputs, targets = _source(data, "train", dtype, words)
    n = len(targets)
    return {**{split: (samples_of(inputs, rows, n), targets[rows]) for split, rows in parts.items()}, **further}


def named_tests(given: Mapping[Any, Any], taken: Collection[str] = ()) -> dict[Split, Any]:
    """Check the names of test sets, and leave out those that are None.

    Raises:
        ValueError: Naming the name that a test set cannot have.
    """
    for name in given:
        if not isinstance(name, str) or not name.strip() or "/" in name:
            raise ValueError(f"A test set is called {name!r}. Give a name of at least one letter, without '/'.")
        if name in taken:
            raise ValueError(f"Two test sets are called {name!r}. Give each a name of its own.")
        if name in ("train", "val") or (name == "test" and (taken or next(iter(given)) != name)):
            raise ValueError(f"A test set is called {name!r}, as a split is. Give it another name, such as 'shifted'.")
    return {name: found for name, found in given.items() if found is not None}


def with_known_names(data: Mapping[Any, Any]) -> dict[Any, Any]:
    """Call the validation split `val`, where it goes by another of its usual names and none is called so."""
    return {"val" if name in _VALIDATION and "val" not in data else name: given for name, given in data.items()}


def _by_name(data: Mapping[Any, Any], tests: Mapping[str, Any] | None) -> dict[Split, Any]:
    """Train, val and every test set, where they are given."""
    data = with_known_names(data)
    if unknown := [name for name in data if name not in SPLITS]:
        raise ValueError(f"The data have a split {unknown[0]!r}. Call them train, val and test, and leave out others.")
    first = data.get("test")
    several = named_tests(first) if isinstance(first, Mapping) else {} if first is None else {"test": first}
    found = {split: data[split] for split in ("train", "val") if data.get(split) is not None}
    return found | several | named_tests(tests or {}, taken=several)


def division_of(data: Any, *, seed: int = 0) -> dict[Split, Tensor] | None:
    """Say which samples of data without splits `sources_of` takes for each split; None where the data have splits."""
    data = _unpacked(data)
    if _is_pair(data):
        targets = _targets(data[1], class_words(data))
        return _fifths(len(targets), seed, targets)
    if _is_dataset(data) and hasattr(data, "__len__"):
        return _fifths(len(data), seed, None)
    return None


def class_words(data: Any, tests: Mapping[str, Any] | None = None) -> list[str] | None:
    """Return what the classes are called, by the numbers that `sources_of` gives them; None where they are numbers."""
    splits = _by_name(data if isinstance(data, Mapping) else {"train": data}, tests)
    words = _words({split: given for split, given in splits.items() if _is_pair(given)})
    if words is not None and not _is_pair(splits.get("train")):
        raise TypeError(
            f"The targets of a test set are words ({', '.join(words[:3])}, …), and nothing says which class each is. "
            "Give class indices, numbered as those of train."
        )
    return words


def is_source(given: Any) -> bool:
    """Tell whether something is read batch by batch: a DataLoader, or what `sources_of` makes one of."""
    return isinstance(given, DataLoader) or _is_dataset(given)


def as_targets(given: Any) -> Any:
    """Turn an array or a list of numbers into a tensor, and leave anything else as it is."""
    if not _are_targets(given):
        return given
    found = _array(given)
    return _tensor(found, torch.float64) if found.dtype.kind in "biuf" else given


def _unpacked(given: Any) -> Any:
    """Return the pair that a TensorDataset holds; anything else as it is."""
    return given.tensors if isinstance(given, TensorDataset) and len(given.tensors) == 2 else given


def _source(given: Any, split: Split, dtype: torch.dtype, words: Sequence[str] | None) -> Any:
    given = _unpacked(given)
    if _is_pair(given):
        _check_index(given[0], given[1], split)
        inputs, targets = _inputs(given[0], len(given[1]), dtype), _targets(given[1], words)
        count = {len(part) for part in _parts(inputs) if part.ndim}
        if not count:
            raise TypeError(f"The inputs of the {split} split are {_described(given[0])}. Give {ACCEPTED}.")
        if count != {len(targets)}:
            raise ValueError(
                f"The {split} split has {' and '.join(f'{n:,}' for n in sorted(count))} inputs and {len(targets):,} "
                "targets. Give one target for each sample, with the samples along the first axis."
            )
        return inputs, targets
    if _is_dataset(given):
        return _loader(given)
    alone = isinstance(given, str | Mapping | Tensor) or _is_array(given)
    if isinstance(given, Iterable) and not alone:
        return given
    raise TypeError(f"The {split} split is {_described(given)}. Give {ACCEPTED}.")


def _is_dataset(given: Any) -> bool:
    """Tell whether something gives samples, not batches: by its class, or as DataLoaders tell (Hugging Face's)."""
    return isinstance(given, Dataset) or hasattr(given, "__getitems__")


def _check_index(inputs: Any, targets: Any, split: Split) -> None:
    """Refuse pandas inputs and targets whose rows have names in common, and not one by one."""
    names, of_targets = (getattr(part, "index", None) if hasattr(part, "iloc") else None for part in (inputs, targets))
    if names is None or of_targets is None or names.equals(of_targets):
        return
    left, right = set(names), set(of_targets)
    counted = any(index.tolist() == list(range(len(index))) for index in (names, of_targets))  # pandas' default
    if left == right or not (counted or left.isdisjoint(right)):
        differ = "the same index in different orders" if left == right else "indices that differ"
        raise ValueError(
            f"The inputs and targets of the {split} split have {differ}, and rows are paired by their place. Sort one "
            "as the other, `targets.loc[inputs.index]`, or give `targets.to_numpy()` if their places are right."
        )


def _is_pair(given: Any) -> bool:
    return isinstance(given, tuple | list) and len(given) == 2 and _are_targets(given[1]) and given[0] is not None


def _are_targets(given: Any) -> bool:
    if isinstance(given, Tensor) or _is_array(given):
        return _is_arrow(given) or len(given.shape) > 0
    return _is_list(given) and all(
        isinstance(value, str | int | float | np.generic) or _is_row(value) for value in given
    )


def _is_list(given: Any) -> bool:
    """Tell whether something holds one thing after the other, such as a column of a Hugging Face data set."""
    return isinstance(given, Sequence) and not isinstance(given, str | bytes) and len(given) > 0


def _is_row(value: Any) -> bool:
    """Tell whether something is a row of labels, or a number as a tensor."""
    if isinstance(value, Tensor):
        return value.ndim == 0
    return isinstance(value, list | tuple) and bool(value) and all(isinstance(x, int | float) for x in value)


def _is_array(given: Any) -> bool:
    """Tell whether something turns into an array: NumPy's, pandas' and whatever else does."""
    return isinstance(given, np.ndarray) or (hasattr(given, "to_numpy") and hasattr(given, "shape")) or _is_arrow(given)


def _is_arrow(given: Any) -> bool:
    """Tell a column or table of pyarrow by its package, which need not be imported here."""
    return type(given).__module__.partition(".")[0] == "pyarrow" and hasattr(given, "to_pandas")


def _array(given: Any) -> np.ndarray:
    if _is_arrow(given):
        given = given.to_pandas()
    found = given if isinstance(given, np.ndarray) else given.to_numpy() if hasattr(given, "to_numpy") else None
    if found is None:
        found = np.asarray([value.item() if isinstance(value, Tensor) else value for value in given])
    if isinstance(found, np.ma.MaskedArray) and found.mask.any():
        raise TypeError(f"{int(found.mask.sum()):,} values of an array are masked. {_MISSING}")
    if found.dtype == object and len(found):  # pandas' columns that once held something else
        values = found.ravel().tolist()
        words = [isinstance(value, str) for value in values]
        if any(words) and not all(words):
            other = values[words.index(False)]
            raise TypeError(f"An array holds words and, at {words.index(False)}, {other!r}. {_MISSING}")
        found = np.array(found.tolist())
    if found.dtype.kind == "S":
        found = np.char.decode(found, "utf-8")
    if found.dtype.kind == "f" and found.dtype.itemsize > 8:  # wider than any of torch's
        found = found.astype(np.float64)
    return found if found.dtype.isnative else found.astype(found.dtype.newbyteorder("="))


def _inputs(given: Any, n: int, dtype: torch.dtype) -> Any:
    of_parts = type(given) in (dict, tuple) or (_is_list(given) and not isinstance(given, tuple))
    if not of_parts and named_tensors(given, state=True):
        return given  # a tensor, or a dataclass or another object that a network takes whole
    if isinstance(given, Mapping):
        return {name: _argument(part, n, dtype) for name, part in given.items()}
    if _is_array(given):
        return _tensor(_array(given), dtype)
    if _is_list(given):
        of_samples = len(given) == n and not isinstance(given[0], Mapping | str)
        if of_samples:
            return _stacked(given, dtype)
        if not all(isinstance(part, _CONSTANTS) for part in given):
            return tuple(_argument(part, n, dtype) for part in given)
    raise TypeError(f"The inputs are {_described(given)}. Give {ACCEPTED}.")


def _argument(given: Any, n: int, dtype: torch.dtype) -> Any:
    """Lay out one of several arguments of a network; a single number, word or None goes with every batch as it is."""
    return given if isinstance(given, _CONSTANTS) else _inputs(given, n, dtype)


def _stacked(given: Sequence[Any], dtype: torch.dtype) -> Tensor:
    """Stack samples, one after the other, as one tensor."""
    try:
        if all(isinstance(part, Tensor) for part in given):
            return torch.stack(list(given))
        found = np.asarray([_array(part) if _is_array(part) else part for part in given])
    except (ValueError, RuntimeError) as error:
        shapes = list(dict.fromkeys(str(tuple(part.shape)) for part in given if hasattr(part, "shape")))
        such = f", {shapes[0]} and {shapes[1]}" if shapes[1:] else ""
        raise ValueError(
            f"The inputs are a list of samples of several shapes{such}. "
            "Pad or crop them to one shape, or give a DataLoader whose `collate_fn` makes batches of them."
        ) from error
    return _tensor(found, dtype)


def _targets(given: Any, words: Sequence[str] | None) -> Tensor:
    if isinstance(given, Tensor):
        return given
    found = _array(given)
    if words is not None:
        found = np.searchsorted(np.array(words), found.astype(str))
    return _tensor(found, torch.float64)


def _tensor(array: np.ndarray, dtype: torch.dtype) -> Tensor:
    if array.dtype.kind not in "biuf":
        raise TypeError(
            f"An array of {array.dtype} cannot be read: expected numbers, or words for targets only. "
            "Tokenise or encode the inputs first, and leave out samples without a value."
        )
    tensor = torch.from_numpy(np.require(array, requirements=["C", "W"]))
    return tensor.to(dtype) if tensor.is_floating_point() else tensor


def _words(pairs: Mapping[Any, Any]) -> list[str] | None:
    """List the labels of all splits where they are words, sorted; None where they are numbers."""
    found = [_array(given[1]) for given in pairs.values() if not isinstance(given[1], Tensor)]
    worded = [array for array in found if array.dtype.kind == "U"]
    if not worded:
        return None
    if len(worded) < len(pairs):
        raise TypeError(
            "The targets of one split are words and those of another numbers. Give words or numbers in all."
        )
    return sorted(set().union(*(array.ravel().tolist() for array in worded)))


def _fifths(n: int, seed: int, targets: Tensor | None) -> dict[Split, Tensor]:
    """Choose rows of train, val and test, ascending."""
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(n, generator=generator)
    targets = None if targets is None else targets.cpu()
    if targets is not None and targets.numel() == n:
        targets = targets.reshape(n)
    if targets is not None and targets.ndim == 1 and len(kinds := targets.unique()) <= max(2, n // 5):
        rows = (order[targets[order] == kind].numpy() for kind in kinds)
        starts = (torch.rand((), generator=generator, dtype=torch.float64).item() for _ in kinds)
        order = torch.from_numpy(stratified_order(n, zip(rows, starts, strict=True)))
    if n < 5:
        raise ValueError(f"{n} samples cannot be divided into train, val and test. Give {ACCEPTED}.")
    fifth = round(n / 5)
    test, val, train = order[:fifth], order[fifth : 2 * fifth], order[2 * fifth :]
    return {"train": train.sort().values, "val": val.sort().values, "test": test.sort().values}


def _loader(dataset: Any) -> DataLoader[Any]:
    return DataLoader(dataset, batch_size=_BATCH, generator=torch.Generator().manual_seed(0))


def _parts(inputs: Any) -> list[Tensor]:
    if isinstance(inputs, Tensor):
        return [inputs]
    if not isinstance(inputs, Mapping | tuple):
        return [tensor for _, tensor in named_tensors(inputs, state=True)][:1]
    return [part for value in (inputs.values() if isinstance(inputs, Mapping) else inputs) for part in _parts(value)]


def _described(given: Any) -> str:
    if isinstance(given, tuple | list):
        kinds = ", ".join(type(part).__name__ for part in given[:4]) + (", …" if len(given) > 4 else "")
        if len(given) == 2 and isinstance(given[1], list | tuple):
            odd = [i for i, value in enumerate(given[1]) if not _are_targets([value])]
            kinds += f", with the target {given[1][odd[0]]!r} at {odd[0]}" if odd else ""
        return f"a {type(given).__name__} of {len(given)} ({kinds})"
    return "None" if given is None else f"a {type(given).__name__}"
