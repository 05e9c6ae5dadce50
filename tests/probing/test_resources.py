"""What a probe may take has no effect on its records."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
import torch
from torch import Tensor, nn

from layerprobe.probing.features.reducers import Flatten
from layerprobe.probing.fit_memory import workspace
from layerprobe.probing.pipeline import probe_checkpoint
from layerprobe.probing.protocol import ProbeProtocol
from layerprobe.probing.resources import Resources

N, CLASSES = 120, 4
Pairs = dict[str, tuple[Tensor, Tensor]]


@pytest.fixture(scope="module")
def network() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(54, CLASSES)
        )


@pytest.fixture(scope="module")
def data() -> Pairs:
    generator = torch.Generator().manual_seed(0)
    found = {}
    for split in ("train", "val", "test"):
        x = torch.randn(N, 1, 8, 8, generator=generator)
        noise = 0.5 * torch.randn(N, generator=generator)
        found[split] = (x, ((x[:, 0, 2, 2] + noise > 0).long() + 2 * (x[:, 0, 5, 5] > 0).long()))
    return found


def records(network: nn.Module, data: Pairs, resources: Resources) -> pd.DataFrame:
    protocol = ProbeProtocol(reducers=[Flatten()], l2=[1e-3, 1e-2, 1e-1])
    found = probe_checkpoint(network, data, protocol, resources=resources)
    return pd.DataFrame([vars(result.record) for result in found]).drop(columns="seconds")


def test_another_batch_size_gives_the_same_records(network: nn.Module, data: Pairs) -> None:
    """The features are equal but for the rounding of the network's own products of matrices, as of one sample alone."""
    expected = records(network, data, Resources())
    for batch_size in (7, 1000):
        found = records(network, data, Resources(batch_size=batch_size))
        rounded = ["gap", "val_loss", "test_loss"]
        pd.testing.assert_frame_equal(found.drop(columns=rounded), expected.drop(columns=rounded), rtol=0, atol=0)
        pd.testing.assert_frame_equal(found[rounded[1:]], expected[rounded[1:]], rtol=1e-4)


def test_another_budget_gives_the_same_records(network: nn.Module, data: Pairs, tmp_path: Path) -> None:
    """Features that go to disk are the same numbers; their products are summed in blocks."""
    expected = records(network, data, Resources(batch_size=50))
    widest = 6 * 6 * 6
    little = workspace(widest, CLASSES, 3) + 50 * 4 * 3 * widest + 200_000
    found = records(network, data, Resources(50, little, str(tmp_path)))
    pd.testing.assert_frame_equal(found, expected, rtol=1e-4)
    with pytest.raises(ValueError, match=r"`max_memory` allows"):
        records(network, data, Resources(50, little // 2))


@pytest.mark.parametrize(("field", "value"), [("batch_size", 0), ("batch_size", 1.5), ("max_memory", "much")])
def test_what_cannot_be_is_refused(field: str, value: object) -> None:
    with pytest.raises((ValueError, TypeError), match=field):
        Resources(**{field: value})


def test_protocols_know_nothing_of_resources() -> None:
    assert not set(vars(Resources())) & set(vars(ProbeProtocol()))


@pytest.mark.parametrize("name", ["keep", "spill_directory"])
def test_a_file_in_the_place_of_a_folder_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match=rf"`{name}` of the probe is .*/file, a file\. Give a folder"):
        Resources(**{name: str(tmp_path / "file")})
    found = Resources(**{name: str(tmp_path / "none_yet")})
    assert tmp_path / "none_yet" in (found.keep_path, found.spill_path)
