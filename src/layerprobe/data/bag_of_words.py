"""Bag of words: texts as counts of their words, which a probe reads without any network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from sklearn.feature_extraction.text import CountVectorizer
from torch import Tensor

from layerprobe.types import Split


def bag_of_words(texts: Mapping[Split, Sequence[str]]) -> dict[Split, Float[Tensor, "n d"]]:
    """Count the words of each text, by scikit-learn's `CountVectorizer`.

    Args:
        texts: Texts of each split.

    Returns:
        For each split, how often each word of the training texts is in each text.
    """
    vectorizer = CountVectorizer(dtype="float32").fit(texts["train"])
    return {split: torch.from_numpy(vectorizer.transform(part).toarray()) for split, part in texts.items()}
