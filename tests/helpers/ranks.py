"""Processes of one distributed run, forked from the one that tests."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist


def together(n: int, folder: Path, work: Callable[[int], Any], timeout: float = 300) -> list[Any]:
    """Run a function in n processes that talk through gloo, with one thread each.

    Args:
        n: How many.
        folder: Where they meet, new for each call.
        work: What each does, given its rank.
        timeout: Seconds until all are killed.

    Returns:
        For each rank what `work` returned, or the exception that it raised; None where the process died.

    Raises:
        TimeoutError: Where one does not come to an end.
    """
    folder.mkdir(parents=True)
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=_become, args=(rank, n, folder, work)) for rank in range(n)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout)
    late = [rank for rank, process in enumerate(processes) if process.exitcode is None]
    for process in processes:
        process.kill()
        process.join()
    if late:
        raise TimeoutError(f"The processes of ranks {late} have not come to an end.")
    files = [folder / f"{rank}.pickle" for rank in range(n)]
    return [pickle.loads(file.read_bytes()) if file.exists() else None for file in files]


def _become(rank: int, n: int, folder: Path, work: Callable[[int], Any]) -> None:
    torch.set_num_threads(1)
    about = {"RANK": rank, "LOCAL_RANK": rank, "NODE_RANK": 0, "WORLD_SIZE": n, "MASTER_ADDR": "127.0.0.1"}
    os.environ.update({name: str(value) for name, value in about.items()})  # for Lightning
    dist.init_process_group("gloo", store=dist.FileStore(str(folder / "store"), n), rank=rank, world_size=n)
    try:
        found = work(rank)
    except BaseException as error:
        if not isinstance(error, SystemExit):
            traceback.print_exc()
        found = error
    (folder / f"{rank}.pickle").write_bytes(pickle.dumps(found))
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)
