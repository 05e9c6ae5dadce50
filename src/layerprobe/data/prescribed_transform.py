"""The transform that a network prescribes for its images: size, crop and normalisation."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from PIL.Image import Image
from torch import Tensor
from torchvision.models import ResNet50_Weights, get_model_weights, get_weight, list_models
from torchvision.transforms import Compose, ToTensor

from layerprobe.data.errors import DataError
from layerprobe.formatting import one_line

Transform = Callable[[Any], Tensor]

_IMAGENET = ResNet50_Weights.IMAGENET1K_V1.transforms
"""Builds torchvision's transform for networks of ImageNet's classes; nothing is downloaded."""


def prescribed_transform(
    weights: str | None = None,
    network: str | None = None,
    size: int | None = None,
    builder: str | None = None,
    default_size: int | None = 224,
    revision: str | None = None,
) -> Transform:
    """Give the transform that fits a network: size, crop and normalisation.

    Args:
        weights: Name of torchvision weights, such as `ResNet50_Weights.IMAGENET1K_V2`, or `IMAGENET1K_V2` where
            `network` says whose; nothing is downloaded.
        network: Name of one of torchvision's networks, such as `resnet50`, or the dotted name of the function that
            builds it: without `weights`, the transform is that of its first published weights. With `builder`, the
            name that this one knows the network by. Other names are of no effect.
        size: Height and width of the network's input; by default what is prescribed, or else `default_size`.
        builder: What builds the network. For `layerprobe.timm_network` the transform is that of timm's own data
            configuration; for `layerprobe.vision_model` that of the image processor beside the weights.
        default_size: The size where nothing is prescribed; None leaves images as they are, with pixels in
            [-0.5, 0.5].
        revision: That of a network of the hub; of a folder, the folder in it that is called so, if it says anything of
            images.

    Returns:
        Maps a PIL image to the network's input. Where nothing is prescribed: the shorter side to 8/7 of the size, the
        middle, to [0, 1], ImageNet's mean and deviation.

    Raises:
        ValueError: If the size is below 1, there are no such weights, or their transform takes no size.
        DataError: If timm or the hub knows no such network, or no image processor lies beside its weights.
        ImportError: If the package that would know is missing.
    """
    if size is not None and size < 1:
        raise ValueError(f"The size of images is {size}, expected 1 or more (data.transform.size).")
    if network and builder in _BUILDERS:
        return Compose([_coloured, _BUILDERS[builder](network, size, revision)])
    prescribed: Any = _of_torchvision(weights, network)
    if prescribed is None:
        if (size := default_size if size is None else size) is None:
            return Compose([ToTensor(), _centred])
        return Compose([_coloured, _IMAGENET(crop_size=size, resize_size=round(size * 8 / 7))])
    if size is None:
        return Compose([_coloured, prescribed()])
    found = prescribed()
    if not isinstance(found, type(_IMAGENET())):
        raise _no_size(network or weights, found)
    resize = round(size * found.resize_size[0] / found.crop_size[0])
    return Compose([_coloured, prescribed(crop_size=size, resize_size=resize)])


def _of_torchvision(weights: str | None, network: str | None) -> Callable[..., Transform] | None:
    name = (network or "").rpartition(".")[2].lower()
    try:
        if weights and "." in weights:
            return get_weight(weights).transforms
        if name not in list_models():
            return None
        of_network = get_model_weights(name)
        return (of_network[weights] if weights else next(iter(of_network))).transforms
    except (AttributeError, KeyError, ValueError) as error:
        known = f" {name} has {', '.join(get_model_weights(name).__members__)}." if name in list_models() else ""
        raise ValueError(
            f"torchvision has no weights {weights!r}.{known} Give a name such as ResNet50_Weights.IMAGENET1K_V2 "
            "(data.transform.weights)."
        ) from error


def _of_timm(network: str, size: int | None, revision: str | None) -> Transform:
    try:
        import timm
    except ImportError as error:
        raise ImportError("A network of timm needs the package `timm`: pip install 'layerprobe[timm]'") from error
    try:
        known = timm.get_pretrained_cfg(network)
        given = {} if size is None else {"input_size": (3, size, size)}
        if known is not None:
            config = timm.data.resolve_data_config(given, pretrained_cfg=known.to_dict())
        else:  # a name such as hf-hub:… or local-dir:…, whose files say it
            config = timm.data.resolve_data_config(given, model=timm.create_model(network, pretrained=False))
    except (OSError, RuntimeError, ValueError) as error:
        raise DataError(
            f"timm says nothing of the images of {network!r}: {one_line(error)} Check the name "
            "(timm.list_models()), or give a transform: data.transform._target_=…"
        ) from error
    return timm.data.create_transform(**config)


def _of_the_hub(network: str, size: int | None, revision: str | None) -> Transform:
    try:
        import transformers
    except ImportError as error:
        raise ImportError(
            "A network of the Hugging Face hub needs the package `transformers`: pip install 'layerprobe[text]'"
        ) from error
    folder = Path(network).expanduser()
    local = folder.is_dir()
    if revision is not None and (folder / revision / "preprocessor_config.json").is_file():
        folder /= revision
    place: dict[str, Any] = {"local_files_only": True} if local else {"revision": revision}
    try:
        read = partial(transformers.AutoImageProcessor.from_pretrained, str(folder) if local else network, **place)
        processor = read()
    except (OSError, ValueError, KeyError) as error:
        raise DataError(
            f"{network} has no image processor: {one_line(error)} Put its preprocessor_config.json there, or give a "
            "transform: data.transform._target_=…"
        ) from error
    if size is not None:
        if not hasattr(processor, "size"):
            raise _no_size(network, processor)
        processor = read(**_sized(processor, size))
    return partial(_processed, processor)


def _no_size(network: str | None, transform: Any) -> ValueError:
    return ValueError(
        f"The transform of {network} is {type(transform).__name__}, which takes no size. Leave out "
        "data.transform.size, or give a transform of your own: data.transform._target_=…"
    )


def _sized(processor: Any, size: int) -> dict[str, dict[str, int]]:
    """Change an image processor's options for another size, keeping the shape of images as it does."""
    square = {"height": size, "width": size}
    given, crop = dict(processor.size or {}), dict(getattr(processor, "crop_size", None) or {})
    if "shortest_edge" not in given:
        return {"size": square} | ({"crop_size": square} if crop else {})
    cropped = getattr(processor, "do_center_crop", False) and crop
    shortest = round(size * given["shortest_edge"] / min(crop["height"], crop["width"])) if cropped else size
    return {"size": given | {"shortest_edge": shortest}} | ({"crop_size": square} if crop else {})


def _processed(processor: Any, image: Image) -> Tensor:
    return processor(image, return_tensors="pt")["pixel_values"][0]


def _coloured(image: Image) -> Image:
    """Give a grey image three channels: what is prescribed is so for these."""
    return image.convert("RGB")


def _centred(pixels: Tensor) -> Tensor:
    return torch.sub(pixels, 0.5)


_BUILDERS: Mapping[str | None, Callable[[str, int | None, str | None], Transform]] = {
    "layerprobe.timm_network": _of_timm,
    "layerprobe.vision_model": _of_the_hub,
}
"""What the packages behind these builders of networks say of the images."""
