from __future__ import annotations

import builtins
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import BertConfig, BertForMaskedLM, BertModel, LlamaConfig, LlamaForCausalLM

from layerprobe.models.pretrained import ModelError
from layerprobe.models.pretrained_text import encoder, language_model


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bert")
    with torch.random.fork_rng():
        torch.manual_seed(7)  # none of the seeds below, whatever ran before
        BertModel(_small()).save_pretrained(folder)
    return folder


def _small() -> BertConfig:
    return BertConfig(
        vocab_size=30, hidden_size=8, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16,
        max_position_embeddings=10,
    )  # fmt: skip


def batch(length: int = 6) -> dict[str, torch.Tensor]:
    ids = torch.randint(30, (2, length), generator=torch.Generator().manual_seed(0))
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def test_a_folder_gives_the_network_that_was_saved(bert: Path) -> None:
    model, expected = encoder(str(bert)), BertModel.from_pretrained(bert)
    assert not model.training
    with torch.no_grad():
        assert torch.equal(model(**batch()).last_hidden_state, expected(**batch()).last_hidden_state)


def test_random_weights_are_seeded_other_ones_and_leave_the_generator_alone(bert: Path) -> None:
    before = torch.get_rng_state()
    pretrained, first, again, other = (
        encoder(str(bert), weights=weights, seed=seed)
        for weights, seed in (("pretrained", 0), ("random", 0), ("random", 0), ("random", 1))
    )
    assert torch.equal(torch.get_rng_state(), before)
    one, same, different, trained = (
        next(p for n, p in model.named_parameters() if "query.weight" in n)
        for model in (first, again, other, pretrained)
    )
    assert torch.equal(one, same)
    assert not torch.equal(one, different)
    assert not torch.equal(one, trained)


def test_a_language_model_has_scores_of_tokens_and_keeps_no_cache(tmp_path: Path) -> None:
    config = LlamaConfig(
        vocab_size=30, hidden_size=8, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16,
        max_position_embeddings=10, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(tmp_path)
    with torch.no_grad():
        outputs = language_model(str(tmp_path), dtype="bfloat16")(**batch())
    assert outputs.logits.shape == (2, 6, 30)
    assert outputs.logits.dtype == torch.bfloat16
    assert outputs.past_key_values is None


def test_weights_that_the_folder_does_not_have_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    BertForMaskedLM(_small()).save_pretrained(tmp_path)
    encoder(str(tmp_path))
    assert "pooler.dense.weight: these are random" in caplog.text


def _without_weights(folder: Path) -> str:
    _small().save_pretrained(folder)
    return str(folder)


def _without_config(folder: Path) -> str:
    (folder / "notes.txt").touch()
    return str(folder)


def _truncated(folder: Path) -> str:
    BertModel(_small()).save_pretrained(folder)
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:2000])
    return str(folder)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (_without_weights, "has no weights: expected model.safetensors, found config.json.*model.weights=random"),
        (_without_config, "is no pretrained network: expected config.json, found notes.txt"),
        (_truncated, "could not be loaded"),
        (lambda folder: str(folder / "missing"), "is not there. Give the folder"),
    ],
)
def test_a_network_that_cannot_be_had_is_one_clear_error(tmp_path: Path, make: Any, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        encoder(make(tmp_path))


def test_a_gated_network_is_one_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import AutoConfig

    def refuse(*args: Any, **options: Any) -> None:
        raise OSError("You are trying to access a gated repo.\nMake sure to have access to it at https://…")

    monkeypatch.setattr(AutoConfig, "from_pretrained", refuse)
    with pytest.raises(ModelError, match=r"'someone/gated' could not be loaded: You are trying to access a gated.*hf"):
        encoder("someone/gated")


def test_a_sequence_longer_than_the_context_is_refused(bert: Path) -> None:
    with pytest.raises(ValueError, match=r"11 tokens, the network's context has 10.*max_length=10"):
        encoder(str(bert))(**batch(length=11))


@pytest.mark.parametrize(
    ("package", "options", "message"),
    [("transformers", {}, r"pip install 'layerprobe\[text\]'"), ("bitsandbytes", {"dtype": "int8"}, "bitsandbytes")],
)
def test_a_missing_package_is_named(
    bert: Path, monkeypatch: pytest.MonkeyPatch, package: str, options: dict[str, Any], message: str
) -> None:
    real = builtins.__import__

    def without(name: str, *rest: Any) -> Any:
        if name.split(".")[0] == package:
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.delitem(sys.modules, package, raising=False)
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match=message):
        encoder(str(bert), **options)


@pytest.mark.parametrize("options", [{"dtype": "float99"}, {"weights": "other"}])
def test_options_that_cannot_be(bert: Path, options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"float99|other"):
        encoder(str(bert), **options)
