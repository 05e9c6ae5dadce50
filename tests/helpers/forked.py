"""Scripts run in a process that is forked from one that has imported everything: it starts in a moment, not in seconds.

What a fresh interpreter would do differently (what it imports, what a signal meets while it starts) has to be tested
with a fresh interpreter.
"""

from __future__ import annotations

import atexit
import gc
import multiprocessing
import os
import resource
import runpy
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

# wandb first: while it is imported it looks for docstrings, and each time through all modules that are there.
_SERVER = multiprocessing.get_context("forkserver")
_SERVER.set_forkserver_preload(
    [
        "wandb.sdk.launch.inputs.internal", "wandb.sdk.artifacts.artifact",
        "altair", "datasets", "hydra.main", "layerprobe.api.probe", "layerprobe.jobs.probe", "layerprobe.jobs.train",
        "layerprobe.report.report_files", "pandas", "pyarrow.csv", "pyarrow.parquet", "pydantic", "pytorch_lightning",
        "rich.console", "sklearn.datasets", "tabulate", "tensorboard", "torch._dynamo", "torchvision.models",
        "transformers", "transformers.models.auto.modeling_auto", "vl_convert",
    ]
)  # fmt: skip


class Running:
    """A script that has been started, with the part of `subprocess.Popen` that tests call.

    Attributes:
        pid: The number of its process.
    """

    def __init__(self, command: Sequence[str], about: tuple[Any, ...]) -> None:
        self._command = command
        self._folder = tempfile.TemporaryDirectory()
        self._files = [Path(self._folder.name, name) for name in ("stdout", "stderr")]
        self._process = _SERVER.Process(target=_become, args=(self._files, *about))
        self._process.start()
        assert self._process.pid is not None
        self.pid = self._process.pid
        atexit.register(self._end)  # or pytest waits for what a failed test has left going

    @property
    def returncode(self) -> int | None:
        """Its exit code, the negative number of the signal that killed it, or None while it goes on."""
        return self._process.exitcode

    def poll(self) -> int | None:
        """Its exit code, or None while it goes on."""
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Send a signal, unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """Wait for its end.

        Args:
            timeout: Seconds; a script that takes longer is killed.

        Returns:
            What it printed on stdout and on stderr.

        Raises:
            subprocess.TimeoutExpired: If it takes longer.
        """
        self._process.join(timeout)
        late = self.poll() is None
        said = self._end()
        if late:
            raise subprocess.TimeoutExpired(self._command, timeout or 0, *said)
        return said

    def _end(self) -> tuple[str, str]:
        atexit.unregister(self._end)
        if self.poll() is None:
            self._process.kill()
            self._process.join()
        stdout, stderr = (file.read_text() if file.exists() else "" for file in self._files)
        self._folder.cleanup()
        return stdout, stderr


def start(
    command: Sequence[str], *, cwd: Path, env: Mapping[str, str] | None = None, file_size: int | None = None
) -> Running:
    """Start a Python file and leave it going.

    Args:
        command: This interpreter, the file, its arguments.
        cwd: Where it runs.
        env: All of its environment, by default this process's; its `PYTHONPATH` comes before the other modules.
        file_size: Bytes that a file may have, as `ulimit -f` sets it; by default as many as in this process.
    """
    interpreter, script, *words = command
    assert interpreter == sys.executable, "another program has to be started by subprocess"
    environment = dict(os.environ if env is None else env)
    return Running(command, (Path(cwd, script).absolute(), words, cwd, environment, file_size))


def run(
    command: Sequence[str],
    *,
    cwd: Path,
    env: Mapping[str, str] | None = None,
    timeout: float = 600,
    file_size: int | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run a Python file as `subprocess.run` would, with what it prints captured.

    Args:
        command: As `start` takes it, like what follows.
        cwd: Where it runs.
        env: All of its environment.
        timeout: Seconds; a script that takes longer is killed.
        file_size: Bytes that a file may have.

    Raises:
        subprocess.TimeoutExpired: If it takes longer.
    """
    process = start(command, cwd=cwd, env=env, file_size=file_size)
    said = process.communicate(timeout)
    return subprocess.CompletedProcess(command, process.returncode or 0, *said)


def _become(
    files: list[Path], script: Path, words: list[str], cwd: Path, environment: dict[str, str], file_size: int | None
) -> None:
    gc.freeze()  # half a million objects that came with the fork: a collection would write to each, and copy its page
    if file_size is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (file_size, file_size))
        sys.dont_write_bytecode = True  # Python would keep a file that is cut short, and fail to read it ever after
    for stream, file in zip((1, 2), files, strict=True):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND), stream)
    multiprocessing.set_start_method(None, force=True)  # Python's own, which a fork server sets to what it is itself
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(cwd)
    _have_folders_of_ones_own()
    tests = str(Path(__file__).parents[1])
    given = [path for path in environment.get("PYTHONPATH", "").split(os.pathsep) if path]
    sys.path[:] = [str(script.parent), *given, *(path for path in sys.path if path not in ("", tests))]
    sys.argv = [str(script), *words]
    code: Any = 0
    try:
        runpy.run_path(str(script), run_name="__main__")
    except SystemExit as stop:
        code = stop.code
        if not isinstance(code, int | None):
            print(code, file=sys.stderr)
            code = 1
    except BaseException:
        sys.excepthook(*sys.exc_info())  # which Weights & Biases looks at
        code = 1
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    sys.exit(code)


def _have_folders_of_ones_own() -> None:
    """Make the folders anew that wandb made while it was imported: each process takes them away in the end."""
    from wandb.sdk.artifacts.artifact import Artifact
    from wandb.sdk.data_types._private import MEDIA_TMP

    for folder in (MEDIA_TMP, Artifact._TMP_DIR):
        folder.cleanup()
        folder.__init__()  # type: ignore[misc]
