"""The file format of MNIST."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from layerprobe.data.errors import CorruptDataError

_UNSIGNED_BYTE = 0x08


def read_idx(path: Path, n_axes: int) -> UInt8[Tensor, "*shape"]:
    """Read an uncompressed IDX file of unsigned bytes.

    The format: two zero bytes, the type, the number of axes, each axis' length as a big-endian 32-bit integer, the
    values in row-major order (https://yann.lecun.com/exdb/mnist/).

    Args:
        path: The file.
        n_axes: Axes that it must have.

    Returns:
        The values, with the shape that the header states.

    Raises:
        CorruptDataError: If the header is not that of such a file, or the file is longer or shorter than it states.
        OSError: If the file cannot be read.
    """
    content = np.fromfile(path, dtype=np.uint8)
    header = 4 + 4 * n_axes
    if len(content) < header or content[:4].tolist() != [0, 0, _UNSIGNED_BYTE, n_axes]:
        raise CorruptDataError(
            f"{path} is not an IDX file of unsigned bytes with {n_axes} axes: it has {len(content):,} bytes and begins "
            f"with {content[:4].tobytes().hex(' ') or 'nothing'}"
        )
    shape = [int(length) for length in content[4:header].view(">u4")]
    if len(content) != header + math.prod(shape):
        raise CorruptDataError(
            f"{path} has {len(content):,} bytes where its header states {header + math.prod(shape):,} "
            f"(shape {'x'.join(map(str, shape))})"
        )
    return torch.from_numpy(content[header:].reshape(shape))
