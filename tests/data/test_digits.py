import pytest
import pytorch_lightning as pl
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

from layerprobe.data.digits import DigitsDataModule
from layerprobe.types import SPLITS


def _ready(**arguments: int) -> DigitsDataModule:
    data = DigitsDataModule(**arguments)
    data.prepare_data()
    data.setup("fit")
    return data


def _all(loader) -> tuple[Tensor, Tensor]:
    batches = list(loader)
    return torch.cat([inputs for inputs, _ in batches]), torch.cat([targets for _, targets in batches])


def test_shapes_and_range():
    data = _ready(batch_size=50)
    inputs, targets = next(iter(data.train_dataloader()))
    assert inputs.shape == (50, 1, 8, 8)
    assert inputs.dtype == torch.float32
    assert targets.dtype == torch.int64
    every = torch.cat([_all(loader)[0] for loader in (data.train_dataloader(), data.test_dataloader())])
    assert (every.min(), every.max()) == (-0.5, 0.5)
    assert data.n_classes == 10


def test_the_splits_are_the_whole_set_without_overlap():
    data = _ready(split_seed=5)
    rows = torch.cat([data.dataset(split).stored.flatten(1) for split in SPLITS])
    wanted = torch.from_numpy(load_digits().data).float()
    assert sorted(map(tuple, rows.tolist())) == sorted(map(tuple, wanted.tolist()))
    assert [len(data.dataset(split)) for split in SPLITS] == [717, 360, 720]


def test_the_splits_are_stratified():
    data = _ready()
    whole = torch.bincount(torch.from_numpy(load_digits().target))
    for split in SPLITS:
        targets = data.dataset(split).targets
        expected = whole * len(targets) / whole.sum()
        assert (torch.bincount(targets) - expected).abs().max() <= 1.5


def test_the_split_has_a_seed_of_its_own():
    first = _ready(split_seed=1, seed=1).dataset("test").stored
    assert torch.equal(first, _ready(split_seed=1, seed=2).dataset("test").stored)
    assert not torch.equal(first, _ready(split_seed=2, seed=1).dataset("test").stored)


def test_only_training_is_shuffled_and_by_its_seed():
    def targets(loader):
        return _all(loader)[1].tolist()

    data = _ready(seed=1)
    assert targets(data.train_dataloader()) != data.dataset("train").targets.tolist()
    assert targets(data.train_dataloader()) == targets(_ready(seed=1).train_dataloader())
    assert targets(data.train_dataloader()) != targets(_ready(seed=2).train_dataloader())
    assert targets(data.val_dataloader()) == data.dataset("val").targets.tolist()
    assert targets(data.test_dataloader()) == data.dataset("test").targets.tolist()


def test_batches_do_not_depend_on_workers():
    alone, helped = (_all(_ready(num_workers=n).train_dataloader()) for n in (0, 2))
    assert torch.equal(alone[0], helped[0])
    assert torch.equal(alone[1], helped[1])


def test_looking_at_the_data_moves_no_random_numbers():
    data = _ready()
    before = torch.get_rng_state()
    first = _all(data.train_dataloader())[1]
    _all(data.val_dataloader())
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(first, _all(data.train_dataloader())[1])


def test_setup_again_keeps_what_was_read():
    data = _ready()
    before = data.dataset("train")
    data.setup("test")
    assert data.dataset("train") is before


def test_a_loader_before_setup_says_what_to_do():
    with pytest.raises(RuntimeError, match=r"call prepare_data\(\) and setup\(\)"):
        DigitsDataModule().train_dataloader()


class _Recorder(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.seen: list[list[int]] = []

    def on_train_epoch_start(self) -> None:
        self.seen.append([])

    def training_step(self, batch, batch_idx):
        self.seen[-1] += batch[1].tolist()
        return self.weight.sum()

    def validation_step(self, batch, batch_idx):
        return None

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def _trainer(max_epochs: int, **arguments) -> pl.Trainer:
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    return pl.Trainer(accelerator="cpu", max_epochs=max_epochs, **quiet, **arguments)


def test_lightning_shuffles_anew_in_every_epoch_and_a_resumed_run_sees_the_same(tmp_path):
    whole = _Recorder()
    _trainer(3, enable_checkpointing=False).fit(whole, datamodule=_ready())
    assert len({tuple(epoch) for epoch in whole.seen}) == 3

    first = _trainer(2, enable_checkpointing=False)
    first.fit(_Recorder(), datamodule=_ready())
    first.save_checkpoint(tmp_path / "two.ckpt")
    rest = _Recorder()
    _trainer(3, enable_checkpointing=False).fit(rest, datamodule=_ready(), ckpt_path=tmp_path / "two.ckpt")
    assert rest.seen == whole.seen[2:]
