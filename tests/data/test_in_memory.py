import torch
from torch.utils.data import DataLoader

from layerprobe.data.in_memory import InMemoryDataset


def test_a_batch_is_its_samples():
    dataset = InMemoryDataset(
        torch.arange(24, dtype=torch.uint8).reshape(6, 2, 2), torch.arange(6), scale=0.5, shift=-1.0
    )
    inputs, targets = next(iter(DataLoader(dataset, batch_size=6)))
    singles = [dataset[index] for index in range(6)]
    assert torch.equal(inputs, torch.stack([sample[0] for sample in singles]))
    assert torch.equal(targets, torch.stack([sample[1] for sample in singles]))
    assert torch.equal(inputs, torch.arange(24.0).reshape(6, 2, 2) * 0.5 - 1.0)
    assert inputs.dtype == torch.float32
    assert targets.dtype == torch.int64


def test_what_lies_in_memory_stays_as_it_was():
    stored = torch.arange(6.0).reshape(3, 2)
    dataset = InMemoryDataset(stored, torch.zeros(3, dtype=torch.int64))
    dataset[0][0].add_(1.0)
    for inputs, _ in DataLoader(dataset, batch_size=3):
        inputs.add_(1.0)
    assert torch.equal(stored, torch.arange(6.0).reshape(3, 2))
