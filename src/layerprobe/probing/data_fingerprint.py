"""Fingerprint of the samples of a split, which says whether two runs were tested on the same ones."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from enum import Enum
from typing import Any

import numpy as np
import torch
from torch import Tensor

from layerprobe.probing.capture.content_hash import content_hash, package_version, raw_bytes
from layerprobe.probing.capture.pytree import named_tensors, parts

_MOST_VALUES = 64
"""Values of a sample that are read, evenly spaced over it: enough to tell it from another, and soon done."""
_MASK = "attention_mask"
_ONE = (str, bytes, int, float)
_PLAIN = (*_ONE, type(None), complex, slice, range, Enum, np.generic, torch.dtype, torch.device)


class Fingerprint:
    """Hashes samples in their order as their batches pass by, however they are divided into batches.

    Of each tensor of a batch, inputs and targets alike, it reads up to 64 values of each sample, and of texts and
    numbers in a list all. Where a mapping holds an `attention_mask`, padding is left out.

    Args:
        whole: Whether it reads every value, bit for bit, where in the sequence each token stands, the classes of what
            holds them, and whatever attributes that has: equal then means that the samples are the same, and not only
            that they may be told from others. What is neither a tensor, an array, plain, nor made of such cannot be
            read.
    """

    def __init__(self, *, whole: bool = False) -> None:
        self._whole = whole
        self.restart()

    def restart(self) -> None:
        """Forget what was taken in."""
        self._parts: dict[str, Any] = {}
        self._padding: dict[str, Any] = {}
        self._kinds: dict[str, str] = {}
        self._classes: dict[type, str] = {}
        self._place = self._read = 0
        self._n: int | None = None
        self._readable = True

    def update(self, batch: Any) -> None:
        """Take in the samples of a batch; one that cannot be read leaves them all without a fingerprint."""
        try:
            if self._readable:
                self._place, self._n = self._read, None
                self._walk(batch, "", {})
        except (RuntimeError, TypeError, ValueError):
            self._readable = False

    def digest(self, *, padding: bool = False) -> str:
        """Return 32 hexadecimal digits, equal for equal samples in equal order; empty where nothing could be read.

        Args:
            padding: Whether what is read whole counts with its padding, and with the shapes that it comes in.
        """
        if not self._parts or not self._readable:
            return ""
        whole = hashlib.blake2b(digest_size=16)
        for path in sorted(self._parts):
            whole.update(f"{path}\0".encode() + self._parts[path].digest())
        for path in sorted(self._padding if padding else ()):
            whole.update(f"padding of {path}\0".encode() + self._padding[path].digest())
        return whole.hexdigest()

    def _walk(self, value: Any, path: str, siblings: Mapping[str, Any]) -> None:
        if isinstance(value, Tensor | np.ndarray):
            self._add(path, value, siblings)
        elif self._whole and isinstance(value, _PLAIN):
            self._say(path, f"{type(value).__qualname__} {value!r}", placed=True)
        elif isinstance(value, _ONE):
            self._hash(path).update(f"{value!r}\0".encode())
        elif self._whole:
            self._parts_of(value, path)
        elif isinstance(value, Mapping):
            self._named(value, path)
        elif isinstance(value, list | tuple):
            single = all(isinstance(item, _ONE) for item in value)
            for i, item in enumerate(value):
                self._walk(item, path if single else f"{path}/{i}", {})
        elif is_dataclass(value) and not isinstance(value, type):
            self._named({field.name: getattr(value, field.name, None) for field in fields(value)}, path)
        else:
            self._named({".".join(steps): tensor for steps, tensor in named_tensors(value, state=True)}, path)

    def _named(self, value: Mapping[Any, Any], path: str) -> None:
        siblings = {str(key): item for key, item in value.items()}
        for key, item in value.items():
            self._walk(item, f"{path}/{key}", siblings)

    def _parts_of(self, value: Any, path: str) -> None:
        """Take in all that there is in a value, and what it is.

        Raises:
            TypeError: It cannot be looked into.
        """
        found = parts(value)
        if found is None:
            raise TypeError(f"a {type(value).__name__}")
        if isinstance(value, Mapping | list | tuple) and not package_version(type(value).__module__):
            self._named({f".{name}": part for name, part in getattr(value, "__dict__", {}).items()}, path)
        kind = self._class(type(value))
        if isinstance(value, list | tuple) and all(isinstance(item, _ONE) for item in value):
            self._say(f"{path}!", kind)
            self._list(path, value)
        else:
            self._say(f"{path}!", f"{kind} {[str(key) for key, _ in found]}", placed=True)
            self._named(dict(found), path)

    def _list(self, path: str, items: Sequence[Any]) -> None:
        self._count(path, len(items))
        for item in items:
            self._hash(path).update(f"{item!r}\0".encode())

    def _count(self, path: str, n: int) -> None:
        """Note how many values a batch has; where that is not its number of samples, it matters which batch it is."""
        self._n = n if self._n is None else self._n
        self._read += n
        if n != self._n:
            self._hash(path).update(f"{n} at {self._place}\0".encode())

    def _say(self, path: str, words: str, *, placed: bool = False) -> None:
        """Take in what holds for whole batches, once until it changes: it is all the same how samples are divided.

        Args:
            path: What it is said of.
            words: What is said.
            placed: Whether to say from which sample on; tensors that are read under the same path say it themselves.
        """
        if self._kinds.get(path) != words:
            self._kinds[path] = words
            self._hash(path).update(f"{words}{f' at {self._place}' if placed else ''}\0".encode())

    def _class(self, kind: type) -> str:
        if kind not in self._classes:
            self._classes[kind] = content_hash(kind)
        return self._classes[kind]

    def _add(self, path: str, value: Tensor | np.ndarray, siblings: Mapping[str, Any]) -> None:
        if isinstance(value, np.ndarray) and value.dtype.kind not in ("biufc" if self._whole else "biuf"):
            items = value.ravel().tolist()
            if self._whole:
                self._say(f"{path}!", f"{value.dtype} {value.shape[1:]}", placed=True)
                self._walk(items, path, {})
            for item in () if self._whole else items:
                self._walk(item, path, {})
            return
        tensor = torch.as_tensor(value).detach()
        if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_nested:
            raise TypeError(f"a tensor of layout {tensor.layout}")
        key = path.rsplit("/", 1)[-1]
        mask = siblings.get(f"decoder_{_MASK}" if key.startswith("decoder_") else _MASK)
        masked = isinstance(mask, Tensor) and mask.ndim == 2 and tensor.shape[:2] == mask.shape
        of_sample = tuple(tensor.shape[2 if masked else 1 :])
        kind = f"{self._class(type(value))} {tensor.dtype}" if self._whole else ""
        if tensor.is_complex():
            tensor = torch.view_as_real(tensor.resolve_conj())
        if self._whole and not tensor.ndim:
            self._say(path, f"{kind} {tensor.item()!r}", placed=True)
            return
        if masked and mask is not None:
            held = mask.bool().to(tensor.device)
            self._hash(f"{path}#").update(_bytes(held.sum(1)))
            if self._whole:
                self._hash(f"{path}@").update(_bytes(held.nonzero()[:, 1]))
                self._pad(path, tensor)
            rows = tensor[held].flatten(1) if tensor.ndim > 2 else tensor[held][:, None]
        else:
            rows = tensor.flatten(1) if tensor.ndim > 1 else tensor.reshape(-1, 1)
        if self._whole:
            self._count(path, len(tensor))
            self._say(path, f"{kind} {of_sample}")
            self._hash(path).update(raw_bytes(rows))
            return
        self._hash(path).update(_bytes(rows[:, :: max(1, -(-rows.shape[1] // _MOST_VALUES))]))

    def _pad(self, path: str, tensor: Tensor) -> None:
        """Take in a tensor with what its padding holds."""
        shape = f"{tuple(tensor.shape[1:])}\0"
        padding = self._padding.setdefault(path, hashlib.sha256())
        if self._kinds.get(f"{path}@") != shape:
            self._kinds[f"{path}@"] = shape
            padding.update(shape.encode())
        padding.update(raw_bytes(tensor))

    def _hash(self, path: str) -> Any:
        if path not in self._parts:
            self._parts[path] = hashlib.sha256() if self._whole else hashlib.blake2b(digest_size=16)
        return self._parts[path]


def _bytes(values: Tensor) -> bytes:
    plain = values.to("cpu", torch.float32 if values.is_floating_point() else torch.int64)
    return plain.contiguous().numpy().tobytes()
