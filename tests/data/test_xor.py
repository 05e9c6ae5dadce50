import torch

from layerprobe.data.xor import XorDataModule
from layerprobe.types import SPLITS


def test_every_split_is_the_truth_table():
    data = XorDataModule()
    data.setup("fit")
    for split in SPLITS:
        dataset = data.dataset(split)
        table = {tuple(x.tolist()): int(y) for x, y in (dataset[index] for index in range(len(dataset)))}
        assert table == {(0.0, 0.0): 0, (0.0, 1.0): 1, (1.0, 0.0): 1, (1.0, 1.0): 0}
    assert data.n_classes == 2


def test_an_epoch_is_as_many_full_batches_as_repeats():
    data = XorDataModule(repeats=7)
    data.setup("fit")
    batches = list(data.train_dataloader())
    assert len(batches) == len(data.train_dataloader()) == 7
    assert all(torch.equal(inputs, batches[0][0]) and inputs.shape == (4, 2) for inputs, _ in batches)
    assert all(torch.equal(targets, torch.tensor([0, 1, 1, 0])) for _, targets in batches)
    assert len(data.train_dataloader().dataset) == 4
    assert len(data.val_dataloader()) == len(data.test_dataloader()) == 1
