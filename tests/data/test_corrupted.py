"""Corrupted images: a function of the seed, the split and the place alone, and worse with severity."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from layerprobe.data.corrupted import CorruptedDataModule, CorruptedDataset
from layerprobe.data.corruptions import AbstractCorruption, Blur, Clean, Noise, Rotation, Translation
from layerprobe.data.digits import DigitsDataModule

KINDS = [Noise, Blur, Rotation, Translation]


def images(n: int = 6, side: int = 16) -> Tensor:
    random = torch.Generator().manual_seed(0)
    return torch.rand(n, 2, side, side, generator=random) - 0.5


@pytest.mark.parametrize("kind", KINDS)
def test_an_image_keeps_its_shape_type_and_range_and_is_farther_off_with_severity(
    kind: type[AbstractCorruption],
) -> None:
    smooth = torch.linspace(-1, 1, 24).sin().outer(torch.linspace(0, 3, 24).cos())[None]
    before, far = smooth.clone(), []
    for severity in (1, 3, 5):
        found = kind(severity)(smooth, np.random.default_rng(0))
        assert found.shape == smooth.shape
        assert found.dtype == smooth.dtype
        assert found.min() >= smooth.min() - 1e-6
        assert found.max() <= smooth.max() + 1e-6
        far.append(float((found - smooth).abs().mean()))
    assert far == sorted(set(far))
    torch.testing.assert_close(smooth, before, rtol=0, atol=0)


def test_a_rotation_turns_the_image_by_its_angle_to_either_side() -> None:
    image = torch.zeros(1, 33, 33)
    image[0, 16, 16:30] = 1.0  # points to the right
    seen = set()
    for seed in range(8):
        found = Rotation(4)(image, np.random.default_rng(seed))[0]
        rows, columns = (found > 0.5).nonzero().double().mean(0) - 16
        assert columns > 0
        assert torch.rad2deg(torch.atan2(rows, columns).abs()) == pytest.approx(45, abs=2)
        seen.add(bool(rows > 0))
    assert seen == {True, False}


def test_noise_has_the_standard_deviation_that_its_severity_says() -> None:
    image = torch.zeros(1, 200, 200)
    image[0, 0, 0], image[0, 0, 1] = -2.0, 2.0
    found = Noise(1)(image, np.random.default_rng(0))[0, 1:]
    assert float(found.std()) == pytest.approx(0.08 * 4, rel=0.02)


def test_what_others_are_compared_with_is_left_as_it_is() -> None:
    assert torch.equal(Clean(5)(images()[0], np.random.default_rng(0)), images()[0])


@pytest.mark.parametrize("severity", [0, 6, True])
def test_another_severity_is_refused(severity: Any) -> None:
    with pytest.raises(ValueError, match=r"severity of Noise is .*Give 1, 2, 3, 4 or 5"):
        Noise(severity)


def test_a_sample_is_the_same_in_every_order_and_batch_and_in_a_worker() -> None:
    clean = TensorDataset(images(), torch.arange(6))
    corrupted = CorruptedDataset(clean, Noise(5), seed=3)
    one_by_one = torch.stack([corrupted[i][0] for i in range(6)])
    backwards = torch.stack([image for image, _ in corrupted.__getitems__([5, 4, 3, 2, 1, 0])]).flip(0)
    by_loader = torch.cat([image for image, _ in DataLoader(corrupted, batch_size=4)])
    for other in (backwards, by_loader):
        assert torch.equal(one_by_one, other)
    assert [corrupted[i][1] for i in range(6)] == list(range(6))
    assert not torch.equal(one_by_one, torch.stack([CorruptedDataset(clean, Noise(5), seed=4)[i][0] for i in range(6)]))
    same = CorruptedDataset(TensorDataset(torch.zeros(2, 1, 9, 9), torch.zeros(2)), Translation(5))
    assert len(same) == 2


def test_a_data_module_keeps_its_splits_and_each_has_draws_of_its_own() -> None:
    clean, corrupted = (DigitsDataModule(), CorruptedDataModule(DigitsDataModule(), Noise(2), seed=1))
    for module in (clean, corrupted):
        module.prepare_data()
        module.setup("test")
    state = torch.get_rng_state()
    noise = {}
    for split in ("val", "test"):
        before, after = (getattr(module, f"{split}_dataloader")() for module in (clean, corrupted))
        pairs = list(zip(before, after, strict=True))
        assert all(torch.equal(targets, others) for (_, targets), (_, others) in pairs)
        noise[split] = pairs[0][1][0][0] - pairs[0][0][0][0]
        assert noise[split].abs().max() > 0
    assert not torch.equal(noise["val"], noise["test"])
    assert torch.equal(torch.get_rng_state(), state)
    order = [targets for _, targets in corrupted.train_dataloader()]
    assert all(torch.equal(a, b) for a, (_, b) in zip(order, clean.train_dataloader(), strict=True))


def test_what_is_no_image_is_refused() -> None:
    flat = CorruptedDataset(TensorDataset(torch.zeros(2, 5), torch.zeros(2)), Noise())
    with pytest.raises(TypeError, match=r"found float32 of shape \(5,\)"):
        flat[0]
    module = CorruptedDataModule(DigitsDataModule(), Noise())
    with pytest.raises(TypeError, match="no DataLoader over a data set with a length"):
        module._corrupted("test", [1, 2])


@pytest.mark.filterwarnings("ignore:You requested to overfit")
def test_a_loader_that_lightning_makes_again_has_the_corrupted_images() -> None:
    class Images(pl.LightningDataModule):
        def train_dataloader(self) -> DataLoader[Any]:
            return DataLoader(TensorDataset(images(), torch.arange(6)), batch_size=2)

        val_dataloader = train_dataloader

    seen: list[bool] = []

    class Network(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.scale = torch.nn.Parameter(torch.ones(()))

        def training_step(self, batch: Any) -> Tensor:
            clean = images()[batch[1]]
            seen.append(bool(torch.equal(batch[0], clean)))
            return batch[0].sum() * self.scale

        def validation_step(self, batch: Any) -> None:
            """Look at nothing."""

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), 1e-6)

    options: Any = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "accelerator": "cpu"}
    trainer = pl.Trainer(max_epochs=1, overfit_batches=1, enable_model_summary=False, **options)
    trainer.fit(Network(), datamodule=CorruptedDataModule(Images(), Noise(3), 0))
    assert seen == [False]
