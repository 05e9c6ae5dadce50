"""Networks for images of the package timm, by name."""

from __future__ import annotations

from difflib import get_close_matches
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn

from layerprobe.formatting import one_line
from layerprobe.models.pretrained import ModelError


def timm_network(name: str, weights: str = "pretrained", seed: int = 0, **arguments: Any) -> nn.Module:
    """Build a network by `timm.create_model`.

    Args:
        name: What `timm.list_models()` has, such as `vit_small_patch16_224.augreg_in1k`, or `hf-hub:OWNER/NAME`.
        weights: `pretrained`, which timm downloads where it has not before; `random` for an untrained network; or a
            file of weights.
        seed: Seed of random weights.
        arguments: What else `timm.create_model` takes, such as `num_classes` and `img_size`.

    Returns:
        The network in training mode, as torchvision's are; probing sets its own.

    Raises:
        ImportError: If timm is missing.
        ModelError: If there is no such network, its weights cannot be had, or they are those of another one.
    """
    try:
        import timm
    except ImportError as error:
        raise ImportError("A network of timm needs the package `timm`: pip install 'layerprobe[timm]'") from error
    file = Path(weights).expanduser()
    if weights not in ("pretrained", "random") and not file.is_file():
        raise ModelError(
            f"There is no file {weights}. Give model.weights=FILE, or pretrained, or random for an untrained network."
        )
    try:
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            network = timm.create_model(
                name,
                pretrained=weights == "pretrained",
                checkpoint_path=str(file) if weights not in ("pretrained", "random") else "",
                **arguments,
            )
    except (OSError, RuntimeError, ValueError, SafetensorError) as error:
        reason = one_line(error)
        near = ", ".join(get_close_matches(name.partition(".")[0], timm.list_models())) if "Unknown" in reason else ""
        raise ModelError(
            f"timm gives no network {name!r}: {reason}. {f'There is {near}. ' if near else ''}Check the name "
            "(timm.list_models()) and the network connection, or give the weights: model.weights=FILE, or random for "
            "an untrained network"
        ) from error
    return network.train()
