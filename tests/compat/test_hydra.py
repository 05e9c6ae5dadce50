"""What the private names of Hydra are used for; a release that changes one of them fails here."""

from __future__ import annotations

import copy

import hydra
import pytest
from hydra import compose, initialize, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.sweeper import Sweeper
from omegaconf import OmegaConf

from layerprobe.compat.hydra import share_schemas, sweeper_learns
from layerprobe.config import CONF, register


def test_the_sweeper_of_hydra_itself_is_told_from_one_that_learns() -> None:
    with initialize(config_path=None, version_base="1.3"):
        config = compose(return_hydra_config=True).hydra
    assert not sweeper_learns(config)
    assert any(
        f"{kind.__module__}.{kind.__name__}" == config.sweeper._target_ for kind in Plugins.instance().discover(Sweeper)
    )
    assert sweeper_learns(
        OmegaConf.create({"sweeper": {"_target_": "hydra_plugins.hydra_optuna_sweeper.OptunaSweeper"}})
    )
    GlobalHydra.instance().clear()


def test_a_configuration_is_no_part_of_the_schema_that_copies_share() -> None:
    share_schemas()
    register()
    assert copy.deepcopy(ConfigStore.instance()) is ConfigStore.instance()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        changed = compose("train", ["seed=3", "tags=[a]"])
        changed.extras.print_config = True
        again = compose("train")
    assert (again.seed, again.tags, again.extras.print_config) == (0, [], False)


def test_a_job_returns_what_a_launcher_says() -> None:
    found = JobReturn(status=JobStatus.COMPLETED)
    found.return_value = 0.25
    assert found.return_value == 0.25
    found.status, found.return_value = JobStatus.FAILED, RuntimeError("lost")
    with pytest.raises(RuntimeError, match="lost"):
        _ = found.return_value


def test_hydra_is_of_the_releases_that_are_known() -> None:
    assert hydra.__version__.startswith("1.3."), "1.4 builds launchers otherwise: read its notes before"
