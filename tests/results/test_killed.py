"""A writer that is killed at any moment loses nothing that it had added."""

import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from safetensors.torch import load_file

from helpers import made_results as made
from layerprobe.results.store import ProbeStore

ROUNDS = 5

# One process imports everything, then forks the writers that it kills: an import takes longer than all of them.
WRITERS = """
import os, random, signal, sys, time
from pathlib import Path
from helpers import made_results as made
from layerprobe.results.store import ProbeStore

def write(directory):
    store = ProbeStore(directory / "probes")
    for i in range(10**6):
        checkpoint, layer = divmod(i, 7)
        store.add(made.result(f"epoch_{checkpoint}", checkpoint, layer, f"layer{layer}"))
        with open(directory / "added", "a") as log:
            log.write(f"{i}\\n")
        if layer == 6:
            store.merge()

moments = random.Random(0)
for i in range(int(sys.argv[2])):
    directory = Path(sys.argv[1]) / str(i)
    directory.mkdir()
    child = os.fork()
    if child == 0:
        write(directory)
    while not (directory / "added").exists():
        time.sleep(0.01)
    time.sleep(moments.uniform(0.0, 0.8))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
"""


@pytest.fixture(scope="module")
def killed(tmp_path_factory) -> Path:
    directory = tmp_path_factory.mktemp("killed")
    command = [sys.executable, "-c", WRITERS, str(directory), str(ROUNDS)]
    subprocess.run(command, cwd=Path(made.__file__).parents[1], check=True, timeout=120)
    return directory


@pytest.mark.parametrize("round", range(ROUNDS))
def test_kill_at_a_random_moment(killed, round):
    directory = killed / str(round) / "probes"
    added = len((killed / str(round) / "added").read_text().splitlines())
    store = ProbeStore(directory)
    results = store.results()
    assert len(results) in (added, added + 1)
    assert len(store.path()) == 3 * len(results)
    assert len(store.correct()) == len(results)
    assert len(made.read_frame(directory / "results.parquet")) in (len(results) - 1, len(results))
    assert len(pd.read_csv(directory / "results.csv")) in (len(results) - 1, len(results))
    for file in directory.rglob("*.parquet"):
        pd.read_parquet(file)
    for file in (directory / "heads").rglob("*.safetensors"):
        assert load_file(file)["weight"].shape == (3, 64)
    for row in results.itertuples():
        assert store.head(row.checkpoint, row.layer)
    store.add(made.result("after", 10**6, 0, "input"))
    store.merge()
    assert len(ProbeStore(directory).results()) == len(results) + 1
    assert list(directory.rglob("*.tmp")) == []
