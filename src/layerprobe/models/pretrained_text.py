"""Pretrained networks for text, of the Hugging Face hub or of a folder."""

from __future__ import annotations

from typing import Any, final

import pytorch_lightning as pl
from torch import Tensor, nn

from layerprobe.models.pretrained import from_the_hub


@final
class TextModel(pl.LightningModule):
    """A network of the package `transformers`, called with the tokenizer's outputs by name.

    Args:
        model: A `PreTrainedModel`.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, **inputs: Tensor) -> Any:
        """Call the network.

        Args:
            inputs: `input_ids` (n t) and what else the tokenizer makes; entries `span:NAME` are for those who read the
                network's layers.

        Raises:
            ValueError: If the sequences are longer than the network's context.
        """
        context = getattr(self.model.config, "max_position_embeddings", None)
        length = inputs["input_ids"].shape[1]
        if isinstance(context, int) and length > context:
            raise ValueError(
                f"A sequence has {length:,} tokens, the network's context has {context:,}. "
                f"Cut the texts: data.tokenizer.truncation=true data.tokenizer.max_length={context}"
            )
        return self.model(**{name: tensor for name, tensor in inputs.items() if not name.startswith("span:")})


def encoder(
    name: str,
    revision: str | None = None,
    dtype: str = "float32",
    weights: str = "pretrained",
    device_map: str | dict[str, Any] | None = None,
    seed: int = 0,
    trust_remote_code: bool = False,
) -> TextModel:
    """Load a network without a head, by `AutoModel`, in eval mode.

    Args:
        name: Name on the hub, or a folder; a folder needs no network connection.
        revision: Commit, tag or branch; of a folder, the folder in it that is called so, and `main` is itself.
        dtype: Precision of the weights; `int8` needs the package bitsandbytes.
        weights: `random` for an untrained network of the same architecture.
        device_map: Where the parts go, as `from_pretrained` takes it; needs the package accelerate.
        seed: Seed of random weights.
        trust_remote_code: Whether to run code that comes with the network.

    Raises:
        ImportError: If a package is missing.
        ModelError: If the network is not there, not open to you, or has no weights.
    """
    network = from_the_hub("AutoModel", name, revision, dtype, weights, device_map, seed, trust_remote_code)
    return TextModel(network).eval()


def language_model(
    name: str,
    revision: str | None = None,
    dtype: str = "float32",
    weights: str = "pretrained",
    device_map: str | dict[str, Any] | None = None,
    seed: int = 0,
    trust_remote_code: bool = False,
) -> TextModel:
    """Load a network that predicts the next token, by `AutoModelForCausalLM`, from what `encoder` takes.

    Returns:
        The network in eval mode, without its cache of keys and values.

    Raises:
        ImportError: If a package is missing.
        ModelError: If the network is not there, not open to you, or has no weights.
    """
    network = from_the_hub("AutoModelForCausalLM", name, revision, dtype, weights, device_map, seed, trust_remote_code)
    return TextModel(network).eval()
