"""Texts to batches of token ids, by the tokenizer that belongs to a pretrained network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from layerprobe.data.errors import DataError, DataNotFoundError
from layerprobe.formatting import one_line

Encoded = dict[str, list[int]]

_UNLIMITED = 1_000_000
"""A tokenizer that knows no limit says a number far beyond this."""


@dataclass(eq=False)
class PretrainedTokenizer:
    """A tokenizer of the Hugging Face hub, or of a folder.

    It is read when it is first used.

    Attributes:
        name: Name or folder.
        revision: Commit, tag or branch; of a folder, the folder in it that is called so, if it has a tokenizer.
        padding_side: Where shorter texts of a batch are filled up. On the left, batches have `position_ids` too,
            which count tokens and not places, as in generation.
        max_length: Tokens of a text at most; by default what the tokenizer says.
        truncation: Whether a longer text is cut; it is refused otherwise.
        special_tokens: Whether tokens such as `[CLS]` or a start of text are added.
    """

    name: str
    revision: str | None = None
    padding_side: Literal["right", "left"] = "right"
    max_length: int | None = None
    truncation: bool = False
    special_tokens: bool = True

    @cached_property
    def tokenizer(self) -> Any:
        """The tokenizer itself.

        Raises:
            ImportError: If the package `transformers` is not there.
            DataNotFoundError: If the tokenizer is not there, or not open to you.
        """
        try:
            from transformers import AutoTokenizer
        except ImportError as error:
            raise ImportError("A tokenizer needs the package `transformers`: pip install 'layerprobe[text]'") from error
        local = Path(self.name).expanduser()
        if self.revision is not None and (local / self.revision / "tokenizer_config.json").is_file():
            local /= self.revision
        name = str(local) if local.is_dir() else self.name
        try:
            return AutoTokenizer.from_pretrained(name, revision=self.revision, local_files_only=local.is_dir())
        except (OSError, ValueError, KeyError) as error:
            reason = one_line(error)
            raise DataNotFoundError(
                f"The tokenizer {self.name!r} could not be read: {reason} Check the name, the network and your access "
                "(hf auth login), or give a folder: data.tokenizer.name=DIR"
            ) from error

    @property
    def longest(self) -> int | None:
        """Tokens of a text at most; None where nothing limits them."""
        own = self.tokenizer.model_max_length
        return self.max_length or (own if own < _UNLIMITED else None)

    def encode(self, texts: Sequence[str], spans: Mapping[str, np.ndarray] | None = None) -> list[Encoded]:
        """Turn texts into token ids.

        Args:
            texts: The texts.
            spans: By name, where a part of each text begins and ends, in characters `(n, 2)`.

        Returns:
            For each text the tokenizer's outputs, such as `input_ids`, one number for each token; and for each span
            `span:NAME`, 1 for the tokens that have a character of it.

        Raises:
            DataError: If a text is longer than the network takes, has no token, or a span has none; or the tokenizer
                does not say which characters a token stands for.
        """
        if spans and not self.tokenizer.is_fast:
            raise DataError(
                f"The tokenizer {self.name!r} does not say which characters a token stands for, and spans need that "
                f"({', '.join(spans)}). Choose a network with a fast tokenizer (tokenizer.json), or data.spans=null."
            )
        cut = self.truncation and self.longest is not None
        encoded = self.tokenizer(
            list(texts),
            add_special_tokens=self.special_tokens,
            padding=False,
            truncation=cut,
            max_length=self.longest if cut else None,
            verbose=False,
            **({"return_offsets_mapping": True} if spans else {}),
        )
        offsets = encoded.pop("offset_mapping", [])
        lengths = [len(ids) for ids in encoded["input_ids"]]
        if self.longest is not None and max(lengths, default=0) > self.longest:
            longer, worst = sum(n > self.longest for n in lengths), max(range(len(lengths)), key=lengths.__getitem__)
            raise DataError(
                f"{longer:,} of {len(lengths):,} texts have more than the {self.longest:,} tokens that fit into the "
                f"network's context; the longest has {lengths[worst]:,} ({texts[worst][:40]!r}…). "
                "Cut them with data.tokenizer.truncation=true, or leave them out."
            )
        if 0 in lengths:
            raise DataError(f"The text {texts[lengths.index(0)]!r} has no token. Leave it out of the table.")
        parts = {
            f"span:{name}": [_tokens_of(name, *row) for row in zip(ends.tolist(), offsets, texts, strict=True)]
            for name, ends in (spans or {}).items()
        }
        return [{key: values[i] for key, values in {**encoded, **parts}.items()} for i in range(len(lengths))]

    def pad(self, encoded: Sequence[Encoded]) -> dict[str, Int[Tensor, "n t"]]:
        """Fill texts from `encode` up to the longest one: what the network is called with."""
        filler = {"input_ids": self._padding_id(), "token_type_ids": self.tokenizer.pad_token_type_id}
        batch = {
            key: pad_sequence(
                [torch.tensor(one[key]) for one in encoded],
                batch_first=True,
                padding_value=filler.get(key, 0),
                padding_side=self.padding_side,
            )
            for key in encoded[0]
        }
        if self.padding_side == "left":
            batch["position_ids"] = (batch["attention_mask"].cumsum(1) - 1).clamp(min=0)
        return batch

    def _padding_id(self) -> int:
        """Choose the id that pads: language models often have no token for it; the mask says that it does not count."""
        ids = (self.tokenizer.pad_token_id, self.tokenizer.eos_token_id, 0)
        return next(one for one in ids if one is not None)


def _tokens_of(name: str, span: Sequence[int], offsets: Sequence[Sequence[int]], text: str) -> list[int]:
    """Tell which tokens of a text have a character of a span; special ones stand for none."""
    start, end = span
    found = [int(first < end and last > start and last > first) for first, last in offsets]
    if not any(found):
        raise DataError(
            f"The span {name!r}, {text[start:end]!r}, has no token left in {text[:80]!r}: it was cut off. Choose a "
            "larger data.tokenizer.max_length, or another span."
        )
    return found
