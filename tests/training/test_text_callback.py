"""The callback on token ids: a classifier that trains on what a text data module gives."""

from __future__ import annotations

import math
from pathlib import Path

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

import layerprobe
from layerprobe.probing.features.token_reducers import LastToken, MeanToken
from layerprobe.probing.protocol import ProbeProtocol

Batch = tuple[dict[str, Tensor], Tensor]


class Texts(pl.LightningDataModule):
    """Sequences of 3 to 8 tokens, padded to the longest of each batch; the class says whether token 7 is in them."""

    def _loader(self, seed: int) -> DataLoader[tuple[list[int], int]]:
        generator = torch.Generator().manual_seed(seed)
        samples = []
        for i in range(96):
            ids = torch.randint(
                8, 20, (int(torch.randint(3, 9, (), generator=generator)),), generator=generator
            ).tolist()
            samples.append(([7, *ids[1:]] if i % 2 else ids, i % 2))

        def collate(batch: list[tuple[list[int], int]]) -> Batch:
            rows = [torch.tensor(ids) for ids, _ in batch]
            ids = nn.utils.rnn.pad_sequence(rows, batch_first=True)
            return {"input_ids": ids, "attention_mask": (ids > 0).long()}, torch.tensor([y for _, y in batch])

        return DataLoader(samples, batch_size=16, collate_fn=collate)  # type: ignore[arg-type]

    def train_dataloader(self) -> DataLoader[tuple[list[int], int]]:
        return self._loader(0)

    def val_dataloader(self) -> DataLoader[tuple[list[int], int]]:
        return self._loader(1)

    def test_dataloader(self) -> DataLoader[tuple[list[int], int]]:
        return self._loader(2)


class Classifier(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.read, self.score = nn.Embedding(20, 6), nn.Linear(6, 6), nn.Linear(6, 2)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        weight = attention_mask[..., None].float()
        return self.score((torch.tanh(self.read(self.embed(input_ids))) * weight).sum(1) / weight.sum(1))

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        inputs, targets = batch
        return nn.functional.cross_entropy(self(**inputs), targets)

    def validation_step(self, batch: Batch, batch_idx: int) -> None: ...

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=0.05)


def test_token_ids_are_probed_while_a_classifier_trains(tmp_path: Path) -> None:
    pl.seed_everything(0, verbose=False)
    callback = layerprobe.ProbeCallback(
        ProbeProtocol(reducers=(MeanToken(), LastToken()), l2=(1e-3, 1e-1)), directory=tmp_path
    )
    trainer = pl.Trainer(
        max_epochs=8, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, default_root_dir=tmp_path, callbacks=[callback], num_sanity_val_steps=0,
    )  # fmt: skip
    trained = Classifier()
    trainer.fit(trained, datamodule=Texts())
    results = callback.results()
    assert set(results["checkpoint"]) == {"initial", "final"}
    assert results["status"].eq("converged").all()
    assert results["depth"].min() == 1, "token ids are no layer"
    error = results.set_index(["checkpoint", "layer"])["test_error"]
    assert error["final", "score"] < 0.1
    assert not math.isnan(error["initial", "embed"])
    reduced = results.set_index(["checkpoint", "layer"])["reduction"]
    assert "token of Tx6" in reduced["final", "embed"]
    assert reduced["final", "score"] == "flatten 2 -> 2"
    loaded = layerprobe.load(tmp_path)  # from files, with the run's own loader: each batch has a length of its own
    assert set(loaded["checkpoint"]) == {"final"}
    targets = torch.tensor([i % 2 for i in range(96)])
    for layer in ("embed", "score"):
        wrong = loaded.heads[layer].predict(trained, Texts().test_dataloader()) != targets
        assert wrong.double().mean().item() == error["final", layer]
        assert loaded.heads[layer].wrong.tolist() == wrong.nonzero()[:, 0].tolist()
