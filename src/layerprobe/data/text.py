"""Labelled texts as batches of token ids."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from layerprobe.data.data_module import AbstractDataModule, loader
from layerprobe.data.labelled_texts import Examples, divide, examples_of, limited, noised
from layerprobe.data.pretrained_tokenizer import Encoded, PretrainedTokenizer
from layerprobe.data.samplers import ShuffledOrder
from layerprobe.data.text_baselines import bag_of_words, text_length
from layerprobe.data.text_table import AbstractTable
from layerprobe.types import Split

TextBatch = tuple[dict[str, Int[Tensor, "n t"]], Int[Tensor, " n"]]


@dataclass(frozen=True, eq=False)
class EncodedTexts(Dataset[tuple[Encoded, int]]):
    """Pairs of (token ids, class index)."""

    encoded: Sequence[Encoded]
    targets: Sequence[int]

    def __len__(self) -> int:
        """Count the texts."""
        return len(self.encoded)

    def __getitem__(self, index: int) -> tuple[Encoded, int]:
        """Return one text."""
        return self.encoded[index], self.targets[index]


@dataclass(frozen=True)
class _Read:
    """What is read once, and shared by all copies of a data module."""

    examples: dict[Split, Examples]
    datasets: dict[Split, EncodedTexts]


class TextDataModule(AbstractDataModule):
    """Batches of (mapping of token ids and mask, class index), filled up to the longest text of each batch.

    Texts go through these steps in order: columns and classes are chosen, at most so many of each class kept, noise
    put before each text, the text put into the template, all of them divided into splits, and tokenized.

    Args:
        table: Gives the rows.
        tokenizer: Turns texts into token ids.
        text: Column of the text, or several that are joined by a space.
        label: Column of the label.
        classes: Labels in the order of their class index; rows with any other label are left out. By default
            every label, sorted.
        group: Column whose equal values never straddle two splits.
        remove: Regular expression; what it matches is taken out of each text column.
        template: Prompt around each text, with `{text}` in its place.
        noise: Strings of which one, drawn for each text, is put directly before it: `[aaa, bbb]`.
        per_class: How many are kept of each class at most, the first ones.
        balanced: Whether to draw from the larger classes as many as the smallest one has.
        train_size: Share or number of training texts; by default all that are left.
        val_size: Share or number of validation texts; 0 for no validation split.
        test_size: Share or number of test texts.
        stratified: Whether each split has the classes in the same shares; of no effect with groups.
        split_seed: Seed of splits, balancing and noise, so that runs with different seeds see the same texts.
        root: Folder that the table's path starts from.
        batch_size: Texts in a batch.
        num_workers: Worker processes of each loader.
        seed: Seed of the training order.
        spans: By name, a part of each text whose tokens `SpanToken` finds: the column that holds its words, of
            which the first occurrence counts; or characters `[start, end]` of the text without noise and template,
            as in a Python slice, `[null, null]` for all of it.

    Raises:
        ValueError: If the template has no place for the text.
    """

    def __init__(
        self,
        table: AbstractTable,
        tokenizer: PretrainedTokenizer,
        text: str | Sequence[str] = "text",
        label: str = "label",
        classes: Sequence[object] | None = None,
        group: str | None = None,
        remove: str | None = None,
        template: str = "{text}",
        noise: Sequence[str] = (),
        per_class: int | None = None,
        balanced: bool = False,
        train_size: int | float | None = None,
        val_size: int | float = 0.2,
        test_size: int | float = 0.2,
        stratified: bool = True,
        split_seed: int = 0,
        root: str | Path = "",
        batch_size: int = 64,
        num_workers: int = 0,
        seed: int = 0,
        spans: Mapping[str, str | Sequence[int | None]] | None = None,
    ) -> None:
        super().__init__()
        if template.count("{text}") != 1:
            raise ValueError(
                f"The template {template!r} has no place for the text: expected one {{text}}, found "
                f"{template.count('{text}')}. Write it where the text belongs: data.template='Is it true? {{text}}'"
            )
        self.table = table
        self.tokenizer = tokenizer
        self.text = text
        self.label = label
        self.classes = classes
        self.group = group
        self.remove = remove
        self.template = template
        self.noise = noise
        self.per_class = per_class
        self.balanced = balanced
        self.train_size = train_size
        self.val_size = val_size
        self.test_size = test_size
        self.stratified = stratified
        self.split_seed = split_seed
        self.root = Path(root)
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.seed = seed
        self.spans = dict(spans or {})
        self._read: list[_Read] = []

    def setup(self, stage: str | None = None) -> None:
        """Read, divide and tokenize the texts, once; every stage needs the same.

        Raises:
            DataError: If they cannot be read, divided or tokenized.
        """
        if self._read:
            return
        frame = self.table.read(self.root)
        found = examples_of(frame, self.text, self.label, self.classes, self.group, self.remove, self.spans)
        found = limited(found, self.per_class, self.balanced, self.split_seed)
        texts = noised(found.texts, self.noise, self.split_seed)
        before = self.template.index("{text}")
        moved = np.array([[before + len(text) - len(bare)] for text, bare in zip(texts, found.texts, strict=True)])
        spans = {name: ends + moved for name, ends in found.spans.items()}
        found = Examples(texts, found.targets, found.groups, found.classes)
        encoded = self.tokenizer.encode([self.template.replace("{text}", text) for text in texts], spans)
        parts = divide(found, self.train_size, self.val_size, self.test_size, self.stratified, self.split_seed)
        datasets = {
            split: EncodedTexts([encoded[i] for i in part], found.targets[part].tolist())
            for split, part in parts.items()
        }
        self._read.append(_Read({split: found.take(part) for split, part in parts.items()}, datasets))

    def examples(self, split: Split) -> Examples:
        """Give the texts of one split, with noise and without template, in the order of the loaders.

        Raises:
            RuntimeError: If `setup` has not been called.
        """
        return self._content().examples[split]

    def baselines(self) -> dict[str, dict[Split, tuple[Float[Tensor, "n d"], Int[Tensor, " n"]]]]:
        """Give features that need no network, on the same splits: `bag_of_words` and `text_length`."""
        self.setup()
        examples, datasets = self._content().examples, self._content().datasets
        lengths = {
            split: text_length(part.texts, [len(one["input_ids"]) for one in datasets[split].encoded])
            for split, part in examples.items()
        }
        features = {
            "bag_of_words": bag_of_words({split: part.texts for split, part in examples.items()}),
            "text_length": lengths,
        }
        return {
            name: {split: (of[split], torch.tensor(examples[split].targets)) for split in examples}
            for name, of in features.items()
        }

    def loader_of(self, split: Split) -> DataLoader[Any] | None:
        """See `AbstractDataModule.loader_of`."""
        dataset = self._content().datasets.get(split)
        if dataset is None:
            return None
        order = ShuffledOrder(len(dataset), self.seed) if split == "train" else None
        return loader(dataset, order, self.batch_size, self.num_workers, self.collate)

    def collate(self, samples: Sequence[tuple[Encoded, int]]) -> TextBatch:
        """Make a batch of several texts."""
        encoded, targets = zip(*samples, strict=True)
        return self.tokenizer.pad(encoded), torch.tensor(targets)

    def _content(self) -> _Read:
        if not self._read:
            raise RuntimeError("TextDataModule has not read its data: call setup() first")
        return self._read[0]
