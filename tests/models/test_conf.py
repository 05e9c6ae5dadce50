"""The model, data, optimizer and scheduler configurations, composed as `scripts/train.py` composes them."""

import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hydra
import pytest
import pytorch_lightning as pl
import torch
from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf

import layerprobe
from layerprobe.config import as_typed, register
from layerprobe.probing.resources import Resources

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
        return compose("train", as_typed(overrides), return_hydra_config=True)


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


HANDED_OVER = {"layerprobe.ProbeCallback": {"config"}, "layerprobe.ProbeProtocol": {"processes"}}
"""Arguments that the scripts give: what is composed, and how many processes probe at once."""
ALSO = {"layerprobe.ProbeProtocol": "layerprobe.Resources"}
"""Nodes that hold the arguments of another class too."""


def _nodes(node: Any, path: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every node that names what it builds; what is chosen of a group below it is one of its keys."""
    if isinstance(node, dict):
        if node.get("_target_", "???") != "???":
            chosen = [key for one in node.get("defaults", []) if isinstance(one, dict) for key in one]
            yield path, node | {key.rpartition("@")[2]: None for key in chosen if " " not in key}
        for key, value in node.items():
            yield from _nodes(value, f"{path} {key}")
    elif isinstance(node, list):
        for i, value in enumerate(node):
            yield from _nodes(value, f"{path} {i}")


BUILT = [
    pytest.param(node, id=path)
    for file in sorted(CONF.rglob("*.yaml"))
    for path, node in _nodes(OmegaConf.to_container(OmegaConf.load(file)), str(file.relative_to(CONF)))
]


@pytest.mark.parametrize("node", BUILT)
def test_a_configuration_names_every_argument_of_what_it_builds(node: dict[str, Any]) -> None:
    """Of classes of others, whose arguments come and go with their versions, it names only such as there are."""
    target = node["_target_"]
    parameters = [
        parameter
        for name in (target, ALSO.get(target))
        if name is not None
        for parameter in inspect.signature(hydra.utils.get_object(name)).parameters.values()
    ]
    any_name = any(parameter.kind == parameter.VAR_KEYWORD for parameter in parameters)
    parameters = [one for one in parameters if one.kind not in (one.VAR_KEYWORD, one.VAR_POSITIONAL)]
    given = {key for key in node if key not in ("_target_", "_partial_", "_convert_", "defaults")}
    assert any_name or given <= {parameter.name for parameter in parameters}
    if target.startswith(("layerprobe.", "hydra_plugins.")):
        wanted = {one.name for one in parameters if not (node.get("_partial_") and one.default is one.empty)}
        assert wanted - HANDED_OVER.get(target, set()) <= given


def test_every_yaml_of_a_class_is_looked_at() -> None:
    assert len(BUILT) > 60


@pytest.mark.parametrize(
    ("words", "key", "value"),
    [
        ("solver=ridge solver.ridge.tolerance=1e-7", "solvers.0.tolerance", 1e-7),
        ("probe=jin_2024 probe.patience=3", "patience", 3),
        ("probe=jin_2024", "standardise", False),
        ("probe=jin_2024", "granularity", "blocks"),
        ("probe=jin_2024", "l2.values", [1.0]),
    ],
)
def test_arguments_on_the_command_line(words: str, key: str, value: object) -> None:
    found: Any = hydra.utils.instantiate(_compose(*words.split()).callbacks.probe.protocol)
    for step in key.split("."):
        found = found[int(step)] if step.isdecimal() else getattr(found, step)
    assert found == value


def test_what_a_probe_may_take_on_the_command_line() -> None:
    cfg = _compose("probe=jin_2024", "probe.max_memory=8GiB", "probe.batch_size=7")
    assert hydra.utils.instantiate(cfg.callbacks.probe.resources) == Resources(batch_size=7, max_memory="8GiB")


@pytest.mark.parametrize("word", ["trainer.max_epochs=x", "trainer.max_epochs=1.5", "trainer.max_steps=null"])
@pytest.mark.parametrize("script", ["train", "probe"])
def test_a_number_of_the_trainer_is_one_when_it_is_composed(script: str, word: str) -> None:
    register()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        with pytest.raises(HydraException, match=word):
            compose(script, [word])
        cfg = compose(script, ["trainer.max_epochs=null", "trainer.max_steps=3", "+trainer.accumulate_grad_batches=2"])
    assert (cfg.trainer.max_epochs, cfg.trainer.max_steps, cfg.trainer.accumulate_grad_batches) == (None, 3, 2)


def test_configurations_use_public_names() -> None:
    words = {
        word
        for path in CONF.rglob("*.yaml")
        for word in re.findall(r"(?<![\w.])layerprobe(?:\.\w+)+", path.read_text())
    }
    assert len(words) > 40
    assert {word for word in words if word.removeprefix("layerprobe.") not in layerprobe.__all__} == set()
