"""Every layer of a real encoder on real sentences, against features and heads that come by another route."""

from __future__ import annotations

import csv
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score, roc_auc_score
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler
from transformers import AutoModel, AutoTokenizer

import layerprobe
from layerprobe.data.pretrained_tokenizer import PretrainedTokenizer
from layerprobe.data.text import TextDataModule
from layerprobe.data.text_table import AbstractTable, LabelledLines, TextFile
from layerprobe.models.pretrained_text import encoder
from layerprobe.probing.features.token_reducers import LastToken, MeanToken
from layerprobe.probing.solvers.scikit_learn_c import ScikitLearnC

pytestmark = pytest.mark.slow(seconds=80)


def stsa(root: Path) -> tuple[AbstractTable, dict[str, object], list[str], np.ndarray]:
    lines = [line.split(" ", 1) for line in (root / "stsa.binary.train").read_text().split("\n") if line]
    by_class = [[text.strip() for label, text in lines if label == one][:300] for one in "01"]
    options: dict[str, object] = {"classes": [0, 1]}
    return LabelledLines("stsa.binary.train"), options, list(chain.from_iterable(by_class)), np.repeat([0, 1], 300)


def cities(root: Path) -> tuple[AbstractTable, dict[str, object], list[str], np.ndarray]:
    with (root / "cities.csv").open(newline="") as file:
        rows = list(csv.reader(file))[1:]
    by_class = [[row[0] for row in rows if row[1] == one][:300] for one in "10"]
    options: dict[str, object] = {"classes": [1, 0], "text": "statement"}
    return TextFile("cities.csv"), options, list(chain.from_iterable(by_class)), np.repeat([0, 1], 300)


def hidden_states(folder: Path, texts: list[str]) -> dict[str, np.ndarray]:
    """The last token's and the mean token's states after each block, texts of one length together, without padding."""
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder)
    encoded = [tokenizer(text, padding=False)["input_ids"] for text in texts]
    shape = (len(texts), model.config.num_hidden_layers + 1, model.config.hidden_size)
    last, mean = np.empty(shape), np.empty(shape)
    for length in {len(ids) for ids in encoded}:
        rows = [i for i, ids in enumerate(encoded) if len(ids) == length]
        ids = torch.tensor([encoded[i] for i in rows])
        with torch.no_grad():
            states = model(ids, attention_mask=torch.ones_like(ids), output_hidden_states=True).hidden_states
        states = torch.stack(states, 1).double()
        last[rows], mean[rows] = states[:, :, -1].numpy(), states.mean(2).numpy()
    return {"last": last.swapaxes(0, 1), "mean": mean.swapaxes(0, 1)}


@pytest.mark.parametrize("read", [stsa, cities])
def test_every_layer_is_within_a_standard_error_of_scikit_learn(shared: Path, read) -> None:
    root, folder = shared / "data" / "concepts", shared / "models" / "all-MiniLM-L6-v2"
    table, options, texts, targets = read(root)
    features = hidden_states(folder, texts)
    names = ["embeddings", *(f"encoder.layer.{i}" for i in range(6))]

    def data(**more: object) -> TextDataModule:
        more |= {"batch_size": 8}  # up to 32 texts of the first batch run several times, to check its rows
        return TextDataModule(table, PretrainedTokenizer(str(folder)), per_class=300, root=root, **options, **more)  # type: ignore[arg-type]

    # The protocol of Jin et al. (2024): C = 1 on the last token as it is, 60/40.
    found = layerprobe.probe(
        encoder(str(folder)), data(val_size=0, test_size=0.4, stratified=False, split_seed=42), granularity="blocks",
        reducer=LastToken(), l2=ScikitLearnC(), standardise=False, layers=names,
    ).set_index("layer")  # fmt: skip
    train, test = train_test_split(np.arange(600), test_size=0.4, random_state=42)
    for name, x in zip(names, features["last"], strict=True):
        head = LogisticRegression(C=1.0, solver="newton-cholesky", tol=1e-8).fit(x[train], targets[train])
        accuracy = head.score(x[test], targets[test])
        error = np.sqrt(accuracy * (1 - accuracy) / len(test))
        assert 1 - found.loc[name, "test_error"] == pytest.approx(accuracy, abs=error), name
        if name == "embeddings":  # the last token is always [SEP]: its embedding tells the length of the text alone
            continue
        assert 1 - found.loc[name, "test_error"] == pytest.approx(accuracy, abs=1.5 / len(test)), name
        assert found.loc[name, "test_f1"] == pytest.approx(f1_score(targets[test], head.predict(x[test])), abs=0.01)
        scores = head.decision_function(x[test])
        assert found.loc[name, "test_auc"] == pytest.approx(roc_auc_score(targets[test], scores), abs=0.003)

    # Ours: the mean token, standardised, l2 chosen on validation.
    l2s = [1e-3, 1e-2, 1e-1]
    found = layerprobe.probe(
        encoder(str(folder)), data(val_size=0.2, test_size=0.2), granularity="blocks", reducer=MeanToken(), l2=l2s,
        layers=names,
    ).set_index("layer")  # fmt: skip
    rest, test = train_test_split(np.arange(600), test_size=120, random_state=0, stratify=targets)
    rest = np.sort(rest)
    train, val = train_test_split(rest, test_size=120, random_state=0, stratify=targets[rest])
    for name, x in zip(names, features["mean"], strict=True):
        x = StandardScaler().fit(x[train]).transform(x)
        ranked = []
        for l2 in sorted(l2s, reverse=True):
            head = LogisticRegression(C=2 / (l2 * len(train)), solver="newton-cholesky", tol=1e-8).fit(
                x[train], targets[train]
            )
            loss = -np.log(head.predict_proba(x[val])[np.arange(len(val)), targets[val]]).mean()
            ranked.append((1 - head.score(x[val], targets[val]), loss, -l2, head.score(x[test], targets[test])))
        accuracy = min(ranked)[-1]
        error = np.sqrt(accuracy * (1 - accuracy) / len(test))
        assert 1 - found.loc[name, "test_error"] == pytest.approx(accuracy, abs=error), name
