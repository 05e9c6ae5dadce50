"""What the private names of Hydra are used for; a release that changes one of them fails here."""

from __future__ import annotations

import copy
import logging
import sys
import warnings
from pathlib import Path
from typing import Any

import hydra
import pytest
from hydra import compose, initialize, initialize_config_dir
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.hydra import Hydra
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.sweeper import Sweeper
from omegaconf import DictConfig, OmegaConf

from layerprobe.compat.hydra import _ask_mode, compose_once, share_schemas, sweeper_learns
from layerprobe.config import register
from layerprobe.program import CONF


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


CONFIGS = {
    "plain": "defaults: [group: a, _self_]\nvalue: ???\nplus: ${value}1\nhydra: {run: {dir: one}}\n",
    "missing": "defaults: [group: '???', _self_]\n",
    "a_sweep": "defaults: [group: a, _self_]\nhydra: {mode: MULTIRUN, sweeper: {params: {group: 'a,b'}}}\n",
    "a_missing_sweep": "defaults: [group: '???', _self_]\nhydra: {mode: MULTIRUN, sweeper: {params: {group: 'a,b'}}}\n",
    "a_run": "defaults: [group: a, _self_]\nvalue: 1\nhydra: {mode: RUN}\n",
    "no_mode": "defaults: [group: a, _self_]\nhydra: {mode: ???}\n",
    "elsewhere": "defaults: [group: a, _self_]\nhydra: {searchpath: ['file://nowhere']}\n",
    "group/a": "name: a\n",
    "group/b": "name: b\n",
}


def _call(words: list[str], monkeypatch: pytest.MonkeyPatch) -> tuple[object, ...]:
    """What jobs get of a call, how it ends and what it warns of; and how many configurations are composed."""
    jobs, composed, end = [], [], ""
    impl = ConfigLoaderImpl._load_configuration_impl
    monkeypatch.setattr(sys, "argv", ["app.py", *words])

    def job(config: DictConfig) -> None:
        jobs.append(
            (OmegaConf.to_yaml(config), OmegaConf.to_yaml(HydraConfig.instance().cfg), OmegaConf.is_struct(config))
        )

    def counted(*args: Any, **kwargs: Any) -> DictConfig:
        composed.append(kwargs["run_mode"])
        return impl(*args, **kwargs)

    with monkeypatch.context() as patch, warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("default")
        patch.setattr(ConfigLoaderImpl, "_load_configuration_impl", counted)
        try:
            hydra.main(version_base="1.3", config_path=str(Path("conf").absolute()))(job)()
        except (Exception, SystemExit) as error:
            end = f"{type(error).__name__}: {error}; of {error.__cause__!r}"
        finally:
            logging.root.setLevel(logging.WARNING)  # or a verbose call makes those after it so
    return jobs, end, [str(warning.message) for warning in warned], len(composed)


@pytest.mark.parametrize(
    ("words", "n_composed"),
    [
        ("-cn plain value=2", 1),
        ("-cn plain", 1),
        ("-cn plain value=2 group=b hydra.job.name=n +more=[1,2]", 1),
        ("-cn plain value=2 hydra.mode=RUN", 1),
        ("-cn a_run", 1),
        ("-cn elsewhere", 1),
        ("-cn plain value=2 hydra.verbose=true", None),
        ("-cn plain value=2 hydra.mode=MULTIRUN", None),
        ("-cn plain hydra.mode=MULTIRUN value=2,3", None),
        ("-cn plain -m value=2,3 group=a,b", None),
        ("-cn plain -m value=2", None),
        ("-cn a_run -m value=2", None),
        ("-cn a_sweep", None),
        ("-cn a_missing_sweep", None),
        ("-cn plain -m hydra.job.name=a,b", None),
        ("-cn plain value=2,3", None),
        ("-cn plain value=range(3)", None),
        ("-cn plain valeu=2", None),
        ("-cn plain value=[2", None),
        ("-cn plain group=c", None),
        ("-cn plain group@more=a", None),
        ("-cn missing", None),
        ("-cn missing group=a", 1),
        ("-cn missing -m group=a,b", None),
        ("-cn missing -m", None),
        ("-cn no_mode", None),
        ("-cn plain ~hydra.mode", None),
        ("-cn plain hydra.mode=WALK", None),
        ("-cn nothing", None),
        ("-cn plain --cfg all", None),
        ("-cn plain --help", None),
        ("-cn plain --run --multirun", None),
    ],
)  # fmt: skip
def test_a_run_composes_once_and_nothing_else_is_changed(
    words: str,
    n_composed: int | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, text in CONFIGS.items():
        (tmp_path / "conf" / f"{name}.yaml").parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "conf" / f"{name}.yaml").write_text(text)
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    quiet = ["hydra/job_logging=none", "hydra/hydra_logging=none", "hydra.run.dir=run", "hydra.sweep.dir=sweep"]
    given = words.split() + quiet * ("--" not in words)
    monkeypatch.setattr(Hydra, "get_mode", Hydra.get_mode)  # put back afterwards
    found = []
    for change in (lambda: setattr(Hydra, "get_mode", _ask_mode), compose_once):
        change()
        *same, n = _call(given, monkeypatch)
        found.append([*same, *capsys.readouterr()])
    assert found[1] == found[0]
    assert n_composed in (None, n)


def test_a_job_returns_what_a_launcher_says() -> None:
    found = JobReturn(status=JobStatus.COMPLETED)
    found.return_value = 0.25
    assert found.return_value == 0.25
    found.status, found.return_value = JobStatus.FAILED, RuntimeError("lost")
    with pytest.raises(RuntimeError, match="lost"):
        _ = found.return_value


def test_hydra_is_of_the_releases_that_are_known() -> None:
    assert hydra.__version__.startswith("1.3."), "1.4 builds launchers otherwise: read its notes before"
