"""Reader of a split without its network: the targets, the types, and a hash of what the network is called with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Int, Shaped
from torch import Tensor

from layerprobe.probing.capture.token_axes import token_masks
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
    """

    targets: Shaped[Tensor, "n ..."]
    problems: Mapping[LayerName, str]
    seconds: Mapping[LayerName, float]
    keys: Int[Tensor, " n"] | None = None
    contents: Contents | None = None
    first: int = 0
    ids: Shaped[np.ndarray, " n"] | None = None

    def beside(self, other: Recording) -> Recording:
        """The same pass, with what another one over the split left behind for other layers."""
        problems, seconds = {**other.problems, **self.problems}, {**other.seconds, **self.seconds}
        return replace(self, problems=problems, seconds=seconds)


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

    def __call__(self, batch: Any) -> Any:
        """Read a batch.

        Args:
            batch: A batch of the split, of any make.

        Returns:
            What the network is called with.

        Raises:
            TypeError: It is not (input, target), or targets are not what the task predicts.
            ValueError: Targets and keys differ in number.
        """
        targets = self._protocol.targets_of(batch, self._split)
        self._targets.append(targets)
        if "control_task" in self._protocol.controls:
            self._keys.append(self._protocol.keys_of(batch))
            if len(self._keys[-1]) != len(targets):
                raise ValueError(
                    f"A batch of the {self._split} split has {len(targets)} targets and {len(self._keys[-1])} keys of "
                    "the control task. Each sample needs one: choose with `control_key` what has samples first."
                )
        if self._named is not None:
            self._ids.append(_ids(self._named(batch)))
            if len(self._ids[-1]) != len(targets):
                raise ValueError(
                    f"A batch of the {self._split} split has {len(targets)} targets and {len(self._ids[-1])} ids. Each "
                    "sample needs one: choose with `sample_ids` what has samples first."
                )
        inputs = self._protocol.inputs(batch)
        if self._inputs is not None:
            self._inputs.update(inputs)
        if self._masked:
            masks = token_masks(inputs, self._protocol.mask_of(batch))
            self._masks.update({name: {"attention_mask": mask} for name, mask in masks.items()})
        return inputs

    @property
    def before(self) -> int:
        """Samples of all batches but the last."""
        return sum(map(len, self._targets[:-1]))

    @property
    def targets(self) -> Shaped[Tensor, "k ..."]:
        """Targets of the last batch."""
        return self._targets[-1]

    @property
    def n_last(self) -> int:
        """Samples of the last batch."""
        return len(self._targets[-1])

    def check(self) -> None:
        """Refuse a split without samples.

        Raises:
            ValueError: Naming the split.
        """
        if not sum(map(len, self._targets)):
            raise ValueError(f"The {self._split} split is empty. Probing needs samples in train, val and test.")
        if self._ids:
            found, first, times = np.unique(np.concatenate(self._ids), return_index=True, return_counts=True)
            if len(again := np.flatnonzero(times > 1)):
                i = again[first[again].argmin()]
                raise ValueError(
                    f"`sample_ids` gives {len(again):,} ids to several samples of the {self._split} split: "
                    f"{found[i].item()!r} to {times[i]}. Choose what is different for each sample, or leave it out: "
                    "the id is then the place in the split."
                )

    def recording(self, problems: Mapping[LayerName, str], seconds: Mapping[LayerName, float]) -> Recording:
        """What is read by now.

        Args:
            problems: Why a layer has no usable features, by layer.
            seconds: Wall-clock seconds spent on reducing, by layer.
        """
        keys = torch.cat(self._keys) if self._keys else None
        contents = None
        if self._inputs is not None and (inputs := self._inputs.digest()):
            contents = Contents(inputs, self._inputs.digest(padding=True), self._masks.digest())
        ids = np.concatenate(self._ids) if self._ids else None
        return Recording(torch.cat(self._targets), problems, seconds, keys, contents, len(self._targets[0]), ids)


def _ids(given: Any) -> Shaped[np.ndarray, " k"]:
    """Ids of a batch as whole numbers or text."""
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


def by_tokens(protocol: ProbeProtocol) -> bool:
    """Whether a sweep asks which axes of a layer run over tokens."""
    return any(isinstance(reducer, AbstractTokenReducer) for reducer in protocol.reducers)
