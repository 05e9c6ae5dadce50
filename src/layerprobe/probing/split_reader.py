"""Reader of a split: what each of its batches gives the network, the task, the control and the store of features."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Int, Shaped
from torch import Tensor

from layerprobe.formatting import count_text
from layerprobe.probing.capture.default_device import programs_device
from layerprobe.probing.capture.token_axes import token_masks
from layerprobe.probing.data_adapters import as_targets
from layerprobe.probing.data_fingerprint import Fingerprint
from layerprobe.probing.features.token_reducers import AbstractTokenReducer
from layerprobe.probing.protocol import ProbeProtocol
from layerprobe.types import LayerName, Split


@dataclass(frozen=True)
class Contents:
    """What the network is called with for the samples of a split, in their order.

    Attributes:
        inputs: Hash of every value, padding left out.
        padded: Hash of every value, those of padding among them, and of the shapes that they come in.
        masks: Hash of which places hold a token, where a token reducer asks for it.
    """

    inputs: str
    padded: str
    masks: str


@dataclass(frozen=True)
class Recording:
    """What one pass over a split leaves behind, besides the features.

    Attributes:
        targets: What the task reads for each sample, on the CPU.
        problems: Why a layer has no usable features, by layer.
        seconds: Wall-clock seconds spent on reducing, by layer.
        keys: The type of each sample, where that was asked for.
        contents: What the network is called with, where that was asked for and can be told.
        first: Samples in the first batch.
        ids: What names each sample, where that was asked for.
        no_positions: Why analyses have no positions of a layer to read, by layer; its heads are fitted all the same.
        samples: Fingerprint of the samples in their order; empty where it is not asked for.
        autocast: The number format of the passes, where they ran in another than the network's own.
    """

    targets: Shaped[Tensor, "n ..."]
    problems: Mapping[LayerName, str]
    seconds: Mapping[LayerName, float]
    keys: Int[Tensor, " n"] | None = None
    contents: Contents | None = None
    first: int = 0
    ids: Shaped[np.ndarray, " n"] | None = None
    no_positions: Mapping[LayerName, str] = field(default_factory=dict)
    samples: str = ""
    autocast: str | None = None

    def beside(self, other: Recording) -> Recording:
        """Return the same pass, with what another one over the split left behind for other layers."""
        problems, seconds = {**other.problems, **self.problems}, {**other.seconds, **self.seconds}
        no_positions = {**other.no_positions, **self.no_positions}
        return replace(self, problems=problems, seconds=seconds, no_positions=no_positions)


class SplitReader:
    """Reads batch after batch of a split.

    Args:
        protocol: Says how a batch is read.
        split: Name of the split.
        contents: Whether to hash what the network is called with.
    """

    def __init__(self, protocol: ProbeProtocol, split: Split, *, contents: bool = False) -> None:
        self._protocol, self._split = protocol, split
        self._targets: list[Tensor] = []
        self._keys: list[Tensor] = []
        self._ids: list[np.ndarray] = []
        self._named = protocol.sample_ids if split not in ("train", "val") else None
        self._inputs = Fingerprint(whole=True) if contents else None
        self._masks = Fingerprint(whole=True)
        self._masked = contents and by_tokens(protocol)

    def __enter__(self) -> SplitReader:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.check()

    def __call__(self, batch: Any) -> tuple[Any, Shaped[Tensor, "k ..."]]:
        """Read a batch.

        Returns:
            What the network is called with, and what the task reads for each sample.

        Raises:
            TypeError: It is not (input, target), or targets are not what the task predicts.
            ValueError: Targets and keys differ in number.
        """
        targets = task_targets(self._protocol, batch, self._split)
        with programs_device():
            inputs = self._protocol.inputs(batch)
        if not len(targets):
            return inputs, targets
        self._targets.append(targets)
        if "control_task" in self._protocol.controls:
            self._keys.append(self._protocol.keys_of(batch))
            self._check_number(len(targets), len(self._keys[-1]), "keys of the control task", "control_key")
        if self._named is not None:
            self._ids.append(_ids(self._named(batch)))
            self._check_number(len(targets), len(self._ids[-1]), "ids", "sample_ids")
        if self._inputs is not None:
            self._inputs.update(inputs)
        if self._masked:
            masks, _ = masks_of(self._protocol, inputs, batch)
            self._masks.update({name: {"attention_mask": mask} for name, mask in masks.items()})
        return inputs, targets

    def _check_number(self, n: int, found: int, of_what: str, option: str) -> None:
        if found != n:
            raise ValueError(
                f"A batch of the {self._split} split has {n} targets and {found} {of_what}. Each sample needs one: "
                f"choose with `{option}` what has samples first."
            )

    @property
    def samples(self) -> int:
        """Samples of all batches."""
        return sum(map(len, self._targets))

    @property
    def before(self) -> int:
        """Samples of all batches but the last."""
        return sum(map(len, self._targets[:-1]))

    def check(self) -> None:
        """Refuse a split without samples.

        Raises:
            ValueError: Naming the split.
        """
        if not self.samples:
            raise ValueError(f"The {self._split} split is empty. Probing needs samples in train, val and test.")
        if self._ids:
            found, first, times = np.unique(np.concatenate(self._ids), return_index=True, return_counts=True)
            if len(again := np.flatnonzero(times > 1)):
                i = again[first[again].argmin()]
                raise ValueError(
                    f"`sample_ids` gives {count_text(len(again), 'id')} to several samples of the {self._split} split: "
                    f"{found[i].item()!r} to {times[i]}. Choose what is different for each sample, or leave it out: "
                    "the id is then the place in the split."
                )

    def recording(self, problems: Mapping[LayerName, str], seconds: Mapping[LayerName, float]) -> Recording:
        """Return what is read by now."""
        keys = torch.cat(self._keys) if self._keys else None
        contents = None
        if self._inputs is not None and (inputs := self._inputs.digest()):
            contents = Contents(inputs, self._inputs.digest(padding=True), self._masks.digest())
        ids = np.concatenate(self._ids) if self._ids else None
        return Recording(torch.cat(self._targets), problems, seconds, keys, contents, len(self._targets[0]), ids)


def _ids(given: Any) -> Shaped[np.ndarray, " k"]:
    """Return ids of a batch as whole numbers or text."""
    found = given.detach().cpu().numpy() if isinstance(given, Tensor) else np.asarray(given)
    if found.dtype.kind == "f" and np.array_equal(found, found.astype(np.int64)):
        found = found.astype(np.int64)  # a table of metadata is often of one type
    if found.dtype.kind == "O" and all(isinstance(one, str) for one in found.flat):
        found = found.astype(str)
    if found.ndim != 1 or found.dtype.kind not in "iuU":
        raise TypeError(
            f"`sample_ids` needs a whole number or text for each sample, found {found.dtype} of shape {found.shape}. "
            "Choose a column of the batch, such as sample_ids=Column(0, path=1), or an item of it: Item('id')."
        )
    return found if found.dtype.kind == "U" else found.astype(np.int64)


def task_targets(protocol: ProbeProtocol, batch: Any, split: Split) -> Shaped[Tensor, "k ..."]:
    """Take the property to be probed of each sample of a batch, checked, on the CPU.

    Raises:
        TypeError: The batch is not (input, target), or targets are not what the task predicts.
        ValueError: Targets have another shape than the task's, or values that it cannot read.
    """
    with programs_device():
        targets = protocol.targets(batch)
    if isinstance(targets, int | float | np.generic) or (isinstance(targets, Tensor) and not targets.ndim):
        raise TypeError(
            f"A batch of the {split} split has one target, {targets!r}, without an axis of samples: the split gives "
            "samples, and batches are wanted. Give DataLoader(split, batch_size=256), or a Dataset."
        )
    return protocol.task.read(targets if isinstance(targets, Tensor) else as_targets(targets), split)


def first_batch(
    protocol: ProbeProtocol, batches: Iterable[Any], split: Split
) -> tuple[Any, Shaped[Tensor, "k ..."]] | None:
    """Find the first batch that has samples, with its targets; None where none has.

    Raises:
        TypeError: As `task_targets`.
        ValueError: Likewise.
    """
    for batch in batches:
        if len(targets := task_targets(protocol, batch, split)):
            return batch, targets
    return None


def by_tokens(protocol: ProbeProtocol) -> bool:
    """Tell whether a sweep asks which axes of a layer run over tokens."""
    return protocol.positions > 0 or _fits_tokens(protocol)


def masks_of(protocol: ProbeProtocol, inputs: Any, batch: Any) -> tuple[Mapping[str, Tensor], str]:
    """Find the masks of a batch's tokens.

    Returns:
        The masks by name; and what is wrong with them, where analyses alone read tokens.

    Raises:
        TypeError: A head is fitted to tokens, and a mask is not a tensor of two axes.
        ValueError: Likewise, and a sample has no token.
    """
    try:
        return token_masks(inputs, protocol.mask_of(batch)), ""
    except (TypeError, ValueError) as error:
        if _fits_tokens(protocol):
            raise
        return {}, str(error)


def _fits_tokens(protocol: ProbeProtocol) -> bool:
    """Tell whether heads are fitted to tokens."""
    return any(isinstance(reducer, AbstractTokenReducer) for reducer in protocol.reducers)
