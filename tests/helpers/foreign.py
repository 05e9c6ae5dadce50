"""Lightning modules and data as others write them: nothing here knows of layerprobe."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytorch_lightning as pl
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset


class Records(Dataset[dict[str, Any]]):
    """Digits as dictionaries: an image, its class, and a table of metadata."""

    def __init__(self, part: slice) -> None:
        digits = load_digits()
        self.images = torch.tensor(digits.images[part], dtype=torch.float32) / 16
        self.targets = torch.tensor(digits.target[part])

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> dict[str, Any]:
        image, target = self.images[index], self.targets[index]
        table = torch.stack([target > 4, target % 3 == 0])
        return {"pixels": image, "label": target, "meta": {"ink": image.mean(), "table": table.long()}}


class RecordsDataModule(pl.LightningDataModule):
    """Two test loaders, the second of other samples."""

    def __init__(self, batch_size: int = 64) -> None:
        super().__init__()
        self.batch_size = batch_size

    def _loader(self, part: slice, shuffle: bool = False) -> DataLoader[Any]:
        return DataLoader(Records(part), self.batch_size, shuffle=shuffle)

    def train_dataloader(self) -> DataLoader[Any]:
        return self._loader(slice(0, 600), shuffle=True)

    def val_dataloader(self) -> DataLoader[Any]:
        return self._loader(slice(600, 900))

    def test_dataloader(self) -> list[DataLoader[Any]]:
        return [self._loader(slice(900, 1200)), self._loader(slice(1200, 1700))]


class ForeignNet(pl.LightningModule):
    """Takes keyword arguments and returns a dictionary."""

    def __init__(self, width: int, activation: str = "relu") -> None:
        super().__init__()
        self.save_hyperparameters()
        self.encoder = nn.Sequential(nn.Flatten(), nn.Linear(64, width), nn.BatchNorm1d(width))
        self.head = nn.Linear(width, 10)
        self.act = getattr(torch, activation)

    def forward(self, *, pixels: Tensor, scale: float = 1.0) -> dict[str, Tensor]:
        hidden = self.act(self.encoder(pixels * scale))
        return {"hidden": hidden, "logits": self.head(hidden)}

    def training_step(self, batch: Mapping[str, Any], batch_idx: int) -> Tensor:
        return nn.functional.cross_entropy(self(pixels=batch["pixels"])["logits"], batch["label"])

    def validation_step(self, batch: Mapping[str, Any], batch_idx: int) -> None:
        self.log("val/loss", self.training_step(batch, batch_idx), batch_size=len(batch["label"]))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=1e-3)


class Anything:
    """What says of its arguments that they may be anything, or leaves out that one may be None."""

    def __init__(self, value: Any, later: int = None) -> None:  # type: ignore[assignment]  # noqa: RUF013
        self.value = value
        self.later = later
