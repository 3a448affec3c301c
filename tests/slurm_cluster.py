"""A real SLURM of one node, this machine, for tests: munged, slurmctld and slurmd in a folder of their own."""

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "scontrol", "scancel")
CONFIGURATION = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmdPort={node_port}
SlurmUser=root
AuthType=auth/munge
# a job that is requeued waits until its credential has expired: two minutes by default
AuthInfo=socket={folder}/munge.socket,cred_expire=5
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
KillWait=5
SchedulerParameters=sched_interval=3
ReturnToService=2
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
NodeName={host} NodeAddr=127.0.0.1 CPUs=2 State=UNKNOWN
PartitionName=main Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""


def reason_for_none() -> str | None:
    """Why there can be no cluster here; None: there can."""
    search = os.pathsep.join((os.environ["PATH"], "/usr/sbin", "/sbin"))
    missing = [program for program in PROGRAMS if not shutil.which(program, path=search)]
    if missing:
        return f"no SLURM here: {', '.join(missing)} missing"
    return None if os.geteuid() == 0 else "SLURM's daemons need root here"


@contextmanager
def cluster() -> Iterator[dict[str, str]]:
    """Run the daemons, and yield the variables by which SLURM's commands find them; they end with the block."""
    # not in pytest's folders, which others can't enter, as munged asks; their names are long for a socket, too
    with TemporaryDirectory(prefix="slurm_", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        folder.chmod(0o755)
        with _daemons(folder) as variables:
            yield variables


@contextmanager
def _daemons(folder: Path) -> Iterator[dict[str, str]]:
    host = socket.gethostname().partition(".")[0]
    (folder / "state").mkdir()
    (folder / "spool").mkdir()
    configuration = folder / "slurm.conf"
    ports = dict(zip(("controller_port", "node_port"), _free_ports(2), strict=True))
    configuration.write_text(CONFIGURATION.format(host=host, folder=folder, **ports))
    key = folder / "munge.key"
    key.write_bytes(os.urandom(128))
    key.chmod(0o400)
    munge = [f"--{name}-file={folder}/munge.{name}" for name in ("key", "pid", "seed", "log")]
    environment = {**os.environ, "SLURM_CONF": str(configuration), "PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin"}
    with ExitStack() as stack:
        for name, *flags in (
            ("munged", "--foreground", f"--socket={folder}/munge.socket", *munge),
            ("slurmctld", "-D"),
            ("slurmd", "-D"),
        ):
            stack.enter_context(_running([name, *flags], environment, folder / f"{name}.out"))
            time.sleep(1)
        _wait_until(["sinfo", "--noheader", "--format=%T"], "idle", environment)
        try:
            yield {"SLURM_CONF": str(configuration)}
        finally:
            subprocess.run(["scancel", "--user=root"], env=environment, check=False)
            _wait_until(["squeue", "--noheader"], "", environment)  # what a job runs outlives slurmd


@contextmanager
def _running(command: list[str], environment: dict[str, str], log: Path) -> Iterator[None]:
    with log.open("w") as output:
        process = subprocess.Popen(command, env=environment, stdout=output, stderr=output, start_new_session=True)
    try:
        yield
    finally:
        process.terminate()
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_until(command: list[str], answer: str, environment: dict[str, str]) -> None:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        result = subprocess.run(command, env=environment, capture_output=True, text=True)
        if result.returncode == 0 and result.stdout.strip() == answer:
            return
        time.sleep(0.5)
    raise RuntimeError(f"SLURM does not get so far: {command} answers {result.stdout}{result.stderr}")


def _free_ports(number: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(number)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
