"""The model, data, optimizer and scheduler configurations, composed as `scripts/train.py` composes them."""

import inspect
import re
from pathlib import Path

import hydra
import pytest
import pytorch_lightning as pl
import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf

import layerprobe
from layerprobe.config import register

CONF = Path(__file__).resolve().parents[2] / "conf"
MODELS = {"xor_linear": "xor", "xor_mlp": "xor", "digits_convnet": "digits", "mnist_convnet": "mnist"}
MODELS |= {"deep_mlp": "mnist", "deep_convnet": "mnist"}
EXPERIMENTS = {
    "digits": ("digits", "digits_convnet"),
    "mnist": ("mnist", "mnist_convnet"),
    "alain_bengio_skip128": ("mnist", "deep_mlp"),
    "deep_mlp": ("mnist", "deep_mlp"),
    "linear_net": ("mnist", "deep_mlp"),
    "activation_depth": ("digits", "deep_mlp"),
    "xor_linear": ("xor", "xor_linear"),
    "xor_mlp": ("xor", "xor_mlp"),
}


def _compose(*overrides: str) -> DictConfig:
    register()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("train", [*overrides], return_hydra_config=True)


def _one_step(cfg: DictConfig, data: pl.LightningDataModule | torch.utils.data.DataLoader) -> pl.LightningModule:
    pl.seed_everything(0, verbose=False)
    learner = hydra.utils.instantiate(cfg.model)
    before = torch.nn.utils.parameters_to_vector(learner.parameters())
    pl.Trainer(
        accelerator="cpu",
        max_steps=1,
        limit_val_batches=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    ).fit(learner, data)
    assert not torch.equal(before, torch.nn.utils.parameters_to_vector(learner.parameters()))
    return learner


def _made_mnist() -> torch.utils.data.DataLoader:
    images = torch.rand(8, 1, 28, 28) - 0.5
    return torch.utils.data.DataLoader(torch.utils.data.TensorDataset(images, torch.arange(8)), batch_size=8)


def test_every_model_is_tested():
    assert {path.stem for path in (CONF / "model").glob("*.yaml")} >= set(MODELS)


@pytest.mark.filterwarnings("ignore:.*`val_dataloader`.*", "ignore:.*no `val_dataloader`.*")
@pytest.mark.parametrize("model", MODELS)
def test_a_model_takes_one_step_on_its_data(model):
    optimizer = "momentum_decay_fc" if model == "mnist_convnet" else "sgd"
    cfg = _compose(f"model={model}", f"data={MODELS[model]}", f"optimizer={optimizer}", "scheduler=staircase")
    _one_step(cfg, _made_mnist() if MODELS[model] == "mnist" else hydra.utils.instantiate(cfg.data))


@pytest.mark.parametrize("model", ["digits_convnet", "mnist_convnet"])
@pytest.mark.parametrize("optimizer", [path.stem for path in sorted((CONF / "optimizer").glob("*.yaml"))])
@pytest.mark.parametrize("scheduler", [path.stem for path in sorted((CONF / "scheduler").glob("*.yaml"))])
def test_optimizers_and_schedulers_fit_every_convnet(model, optimizer, scheduler):
    cfg = _compose(f"model={model}", f"optimizer={optimizer}", f"scheduler={scheduler}")
    built = hydra.utils.instantiate(cfg.model).configure_optimizers()
    assert isinstance(built, torch.optim.Optimizer) == (scheduler == "none")


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_an_experiment_chooses_its_data_and_model(experiment):
    cfg = _compose(f"experiment={experiment}")
    choices = cfg.hydra.runtime.choices
    assert (choices.data, choices.model) == EXPERIMENTS[experiment]
    assert hydra.utils.instantiate(cfg.data).n_classes in (2, 10)
    assert isinstance(hydra.utils.instantiate(cfg.model), pl.LightningModule)


def test_the_mnist_network_trains_as_the_paper_says():
    cfg = _compose("experiment=mnist")
    configured = hydra.utils.instantiate(cfg.model).configure_optimizers()
    decayed, others = configured["optimizer"].param_groups
    assert decayed["param_names"] == ["fc1_preact.weight", "fc1_preact.bias", "logits.weight", "logits.bias"]
    assert (decayed["weight_decay"], others["weight_decay"]) == (5e-4, 0.0)
    assert all((group["lr"], group["momentum"]) == (0.01, 0.9) for group in configured["optimizer"].param_groups)
    assert configured["lr_scheduler"]["scheduler"].gamma == 0.95
    assert (cfg.data.batch_size, cfg.trainer.max_epochs) == (64, 10)


def test_the_xor_network_on_the_command_line():
    cfg = _compose("experiment=xor_mlp", "model.width=3", "model.bias=true", "model/activation=tanh")
    network = hydra.utils.instantiate(cfg.model).network
    assert network.hidden_preact.weight.shape == (3, 2)
    assert network.output.bias is not None
    assert isinstance(network.hidden, torch.nn.Tanh)
    other = _compose("experiment=xor_mlp", "model.activation={_target_: torch.nn.Identity}")
    assert isinstance(hydra.utils.instantiate(other.model).network.hidden, torch.nn.Identity)


def test_the_data_folder_on_the_command_line_and_in_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("LAYERPROBE_DATA", str(tmp_path))
    assert hydra.utils.instantiate(_compose("experiment=mnist").data).root == tmp_path
    monkeypatch.delenv("LAYERPROBE_DATA")
    assert hydra.utils.instantiate(_compose("experiment=mnist").data).root == Path("data")
    data = hydra.utils.instantiate(_compose("experiment=mnist", "data.root=elsewhere", "data.download=true").data)
    assert (data.root, data.download) == (Path("elsewhere"), True)


def test_the_run_seed_orders_the_data_but_does_not_divide_it():
    data = hydra.utils.instantiate(_compose("experiment=digits", "seed=7").data)
    assert (data.seed, data.split_seed) == (7, 0)


@pytest.mark.parametrize(
    "name", [f"data/{name}" for name in sorted(set(MODELS.values()))] + [f"model/{name}" for name in MODELS]
)
def test_a_configuration_names_every_argument_of_what_it_builds(name):
    node = OmegaConf.load(CONF / f"{name}.yaml")
    nested = {key for choice in node.get("defaults", []) if choice != "_self_" for key in choice}
    arguments = inspect.signature(hydra.utils.get_object(node["_target_"])).parameters
    assert set(node) - {"_target_", "defaults"} | nested == set(arguments)


def test_configurations_use_public_names() -> None:
    words = {
        word
        for path in CONF.rglob("*.yaml")
        for word in re.findall(r"(?<![\w.])layerprobe(?:\.\w+)+", path.read_text())
    }
    assert len(words) > 40
    assert {word for word in words if word.removeprefix("layerprobe.") not in layerprobe.__all__} == set()
