"""A SLURM cluster of this machine's own: loopback only, no system service, stopped by the pids of its daemons."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scontrol", "scancel")
_SBIN = "/usr/sbin:/sbin"

_CONFIG = """
ClusterName=tests
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
SlurmctldPort={port}
SlurmdPort={slurmd}
SrunPortRange={srun}-{srun_end}
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={state}/munge.socket,cred_expire=5
StateSaveLocation={state}/ctld
SlurmdSpoolDir={state}/%n
SlurmctldPidFile={state}/slurmctld.pid
SlurmdPidFile={state}/slurmd-%n.pid
SlurmctldLogFile={state}/slurmctld.log
SlurmdLogFile={state}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SwitchType=switch/none
MpiDefault=none
MailProg=/bin/true
ReturnToService=2
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
DefMemPerCPU=100
SchedulerType=sched/backfill
SchedulerParameters=bf_interval=1,sched_interval=2,sched_min_interval=100000,bf_min_age_reserve=0
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
JobRequeue=1
KillWait=60
MinJobAge=86400
SlurmdTimeout=60
InactiveLimit=0
Waittime=0
SlurmdParameters=config_overrides
GresTypes=gpu
NodeName=node[1-4] NodeHostname={host} NodeAddr=127.0.0.1 Port=[{slurmd}-{slurmd_end}] CPUs=8 RealMemory=64000 Gres=gpu:2 State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE DefaultTime=60 PriorityTier=10 PreemptMode=OFF State=UP
PartitionName=preempt Nodes=ALL MaxTime=INFINITE DefaultTime=60 PriorityTier=1 PreemptMode=REQUEUE GraceTime=0 State=UP
"""  # noqa: E501


class Cluster:
    """Four nodes of two pretended GPUs each, in partitions `main` and `preempt`."""

    def __init__(self, state: Path) -> None:
        """Choose where everything that it writes goes."""
        self.state = state
        self.environment = os.environ | {
            "SLURM_CONF": str(state / "slurm.conf"),
            "PATH": f"{os.environ['PATH']}:{_SBIN}",
        }
        self._daemons: list[subprocess.Popen[bytes]] = []

    def start(self) -> None:
        """Start munge, the controller and the nodes; return when all four nodes are idle."""
        self.state.mkdir(parents=True)
        key = self.state / "munge.key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o600)
        first = _free_ports(8)
        values = {
            "port": first,
            "slurmd": first + 1,
            "slurmd_end": first + 4,
            "srun": first + 100,
            "srun_end": first + 300,
        }
        config = _CONFIG.format(host=socket.gethostname().split(".")[0], state=self.state, **values)
        (self.state / "slurm.conf").write_text(config)
        (self.state / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\nCgroupAutomount=no\n")
        devices = ("/dev/null", "/dev/zero")  # any character device will do: they are only looked up
        (self.state / "gres.conf").write_text("".join(f"NodeName=node[1-4] Name=gpu File={d}\n" for d in devices))
        (self.state / "ctld").mkdir()
        self._daemon(
            "munged", "--foreground", "--force", f"--key-file={key}", f"--socket={self.state}/munge.socket",
            f"--pid-file={self.state}/munged.pid", f"--log-file={self.state}/munged.log",
            f"--seed-file={self.state}/munge.seed", "--num-threads=4",
        )  # fmt: skip
        wait_until(lambda: (self.state / "munge.socket").exists(), "munge's socket")
        self._daemon("slurmctld", "-D", "-f", str(self.state / "slurm.conf"))
        wait_until(lambda: "is UP" in self.run("scontrol", "ping", check=False), "an answer of slurmctld")
        for number in range(1, 5):
            (self.state / f"node{number}").mkdir()
            self._daemon("slurmd", "-D", "-N", f"node{number}", "-f", str(self.state / "slurm.conf"))
        wait_until(lambda: self.run("sinfo", "-h", "-N", "-p", "main", "-o", "%T").count("idle") == 4, "idle nodes")

    def stop(self) -> None:
        """Cancel what runs, and stop the daemons."""
        self.run("scancel", "--full", "--user=root", check=False)
        self.run("scancel", "--signal=KILL", "--full", "--user=root", check=False)
        wait_until(lambda: not self.run("squeue", "-h", check=False).strip(), "an empty queue", fail=False)
        for daemon in reversed(self._daemons):
            daemon.terminate()
        for daemon in self._daemons:
            try:
                daemon.wait(15)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()

    def run(self, *command: str, check: bool = True) -> str:
        """Run one of SLURM's commands and return what it prints."""
        answer = subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=60)
        assert not check or answer.returncode == 0, f"{' '.join(command)}: {answer.stderr}"
        return answer.stdout

    def show(self, job: str) -> dict[str, str]:
        """What the controller knows about a job."""
        words = self.run("scontrol", "--oneliner", "show", "job", job).split()
        return dict(word.split("=", 1) for word in words if "=" in word)

    def state_of(self, job: str) -> str:
        """A job's state."""
        return self.show(job)["JobState"]

    def _daemon(self, program: str, *arguments: str) -> None:
        path = shutil.which(program, path=self.environment["PATH"])
        assert path is not None
        with open(self.state / f"{program}.out", "ab") as output:
            self._daemons.append(
                subprocess.Popen(
                    [path, *arguments],
                    env=self.environment,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
            )


def wait_until(condition: Callable[[], object], what: str, seconds: float = 300.0, fail: bool = True) -> None:
    """Look again and again until it holds."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            assert not fail, f"no {what} after {seconds:.0f} s"
            return
        time.sleep(0.2)


def missing_programs() -> list[str]:
    """Which of the programs are not installed."""
    return [name for name in PROGRAMS if shutil.which(name, path=f"{os.environ['PATH']}:{_SBIN}") is None]


def _free_ports(count: int) -> int:
    """The first of some ports in a row that nobody listens on."""
    for first in range(21000, 29000, 500):
        try:
            for port in range(first, first + count):
                with socket.socket() as trial:
                    trial.bind(("127.0.0.1", port))
        except OSError:
            continue
        return first
    raise AssertionError("no free ports")
