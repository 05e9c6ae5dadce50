"""What every test may ask for."""

from __future__ import annotations

import gc
import os
from collections import Counter
from collections.abc import Generator, Iterator
from pathlib import Path

# Before torch and NumPy count the cores: workers share them, and the last digits of a product depend on the threads.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
from hypothesis import settings

from helpers.checked_signatures import check_shapes_where_they_are_named

check_shapes_where_they_are_named()

# A shared machine is slow at times, and a run must give the same verdict every time.
settings.register_profile("reproducible", deadline=None, derandomize=True, print_blob=False)
settings.load_profile("reproducible")


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Take a process for each core, and two with the slow tests, which wait for servers, clusters and signals."""
    each = 1 if "not slow" in config.option.markexpr else 2
    return each * (os.cpu_count() or 1)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Collect no garbage while the tests are imported, nor any of it later: going through all modules takes seconds."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


def pytest_sessionfinish() -> None:
    """Let the interpreter end with what it began with: nanobind counts what is left."""
    gc.unfreeze()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files whose slow tests take longest, so that none is left alone at the end."""
    seconds: Counter[Path] = Counter()
    for item in items:
        if marker := item.get_closest_marker("slow"):
            seconds[item.path] += marker.kwargs.get("seconds", 5)
    items.sort(key=lambda item: -seconds[item.path])


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
    from torch import distributed  # the process that hands out the tests goes without

    if distributed.is_initialized():
        distributed.destroy_process_group()
