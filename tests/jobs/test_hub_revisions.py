"""Revisions of a network, in folders, as checkpoints of its training."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import hydra
import pandas as pd
import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf
from transformers import LlamaConfig, LlamaForCausalLM

from data.test_text import word_level
from helpers.command import ROOT
from layerprobe.config import register
from layerprobe.jobs.hub_revisions import revisions_of, with_revision
from layerprobe.jobs.probe import Builder, checkpoints_of, probe_source
from layerprobe.models.pretrained import ModelError
from layerprobe.training.probe_session import ProbeSession

STEPS = {"step0": 0, "step10": 10, "step2": 2}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network whose revisions differ in their weights; one has a tokenizer of its own."""
    root = tmp_path_factory.mktemp("revisions")
    config = LlamaConfig(
        vocab_size=30, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8,
        max_position_embeddings=16, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    for name, seed in STEPS.items():
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            LlamaForCausalLM(config).save_pretrained(root / name)
    (root / word_level(root, 14)).rename(root / "tokens")
    for file in (root / "tokens").iterdir():
        file.rename(root / file.name)
    (root / "tokens").rmdir()
    rows = [{"text": f"{'number ' * (i % 7)} says {'yes' if i % 2 else 'no'}", "label": i % 2} for i in range(40)]
    (root / "rows.json").write_text(json.dumps(rows))
    return root


def composed(folder: Path, revision: str, *words: str) -> DictConfig:
    register()
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        data = ["data=text", f"data.root={folder}", "data.table.path=rows.json", "logger=none", "probe.l2=[1.0]"]
        data += ["trainer.default_root_dir=.", "trainer.callbacks=[]"]
        return compose("probe", ["model=hf_lm", f"model.name={folder}", f"model.revision={revision}", *data, *words])


def test_each_revision_is_a_checkpoint_with_its_step(folder: Path, tmp_path: Path) -> None:
    cfg = composed(folder, "[step0,step10,step2]")
    sources = checkpoints_of(cfg)
    assert [(info.name, info.step) for _, info in sources] == [("step0", 0), ("step2", 2), ("step10", 10)]
    builder, session = Builder(cfg), ProbeSession(tmp_path / "probes", [])
    for source in sources:
        assert probe_source(session, builder, source)
    results = session.store.results()
    own = results[results["checkpoint"].isin(STEPS)]
    assert dict(zip(own["checkpoint"], own["step"], strict=True)) == STEPS
    alone, single = composed(folder, "step2"), ProbeSession(tmp_path / "alone", [])
    probe_source(single, Builder(alone), checkpoints_of(alone)[0])
    found, expected = (
        rows.drop(columns=["checkpoint", "step", "seconds"]).reset_index(drop=True)
        for rows in (own.query("checkpoint == 'step2'"), single.store.results().query("checkpoint == 'pretrained'"))
    )
    pd.testing.assert_frame_equal(found, expected)
    assert own.groupby("checkpoint")["test_loss"].last().nunique() == 3, "the negative control: other weights"


def test_one_revision_takes_the_place_of_all_wherever_it_is_used(folder: Path) -> None:
    cfg = composed(folder, "{step10: 7, step2: 3}", "untrained=true")
    infos = revisions_of(cfg)
    assert [(info.name, info.step) for info in infos] == [("step2", 3), ("step10", 7)]
    own = with_revision(cfg, infos[1])
    assert (own.model.revision, own.data.tokenizer.revision) == ("step10", "step10")
    assert OmegaConf.is_config(cfg.model.revision), "the configuration itself is as it was"
    untrained = checkpoints_of(cfg)[0][1]
    assert (untrained.name, with_revision(cfg, untrained).model.revision) == ("untrained", "step2")
    assert revisions_of(composed(folder, "step2")) == []


@pytest.mark.parametrize(
    ("revision", "message"),
    [
        ("[step0,main]", r"'main' has no step in its name.*model\.revision=\{main: 143000\}"),
        ("[9e2a0d7]", "'9e2a0d7' has no step"),
        ("[v1.0]", "'v1.0' has no step"),
        ("[1.4b-143k]", "'1.4b-143k' has no step"),
        ("{main: last}", "'main' has the step 'last'"),
        ("[step0,step0]", "give each revision once"),
        ("[]", "give each revision once"),
    ],
)
def test_revisions_that_cannot_be_ordered(folder: Path, revision: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        revisions_of(composed(folder, revision))


def test_a_revision_that_is_not_there_names_those_that_are(folder: Path) -> None:
    cfg: Any = composed(folder, "step3")
    with pytest.raises(
        hydra.errors.InstantiationException, match=r"no revision 'step3'.*step0, step10, step2"
    ) as caught:
        hydra.utils.instantiate(cfg.model)
    assert isinstance(caught.value.__cause__, ModelError)
