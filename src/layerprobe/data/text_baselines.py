"""Baselines of texts, features that need no network: counts of their words, and their length."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from sklearn.feature_extraction.text import CountVectorizer
from torch import Tensor

from layerprobe.types import Split


def bag_of_words(texts: Mapping[Split, Sequence[str]]) -> dict[Split, Float[Tensor, "n d"]]:
    """Count the words of each text, by scikit-learn's `CountVectorizer`.

    Returns:
        For each split, how often each word of the training texts is in each text.
    """
    vectorizer = CountVectorizer(dtype="float32").fit(texts["train"])
    return {split: torch.from_numpy(vectorizer.transform(part).toarray()) for split, part in texts.items()}


def text_length(texts: Sequence[str], n_tokens: Sequence[int]) -> Float[Tensor, "n 3"]:
    """Count what texts are made of.

    Returns:
        The tokens, words and characters of each text.
    """
    counts = [(tokens, len(text.split()), len(text)) for text, tokens in zip(texts, n_tokens, strict=True)]
    return torch.tensor(counts, dtype=torch.float32)
