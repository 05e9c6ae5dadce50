"""Frozen checkpoints that describe themselves: weights, where they come from, and the run's resolved configuration."""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from layerprobe.results.atomic import atomic
from layerprobe.types import CheckpointInfo, Config

_KEY = "layerprobe"


@dataclass(frozen=True)
class FrozenCheckpoint:
    """A network as it was at one moment.

    Attributes:
        info: Its name, step and epoch.
        state_dict: Parameters and buffers, on the CPU.
        config: The resolved configuration of its run; empty where it had none.
    """

    info: CheckpointInfo
    state_dict: Mapping[str, Tensor]
    config: Config


def freeze(module: nn.Module, path: Path, info: CheckpointInfo, config: Config) -> None:
    """Write a checkpoint, atomically.

    The file is in Lightning's layout, holds tensors and plain values only, and so loads with `weights_only=True`.

    Args:
        module: The module whose `state_dict` is kept.
        path: The file to write.
        info: Name, step and epoch.
        config: Resolved configuration, of plain values.
    """
    content = {
        "state_dict": {name: value.detach().cpu() for name, value in module.state_dict().items()},
        "epoch": info.epoch,
        "global_step": info.step,
        "pytorch-lightning_version": pl.__version__,
        _KEY: {"checkpoint": asdict(info), "config": dict(config)},
    }
    with atomic(path) as temporary:
        torch.save(content, temporary)


def load(path: Path) -> FrozenCheckpoint:
    """Read a checkpoint, on the CPU, without running any code in it.

    Args:
        path: A file that `freeze` or Lightning wrote.

    Returns:
        The checkpoint.

    Raises:
        FileNotFoundError: Where there is no such file.
        ValueError: Where the file is cut short, is no checkpoint, or needs more than tensors and plain values.
    """
    if not path.is_file():
        raise FileNotFoundError(
            f"No checkpoint at {path}. Give the path of a .ckpt file, such as one in RUN/checkpoints."
        )
    try:
        content: Any = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{path} holds more than tensors and plain values, and loading it could run code from the file. "
            f"It was refused: {str(error).splitlines()[0]}"
        ) from error
    except (RuntimeError, EOFError, OSError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} cannot be read as a checkpoint; is it cut short? {error}") from error
    if not isinstance(content, dict) or not isinstance(content.get("state_dict"), dict):
        found = f"the keys {', '.join(map(str, content))}" if isinstance(content, dict) else type(content).__name__
        raise ValueError(f"{path} is no checkpoint: wanted a `state_dict`, found {found}.")
    own = content.get(_KEY, {})
    info = CheckpointInfo(
        **own.get(
            "checkpoint",
            {"name": path.stem, "step": content.get("global_step", 0), "epoch": content.get("epoch", 0)},
        )
    )
    return FrozenCheckpoint(info, content["state_dict"], own.get("config", {}))
