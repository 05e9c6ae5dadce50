"""The schema of the run configurations, and the resolvers that they use."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import MISSING, DictConfig, IntegerNode, OmegaConf

from layerprobe import program
from layerprobe.compat.hydra import share_schemas
from layerprobe.jobs.output_directories import job_directory
from layerprobe.quoting import quoted
from layerprobe.results.config_migration import current_override
from layerprobe.results.run_name import run_group, run_name, run_tags
from layerprobe.results.wandb_mode import default_mode

BY_NAME = ("reducers", "solvers", "analyses")
"""Keys of the protocol of which a group chooses several."""


def _trainer() -> Any:
    """Say the types of the trainer's numbers; it takes any other key too."""
    return OmegaConf.create({"max_epochs": IntegerNode(None), "max_steps": IntegerNode(-1, is_optional=False)})


@dataclass
class Extras:
    """What is done around a run, and changes nothing of it.

    Attributes:
        print_config: Whether to print the whole configuration before it begins.
        ignore_warnings: Whether to leave out Python's warnings.
        enforce_tags: Whether to refuse a run without `tags`.
    """

    print_config: bool = False
    ignore_warnings: bool = False
    enforce_tags: bool = False


@dataclass
class RunConfig:
    """What the scripts that make results take.

    Attributes:
        name: Name of the experiment, in the output directory and in the dashboard.
        seed: Seed of weights, data order and dropout, and of whatever the configurations refer to it.
        run_dir: Where this run writes.
        run_id: The run's id in the dashboard; by default one that is made up once and kept in `run_dir`.
        rerun: Which ended runs start from the beginning: `failed` ones or `all`. By default a finished run is left
            alone and any other goes on.
        tags: Tags of the run in the dashboard, besides those that say what was changed.
        extras: What is done around a run.
        objective: A partial that makes one number of the results, for a sweeper to make small.
        data: A LightningDataModule; by default of `probe.py` the one in the checkpoint's own configuration.
        model: A LightningModule, or any other network: `train.py` trains it as a classifier, with `optimizer` and
            `scheduler`. By default of `probe.py` likewise the checkpoint's own.
        optimizer: A partial that takes the network's named parameters.
        scheduler: A partial that takes the optimizer, or nothing.
        trainer: The Lightning trainer; `probe.py` takes its device and precision.
        logger: Loggers by name.
        callbacks: Callbacks by name; of no effect on `probe.py`.
        probe: The probe protocol, with what the groups `reducer`, `solver`, `analysis`, `inputs`, `targets` and `task`
            choose, and what it may take.
        report: Whether figures are drawn, and what the one over depth shows.
    """

    name: str = MISSING
    seed: int = 0
    run_dir: str = "${hydra:runtime.output_dir}"
    run_id: str | None = None
    rerun: str | None = None
    tags: list[str] = field(default_factory=list)
    extras: Extras = field(default_factory=Extras)
    objective: dict[str, Any] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)
    model: dict[str, Any] = field(default_factory=dict)
    optimizer: dict[str, Any] = field(default_factory=dict)
    scheduler: dict[str, Any] | None = None
    trainer: dict[str, Any] = field(default_factory=_trainer)
    logger: dict[str, Any] = field(default_factory=dict)
    callbacks: dict[str, Any] = field(default_factory=dict)
    probe: dict[str, Any] = field(default_factory=dict)
    report: dict[str, Any] = field(default_factory=dict)


@dataclass
class TrainConfig(RunConfig):
    """What `scripts/train.py` takes besides.

    Attributes:
        matmul_precision: Precision of float32 matrix products on a GPU: `highest`, `high` or `medium`.
        train: Whether to train, and so to probe.
        test: Whether to measure the network itself on the test split.
        ckpt_path: A checkpoint of another training to go on from; with `train=false` the network that is tested.
        trust_checkpoint: Whether that file may hold any Python objects, and so run any code.
    """

    matmul_precision: str = "highest"
    train: bool = True
    test: bool = True
    ckpt_path: str | None = None
    trust_checkpoint: bool = False


@dataclass
class ProbeConfig(RunConfig):
    """What `scripts/probe.py` takes besides.

    Attributes:
        checkpoint: A file, a folder of checkpoints, or a glob pattern; null for the network as `model` builds it.
        prefix: The part of a checkpoint to take, such as `teacher.`; by default what fits the network.
        trust_checkpoint: Whether a checkpoint may hold any Python objects, and so run any code.
        untrained: Whether to probe the same network with random weights too, before the others, as a baseline.
        shard: `i/n` for the i-th of n shares of the checkpoints; `sweep.py merge=DIR` puts their results together.
        force: Whether to probe again what the run directory has results of, and to replace them.
        plan: Whether to print what would be probed, with its cost, and stop.
        loaders: Which loader of a split to take, by split, where a data module gives several; by default the first.
    """

    checkpoint: str | None = None
    prefix: str | None = None
    trust_checkpoint: bool = False
    untrained: bool = False
    shard: str | None = None
    force: bool = False
    plan: bool = False
    loaders: dict[str, Any] = field(default_factory=dict)


def as_typed(arguments: Sequence[str]) -> list[str]:
    """Take values that are no sentence of Hydra's grammar as the text that they are: `checkpoint=epoch=1-step=2.ckpt`.

    With `-m` each part between commas is a value. What begins with a bracket or a quote is left for Hydra to refuse:
    there a bracket or a quote is missing. A value of what a group chooses may be said by the group: `targets.path` is
    `probe.targets.path`.

    Returns:
        The same, with such values in quotes, and with the keys under which the configuration has them.
    """
    parser, many = OverridesParser.create(), {"-m", "--multirun"} & set(arguments)

    def parses(argument: str) -> bool:
        try:
            parser.parse_override(argument)
        except HydraException:
            return False
        return True

    found = []
    for argument in arguments:
        key, equals, value = argument.partition("=")
        key = current_override(key)
        argument = f"{key}{equals}{value}"
        if equals and value[:1] not in {*"'\"([{"} and parses(f"{key}=") and not parses(argument):
            parts = value.split(",") if many else [value]
            argument = f"{key}={','.join(part if parses(f'{key}={part}') else quoted(part) for part in parts)}"
        found.append(argument)
    return found


def register(script: str = "train") -> None:
    """Make the schema, a script's experiments and the resolvers known to Hydra; before `hydra.main` is called.

    `experiment=NAME` takes `experiment/SCRIPT/NAME.yaml`.

    Args:
        script: Name of the script, as `train`, and of the folder with its experiments.
    """
    _have_a_home()
    share_schemas()
    store = ConfigStore.instance()
    store.store(name="train_schema", node=TrainConfig)
    store.store(name="probe_schema", node=ProbeConfig)
    store.repo.pop("experiment", None)
    for name in sorted(file.stem for file in (program.CONF / "experiment" / script).glob("*.yaml")):
        store.store(group="experiment", name=name, node={"defaults": [f"{script}/{name}"]}, package="_global_")
    OmegaConf.register_new_resolver("config_groups", config_groups, replace=True)
    OmegaConf.register_new_resolver("is_terminal", sys.stderr.isatty, replace=True)
    OmegaConf.register_new_resolver("wandb_mode", default_mode, replace=True)
    OmegaConf.register_new_resolver("program", program.name, replace=True)
    for resolver in (run_name, run_group, job_directory, protocol_of, resources_of):
        OmegaConf.register_new_resolver(resolver.__name__, resolver, replace=True)
    OmegaConf.register_new_resolver("run_tags", lambda *about: OmegaConf.create(run_tags(*about)), replace=True)


def config_groups(parent: str = "") -> str:
    """List the groups of the configuration with what there is in each, but for Hydra's own and the benchmarks.

    Args:
        parent: The group whose groups are listed; by default all.
    """
    loader, lines = GlobalHydra.instance().config_loader(), ""
    for name in sorted(loader.list_groups(parent)):
        group = f"{parent}/{name}".lstrip("/")
        if group not in ("hydra", "benchmark"):
            options = ", ".join(sorted(loader.get_group_options(group)))
            lines += f"{group}: {options}\n" if options else ""
            lines += config_groups(group) if group != "experiment" else ""
    return lines


def protocol_of(probe: DictConfig) -> DictConfig:
    """Take what is asked out of a node `probe`, which also says what the probe may take."""
    return OmegaConf.create({key: value for key, value in plain_probe(probe).items() if key not in _resources()})


def resources_of(probe: DictConfig) -> DictConfig:
    """Take what a probe may take out of its node."""
    found = {key: value for key, value in plain_probe(probe).items() if key in _resources()}
    return OmegaConf.create({"_target_": "layerprobe.Resources"} | found)


def plain_probe(probe: DictConfig) -> dict[str, Any]:
    """Resolve a node `probe`, with lists of what its groups choose by name, as the protocol takes them."""
    content: Any = OmegaConf.to_container(probe, resolve=True)
    named = {key: list(content[key].values()) for key in BY_NAME if isinstance(content.get(key), dict)}
    return {**content, **named}


def _resources() -> list[str]:
    from layerprobe.probing.resources import Resources

    return [field.name for field in fields(Resources)]


def _have_a_home() -> None:
    """Give libraries a folder for their caches where neither HOME nor the user is known, as in some containers."""
    if os.path.expanduser("~") == "~":
        os.environ["HOME"] = tempfile.mkdtemp(prefix="layerprobe-home-")
