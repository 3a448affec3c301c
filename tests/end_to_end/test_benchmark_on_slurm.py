"""A benchmark on a real SLURM, with a job killed, one requeued and one at its time limit on the way."""

import math
import os
import re
import signal
import subprocess
import sysconfig
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from slurm_cluster import cluster, reason_for_none

from nnunetv2_cfnet.files.checkpoints import read_checkpoint
from nnunetv2_cfnet.files.children import ending_with_us
from nnunetv2_cfnet.jobs.progress import read_progress
from nnunetv2_cfnet.jobs.records import Records
from nnunetv2_cfnet.training.trainers import DEMO_EPOCHS

MODELS = ("nnUNetTrainerCFNetDemo__nnUNetPlans", "nnUNetTrainerCFNetDemoBaseline__nnUNetPlans")
NAMES = [f"replicate_0_{model}_fold_{fold}" for model in MODELS for fold in (0, 1)]
DEADLINE_S = 600

pytestmark = [pytest.mark.slow, pytest.mark.skipif(bool(reason_for_none()), reason=str(reason_for_none()))]


@pytest.fixture
def slurm() -> Iterator[dict[str, str]]:
    with cluster() as variables:
        yield variables


def test_a_benchmark_survives_a_kill_a_requeue_and_a_time_limit(new_workspace, slurm, monkeypatch):
    workspace = new_workspace()
    workspace.write_phantom(num_training=5, num_test=0)
    workspace.run("nnUNetv2_plan_experiment", "-d", 1)
    workspace.shrink_plans()
    for name, value in slurm.items():
        monkeypatch.setenv(name, value)
    out = workspace.root / "cfnet_benchmark"
    records = Records(out)
    options = "time=60,cpus_per_task=1,signal_delay_s=150"  # a node of two cores trains two at a time
    command = [Path(sysconfig.get_path("scripts"), "nnunetv2_cfnet"), "benchmark", "-d", "1", "--folds", "0", "1"]
    command += ["-np", "1", "--slurm", options, "--wait", "--trainers", *MODELS]
    # what suits a short training, as for the demo
    environment = {**workspace.environment, "nnUNet_compile": "false", "OMP_WAIT_POLICY": "PASSIVE"}
    with (
        subprocess.Popen(
            command, env=environment, cwd=workspace.root, stdout=subprocess.PIPE, text=True, start_new_session=True
        ) as process,
        ending_with_us(process),
    ):
        killed, requeued, limited, untouched = NAMES
        when(process, lambda: epoch_of(records, killed) >= 1)
        for pid in processes_of(records.submitted()[killed]):  # as a system out of memory may
            os.kill(pid, signal.SIGKILL)
        when(process, lambda: epoch_of(records, requeued) >= 1)
        scontrol("requeue", records.submitted()[requeued])
        when(process, lambda: epoch_of(records, limited) >= 1)
        reach_time_limit(process, records, limited)
        output, _ = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 0, output
    assert f"Done: {out / 'comparison'}" in output
    status = workspace.run("nnunetv2_cfnet", "status", out).stdout
    states = {line.split()[0]: line for line in status.splitlines()}
    for name in NAMES:
        record = records.read(name)
        is_done = " done, interrupted 1 time " if name != untouched else " done  "
        assert is_done in states[name], status
        progress = read_progress(out / record.fold_folder)
        assert progress.epoch == DEMO_EPOCHS
        # what was saved when its epoch ended was not trained again
        assert progress.num_trained <= DEMO_EPOCHS + (name in (killed, requeued))
        log = read_checkpoint(out / record.fold_folder / "checkpoint_final.pth", remedy="")["logging"]
        assert len(log["train_losses"]) == DEMO_EPOCHS
    assert shape_of(out) == shape_of_serial_run(workspace)


def shape_of_serial_run(workspace) -> list[tuple]:
    """Of the table of a benchmark that trains one after another, with trainers of two epochs."""
    trainers = ("nnUNetTrainerCFNetTiny", "nnUNetTrainerTiny")
    flags = ("-d", 1, "--folds", 0, 1, "-np", 1, "-device", "cpu", "-o", "serial", "--trainers")
    workspace.run("nnunetv2_cfnet", "benchmark", *flags, *trainers, nnUNet_n_proc_DA="1")
    return shape_of(workspace.root / "serial")


def shape_of(out: Path) -> list[tuple]:
    """What a comparison has, but for names of trainers and numbers."""
    text = (out / "comparison" / "compare.md").read_text()
    assert (out / "comparison" / "report.html").is_file()
    return [
        (line.count("|"), re.findall(r"whole_tumor|tumor_core|enhancing_tumor", line))
        for line in text.splitlines()
        if line.startswith("|")
    ]


def when(process: subprocess.Popen, happened: Callable[[], bool]) -> None:
    """Wait until it has happened, while the process runs."""
    deadline = time.monotonic() + DEADLINE_S
    while not happened():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.5)


def epoch_of(records: Records, name: str) -> int:
    record = records.read(name)
    return read_progress(records.out / record.fold_folder).epoch if record.fold_folder else 0


def scontrol(*words: str) -> str:
    return subprocess.run(["scontrol", *words], check=True, capture_output=True, text=True).stdout


def processes_of(job: str) -> list[int]:
    """What a job runs, but for its script: submitit's process first, then the training and its workers."""
    number = re.search(r"^JobId=(\d+)", scontrol("show", "job", job))[1]
    rows = [line.split() for line in scontrol("listpids", number).splitlines()]
    return [int(pid) for pid, _, step, local, _ in sorted(rows, key=lambda row: row[3] != "0") if step == "0"]


def reach_time_limit(process: subprocess.Popen, records: Records, name: str) -> None:
    """Bring a job's time limit near, so that SLURM signals it; it looks for such jobs every half a minute.

    The training pauses until then, and can't end before, however fast it is.
    """
    job = records.submitted()[name]
    _, *training = processes_of(job)
    hours, minutes, seconds = re.search(r"RunTime=(\d+):(\d+):(\d+)", scontrol("show", "job", job)).groups()
    elapsed_s = (int(hours) * 60 + int(minutes)) * 60 + int(seconds)
    for pid in training:
        os.kill(pid, signal.SIGSTOP)
    scontrol("update", f"jobid={job}", f"timelimit={math.ceil((elapsed_s + 100) / 60)}")
    log = records.folder / "slurm" / f"{job}_0_log.err"
    when(process, lambda: "Caught signal SIGUSR2" in log.read_text())
    for pid in training:  # should SLURM not have continued them
        with suppress(ProcessLookupError):  # it has, and a worker has ended
            os.kill(pid, signal.SIGCONT)
    when(process, lambda: records.read(name).state == "interrupted")
    scontrol("update", f"jobid={job}", "timelimit=60")


def test_cancelled_jobs_are_gone_and_their_trainings_are_known_as_cancelled(new_workspace, slurm):
    workspace = new_workspace()
    workspace.write_phantom(num_training=5, num_test=0)
    command = ("nnunetv2_cfnet", "cross_validate", "-d", 1, "-tr", "nnUNetTrainerCFNetTiny", "--folds", 0, 1)
    printed = workspace.run(*command, "--slurm", "time=5,cpus_per_task=2", **slurm).stdout
    assert "preparation\n" in printed
    assert "nnUNetTrainerCFNetTiny__nnUNetPlans, fold 1\n" in printed
    assert "Cancelled 4 jobs" in workspace.run(*command, "--cancel", **slurm).stdout
    queue = ("squeue", "--noheader")
    assert subprocess.run(queue, env={**os.environ, **slurm}, capture_output=True, text=True).stdout == ""
    status = workspace.run("nnunetv2_cfnet", "status", workspace.model("nnUNetTrainerCFNetTiny", "3d_fullres")).stdout
    assert [line.split()[:2] for line in status.splitlines()[1:]] == [
        ["preparation", "cancelled"],
        ["fold_0", "cancelled"],
        ["fold_1", "cancelled"],
        ["conclusion", "cancelled"],
    ]
