"""Checkpoints: those that describe themselves, those that others wrote, and finding them."""

from __future__ import annotations

import glob
import hashlib
import os
import pickle
import re
import zipfile
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities.parsing import AttributeDict
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from layerprobe.files.atomic import atomic
from layerprobe.files.errors import UnusableFileError
from layerprobe.files.natural_order import natural_order
from layerprobe.results.config_migration import migrated
from layerprobe.types import CheckpointInfo, Config

CONFIG_KEY = "layerprobe"
"""Where a file says what its network is, and which run's."""

_WEIGHTS = ("state_dict", "model_state_dict", "model")
"""Where the files of others keep the weights."""


class CheckpointError(UnusableFileError):
    """A file that cannot be used as a checkpoint; the message ends with the next step."""


@dataclass(frozen=True)
class FrozenCheckpoint:
    """A network as it was at one moment.

    Attributes:
        info: Its name, step and epoch.
        state_dict: Parameters and buffers, on the CPU.
        config: The resolved configuration of its run, with the public names of classes; empty where it had none.
        hyper_parameters: Arguments of the LightningModule that wrote it, as `save_hyperparameters` kept them.
    """

    info: CheckpointInfo
    state_dict: Mapping[str, Tensor]
    config: Config
    hyper_parameters: Mapping[str, Any] = field(default_factory=dict)


def freeze(state_dict: Mapping[str, Any], path: Path, info: CheckpointInfo, config: Config) -> None:
    """Write a checkpoint, atomically.

    The file is in Lightning's layout, holds tensors and plain values only, and so loads with `weights_only=True`.

    Raises:
        OSError: Where it cannot be written, naming it; torch's own error would not tell that a disk is full.
    """
    content = {
        "state_dict": {name: value.detach().cpu() for name, value in state_dict.items()},
        "epoch": info.epoch,
        "global_step": info.step,
        "pytorch-lightning_version": pl.__version__,
        CONFIG_KEY: {"checkpoint": asdict(info), "config": dict(config)},
    }
    try:
        with atomic(path) as temporary, open(temporary, "wb") as file:
            torch.save(content, file)
    except (RuntimeError, OSError) as error:
        cause = error if isinstance(error, OSError) else error.__context__
        if isinstance(cause, OSError):
            about = (f"{path}: {cause}",) if cause.errno is None else (cause.errno, cause.strerror, str(path))
            raise OSError(*about) from None
        raise


def load(path: Path, *, trust: bool = False) -> FrozenCheckpoint:
    """Read a checkpoint, on the CPU, without running any code in it.

    Args:
        path: A file that `freeze` or Lightning wrote, a `state_dict`, or a safetensors file. Its tensors are mapped
            into memory, not read, until they are used.
        trust: Whether the file may hold any Python objects, and so run any code.

    Returns:
        The checkpoint. Where the file does not say so, its name is the file's, its step the last number after `step`
        (else `epoch`, else of all) in that name, or 0.

    Raises:
        FileNotFoundError: Where there is no such file.
        CheckpointError: Where the file is cut short, is no checkpoint, or needs more than tensors and plain values.
    """
    if not path.is_file():
        raise FileNotFoundError(
            f"No checkpoint at {path}. Give the path of a .ckpt file, such as one in RUN/checkpoints."
        )
    content = _read(path, trust)
    if isinstance(content, nn.Module):
        content = {"state_dict": content.state_dict()}
    if not isinstance(content, Mapping):
        raise CheckpointError(f"{path} is no checkpoint: expected a `state_dict`, found a {type(content).__name__}.")
    state_dict = next((content[key] for key in _WEIGHTS if isinstance(content.get(key), Mapping)), None)
    if state_dict is None and content and all(isinstance(value, Tensor) for value in content.values()):
        state_dict, content = content, {}
    if state_dict is None:
        keys = ", ".join(map(str, list(content)[:5])) or "nothing"
        raise CheckpointError(
            f"{path} is no checkpoint: expected a `state_dict`, found the keys {keys}. Save what `state_dict()` gives."
        )
    own = content.get(CONFIG_KEY) or {}
    named = {
        "name": path.stem,
        "step": content.get("global_step", _step_in(path.stem)),
        "epoch": content.get("epoch", 0),
    }
    try:
        info, config = _checked_info(own.get("checkpoint", named)), dict(migrated(own.get("config", {})))
    except (AttributeError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{path} does not say what it is as a run of layerprobe does ({error}). Save its `state_dict()` alone."
        ) from error
    return FrozenCheckpoint(info, state_dict, config, _hyper_parameters(content))


def check_goes_on(path: Path, *, trust: bool = False) -> None:
    """Refuse a file that a training cannot go on from.

    Raises:
        FileNotFoundError: Where there is no such file.
        CheckpointError: Where it is no checkpoint, or holds a network without the state of its training.
    """
    load(path, trust=trust)
    if missing := [key for key in ("loops", "optimizer_states") if key not in _read(path, trust)]:
        raise CheckpointError(
            f"{path} holds a network without the state of its training ({' and '.join(missing)}), so that none can go "
            "on from it. Give a file that callbacks=[default,model_checkpoint] has written; this one can be tested "
            "(train=false) and probed."
        )


def damage(path: Path) -> str:
    """Say in a few words what is wrong with a file of torch's, without loading it; empty where it is whole."""
    if not path.stat().st_size:
        return "it is empty"
    try:
        with zipfile.ZipFile(path) as file:
            broken = file.testzip()
    except (zipfile.BadZipFile, OSError) as error:
        return str(error) or "it is cut short"
    return f"the checksum of {broken} in it is wrong" if broken else ""


def file_hash(path: Path) -> str:
    """Compute the SHA-256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read(path: Path, trust: bool) -> Any:
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        mapped = zipfile.is_zipfile(path)  # torch's files from before 1.6 are not
        return torch.load(path, map_location="cpu", weights_only=not trust, mmap=mapped)
    except pickle.UnpicklingError as error:
        unknown = re.search(r"GLOBAL (\S+)|class (\S+)|function (\S+)", str(error))
        if trust or not unknown:
            raise _unreadable(path, "it is no file that torch has written") from error
        name = next(filter(None, unknown.groups()))
        raise CheckpointError(
            f"{path} was refused: it holds {name}, not only tensors and plain values, and loading that could run code "
            "from the file. If you trust whoever made it: trust_checkpoint=true; else save its `state_dict()` alone."
        ) from error
    except (RuntimeError, EOFError, OSError, zipfile.BadZipFile, SafetensorError) as error:
        raise _unreadable(path, str(error) or "it ends too early") from error
    except (ImportError, AttributeError) as error:
        raise CheckpointError(
            f"{path} needs code that is not here: {error}. Install it or put it on PYTHONPATH, or save the "
            "network's `state_dict()` alone."
        ) from error
    except Exception as error:  # whatever an unpickler makes of a file that is no pickle
        raise _unreadable(path, "it is no file that torch has written") from error


def _unreadable(path: Path, reason: str) -> CheckpointError:
    first = re.split(r"\. |\n", reason)[0].rstrip(".")
    return CheckpointError(
        f"{path} cannot be read as a checkpoint; is it cut short? {first}. Copy the file again, or name one that "
        "torch, Lightning or safetensors has written: RUN/checkpoints, weights.pth."
    )


def _checked_info(found: Mapping[str, Any]) -> CheckpointInfo:
    info = CheckpointInfo(**found)
    if not isinstance(info.name, str) or not info.name:
        raise ValueError(f"its name is {info.name!r}")
    return CheckpointInfo(info.name, int(info.step), int(info.epoch))


def _hyper_parameters(content: Mapping[str, Any]) -> Mapping[str, Any]:
    found = content.get("hyper_parameters")
    found = found if isinstance(found, Mapping) else {}
    name = content.get("hparams_name")
    plain = dict(found)
    return {name: AttributeDict(plain)} if name not in (None, "kwargs") else plain


def _step_in(name: str) -> int:
    numbers = re.findall(r"step\D?(\d+)", name) or re.findall(r"epoch\D?(\d+)", name) or re.findall(r"\d+", name)
    return int(numbers[-1]) if numbers else 0


SUFFIXES = (".ckpt", ".pt", ".pth", ".bin", ".safetensors")


def find_checkpoints(pattern: str, *, trust: bool = False) -> list[tuple[Path, CheckpointInfo]]:
    """Name the files that are meant, in the order of their steps.

    Args:
        pattern: A file, a glob pattern, or a folder: then the checkpoints in it, or else in the folders below.
        trust: As for `load`.

    Returns:
        Each file and what it is called: its own name, or where several have the same, its path below the folder that
        all are in. A file that cannot be read comes last, so that the others are probed first.

    Raises:
        FileNotFoundError: Where there is none.
    """
    paths = [Path(path) for path in glob.glob(pattern, recursive=True)]
    if Path(pattern).exists():
        paths = [Path(pattern)]
    files = [file for path in paths for file in (_inside(path) if path.is_dir() else [path])]
    if not files:
        raise FileNotFoundError(
            f"No checkpoint at {pattern}. Give a file, a folder with files such as *.ckpt, or a pattern in quotes: "
            "'checkpoint=\"RUN/checkpoints/*.ckpt\"'."
        )
    found: list[tuple[float, Path, CheckpointInfo]] = []
    for file in files:
        try:
            info = load(file, trust=trust).info
            found.append((info.step, file, info))
        except CheckpointError:
            found.append((float("inf"), file, CheckpointInfo(file.stem)))
    return _told_apart((file, info) for _, file, info in sorted(found, key=lambda one: (one[0], natural_order(one[1]))))


def _inside(folder: Path) -> list[Path]:
    for files in (folder.glob("*"), folder.rglob("*")):
        if found := [file for file in files if file.suffix in SUFFIXES and file.is_file()]:
            return found
    return []


def _told_apart(found: Iterable[tuple[Path, CheckpointInfo]]) -> list[tuple[Path, CheckpointInfo]]:
    named = list(found)
    times = Counter(info.name for _, info in named)
    if max(times.values()) == 1:
        return named
    common = Path(os.path.commonpath([file.absolute().parent for file, _ in named]))
    below = [file.absolute().relative_to(common) for file, _ in named]
    short = [path.with_suffix("") for path in below]
    unique = below if len(set(short)) < len(short) else short
    return [
        (file, info if times[info.name] == 1 else replace(info, name=path.as_posix()))
        for (file, info), path in zip(named, unique, strict=True)
    ]
