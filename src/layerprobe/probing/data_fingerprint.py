"""Fingerprint of the samples of a split, which says whether two runs were tested on the same ones."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from layerprobe.probing.capture.content_hash import raw_bytes
from layerprobe.probing.capture.pytree import named_tensors

_MOST_VALUES = 64
"""Values of a sample that are read, evenly spaced over it: enough to tell it from another, and soon done."""
_MASK = "attention_mask"


class Fingerprint:
    """Hashes samples in their order as their batches pass by, however they are divided into batches.

    Of each tensor of a batch, inputs and targets alike, it reads up to 64 values of each sample, and of texts and
    numbers in a list all. Where a mapping holds an `attention_mask`, padding is left out.

    Args:
        whole: Whether it reads every value, bit for bit, and where in the sequence each token stands: equal then means
            that the samples are the same, and not only that they may be told from others.
    """

    def __init__(self, *, whole: bool = False) -> None:
        self._whole = whole
        self._parts: dict[str, Any] = {}
        self._kinds: dict[str, str] = {}
        self._readable = True

    def watch(self, batches: Iterable[Any]) -> Iterator[Any]:
        """Take in batches on their way.

        Args:
            batches: Batches of any make, samples first.

        Yields:
            The same batches.
        """
        for batch in batches:
            self.update(batch)
            yield batch

    def update(self, batch: Any) -> None:
        """Take in the samples of a batch; one that cannot be read leaves them all without a fingerprint.

        Args:
            batch: A batch of any make, samples first.
        """
        try:
            if self._readable:
                self._walk(batch, "", {})
        except (RuntimeError, TypeError, ValueError):
            self._readable = False

    def digest(self) -> str:
        """Return 32 hexadecimal digits, equal for equal samples in equal order; empty where nothing could be read."""
        if not self._parts or not self._readable:
            return ""
        whole = hashlib.blake2b(digest_size=16)
        for path in sorted(self._parts):
            whole.update(f"{path}\0".encode() + self._parts[path].digest())
        return whole.hexdigest()

    def _walk(self, value: Any, path: str, siblings: Mapping[str, Any]) -> None:
        if isinstance(value, Tensor | np.ndarray):
            self._add(path, value, siblings)
        elif isinstance(value, str | bytes | int | float):
            self._hash(path).update(f"{value!r}\0".encode())
        elif isinstance(value, Mapping):
            for key, item in value.items():
                self._walk(item, f"{path}/{key}", {str(k): v for k, v in value.items()})
        elif isinstance(value, list | tuple):
            single = all(isinstance(item, str | bytes | int | float) for item in value)
            for i, item in enumerate(value):
                self._walk(item, path if single else f"{path}/{i}", {})
        elif is_dataclass(value) and not isinstance(value, type):
            of = {field.name: getattr(value, field.name, None) for field in fields(value)}
            for key, item in of.items():
                self._walk(item, f"{path}/{key}", of)
        else:
            held = {".".join(steps): tensor for steps, tensor in named_tensors(value, state=True)}
            if self._whole and not held and value is not None:
                raise TypeError(f"a {type(value).__name__}")
            for key, item in held.items():
                self._walk(item, f"{path}/{key}", held)

    def _add(self, path: str, value: Tensor | np.ndarray, siblings: Mapping[str, Any]) -> None:
        if isinstance(value, np.ndarray) and value.dtype.kind not in "biuf":
            for item in value.ravel().tolist():
                self._walk(item, path, {})
            return
        tensor = torch.as_tensor(value).detach()
        if tensor.is_complex():
            tensor = torch.view_as_real(tensor)
        if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_nested:
            raise TypeError(f"a tensor of layout {tensor.layout}")
        key = path.rsplit("/", 1)[-1]
        mask = siblings.get(f"decoder_{_MASK}" if key.startswith("decoder_") else _MASK)
        of_sample = tensor.shape[1:]
        if isinstance(mask, Tensor) and mask.ndim == 2 and tensor.shape[:2] == mask.shape:
            of_sample = tensor.shape[2:]
            held = mask.bool().to(tensor.device)
            self._hash(f"{path}#").update(_bytes(held.sum(1)))
            if self._whole:
                self._hash(f"{path}@").update(_bytes(held.nonzero()[:, 1]))
            rows = tensor[held].flatten(1) if tensor.ndim > 2 else tensor[held][:, None]
        else:
            rows = tensor.flatten(1) if tensor.ndim > 1 else tensor.reshape(-1, 1)
        if self._whole:
            kind = f"{tensor.dtype} {tuple(of_sample)}\0"
            if self._kinds.get(path) != kind:  # said once, so that it is all the same how samples are divided
                self._kinds[path] = kind
                self._hash(path).update(kind.encode())
            self._hash(path).update(raw_bytes(rows))
            return
        self._hash(path).update(_bytes(rows[:, :: max(1, -(-rows.shape[1] // _MOST_VALUES))]))

    def _hash(self, path: str) -> Any:
        if path not in self._parts:
            self._parts[path] = hashlib.sha256() if self._whole else hashlib.blake2b(digest_size=16)
        return self._parts[path]


def _bytes(values: Tensor) -> bytes:
    plain = values.to("cpu", torch.float32 if values.is_floating_point() else torch.int64)
    return plain.contiguous().numpy().tobytes()
