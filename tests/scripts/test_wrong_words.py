"""Wrong words on the command line, and wrong files: a message with what is near and the next step, no traceback."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import OmegaConf

from helpers.command import call
from layerprobe.config import register
from layerprobe.formatting import nearest
from layerprobe.jobs.config_check import unread_keys, untaken, wrong_values
from layerprobe.jobs.failure_reason import reason
from layerprobe.program import CONF
from layerprobe.results.run_summary import RunSummary

TRAIN = [
    ("solver=[sgd]", "solver=sgd is gone: stochastic gradients ended without a certificate. Choose solver=[logistic]"),
    ("reducer=[flattn]", "There is no reducer 'flattn'. Did you mean flatten? Choose one of: average_pool"),
    ("model=digits_convnt", "There is no model 'digits_convnt'. Did you mean digits_convnet?"),
    ("experiment=nmist", "Did you mean mnist?"),
    (
        "experiment=concept_depth",
        "is one of probe.py, not of train.py: uv run scripts/probe.py exp",
    ),
    ("model=null", "model=null: model is a group, which takes a name; to leave it out: ~model"),
    ("trainer.max_epoch=3", "trainer has no 'max_epoch'. Did you mean max_epochs?"),
    ("sead=3", "There is no 'sead'. Did you mean seed?"),
    ("lr=0.1", "There is no 'lr'. Did you mean optimizer.lr?"),
    ("trainr.max_epochs=3", "There is no 'trainr'. Did you mean trainer.max_epochs?"),
    ("+optimiser=adam", "optimiser is added, but nothing reads it. Did you mean optimizer?"),
    ("+debug=fdr", "+debug: the configuration chooses one already. To choose another, leave out the +: debug=NAME"),
    ("+lr=0.1", "lr is added, but nothing reads it. Did you mean optimizer.lr?"),
    ("+extras.print=true", "extras.print is added, but nothing reads it. Choose one of: enforce_tags"),
    ("seed=x", "seed=x: Value 'x' of type 'str' could not be converted to Integer"),
    ("seed=${nothing}", "Interpolation key 'nothing' not found"),
    ("optimizer.lr", "'optimizer.lr' gives no value. Write optimizer.lr=VALUE"),
    ("probe.l2=[1e-2", "'probe.l2=[1e-2' cannot be read"),
    ("trainer.max_epochs=abc", "trainer.max_epochs=abc: Value 'abc' of type 'str' could not be converted to Integer."),
    (
        "trainer.max_epochs=1.5",
        "trainer.max_epochs=1.5: Value '1.5' of type 'float' could not be converted to Integer.",
    ),
    ("probe.l2=foo", "probe.l2 is 'foo', expected a list whose items are each a number or a ScikitLearnC."),
    ("probe.l2=0.1", "probe.l2 is 0.1, expected a list"),
    ("optimizer.lr=fast", "optimizer.lr is 'fast', expected a number or a Tensor."),
    (
        "probe.granularity=layer",
        "probe.granularity is 'layer', expected one of a few words. Choose one of: blocks, modules",
    ),
    ("trainer.precision=bf16mixed", "expected one of a few words. Did you mean bf16-mixed"),
    (
        "callbacks.probe.when=later",
        "callbacks.probe.when is 'later', expected one of a few words. Choose one of: end, now.",
    ),
    ("model=module", "model._target_ has no value. Give one: model._target_=VALUE"),
    (
        "model=module model._target_=nopackage.Net",
        "model._target_=nopackage.Net cannot be found. Is its package installed",
    ),
    (
        "model=module model._target_=layerprobe.models.xor.XorNetwrok",
        "model._target_=layerprobe.models.xor.XorNetwrok cannot be found. layerprobe.models.xor has no 'XorNetwrok'. "
        "Did you mean XorNetwork",
    ),
    ("model=module model._target_=torch.nn.Linear", "model: TypeError: Linear.__init__() missing 2 required"),
    ("rerun=fialed", "rerun is 'fialed'. Did you mean failed? Choose one of: all, failed."),
    ("~data", "Nothing says what data to build. Choose one of conf/data: data=NAME"),
    ("matmul_precision=medum", "Did you mean medium?"),
    ("trainer.limit_train_batches=-1", "trainer.limit_train_batches is -1, expected a number of at least 0."),
    ("trainer.devices=0", "trainer.devices is 0, expected how many devices to use, or -1 for all that there are."),
    ("+trainer.accumulate_grad_batches=0", "trainer.accumulate_grad_batches is 0, expected a number of at least 1."),
    (f"probe.keep={__file__}", f"`keep` of the probe is {__file__}, a file. Give a folder"),
    ("optimizer.lr=-1", "optimizer.lr is -1, expected a number of at least 0."),
    ("seed=-1", "seed is -1, expected a whole number from 0 to 4294967295."),
    ("data.val_size=0", "val_size=0 and test_size=720 leave a split without a sample of each class"),
    ("probe.layers=[]", "`layers` of the probe is empty. Give at least one."),
    ("trainer.callbacks=3", "trainer.callbacks is 3, expected a Callback or a list of such or null."),
    ("+trainer.max_epoch=3", "but pytorch_lightning.Trainer takes no 'max_epoch'. Did you mean max_epochs"),
    ("+optimizer.lrr=3", "optimizer.lrr is added, but torch.optim.Adam takes no 'lrr'. Did you mean lr?"),
    ("experiment=mnist data.root=nowhere", "MNIST is not there"),
    ("data=image_folder data.root=nowhere", "Expected DIR/CLASS/IMAGE"),
    ("task=regression", "Choose solver=[ridge]"),
    ("probe.layers=nolayer", "no layer matches the pattern 'nolayer'"),
    ("run_dir=/proc/x", "The run's directory cannot be used"),
]
OTHERS = [
    ("probe.py", "model=torchvision data=digits", "model.name has no value. Give one: model.name=VALUE"),
    ("probe.py", "model=torchvision model.name=resnet5O data=digits", "does not know. Did you mean resnet50 or "),
    (
        "probe.py",
        "-m model=hf_encoder data=cities,counterfact data.per_class=20",
        "data has no 'per_class'. For each data of the sweep: ++data.per_class=…",
    ),
    ("probe.py", "+chekpoint=x plan=true", "chekpoint is added, but nothing reads it. Did you mean checkpoint"),
    ("probe.py", "chekpoint=x", "There is no 'chekpoint'. Did you mean checkpoint"),
    ("probe.py", "model=digits_convnet data=digits loaders.test=two", "There is no test loader 'two', only one"),
    ("probe.py", "model=digits_convnet", "Nothing says what data to build"),
    ("probe.py", "plan=true", "Nothing says what model to build. Choose one of conf/model: model=NAME, or the network"),
    ("probe.py", "plan=maybe", "plan=maybe: Value 'maybe' is not a valid bool"),
    ("probe.py", f"checkpoint={__file__}", "it is no file that torch has written. Copy the file again, or name one"),
    ("probe.py", "checkpoint=nowhere.ckpt", "No checkpoint at nowhere.ckpt. Give a file"),
    ("probe.py", "prefix=teacher. model=digits_convnet data=digits", "prefix=teacher. is the part of a checkpoint"),
    (
        "probe.py",
        "plan=true model=digits_convnet data=digits solver=svm",
        "There is no solver 'svm'. Choose one of: logistic",
    ),
    ("sweep.py", "continue=a status=b", "Give the directory of one sweep"),
    ("report.py", "intervall=3", "There is no 'intervall'. Did you mean interval?"),
    ("report.py", "interval=soon", "interval=soon: Value 'soon' of type 'str'"),
    ("report.py", "runs=nowhere", "No runs in nowhere"),
    ("report.py", f"runs={__file__}", f"{__file__} is a file, not a directory"),
    ("report.py", f"runs=[.,{__file__},nowhere]", f"No runs in {__file__}, nowhere: {__file__} is a file, not a dir"),
    ("probe.py", f"model=digits_convnet data=digits probe.keep={__file__}", f"`keep` of the probe is {__file__}, a"),
    ("features.py", f"keep={__file__}", f"keep={__file__} is a file, expected a folder of kept features"),
    ("report.py", "runs=nowhere out=/proc/x.html", "out=/proc/x.html cannot be written"),
    ("sweep.py", "state=x", "There is no 'state'. Did you mean status?"),
    ("sweep.py", "status=x rerun=fialed", "rerun is 'fialed'. Did you mean failed?"),
]


@pytest.mark.parametrize(
    ("script", "words", "message"), [*(("train.py", *case) for case in TRAIN), *OTHERS], ids=lambda value: value[:40]
)
def test_a_wrong_word_is_answered_with_a_message(tmp_path: Path, script: str, words: str, message: str) -> None:
    logs = ["logger=none", f"hydra.run.dir={tmp_path}/run"] if script in ("train.py", "probe.py") else []
    code, output = call(script, *words.split(" "), *logs, cwd=tmp_path)
    assert code == 1
    assert message in output
    assert "Traceback" not in output
    assert os.environ.get("HYDRA_FULL_ERROR") is None


@pytest.mark.parametrize("words", [("hydra.run.dir=file/run",), ("-m", "hydra.sweep.dir=file/sweep")])
def test_a_directory_that_cannot_be_made_is_answered_with_a_message(tmp_path: Path, words: tuple[str, ...]) -> None:
    (tmp_path / "file").touch()
    code, output = call("train.py", "experiment=xor_mlp", "logger=none", *words, cwd=tmp_path)
    assert code == 1
    assert "No directory can be made here" in output and words[-1].partition("=")[0] in output
    assert "Traceback" not in output


def test_the_traceback_is_in_the_log(tmp_path: Path) -> None:
    code, output = call(
        "train.py", "experiment=mnist", "data.root=no", "logger=none", "hydra.run.dir=run", cwd=tmp_path
    )
    assert code == 1
    assert f"The traceback is in {tmp_path / 'run' / 'train.log'}" in output
    assert "Traceback" in (tmp_path / "run" / "train.log").read_text()


def test_the_error_of_a_network_of_ones_own_keeps_its_traceback(tmp_path: Path) -> None:
    (tmp_path / "broken_networks.py").write_text(
        "from torch import nn\n\nclass Net(nn.Linear):\n    def __init__(self):\n        super().__init__(3, 2)\n"
    )
    words = ("model=module", "model._target_=broken_networks.Net", "logger=none", "callbacks=none")
    code, output = call("train.py", *words, "hydra.run.dir=run", cwd=tmp_path, path=tmp_path)
    assert code == 1
    assert "Traceback" in output, "the negative control: a mistake in the network is for who wrote it"


def test_a_pattern_that_matches_nothing_is_told_before_the_baselines_of_the_data_are_made(tmp_path: Path) -> None:
    (tmp_path / "own_data.py").write_text(
        "from layerprobe import DigitsDataModule\n\nclass Data(DigitsDataModule):\n    def baselines(self):\n"
        "        raise LookupError('baselines are made')\n"
    )
    words = ("model=digits_convnet", "data=digits", "data._target_=own_data.Data", "logger=none", "hydra.run.dir=run")
    words += ("probe.batch_size=50", "probe.keep=true")  # which are the probe's, and no argument of its protocol
    for layers, said in (("nolayer", "no layer matches the pattern 'nolayer'"), ("logits", "baselines are made")):
        code, output = call("probe.py", *words, f"probe.layers={layers}", cwd=tmp_path, path=tmp_path)
        assert code == 1
        assert said in output


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("reducer=own", "reducer/own.yaml has values under 'reducer', which the configuration has under probe.red"),
        ("experiment=own", "experiment/own.yaml has values under 'solver', which the configuration has under probe.so"),
        (
            "experiment=commented",
            "experiment/commented.yaml overrides data within its own group: begin it, before any other comment, with",
        ),
        ("data=own", "data/own.yaml: There is no 'trainr'. Did you mean trainer"),
    ],
)
def test_a_file_of_ones_own_with_a_wrong_key_is_named(tmp_path: Path, word: str, said: str) -> None:
    for group, text in {
        "reducer": "own:\n  _target_: layerprobe.Flatten\n",
        "experiment": "# @package _global_\nsolver:\n  logistic:\n    tolerance: 1e-3\n",
        "data": "# @package _global_\ntrainr:\n  max_epochs: 1\n",
    }.items():
        (tmp_path / group).mkdir()
        (tmp_path / group / "own.yaml").write_text(text)
    commented = "# Mine.\n# @package _global_\ndefaults:\n  - override /data: xor\n"
    (tmp_path / "experiment" / "commented.yaml").write_text(commented)
    code, output = call("train.py", "--config-dir", str(tmp_path), word, cwd=tmp_path)
    assert code == 1
    assert said in output
    assert "Traceback" not in output


def test_a_choice_that_needs_a_package_says_which(tmp_path: Path) -> None:
    hides = tmp_path / "hydra_plugins" / "hydra_optuna_sweeper"  # what stands before the package, where it is installed
    hides.mkdir(parents=True)
    (hides / "__init__.py").write_text("raise ImportError('not installed')\n")
    code, output = call("train.py", "hydra/sweeper=optuna", "-m", "logger=none", cwd=tmp_path, path=tmp_path)
    assert code == 1, output
    assert "uv sync --extra optuna" in output


def test_a_later_job_of_a_sweep_too(tmp_path: Path) -> None:
    words = ("-m", "model=digits_convnet", "reducer=flatten,[flattn]", "experiment=nothing", "hydra.sweep.dir=sweep")
    code, output = call("train.py", *words, "logger=none", cwd=tmp_path)
    assert code == 1
    assert "There is no experiment 'nothing'" in output or "Did you mean flatten?" in output


def test_values_that_may_be_meant_are_left_alone() -> None:
    fine = {
        "_target_": "pytorch_lightning.Trainer",
        "max_epochs": None, "devices": "auto", "precision": 32, "gradient_clip_val": 1, "deterministic": "warn",
        "limit_train_batches": 0.5, "max_time": "00:01:00:00", "default_root_dir": "x", "callbacks": [],
        "logger": False,
    }  # fmt: skip
    assert wrong_values({"trainer": fine}) == {}
    torchvision = {"_target_": "torchvision.models.resnet18", "weights": "DEFAULT", "num_classes": 3}
    layer = {
        "_target_": "torch.nn.Conv2d",
        "in_channels": 1,
        "out_channels": 2,
        "kernel_size": [3, 3],
        "padding": "same",
    }
    assert wrong_values({"a": [torchvision, layer, {"_target_": "no.such.Thing", "x": "y"}]}) == {}
    assert wrong_values({"a": layer | {"out_channels": "many"}}) == {
        "a.out_channels": "is 'many', expected a whole number."
    }


@pytest.mark.parametrize(
    ("target", "values", "found"),
    [
        ("torch.optim.Adam", {"lr": None, "weight_decay": 0.0}, {"lr": "is null, expected a number or a Tensor."}),
        ("torch.optim.Adam", {"lr": "fast"}, {"lr": "is 'fast', expected a number or a Tensor."}),
        ("pytorch_lightning.Trainer", {"max_epochs": None, "limit_train_batches": None, "logger": None}, {}),
        ("pytorch_lightning.Trainer", {"precision": 12}, {"precision": "is 12, expected one of a few words."}),
        ("layerprobe.ProbeProtocol", {"seeds": [0, 1], "l2": [1, 1e-3], "layers": ["a"], "patience": None}, {}),
        (
            "layerprobe.ProbeProtocol",
            {"seeds": [0, "x"]},
            {"seeds": "expected a list whose items are each a whole num"},
        ),
        ("layerprobe.ProbeProtocol", {"l2": ["a"]}, {"l2": "is ['a'], expected a list whose items are each a number"}),
        ("layerprobe.ProbeProtocol", {"standardise": {"a": 1}}, {"standardise": "expected true or false."}),
        ("layerprobe.ProbeProtocol", {"selection": None}, {"selection": "is null, expected a word."}),
        ("layerprobe.Column", {"index": "???"}, {"index": "has no value. Give one: a.index=VALUE"}),
        (
            "layerprobe.ProbeProtocol",
            {"seeds": [*range(100), "x", *range(100)]},
            {"seeds": "holds 'x', expected a list whose items are each a whole num"},
        ),
        ("layerprobe.ProbeProtocol", {"seeds": [0, -1]}, {"seeds": "is [0, -1], expected numbers of at least 0."}),
        ("layerprobe.ProbeProtocol", {"batch_size": 0}, {"batch_size": "is 0, expected a number of at least 1."}),
        ("layerprobe.DigitsDataModule", {"num_workers": -1}, {"num_workers": "expected a number of at least 0."}),
        ("pytorch_lightning.Trainer", {"max_epochs": -5}, {"max_epochs": "is -5, expected a number of at least -1."}),
        ("pytorch_lightning.Trainer", {"max_epochs": -1, "max_steps": 0}, {}),
        ("pytorch_lightning.Trainer", {"logger": "x"}, {"logger": "expected a Logger or a list of such or true or f"}),
        ("helpers.foreign.Anything", {"batch_size": -1}, {}),
        ("helpers.foreign.Anything", {"value": "x"}, {}),
        ("helpers.foreign.Anything", {"value": 1.5}, {}),
        ("helpers.foreign.Anything", {"value": None, "later": None}, {}),
        *(
            ("helpers.loosely_typed.loosely_typed", dict.fromkeys(names, value), {})
            for names in (["norm", "size", "sizes", "whatever"], ["sized"], ["options"])
            for value in (None, 1, 1.5, "x", [1], {"a": 1})
        ),
        ("helpers.loosely_typed.loosely_typed", {"device": "cuda:0", "how": 3}, {}),
        ("helpers.loosely_typed.loosely_typed", {"device": 1.5}, {"device": "is 1.5, expected a device or null."}),
        ("helpers.loosely_typed.loosely_typed", {"shaped": 3}, {"shaped": "is 3, expected a Shaped or null."}),
        ("helpers.loosely_typed.loosely_typed", {"how": "b"}, {"how": "Choose one of: a. Or a whole number."}),
    ],
)
def test_a_value_is_held_against_what_its_parameter_takes(
    target: str, values: dict[str, object], found: dict[str, str]
) -> None:
    wrong = wrong_values({"a": {"_target_": target, **values}})
    assert wrong.keys() == {f"a.{name}" for name in found}
    assert all(text in wrong[f"a.{name}"] for name, text in found.items())


def test_an_argument_that_nothing_takes_is_found_among_those_that_are_looked_at() -> None:
    parts = {
        "trainer": {"_target_": "pytorch_lightning.Trainer", "max_epochs": 1, "max_epoch": 1},
        "free": {"_target_": "builtins.dict", "x": 1},
    }
    assert untaken(parts, ["trainer.max_epochs", "free.x"]) == {}
    assert untaken(parts, ["trainer.max_epoch"]).keys() == {"trainer.max_epoch"}


def test_an_argument_in_a_file_of_ones_own_that_nothing_takes_has_a_near_name_too() -> None:
    with pytest.raises(InstantiationException) as caught:
        instantiate({"optimizer": {"_target_": "torch.optim.Adam", "params": [], "lrr": 3}})
    assert "unexpected keyword argument 'lrr'. Did you mean lr?" in reason(caught.value)


def test_what_is_added_for_something_to_read_is_left_alone() -> None:
    register("train")
    words = ["+width=8", "+model.num_classes=${width}", "+trainer.gradient_clip_val=1", "+probe/sample_ids=item"]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("train", [*words, "+folder=here", "+spare=1", "+data@data.tests.noisy=corrupted"])
    assert unread_keys(config).keys() == {"folder", "spare"}
    assert unread_keys(config, {"run": {"dir": "outputs/${folder}"}}).keys() == {"spare"}
    assert unread_keys(OmegaConf.create({"spare": 1})) == {}, "a script of one's own has no schema"


def test_near_names() -> None:
    assert nearest("x", ["a", "b", "c"], most=2) == "Choose one of: a, b, … (3 in all)."
    assert nearest("relu", ["relu6", "tanh"]) == "Did you mean relu6? Choose one of: relu6, tanh."
    assert nearest("x", []) == ""
    assert nearest("layer1", [f"layer{i}" for i in range(30)]).count("layer") == 3
    far = nearest("vgg", [f"layer{i:04d}" for i in range(1200)])
    assert far.startswith("Choose one of: layer0000, ") and far.endswith("layer0019, … (1,200 in all).")


@pytest.mark.slow
def test_a_wrong_value_of_one_job_fails_that_job_and_the_sweep_goes_on(tmp_path: Path) -> None:
    words = ["-m", "experiment=xor_linear", "trainer.log_every_n_steps=broken,50", "callbacks=none", "logger=none"]
    code, output = call("train.py", *words, "data.repeats=10", "hydra.sweep.dir=sweep", cwd=tmp_path)
    assert code == 1
    assert "trainer.log_every_n_steps is 'broken'" in output
    assert "Traceback" not in output
    ends = [RunSummary.read(tmp_path / "sweep" / str(i)) for i in range(2)]
    assert [end.status if end else "" for end in ends] == ["failed", "done"]
