"""What every test may ask for."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

if "PYTEST_XDIST_WORKER" in os.environ:  # before torch and NumPy count the cores, which the workers share
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch
from hypothesis import settings

# A shared machine is slow at times, and a run must give the same verdict every time.
settings.register_profile("reproducible", deadline=None, derandomize=True, print_blob=False)
settings.load_profile("reproducible")


LONG = ("scripts", "launchers", "training")
"""Folders of tests, the longest first."""


def pytest_xdist_auto_num_workers() -> int:
    """Take two processes for each core: half of the time goes by while servers, clusters and signals are waited for."""
    return 2 * (os.cpu_count() or 1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that take longest, so that none is left alone at the end."""

    def place(item: pytest.Item) -> int:
        folder = item.path.relative_to(Path(__file__).parent).parts[0]
        return LONG.index(folder) if folder in LONG else len(LONG)

    items.sort(key=place)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with real data and models: `LAYERPROBE_SHARED`, by default `../shared` beside the checkout.

    Without it a test skips; with `LAYERPROBE_REQUIRE_SHARED=1`, which `.ci/run` sets, it fails.
    """
    default = Path(__file__).resolve().parents[2] / "shared"
    path = Path(os.environ.get("LAYERPROBE_SHARED", default))
    if not path.is_dir():
        reason = f"no real data at {path}; set LAYERPROBE_SHARED to the folder that holds it"
        if os.environ.get("LAYERPROBE_REQUIRE_SHARED") == "1":
            pytest.fail(reason)
        pytest.skip(reason)
    return path


@pytest.fixture(autouse=True)
def alone() -> Iterator[None]:
    """Leave no process group behind: Lightning takes the tests that follow for a distributed run."""
    yield
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
