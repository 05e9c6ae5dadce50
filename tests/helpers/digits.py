"""The handwritten digits of scikit-learn, in splits."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import Tensor

Pairs: TypeAlias = dict[str, tuple[Tensor, Tensor]]


def shuffled_digits(seed: int, n_train: int, n_val: int, n_test: int | None = None) -> Pairs:
    """Draw splits of the digits.

    Args:
        seed: Seed of their order.
        n_train: Training samples, the first ones.
        n_val: Validation samples, those after them.
        n_test: Test samples; by default all others.

    Returns:
        Inputs (n 64) in [0, 1] and classes, by split.
    """
    x, y = load_digits(return_X_y=True)
    order = np.random.default_rng(seed).permutation(len(x))
    inputs, targets = torch.tensor(x[order], dtype=torch.float32) / 16, torch.tensor(y[order])
    start, end = n_train + n_val, len(x) if n_test is None else n_train + n_val + n_test
    rows = {"train": slice(0, n_train), "val": slice(n_train, start), "test": slice(start, end)}
    return {split: (inputs[part], targets[part]) for split, part in rows.items()}
