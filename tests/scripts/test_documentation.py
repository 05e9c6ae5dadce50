"""Every command and every Python example of README.md and docs/, taken from the file as it stands.

Names that stand for the reader's own (`DIR`, `RUN`, …) are filled in, and overrides are appended that make it short;
nothing is taken away. A command that nothing below says how to run fails its test.
"""

from __future__ import annotations

import ast
import re
import shlex
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from hydra import compose, initialize_config_dir
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser

import layerprobe
from helpers.command import ROOT, call
from helpers.made_images import make_image_folder
from layerprobe.config import as_typed, register

FILES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
WIDTH = 104
"""Characters of a line of code that a page of the documentation has room for."""
CODE = re.compile(r"^```([\w{}-]*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
FILE = re.compile(r"(?:# @package \S+\n)?# ([\w/]+\.(?:py|yaml))\n")  # a block that begins so is a part of that file
INLINE = re.compile(r"`([^`\n]+)`")
OWN_MODULES = "PYTHONPATH=."
PROGRAMS = ("uv ", "pip ", "wandb ", "sweep.py ", "report.py ", "scripts/")

NONE, FAST = ["logger=none", "report.figures=false"], ["probe.l2=[0.1]"]
SHORT = [*NONE, *FAST, "trainer.max_epochs=1", "++trainer.limit_train_batches=2", "++trainer.limit_val_batches=1"]
DIGITS = [*SHORT, "data.test_size=1300"]  # which leaves 137 for training
ONE = [*SHORT, "probe.layers=[input]"]  # where layers are not what the command is about
MNIST = [*SHORT, "data.train_size=300", "data.val_size=100"]


@dataclass(frozen=True)
class Way:
    """How a command of the documentation is tested.

    Attributes:
        more: Overrides that make it short.
        names: What is filled in for the reader's own names.
        composed: Why it is composed and not run; empty where it is run.
        left: Why it is neither run nor composed; its extra, file or program is looked up instead.
    """

    more: Sequence[str] = ()
    names: Sequence[tuple[str, str]] = ()
    composed: str = ""
    left: str = ""


CLUSTER = "needs a SLURM cluster; tests/scripts/test_slurm.py runs such"
HOURS = "takes minutes to hours; tests/scripts/test_benchmark.py runs a small one"
FETCHES = "fetches weights from the network"
AS_FILLED = "is the command of multirun/NAME/DATE, with the NAME of another sweep"
OWN = "needs the reader's own package; tests/scripts/test_any_module.py and test_probe.py run such"
SWEEP = (("NAME/DATE", "xor_mlp/done"),)
MINE = (("RUN", "outputs/digits/RUN"),)
PICTURES = ["data.train_size=6", "data.val_size=3", "data.test_size=3", "data.batch_size=3", "probe.layers=[input]"]
STATEMENTS = [*NONE, *FAST, "data.per_class=30", "probe.layers=[encoder.layer.5]"]
STATEMENTS_OF = "data=text data.root=. data.table.path=statements.csv data.text=statement data.label=label"
OWN_NET = "model=module model._target_=my_networks.SmallNet +model.width=16 +model.n_classes=3"
OWN_PICTURES = "data=image_folder data.root=pictures data.transform.size=64"
DIGITS_SWEEP = "experiment=digits seed='range(3)' optimizer.lr=1e-3,3e-3"
IMAGES = ["data.train_size=6", "data.val_size=3", "data.batch_size=3", "data.num_workers=0"]

WAYS = {
    "uv run scripts/train.py": Way(DIGITS),
    "uv run pytest": Way(left="the suite itself"),
    "uv run scripts/train.py experiment=mnist data.root=DIR": Way([*MNIST, ONE[-1]]),
    "uv run scripts/train.py experiment=mnist data.root=DIR data.download=true": Way([*MNIST, ONE[-1]]),
    "uv run scripts/train.py experiment=xor_linear model.bias=false": Way(SHORT),
    "uv run scripts/train.py -m experiment=xor_mlp model.width=2,3,4,8 'seed=range(10)'": Way(
        [*SHORT, "callbacks=none"]
    ),
    "uv run scripts/train.py experiment=alain_bengio_skip128 data.root=DIR": Way(
        [*MNIST, "trainer.max_steps=1", "model.depth=4", "model.skip=[0,2]", "callbacks.probe.steps=[1]"]
    ),
    "uv run scripts/train.py experiment=activation_depth model=deep_mlp": Way(
        [*DIGITS, "model/activation=identity,relu", "model.depth=1"]
    ),
    "uv run scripts/train.py experiment=activation_depth": Way(
        [*DIGITS, "model=deep_mlp", "model/activation=identity,relu", "model.depth=1", "-m"]
    ),
    "uv run scripts/probe.py experiment=resnet50_imagenet data.root=IMAGENET": Way(
        [*NONE, *FAST, *IMAGES, "model.weights=null", "data.transform.size=32", "probe.layers=[input,layer4.2.add]"]
    ),
    "uv run scripts/train.py callbacks.probe.every_n_epochs=5 probe.controls=[shuffled] "
    "reducer=[flatten,channel_mean]": Way(DIGITS),
    "uv run scripts/probe.py checkpoint=outputs/digits/RUN/checkpoints targets=parity": Way([*NONE, *FAST, ONE[-1]]),
    "uv run scripts/probe.py checkpoint=outputs/digits/RUN/checkpoints probe.keep=true": Way([*NONE, *FAST, ONE[-1]]),
    "uv run scripts/probe.py checkpoint=outputs/digits/RUN/checkpoints probe.keep=true targets=parity": Way(
        [*NONE, *FAST, ONE[-1]]
    ),
    "uv run scripts/features.py": Way(),
    "uv run scripts/features.py unused=30d": Way(),
    "uv run scripts/features.py left=50GB": Way(),
    "uv run scripts/probe.py model=hf_encoder model.name=NAME data=stsa data.root=DIR": Way(
        [*NONE, *FAST, "data.per_class=30", "probe.layers=[encoder.layer.5]"], (("NAME", "ENCODER"), ("DIR", "TEXTS"))
    ),
    "uv run scripts/report.py runs=outputs where=\"model=='digits_convnet' and seed<3\"": Way(["figures=false"]),
    "uv run scripts/train.py -m hydra/launcher=gpu_box experiment=mnist seed='range(8)'": Way(
        composed="eight processes; tests/launchers/test_gpu_box.py runs such"
    ),
    "uv run scripts/train.py -m hydra/launcher=slurm_gpu hydra.launcher.partition=P": Way(composed=CLUSTER),
    "uv run scripts/sweep.py continue=multirun/NAME/DATE": Way(names=SWEEP),
    "uv run scripts/sweep.py status=multirun/NAME/DATE": Way(names=SWEEP),
    "uv run scripts/benchmarks/peers.py peers_dir=PEERS max_seconds=9 cases=[transformer,synthetic]": Way(
        composed=HOURS
    ),
    "uv run scripts/train.py experiment=alain_bengio_skip128 data.root=DIR report.reference=CURVE.json": Way(
        [*MNIST, "trainer.max_steps=1", "model.depth=4", "model.skip=[0,2]", "callbacks.probe.steps=[1]"]
    ),
    "uv run scripts/probe.py checkpoint=RUN/checkpoints/initial.ckpt reducer=flatten probe.granularity=blocks "
    "probe.exclude=[input] 'probe.l2=[1e-5]' report.error=train": Way(NONE, MINE),
    "uv run scripts/probe.py model=hf_encoder model.name=NAME data=cities data.root=DIR": Way(
        [*NONE, *FAST, "data.per_class=30", "probe.layers=[encoder.layer.5]"], (("NAME", "ENCODER"), ("DIR", "TEXTS"))
    ),
    "uv run scripts/probe.py model=hf_encoder model.name=NAME data=cities data.root=DIR reducer=[positions] "
    "'data.spans={city: city, country: country}' 'reducer.positions.spans=[city,country]' "
    "probe.each_reducer=true": Way(
        composed="needs a column of countries; tests/probing/test_token_positions.py runs such"
    ),
    "uv run scripts/probe.py model=hf_lm model.name=NAME data=cities data.root=DIR probe.granularity=sites "
    '\'probe.layers=["*.resid_mid","*.resid_post","*.attn_out","*.mlp_out"]\'': Way(
        composed="needs a language model; tests/probing/capture/test_block_sites.py runs such"
    ),
    "uv run scripts/probe.py -m experiment=concept_depth model.name=NAME data.root=DIR": Way(
        composed="48 jobs; tests/scripts/test_concept_depth.py runs four"
    ),
    "uv run scripts/probe.py -m experiment=concept_depth model=hf_lm model.name=A,B data=stsa,cities "
    "data.noise=[]": Way(composed="needs two language models; tests/probing/test_text_reference.py runs one"),
    "uv run scripts/probe.py model=digits_convnet data=digits plan=true": Way(),
    "uv run scripts/benchmarks/memory.py mnist=DIR budgets='[2GiB, 4GiB, 8GiB]'": Way(composed=HOURS),
    "uv run scripts/benchmarks/plan.py mnist=DIR": Way(composed=HOURS),
    "uv run scripts/benchmarks/peers.py device=cuda cases=[synthetic,imagenet,mnist] mnist=DIR checkpoint=CHECKPOINT "
    "max_features=25088 peers_dir=PEERS": Way(composed=HOURS),
    "uv run scripts/train.py experiment=mnist hydra.run.dir=outputs/mine": Way([*MNIST, ONE[-1]]),
    "uv sync --extra slurm": Way(left="installs"),
    "uv sync --extra optuna": Way(left="installs"),
    "uv sync --extra erasure": Way(left="installs"),
    "pip install 'layerprobe[erasure]'": Way(left="installs"),
    "uv sync --compile-bytecode": Way(left="installs"),
    "pip install 'layerprobe[text]'": Way(left="installs"),
    "pip install 'layerprobe[timm]'": Way(left="installs"),
    "uv run scripts/train.py -m hydra/launcher=slurm_gpu hydra.launcher.partition=gpu experiment=mnist "
    "seed='range(8)'": Way(composed=CLUSTER),
    "uv run scripts/train.py callbacks.probe.when=end hydra.run.dir=outputs/mine": Way(ONE),
    "uv run scripts/probe.py -m 'checkpoint=\"outputs/mine/checkpoints/*.ckpt\"' 'shard=1/4,2/4,3/4,4/4' "
    "hydra/launcher=slurm_gpu": Way(composed=CLUSTER),
    "uv run scripts/sweep.py merge=multirun/probe/DATE": Way(names=(("DATE", "done"),)),
    "uv run scripts/train.py -m hydra/sweeper=optuna hydra.sweeper.n_trials=20 "
    "'optimizer.lr=tag(log,interval(1e-4,1e-1))'": Way([*ONE, "hydra.sweeper.n_trials=2"]),
    "wandb sync --yes RUN/wandb/offline-run-*": Way(left="needs an account"),
    "uv run scripts/probe.py checkpoint=RUN/checkpoints": Way([*NONE, *FAST], MINE),
    "uv run scripts/probe.py checkpoint=theirs.ckpt '+model._target_=their_package.Net' "
    "'+data._target_=their_package.Data'": Way(composed=OWN),
    "uv run scripts/probe.py checkpoint=weights.pth model=torchvision model.name=resnet50 data=image_folder "
    "data.root=DIR": Way(composed="a hundred megabytes of weights; tests/scripts/test_probe.py runs smaller ones"),
    "uv run scripts/probe.py model=torchvision model.name=resnet50 model.weights=DEFAULT data=image_folder "
    "data.root=DIR": Way(composed=FETCHES),
    "uv run scripts/train.py model=torchvision model.name=resnet18 +model.num_classes=N data=image_folder "
    "data.root=DIR data.transform.size=64": Way(
        [*SHORT, *IMAGES, "data.test_size=3", "probe.layers=[fc]"], (("N", "3"), ("DIR", "IMAGENET"))
    ),
    "uv run scripts/probe.py model=timm model.name=vit_small_patch16_224.augreg_in1k data=cifar10 data.root=DIR "
    "data.download=true": Way(composed=FETCHES),
    "uv run scripts/probe.py model=hf_vision model.name=google/vit-base-patch16-224 data=flowers102 data.root=DIR": Way(
        composed=FETCHES
    ),
    "uv run scripts/probe.py model=hf_lm model.name=EleutherAI/pythia-160m "
    "'model.revision=[step0,step1000,step143000]' data=cities data.root=DIR": Way(composed=FETCHES),
    "uv run scripts/train.py model=module model._target_=your_package.Net +model.width=128": Way(composed=OWN),
    "uv run scripts/train.py model=module model._target_=your_package.Net '~data' "
    "'+data._target_=your_package.Data' +data.root=DIR": Way(composed=OWN),
    "uv run scripts/train.py analysis=nearest_mean": Way(DIGITS),
    "uv run scripts/train.py experiment=digits probe.scores=true 'probe.metrics=[balanced_accuracy,brier]'": Way(
        DIGITS
    ),
    "uv run scripts/train.py experiment=xor_linear": Way(SHORT),
    "uv run scripts/train.py +data@data.tests.noisy=corrupted data@data.tests.noisy.clean=digits "
    "data.tests.noisy.corruption.severity=4": Way([*SHORT, "probe.layers=[input,logits]"]),
    "uv run scripts/probe.py -m model=hf_encoder model.name=NAME data=cities,counterfact "
    "+data@data.tests.cities=cities +data@data.tests.counterfact=counterfact": Way(
        composed="needs two data sets; tests/report/test_transfer.py draws such"
    ),
    "uv run scripts/train.py -m data=corrupted data/corruption=clean,noise,rotation +data@data.tests.clean=mnist "
    "+data@data.tests.noise=corrupted +data@data.tests.rotation=corrupted "
    "data/corruption@data.tests.rotation.corruption=rotation model=mnist_convnet trainer.max_epochs=1": Way(
        composed="20,000 corrupted images a job; tests/report/test_transfer.py draws such"
    ),
    "uv run scripts/train.py experiment=mnist 'analysis=[nearest_mean,knn,mlp]' analysis.knn.metric=cosine "
    "analysis.mlp.width=256": Way([*MNIST, ONE[-1], "analysis.mlp.steps=10"]),
    "uv run scripts/train.py experiment=xor_mlp": Way(SHORT),
    "uv run scripts/train.py experiment=alain_bengio_skip128 data.root=DIR data.train_size=5000 "
    "trainer.max_steps=500 callbacks.probe.steps=[500]": Way(
        [*MNIST, "trainer.max_steps=1", "model.depth=4", "model.skip=[0,2]", "callbacks.probe.steps=[1]"]
    ),
    "uv run scripts/probe.py -m experiment=concept_depth model.name=NAME data.root=DIR data.per_class=500 "
    "data=cities,stsa,common_claim,counterfact model.dtype=float32 data.noise=[]": Way(
        composed="8 jobs; tests/scripts/test_concept_depth.py runs four"
    ),
    "uv run sphinx-build docs build/docs": Way(left="a line of .ci/run"),
    "uv run scripts/probe.py model=torchvision model.name=resnet18 data=image_folder data.root=pictures plan=true": Way(
        ["data.transform.size=32", "probe.layers=[fc]"]
    ),
    "uv run scripts/train.py name=pictures model=torchvision model.name=resnet18 +model.num_classes=3 "
    f"{OWN_PICTURES} trainer.max_epochs=5": Way([*SHORT, *PICTURES]),
    f"{OWN_MODULES} uv run scripts/train.py name=pictures {OWN_NET} {OWN_PICTURES} trainer.max_epochs=5": Way(
        [*SHORT, *PICTURES]
    ),
    f"{OWN_MODULES} uv run scripts/probe.py checkpoint=weights.pth {OWN_NET} {OWN_PICTURES}": Way(
        [*NONE, *FAST, *PICTURES]
    ),
    f"uv run scripts/probe.py name=statements model=hf_encoder model.name=NAME {STATEMENTS_OF}": Way(
        STATEMENTS, (("NAME", "ENCODER"),)
    ),
    f"uv run scripts/probe.py -m experiment=concept_depth name=statements model.name=NAME {STATEMENTS_OF} "
    "model.dtype=float32 data.noise=[]": Way(composed="tests/scripts/test_concept_depth.py runs such"),
    f"uv run scripts/probe.py name=statements model=hf_encoder model.name=NAME {STATEMENTS_OF} "
    "probe.controls=[control_task]": Way(STATEMENTS, (("NAME", "ENCODER"),)),
    f"uv run scripts/train.py -m {DIGITS_SWEEP}": Way([*SHORT, "callbacks=none"]),
    f"uv run scripts/train.py -m hydra/launcher=gpu_box {DIGITS_SWEEP}": Way(
        composed="six processes; tests/launchers/test_gpu_box.py runs such"
    ),
    f"uv run scripts/train.py -m hydra/launcher=slurm_gpu hydra.launcher.partition=P {DIGITS_SWEEP}": Way(
        composed=CLUSTER
    ),
    "uv run scripts/sweep.py status=multirun/digits/DATE": Way(left=AS_FILLED),
    "uv run scripts/sweep.py continue=multirun/digits/DATE": Way(left=AS_FILLED),
    "uv run scripts/report.py runs=outputs": Way(["figures=false"]),
    'uv run scripts/report.py runs=[outputs,multirun] where="seed<3" out=few.html': Way(["figures=false"]),
    "uv run scripts/report.py compare=[outputs/a,outputs/b]": Way(
        ["runs=multirun", "figures=false"],
        (("outputs/a", "multirun/xor_mlp/done/0"), ("outputs/b", "multirun/xor_mlp/done/1")),
    ),
    "uv run scripts/report.py watch=true": Way(["figures=false"]),
    "uv run scripts/report.py runs=multirun wandb=true project=my-project": Way(
        left="needs an account; tests/results/test_wandb_views.py reads the views"
    ),
    "uv run scripts/train.py logger.wandb.project=my-project": Way(DIGITS[len(NONE) :]),
    "uv run scripts/train.py logger=none": Way(ONE),
    "uv run wandb login": Way(left="needs an account"),
    "uv run wandb sync --yes outputs/digits/DATE/wandb/offline-run-*": Way(left="needs an account"),
    "pip install 'layerprobe[dashboard]'": Way(left="installs"),
    f"{OWN_MODULES} uv run scripts/train.py --config-dir my_conf experiment=rings": Way(SHORT),
    f"{OWN_MODULES} uv run scripts/train.py --config-dir my_conf experiment=rings reducer=[flatten,largest] "
    "solver=[logistic,nearest_mean]": Way(SHORT),
    f"{OWN_MODULES} uv run scripts/train.py --config-dir my_conf -m experiment=rings optimizer=rmsprop,sgd "
    "model.network.width=4,16": Way(ONE),
}
WAYS |= dict.fromkeys(
    [
        "layerprobe train experiment=mnist data.root=DIR",
        "layerprobe probe checkpoint=outputs/mnist/RUN/checkpoints plan=true",
        "layerprobe report runs=outputs",
        "layerprobe sweep continue=multirun/NAME/DATE",
        "layerprobe features",
        "layerprobe train --config-dir conf experiment=spirals",
        "pip install ./docs/example_project",
        "layerprobe train experiment=spirals model.width=32",
        "layerprobe probe checkpoint=outputs/spirals/RUN/checkpoints trust_checkpoint=true",
        'eval "$(layerprobe -sc install=bash)"',
        "pip install CLONE/dist/*.whl",
        "pip install dist/*.whl",
        "uv build",
    ],
    Way(left="needs the installed package; tests/scripts/test_console.py runs such"),
)
WAYS |= {
    "pip install 'layerprobe[optuna]'": Way(left="installs"),
    "uv run --env-file .env scripts/train.py": Way(left="needs a .env of one's own"),
    "uv run wandb sweep docs/wandb_sweep.yaml": Way(left="tests/scripts/test_wandb_sweep.py runs it"),
    "uv run wandb agent ENTITY/PROJECT/SWEEP": Way(left="tests/scripts/test_wandb_sweep.py runs it"),
}
FILLED = (("PEERS", "PEERS"), ("CHECKPOINT", "x.ckpt"))


def commands() -> dict[str, str]:
    """The commands of all files, without comments and without `…`, by file."""
    found = {}
    for file in FILES:
        text = file.read_text()
        lines = [line for kind, block in CODE.findall(text) if kind in ("bash", "") for line in block.splitlines()]
        inline = [code for code in INLINE.findall(CODE.sub("", text)) if code.startswith(PROGRAMS) and " " in code]
        for line in [*lines, *inline]:
            if command := re.sub(r"\s+#.*$", "", line).replace(" …", "").strip():
                found.setdefault(command, file.name)
    return found


def test_comments_of_the_pages_stand_beside_their_commands():
    """A comment that does not fit is broken on the site, and goes on below the command as if it were one."""
    blocks = [(file.name, block) for file in FILES[1:] for _, block in CODE.findall(file.read_text())]
    lines = [(name, line) for name, block in blocks for line in block.splitlines() if len(line) > WIDTH]
    assert not [(name, line) for name, line in lines if len(re.sub(r"\s+#.*$", "", line)) <= WIDTH]


def examples(kind: str) -> list[str]:
    return [block for file in FILES for found, block in CODE.findall(file.read_text()) if found == kind]


def own_files() -> dict[str, str]:
    """What the documentation lets the reader write, each block as it stands, by the path that its head names."""
    found: dict[str, str] = {}
    for block in (*examples("python"), *examples("yaml")):
        if name := FILE.match(block):
            found[name[1]] = found.get(name[1], "") + block
    return found


def write_idx(file: Path, values: np.ndarray) -> None:
    header = bytes([0, 0, 8, values.ndim]) + b"".join(int(n).to_bytes(4, "big") for n in values.shape)
    file.write_bytes(header + values.astype(np.uint8).tobytes())


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a reader has: data in the published layouts, a run, and two sweeps."""
    folder = tmp_path_factory.mktemp("given")
    random, mnist = np.random.default_rng(0), folder / "data" / "MNIST" / "raw"
    mnist.mkdir(parents=True)
    for part, n in (("train", 500), ("t10k", 200)):
        labels = np.arange(n) % 10
        pixels = random.integers(0, 100, (n, 28, 28)) + 15 * labels[:, None, None]
        write_idx(mnist / f"{part}-images-idx3-ubyte", pixels)
        write_idx(mnist / f"{part}-labels-idx1-ubyte", labels)
    make_image_folder(folder / "IMAGENET", train=4, val=2, size=32)
    words = [["bad", "good"][i % 2] + f" film {i}" for i in range(200)]
    (folder / "TEXTS").mkdir()
    (folder / "TEXTS" / "stsa.binary.train").write_text("".join(f"{i % 2} {w}\n" for i, w in enumerate(words)))
    rows = [f'"The city of c{i} is in {["x", "y"][k]}.",{k},c{i}' for i in range(100) for k in range(2)]
    (folder / "TEXTS" / "cities.csv").write_text("\n".join(["statement,label,city", *rows, ""]))
    make_image_folder(folder / "pictures", train=4, val=2, size=32)
    (folder / "statements.csv").write_text(
        "\n".join(
            ["statement,label", *(f"It is {['false', 'true'][i % 2]} that {i} is even.,{i % 2}" for i in range(80))]
        )
    )
    for name, content in own_files().items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)
    own: dict[str, Any] = {}
    exec((folder / "my_networks.py").read_text(), own)
    torch.save(own["SmallNet"](16, 3).state_dict(), folder / "weights.pth")
    (folder / "CURVE.json").write_text('{"0": [0.5, 0.5, 0.5, 0.5, 0.5], "1": [0.5, 0.5, 0.5, 0.5, 0.5]}')
    for script, words in (
        ("train.py", [*DIGITS, "hydra.run.dir=outputs/digits/RUN"]),
        ("train.py", ["-m", "experiment=xor_mlp", "seed=0,1", *SHORT, "hydra.sweep.dir=multirun/xor_mlp/done"]),
        ("probe.py", ["-m", "checkpoint=outputs/digits/RUN/checkpoints", "shard=1/2,2/2", *NONE, *FAST, ONE[-1],
                      "hydra.sweep.dir=multirun/probe/done"]),
    ):  # fmt: skip
        code, output = call(script, *words, cwd=folder)
        assert code == 0, output
    return folder


def test_every_command_is_known_and_nothing_else() -> None:
    found = commands()
    assert sorted(set(found) - set(WAYS)) == [], "say in WAYS how these are run"
    assert sorted(set(WAYS) - set(found)) == [], "these are not in the documentation any more"


def test_the_reference_holds_every_public_name_once() -> None:
    pages = "".join(page.read_text() for page in (ROOT / "docs" / "reference").glob("*.md"))
    found = re.findall(r"^.. auto\w+:: layerprobe\.(\w+)$", pages, re.MULTILINE)
    assert sorted([*found, "__version__"]) == sorted(layerprobe.__all__)


def test_extras_that_are_to_be_installed_exist() -> None:
    project = (ROOT / "pyproject.toml").read_text()
    for command in (command for command, way in WAYS.items() if way.left == "installs"):
        for extra in re.findall(r"--extra (\w+)|\[(\w+)\]'", command):
            assert re.search(rf"^{''.join(extra)} = \[", project, re.MULTILINE), command


def test_overrides_in_the_text_parse() -> None:
    parser, seen = OverridesParser.create(), 0
    for file in FILES:
        for code in INLINE.findall(CODE.sub("", file.read_text())):
            if not re.match(r"[+~]{0,2}[a-z_]+[\w./]*=\S", code.replace("'", "", 1)) or code.endswith("="):
                continue
            for word in as_typed(shlex.split(code.replace(" …", "").replace("…", "x"))):
                if "=" in word and not re.match(r"[A-Z_]+=", word):
                    parser.parse_override(word)
                    seen += 1
    assert seen > 40


def check_composes(name: str, words: Sequence[str]) -> None:
    """Compose the first and the last job of a command."""
    register(name)
    overrides = OverridesParser.create().parse_overrides(as_typed([word for word in words if word != "-m"]))
    jobs = BasicSweeper.split_arguments(overrides, None)[0]
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        for job in {id(job): job for job in (jobs[0], jobs[-1])}.values():
            assert "hydra" in compose(name, list(job), return_hydra_config=True)


@pytest.mark.slow(seconds=10)
@pytest.mark.parametrize("command", [command for command, way in WAYS.items() if not way.left])
def test_a_command_does_what_it_says(command: str, given: Path, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    way = WAYS[command]
    filled = command
    for name, value in (*way.names, ("IMAGENET", str(given / "IMAGENET")), ("DIR", str(given / "data")), *FILLED):
        filled = re.sub(rf"(?<![\w/]){name}\b|(?<=/){re.escape(name)}(?=$|\W)", value, filled)
    if "ENCODER" in filled:
        encoder = request.getfixturevalue("shared") / "models" / "all-MiniLM-L6-v2"
        filled = filled.replace("ENCODER", str(encoder)).replace("TEXTS", str(given / "TEXTS"))
    script, *words = [word for word in shlex.split(filled) if word not in ("uv", "run", OWN_MODULES)]
    if "hydra/sweeper=optuna" in words:
        pytest.importorskip("hydra_plugins.hydra_optuna_sweeper", reason="uv sync --extra optuna")
    for each in given.iterdir():
        if each.name not in ("IMAGENET", "TEXTS"):
            (shutil.copy if each.is_file() else shutil.copytree)(each, tmp_path / each.name)
    if "sweep.py" in script:
        for file in tmp_path.glob("multirun/xor_mlp/done/1/run.json"):
            file.unlink()  # something to go on with
    if way.composed:
        check_composes(script.removeprefix("scripts/").removesuffix(".py").replace("benchmarks/", "benchmark/"), words)
        return
    path = tmp_path if OWN_MODULES in command else None
    code, output = call(Path(script).name, *words, *way.more, cwd=tmp_path, path=path)
    assert code == 0 and "Traceback" not in output, output
    if "train.py" in script or ("probe.py" in script and "plan=true" not in words):
        runs = {file.parent for root in ("outputs", "multirun") for file in (tmp_path / root).glob("**/run.json")}
        assert runs - {tmp_path / file.parent.relative_to(given) for file in given.glob("**/run.json")}


def test_own_classes_work_in_python_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mine", mine := ModuleType("mine"))
    exec(own_files()["mine.py"], vars(mine))
    (example,) = (block for block in examples("python") if "RingsNet(16)" in block)
    exec(example, names := {"layerprobe": layerprobe, **vars(mine)})
    assert names["results"]["reducer"].eq("largest").all() and names["results"]["solver"].eq("nearest_mean").all()


@pytest.mark.parametrize(
    "example", [block for block in examples("python") if not FILE.match(block) and "RingsNet(16)" not in block]
)
def test_a_python_example_runs(example: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    generator = torch.Generator().manual_seed(0)
    names: dict[str, object] = {"pl": pl, "network": torch.nn.Sequential(torch.nn.Linear(4, 6), torch.nn.ReLU())}
    for suffix, n in (("", 40), ("_val", 20), ("_test", 20)):
        names[f"x{suffix}"] = torch.randn(n, 4, generator=generator)
        names[f"y{suffix}"] = torch.arange(n) % 2
    tree = ast.parse(example)
    if "imagenet" in example:  # plans for ImageNet's size, which takes minutes: what it imports is there
        tree.body = [line for line in tree.body if isinstance(line, ast.Import | ast.ImportFrom)]
        assert len(tree.body) > 3
    exec(compile(tree, "example", "exec"), names)
