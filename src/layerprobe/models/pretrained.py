"""Pretrained networks of the Hugging Face hub, or of a folder in its layout."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn

from layerprobe.formatting import one_line

log = logging.getLogger(__name__)

_FLOATING = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_WEIGHT_FILES = ("*.safetensors", "*.bin", "*.safetensors.index.json", "*.bin.index.json")


class ModelError(RuntimeError):
    """A pretrained network cannot be had; the message ends with the next step."""


def from_the_hub(
    auto: str,
    name: str,
    revision: str | None,
    dtype: str,
    weights: str,
    device_map: str | dict[str, Any] | None,
    seed: int,
    trust_remote_code: bool,
) -> nn.Module:
    """Load a network of the package `transformers`, of the arguments of `encoder`.

    The class `auto` loads it, `AutoModel` or one with a head, such as `AutoModelForCausalLM`.

    Raises:
        ImportError: If a package is missing.
        ModelError: If the network is not there, not open to you, or has no weights.
    """
    try:
        import transformers
    except ImportError as error:
        raise ImportError(
            "A network of the Hugging Face hub needs the package `transformers`: pip install 'layerprobe[text]'"
        ) from error
    if not auto.startswith("AutoModel"):
        raise ValueError(f"{auto} is no class that loads networks: expected AutoModel or an AutoModelFor….")
    if weights not in ("pretrained", "random"):
        raise ValueError(f"`weights` is {weights!r}. Give 'pretrained', or 'random' for an untrained network.")
    if dtype not in _FLOATING and not (dtype == "int8" and weights == "pretrained"):
        raise ValueError(f"`dtype` is {dtype!r}. Give float32, bfloat16, float16, or int8 for pretrained weights.")
    options = _quantised(transformers) if dtype == "int8" else {"dtype": _FLOATING[dtype]}
    local = Path(name).expanduser()
    if revision is not None and local.is_dir():
        local = _of_revision(local, revision)
    source = str(local) if local.is_dir() else name
    place: dict[str, Any] = {
        "revision": revision, "local_files_only": local.is_dir(), "trust_remote_code": trust_remote_code,
    }  # fmt: skip
    try:
        config = transformers.AutoConfig.from_pretrained(source, **place)
        if getattr(config, "use_cache", False):
            config.use_cache = False
        kind = getattr(transformers, auto)
        if weights == "random":
            with torch.random.fork_rng(devices=[]):
                torch.default_generator.manual_seed(seed)
                model = kind.from_config(config, trust_remote_code=trust_remote_code, **options)
        else:
            model, info = kind.from_pretrained(
                source, config=config, device_map=device_map, output_loading_info=True, **options, **place
            )
            if absent := sorted(info["missing_keys"]):
                log.warning("%s has no weights for %s: these are random", name, ", ".join(absent))
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise ModelError(_reason(name, local, error)) from error
    return model


def _of_revision(folder: Path, revision: str) -> Path:
    if (folder / revision).is_dir():
        return folder / revision
    if revision == "main" and (folder / "config.json").is_file():
        return folder
    found = ", ".join(sorted(path.name for path in folder.iterdir() if path.is_dir())) or "none"
    raise ModelError(
        f"The folder {folder} has no revision {revision!r}: expected a folder of this name in it, found {found}. Give "
        "one of these, or leave model.revision out."
    )


def _quantised(transformers: Any) -> dict[str, Any]:
    try:
        import bitsandbytes  # noqa: F401
    except ImportError as error:
        raise ImportError(
            "dtype=int8 needs the package bitsandbytes: pip install bitsandbytes accelerate. "
            "Or choose model.dtype=bfloat16"
        ) from error
    return {"quantization_config": transformers.BitsAndBytesConfig(load_in_8bit=True)}


def _reason(name: str, local: Path, error: Exception) -> str:
    if local.is_dir():
        found = ", ".join(sorted(path.name for path in local.iterdir())) or "nothing"
        if not (local / "config.json").is_file():
            return (
                f"The folder {name} is no pretrained network: expected config.json, found {found}. Give another folder."
            )
        if not any(path for pattern in _WEIGHT_FILES for path in local.glob(pattern)):
            return (
                f"The folder {name} has no weights: expected model.safetensors, found {found}. Put them there, or "
                "probe the untrained network: model.weights=random"
            )
    elif name.startswith((".", "/", "~")):
        return f"The folder {name} is not there. Give the folder that holds config.json: model.name=DIR"
    reason = one_line(error)
    return (
        f"The network {name!r} could not be loaded: {reason} Check the name and revision, the network connection and "
        "your access to a gated network (hf auth login), or give a folder: model.name=DIR"
    )
