"""The network with random weights beside the ones that `scripts/probe.py` is asked for."""

from pathlib import Path

import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

from helpers.command import ROOT
from layerprobe.config import register
from layerprobe.jobs.probe import Builder, checkpoints_of
from layerprobe.models.digits_convnet import DigitsConvNet


def composed(*overrides: str) -> DictConfig:
    register("probe")
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return compose("probe", ["data=digits", "model=digits_convnet", "run_dir=run", "logger=none", *overrides])


def test_it_is_the_network_of_the_checkpoint_with_weights_of_the_seed_alone(tmp_path: Path) -> None:
    trained = DigitsConvNet()
    torch.save(trained.state_dict(), tmp_path / "mine.pt")

    def weights(seed: int) -> dict[str, torch.Tensor]:
        builder = Builder(cfg := composed(f"checkpoint={tmp_path}/mine.pt", "untrained=true", f"seed={seed}"))
        sources = checkpoints_of(cfg)
        assert [info.name for _, info in sources] == ["untrained", "mine"]
        built = []
        for source in sources:
            checkpoint = builder.open(source)
            built.append(builder.build(checkpoint, builder.config(checkpoint)).network.state_dict())
        first = next(iter(trained.state_dict()))
        assert torch.equal(next(iter(built[1].values())), trained.state_dict()[first])
        return built[0]

    once, again, other = weights(0), weights(0), weights(1)
    assert {name: value.shape for name, value in once.items()} == {
        name: value.shape for name, value in weights(1).items()
    }
    assert all(torch.equal(once[name], again[name]) for name in once)
    assert not any(torch.equal(once[name], other[name]) for name in once if value_varies(once[name]))


def value_varies(weight: torch.Tensor) -> bool:
    return bool(weight.ndim and (weight != weight.flatten()[0]).any())


def test_a_network_that_is_untrained_already_is_probed_once() -> None:
    assert [info.name for _, info in checkpoints_of(composed("untrained=true"))] == ["untrained"]
    assert [info.name for _, info in checkpoints_of(composed())] == ["untrained"]
