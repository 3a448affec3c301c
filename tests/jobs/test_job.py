import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path

import pytest

from nnunetv2_cfnet.jobs import training as module
from nnunetv2_cfnet.jobs.experiment import Experiment
from nnunetv2_cfnet.jobs.job import Job, conclude_in_job, train_in_job
from nnunetv2_cfnet.jobs.records import Records
from nnunetv2_cfnet.jobs.steps import Step, StepError, run_step

pytest.importorskip("submitit")

# ends by itself some time after the signal, as a training does at the end of its epoch
PATIENT = "import signal, sys, time; signal.signal(signal.SIGUSR2, lambda *_: (time.sleep(1), sys.exit(75)))"
STUBBORN = "import signal, time; signal.signal(signal.SIGUSR2, signal.SIG_IGN)"
SLEEP = "print('ready', flush=True); time.sleep(60)"


def experiment_in(out: Path) -> Experiment:
    return Experiment(
        dataset_id=1,
        dataset="Dataset001_A",
        configuration="2d",
        models=["nnUNetTrainer__nnUNetPlans"],
        folds=[0, 1],
        results=[out / "replicate_0"],
        out=out,
        target=out / "comparison",
        conclude=partial(Path(out / "concluded").touch),
        command=["nnunetv2_cfnet", "benchmark"],
        device="cpu",
        num_epochs=1,
    )


def run_program(program: str, logs: Path) -> None:
    step = Step("step", ["python", "-c", program], logs, program=(sys.executable,))
    run_step(step, os.environ, logs)


@pytest.mark.parametrize(("program", "patience_s", "ends_by"), [(PATIENT, 20, 75), (STUBBORN, 1, None)])
def test_a_checkpoint_waits_for_what_runs_as_long_as_there_is_time(tmp_path, program, patience_s, ends_by):
    """As submitit asks for it: in a signal's handler, while the job waits for the same process."""
    job = Job(partial(run_program, f"{program}; {SLEEP}", tmp_path), {}, patience_s)
    waited_s: list[float] = []

    def handle(number: int, frame: object) -> None:
        start = time.monotonic()
        again = job.checkpoint()
        waited_s.append(time.monotonic() - start)
        assert again.function == job
        raise SystemExit(255)

    def signal_when_ready() -> None:
        log = tmp_path / "step.log"
        while not (log.exists() and "ready" in log.read_text()):
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGUSR1)

    before = signal.signal(signal.SIGUSR1, handle)
    threading.Thread(target=signal_when_ready, daemon=True).start()
    try:
        with pytest.raises(SystemExit, match="255"):
            job()
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert 1 <= waited_s[0] < 10


@pytest.mark.parametrize(
    "end",
    ["os.kill(os.getpid(), signal.SIGKILL)", "os.kill(os.getpid(), signal.SIGTERM)", "raise SystemExit(75)"],
)
def test_a_command_that_was_ended_from_outside_makes_a_killed_job(tmp_path, end):
    with pytest.raises(SystemExit, match="137"):
        Job(partial(run_program, f"import os, signal; {end}", tmp_path), {}, 1)()


@pytest.mark.parametrize(
    ("end", "message"),
    [("raise SystemExit(3)", "failed with exit code 3"), ("os.abort()", "was ended by signal 6")],
)
def test_a_command_that_fails_makes_a_failed_job(tmp_path, end, message):
    with pytest.raises(StepError, match=message):
        Job(partial(run_program, f"import os; {end}", tmp_path), {}, 1)()


def test_processes_that_a_job_forks_end_at_its_signals_as_ever():
    """Those of nnU-Net's pools would never end where submitit's handler lets SIGTERM pass."""
    program = """
import os, signal
from nnunetv2_cfnet.jobs.job import Job

def work():
    ours = [signal.getsignal(number) for number in numbers]
    reading, writing = os.pipe()
    if os.fork() == 0:
        os.write(writing, repr([signal.getsignal(number) is signal.SIG_DFL for number in numbers]).encode())
        os._exit(0)
    os.wait()
    print(os.read(reading, 100).decode(), ours == [signal.getsignal(number) for number in numbers])

numbers = (signal.SIGTERM, signal.SIGUSR2)
for number in numbers:
    signal.signal(number, lambda *_: None)  # as submitit does
Job(work, {}, 1)()
"""
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (result.stdout, result.stderr) == ("[True, True] True\n", "")


def test_a_job_has_the_variables_it_was_submitted_with(tmp_path, monkeypatch):
    monkeypatch.delenv("nnUNet_raw", raising=False)
    monkeypatch.setenv("PATH", os.environ["PATH"])
    program = f"import os, pathlib; pathlib.Path({str(tmp_path / 'raw')!r}).write_text(os.environ['nnUNet_raw'])"
    with monkeypatch.context() as inner:
        inner.setattr(os, "environ", os.environ.copy())
        Job(partial(run_program, program, tmp_path), {"nnUNet_raw": "/there"}, 1)()
    assert (tmp_path / "raw").read_text() == "/there"


def test_a_training_has_a_worker_for_each_core_of_its_job_but_one(tmp_path, monkeypatch):
    seen = {}
    monkeypatch.setattr(
        module, "run_step", lambda step, environment, *more: seen.update(environment, program=step.program)
    )
    monkeypatch.delenv("nnUNet_n_proc_DA", raising=False)
    monkeypatch.setenv("SLURM_CPUS_ON_NODE", "12")
    training, _ = experiment_in(tmp_path).trainings
    train_in_job(training, tmp_path)
    assert (seen["nnUNet_n_proc_DA"], seen["nnUNet_results"]) == ("11", str(tmp_path / "replicate_0"))
    assert seen["program"] == module.INTERRUPTIBLE
    monkeypatch.setenv("nnUNet_n_proc_DA", "4")
    train_in_job(training, tmp_path)
    assert seen["nnUNet_n_proc_DA"] == "4"


def test_a_cut_off_checkpoint_is_not_gone_on_from(tmp_path, monkeypatch):
    commands = []
    monkeypatch.setattr(module, "run_step", lambda step, *more: commands.append(step.command))
    training, _ = experiment_in(tmp_path).trainings
    training.fold_folder.mkdir(parents=True)
    torn = training.fold_folder / "checkpoint_latest.pth"
    torn.write_bytes(b"PK\x03\x04 the beginning of an archive")
    module.train(training, tmp_path, {})
    assert not torn.exists()
    assert "--c" not in commands[0]


def test_the_conclusion_names_what_is_missing_and_is_reached_when_nothing_is(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", [])
    experiment = pickle.loads(pickle.dumps(experiment_in(tmp_path)))  # as a job gets it
    first, second = experiment.trainings
    first.product.parent.mkdir(parents=True)
    first.product.write_text("{}")
    with pytest.raises(ValueError, match=r"1 of 2 trainings are missing; .*:\n  replicate_0, .*, fold 1$"):
        conclude_in_job(experiment)
    records = Records(tmp_path)
    assert "1 of 2 trainings are missing" in records.read("conclusion").why
    assert (records.read(second.name).state, records.read(second.name).why) == ("failed", "its job ended")
    second.product.parent.mkdir(parents=True)
    second.product.write_text("{}")
    conclude_in_job(experiment)
    assert sys.argv == ["nnunetv2_cfnet", "benchmark"]  # what a report calls its command
    assert (tmp_path / "concluded").exists()
    assert records.read("conclusion").state == "done"
