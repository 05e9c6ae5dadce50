"""Length of a text: its tokens, words and characters, which a probe reads without any network."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor


def text_length(texts: Sequence[str], n_tokens: Sequence[int]) -> Float[Tensor, "n 3"]:
    """Count what texts are made of.

    Args:
        texts: The texts.
        n_tokens: Tokens of each.

    Returns:
        The tokens, words and characters of each text.
    """
    counts = [(tokens, len(text.split()), len(text)) for text, tokens in zip(texts, n_tokens, strict=True)]
    return torch.tensor(counts, dtype=torch.float32)
