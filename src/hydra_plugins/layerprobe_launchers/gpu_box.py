"""Runs the jobs of a sweep on this machine: each in a process and with GPUs or CPUs of its own."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from hydra_plugins.layerprobe_launchers.jobs import Job, jobs_of, report_end, returned, to_do
from hydra_plugins.layerprobe_launchers.slots import Slot, Taken, gpu_slots, take
from layerprobe.formatting import count_text
from layerprobe.quoting import command, override

log = logging.getLogger(__name__)

_POLL = 0.2
_PATIENCE = 120.0


class GpuBoxLauncher(Launcher):
    """As many jobs at a time as there are places; the others wait.

    Each job is the command that runs it alone, in a process of its own that starts with `CUDA_VISIBLE_DEVICES` set.
    What it prints goes to `output.log` in its directory. A job that crashes or is killed loses itself only.

    Args:
        jobs_per_gpu: Jobs at a time on one GPU; 1/g for jobs of g GPUs.
        devices: The GPUs to use; by default all that this process sees.
        n_jobs: Jobs at a time where there is no GPU; by default one for every two CPUs. They share the threads.
        lock_dir: Where the GPUs' locks are; by default the machine's folder for temporary files.
    """

    def __init__(
        self,
        jobs_per_gpu: float = 1,
        devices: Sequence[str | int] | None = None,
        n_jobs: int | None = None,
        lock_dir: str | None = None,
    ) -> None:
        self._jobs_per_gpu = jobs_per_gpu
        self._devices = None if devices is None else [str(device) for device in devices]
        self._n_jobs = n_jobs
        self._lock_dir = None if lock_dir is None else Path(lock_dir)
        self._given: tuple[HydraContext, DictConfig] | None = None

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Take what Hydra gives."""
        self._given = hydra_context, config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run jobs until all have ended."""
        from layerprobe.results.sweep_record import SweepRecord

        assert self._given is not None, "Hydra calls setup before launch"
        context, config = self._given
        jobs = jobs_of(context, config, job_overrides, initial_job_idx)
        waiting = deque(to_do(jobs, config.get("rerun")))
        record = SweepRecord.read(Path(config.hydra.sweep.dir).absolute())
        record.add({str(job.number): job.record for job in jobs})
        slots = self._slots()
        log.info(
            "%s, %d done before; %d at a time on %s",
            count_text(len(jobs), "job"), len(jobs) - len(waiting), len(slots),
            "GPUs " + " ".join(dict.fromkeys("+".join(slot.devices) for slot in slots)) if slots[0].devices else "CPUs",
        )  # fmt: skip
        _Box(slots, self._lock_dir, record.directory).run(waiting)
        return [returned(job, config) for job in jobs]

    def _slots(self) -> list[Slot]:
        devices = _visible_gpus() if self._devices is None else self._devices
        if devices:
            try:
                return gpu_slots(devices, self._jobs_per_gpu)
            except ValueError as error:
                raise SystemExit(str(error)) from error
        n_jobs = self._n_jobs or max(1, len(os.sched_getaffinity(0)) // 2)
        return [Slot((), index) for index in range(n_jobs)]


class _Box:
    """The jobs that run on this machine."""

    def __init__(self, slots: Sequence[Slot], lock_dir: Path | None, sweep: Path) -> None:
        self._slots = slots
        self._lock_dir = lock_dir
        self._sweep = sweep
        self._running: dict[subprocess.Popen[bytes], tuple[Job, Slot, float]] = {}
        self._threads = max(1, len(os.sched_getaffinity(0)) // len(slots))

    def run(self, waiting: deque[Job]) -> None:
        """Run jobs until all have ended; on a signal, have them save what they have, and leave."""
        before = {number: signal.signal(number, _interrupt) for number in (signal.SIGTERM, signal.SIGINT)}
        before[signal.SIGHUP] = signal.signal(signal.SIGHUP, self._without_terminal)
        try:
            while waiting or self._running:
                self._collect()
                self._fill(waiting)
                time.sleep(_POLL)
        except KeyboardInterrupt:
            self._stop()
            print(
                f"\nThe sweep was interrupted. To go on: {command('sweep', override('continue', self._sweep))}",
                flush=True,
            )
            raise SystemExit(130) from None
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _fill(self, waiting: deque[Job]) -> None:
        from layerprobe.results.run_directory import RunDirectory

        for _ in range(len(waiting)):
            if len(self._running) >= len(self._slots):
                return
            job = waiting.popleft()
            run = RunDirectory(job.directory)
            if run.finished(job.config):  # by a job of an earlier launcher that was still running
                continue
            busy = [slot for _, slot, _ in self._running.values()]
            taken = None if run.is_busy() else take(self._slots, busy, self._lock_dir)
            if taken is None:
                waiting.append(job)
            else:
                self._start(job, taken)

    def _start(self, job: Job, taken: Taken) -> None:
        environment = dict(os.environ)
        environment.setdefault("OMP_NUM_THREADS", str(self._threads))
        if taken.slot.devices:
            environment["CUDA_VISIBLE_DEVICES"] = ",".join(taken.slot.devices)
        job.directory.mkdir(parents=True, exist_ok=True)
        with open(job.directory / "output.log", "ab") as output:
            process = subprocess.Popen(
                [sys.executable, *job.command],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                pass_fds=taken.locks,
            )
        taken.hand_over()
        self._running[process] = (job, taken.slot, time.monotonic())
        log.info("started  %s%s", job.name, f"  (GPU {'+'.join(taken.slot.devices)})" if taken.slot.devices else "")

    def _collect(self) -> None:
        for process in [process for process in self._running if process.poll() is not None]:
            job, _, start = self._running.pop(process)
            took = f"  ({time.monotonic() - start:.0f} s)"
            report_end(job, partial(_cause, process.returncode, job.directory), took)

    def _stop(self) -> None:
        """Have the jobs save and leave; a second interrupt, or two minutes, end them."""
        for process in self._running:
            process.terminate()
        stopping = f"Stopping {count_text(len(self._running), 'job')}"
        print(f"\n{stopping}: each saves what it has. Press Ctrl-C again to end them at once.", flush=True)
        try:
            end = time.monotonic() + _PATIENCE
            while self._running and time.monotonic() < end:
                self._collect()
                time.sleep(_POLL)
        except KeyboardInterrupt:
            pass
        for process in self._running:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        self._collect()

    def _without_terminal(self, number: int, frame: Any) -> None:
        """Go on where the terminal is gone, after a dropped connection, and write to a file."""
        with open(self._sweep / "sweep.log", "ab") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)


def _interrupt(number: int, frame: Any) -> None:
    raise KeyboardInterrupt


def _cause(code: int, directory: Path) -> str:
    if code < 0:
        return f"killed by {signal.Signals(-code).name}"
    with suppress(OSError):
        lines = (directory / "output.log").read_text(errors="replace").splitlines()
        told = [line for line in lines if line.strip() and "HYDRA_FULL_ERROR" not in line]
        if told:
            return f"exit code {code}: {told[-1].strip()}"
    return f"exit code {code}"


def _visible_gpus() -> list[str]:
    """Name the GPUs that this process may use, as `CUDA_VISIBLE_DEVICES` does."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [name.strip() for name in named.split(",") if name.strip() not in ("", "-1")]
    import torch

    return [str(index) for index in range(torch.cuda.device_count())]
