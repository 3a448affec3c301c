"""An experiment as SLURM's jobs, by submitit: the preparation, an array of trainings, the conclusion.

    preparation --afterok--> trainings --afterany--> conclusion, which says what is missing

A job that is preempted or about to reach its time limit stops, and is requeued under its own number; so is one that was
killed. Which job a part has stands in the experiment's records, and squeue says which of these jobs are still there:
submitting again submits what has none and is not done.
"""

import getpass
import math
import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

from nnunetv2_cfnet.errors import UserError, lines_of
from nnunetv2_cfnet.files.lock import locked
from nnunetv2_cfnet.jobs.experiment import Experiment
from nnunetv2_cfnet.jobs.job import KILLED, Job, conclude_in_job, prepare_in_job, train_in_job
from nnunetv2_cfnet.jobs.preparation import missing_steps, write_shared_files
from nnunetv2_cfnet.jobs.records import CONCLUSION, DONE, PREPARATION, Records
from nnunetv2_cfnet.jobs.status import summary_of

if TYPE_CHECKING:
    from submitit import SlurmExecutor

EXAMPLE = "partition=gpu,time=24:00:00,gpus_per_node=1,cpus_per_task=12,mem_gb=64"
SIGNAL_DELAY_S = 300  # before a job's end: an epoch of nnU-Net takes minutes
MARGIN_S = 20  # of that, to have the job requeued
MAX_TIMEOUTS = 1000  # a training that gets no further is stopped by its record
POLL_S = 10
NUM_TRIES = 60  # of asking squeue: ten minutes
# submitit's names for any cluster, and its names for SLURM, which are sbatch's
SLURM_NAMES = {"name": "job_name", "timeout_min": "time", "tasks_per_node": "ntasks_per_node"}
COMMANDS = ("sbatch", "srun", "squeue", "scancel", "scontrol")  # which it takes
LISTS = ("setup", "srun_args")  # to submitit: lines of shell, srun's options
WHOLE_NUMBERS = ("signal_delay_s", "array_parallelism", "cpus_per_task")
OF_ONE_TASK = ("nodes", "ntasks", "ntasks_per_node")  # several would do the same, each
# by these a job's files, its signals and its requeueing are set here or by submitit
RESERVED = (
    *("teardown", "use_srun", "signal", "array", "map_count", "output", "error", "open_mode", "additional_parameters"),
)
# which srun of SLURM 22.05 to 23.02 does not take from sbatch
CORES_FOR_SRUN = 'export SRUN_CPUS_PER_TASK="$SLURM_CPUS_PER_TASK"'
REQUEUE_IF_KILLED = [
    "code=$?",
    f'if [ "$code" -eq {KILLED} ]; then scontrol requeue "$SLURM_JOB_ID"; fi',
    'exit "$code"',
]


def read_options(text: str) -> dict[str, Any]:
    """NAME=VALUE,.. as submitit takes them for SLURM: times in minutes, numbers as such, "true" for flags.

    Names are sbatch's or submitit's. A value may have commas, as in exclude=a,b.

    Raises:
        UserError: it is something else.
    """
    options: dict[str, Any] = {}
    for item in re.split(r",(?=\s*[A-Za-z][\w-]*=)", text) if text.strip() else []:
        name, separator, value = (part.strip() for part in item.partition("="))
        name = name.replace("-", "_").removeprefix("slurm_")
        name = SLURM_NAMES.get(name, name)
        if not separator or not re.fullmatch(r"[A-Za-z]\w*", name) or not value:
            raise UserError(f"--slurm {text}: {item.strip()!r} is no NAME=VALUE; give such as in {EXAMPLE}")
        if name == "mem_gb":
            name, value = "mem", _memory(value)
        if name in options:
            raise UserError(f"--slurm {text}: {name} is given twice.")
        options[name] = _minutes(value) if name == "time" else _value(value)
        _check(name, options[name])
    if "time" not in options:  # submitit's own is five minutes
        raise UserError(f"--slurm {text}: give a job's time limit, time=.., as in {EXAMPLE}")
    return options


def device_of(options: Mapping[str, Any]) -> str:
    """cuda where the options ask for GPUs, else cpu."""
    asked = [f"{name}={value}" for name, value in options.items() if "gpu" in name or name in ("gres", "tres_per_node")]
    return "cuda" if any("gpu" in option and not re.search(r"[=:]0$", option) for option in asked) else "cpu"


def submit(experiment: Experiment, options: Mapping[str, Any]) -> None:
    """Submit what is missing and in no job's hands, and print the jobs.

    Raises:
        UserError: bad input, before anything is submitted; or SLURM refuses a job.
    """
    records = Records(experiment.out)
    with locked(records.folder):
        steps = missing_steps(experiment)
        _executor(experiment, options)  # before records are made
        alive = _alive(records)
        others = sorted({*alive} - {training.name for training in experiment.trainings} - {PREPARATION, CONCLUSION})
        if others:
            raise UserError(
                f"{experiment.out} has other trainings among SLURM's jobs, which end in a conclusion of their own: let "
                f"them end, or end them with this command's --cancel:{lines_of(others)}"
            )
        trainings = [
            training for training in experiment.trainings if not training.is_done and training.name not in alive
        ]
        if CONCLUSION in alive and not trainings:
            print(f"Everything is submitted already. nnunetv2_cfnet status {experiment.out}")
            return
        records.expect([training for training in experiment.trainings if training.is_done])

        def send(names: Sequence[str], works: Sequence[Callable[[], None]], dependency: str | None) -> None:
            expected = [training for training in trainings if training.name in names]
            with records.expecting(expected, {PREPARATION, CONCLUSION} & {*names}):
                jobs = _send(experiment, options, works, dependency)
            records.add_submitted(zip(names, jobs, strict=True))

        if PREPARATION not in alive:
            if steps:
                send([PREPARATION], [partial(prepare_in_job, experiment)], options.get("dependency"))
                print(f"job {records.submitted()[PREPARATION]}: preparation")
            else:
                write_shared_files(experiment)
        if trainings:
            is_prepared = PREPARATION not in alive and not steps
            after = None if is_prepared else f"afterok:{records.submitted()[PREPARATION]}"
            send(
                [training.name for training in trainings],
                [partial(train_in_job, training, experiment.out) for training in trainings],
                after or options.get("dependency"),
            )
            for training in trainings:
                print(f"job {records.submitted()[training.name]}: {training.title}")
        if CONCLUSION in alive:  # it waits for other trainings
            _scancel([alive[CONCLUSION]])
        submitted = records.submitted()
        awaited = {
            submitted[training.name].partition("_")[0]  # the whole array
            for training in experiment.trainings
            if training in trainings or training.name in alive
        }
        send(
            [CONCLUSION],
            [partial(conclude_in_job, experiment)],
            f"afterany:{':'.join(sorted(awaited))}" if awaited else None,
        )
        print(f"job {records.submitted()[CONCLUSION]}: {experiment.target}")
        print(f"Logs and records: {experiment.logs}, {records.folder}\nnnunetv2_cfnet status {experiment.out}")


def wait(experiment: Experiment) -> None:
    """Show how the jobs get on until they have ended; Ctrl-C leaves them.

    Raises:
        UserError: the conclusion was not reached.
    """
    records = Records(experiment.out)
    shown = ""
    try:
        while _still_alive(records):
            if (summary := summary_of(experiment.out)) != shown:
                print(f"{time.strftime('%H:%M:%S')}  {summary}", flush=True)
                shown = summary
            time.sleep(POLL_S)
    except KeyboardInterrupt:
        print(f"\nThe jobs go on. nnunetv2_cfnet status {experiment.out}; --cancel ends them", flush=True)
        raise
    conclusion = records.read(CONCLUSION)
    if conclusion.state != DONE:
        raise UserError(
            f"{experiment.target} was not made ({conclusion.why or conclusion.state}). nnunetv2_cfnet status "
            f"{experiment.out} says what failed; the same command submits it again."
        )
    print(f"Done: {experiment.target}")


def cancel(experiment: Experiment) -> None:
    """End the jobs of an experiment, and record that. What was trained stays, and can go on."""
    records = Records(experiment.out)
    alive = _alive(records)
    if alive:
        _scancel(alive.values())
    while _still_alive(records):  # a job that ends records its own end
        time.sleep(1)
    for name in records.names():
        record = records.read(name)
        if name in records.submitted() and record.state != DONE:
            records.cancel(name)
    print(f"Cancelled {len(alive)} jobs of {experiment.out}:{lines_of(list(alive))}" if alive else "There are no jobs.")


def in_queue(experiment: Experiment) -> dict[str, str]:
    """The jobs of its parts that are waiting or running; none where squeue does not answer."""
    with suppress(UserError):
        return _alive(Records(experiment.out))
    return {}


def _executor(experiment: Experiment, options: Mapping[str, Any]) -> "SlurmExecutor":
    """submitit's, with the options; those that it does not know are passed on to sbatch."""
    try:
        from submitit import SlurmExecutor
    except ModuleNotFoundError as error:
        raise UserError(
            f'--slurm needs {error.name}; install it with: pip install ".[cluster]" in the source folder of '
            "nnunetv2_cfnet"
        ) from error
    if missing := [command for command in COMMANDS if shutil.which(command) is None]:
        raise UserError(f"--slurm: {', '.join(missing)} not found. Give the command where sbatch and srun are.")
    executor = SlurmExecutor(experiment.out / "jobs" / "slurm", max_num_timeout=MAX_TIMEOUTS)
    executor.update_parameters(job_name=f"cfnet_{experiment.dataset}", signal_delay_s=SIGNAL_DELAY_S)
    executor.update_parameters(teardown=REQUEUE_IF_KILLED)
    # a site may have it otherwise; a job that waits for one that failed would wait for ever
    more: dict[str, Any] = {"requeue": True, "kill-on-invalid-dep": "yes"}
    for name, value in options.items():
        try:
            executor.update_parameters(**{name: [str(value)] if name in LISTS else value})
        except ValueError:
            more[name.replace("_", "-")] = value
    executor.update_parameters(additional_parameters=more)
    if "cpus_per_task" in options:
        executor.update_parameters(setup=[CORES_FOR_SRUN, *executor.parameters.get("setup", [])])
    return executor


def _send(
    experiment: Experiment, options: Mapping[str, Any], works: Sequence[Callable[[], None]], dependency: str | None
) -> list[str]:
    """Submit, several as an array, and return the jobs' numbers."""
    executor = _executor(experiment, options)
    if dependency:
        executor.update_parameters(dependency=dependency)
    variables = {name: value for name, value in os.environ.items() if name.startswith("nnUNet_")}
    patience_s = max(1, executor.parameters["signal_delay_s"] - MARGIN_S)
    try:
        jobs = executor.submit_array([Job(work, variables, patience_s) for work in works])
    except RuntimeError as error:  # of submitit, with sbatch's words
        raise UserError(f"SLURM refuses the jobs: {error}") from error
    return [job.job_id for job in jobs]


def _alive(records: Records) -> dict[str, str]:
    """The jobs that are waiting or running, by what they do."""
    submitted = records.submitted()
    if not submitted:
        return {}
    queue = _run("squeue", "--noheader", "--array", "--format=%i", f"--user={getpass.getuser()}").split()
    return {name: job for name, job in submitted.items() if job in queue}


def _still_alive(records: Records) -> dict[str, str]:
    """_alive, asked again where squeue fails, as it does while a controller is busy or restarted."""
    for _ in range(NUM_TRIES - 1):
        with suppress(UserError):
            return _alive(records)
        time.sleep(POLL_S)
    return _alive(records)


def _scancel(jobs: Iterable[str]) -> None:
    _run("scancel", *jobs)


def _run(*command: str) -> str:
    try:
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout
    except FileNotFoundError:
        raise UserError(f"{command[0]} is not here: give the command where SLURM's are.") from None
    except subprocess.CalledProcessError as error:
        raise UserError(f"{command[0]} failed: {error.stderr.strip()}") from error


def _check(name: str, value: object) -> None:
    """A UserError where an option would break the jobs."""
    if name in RESERVED:
        raise UserError(f"--slurm: {name} can't be given: the jobs need their own.")
    if name in WHOLE_NUMBERS and (type(value) is not int or value < 1):
        raise UserError(f"--slurm: {name}={value} is no whole number from 1 on.")
    if name in OF_ONE_TASK and value != 1:
        raise UserError(f"--slurm: {name}={value}: a job is one task on one node; give {name}=1, or leave it out.")


def _minutes(text: str) -> int:
    """SLURM's time, as in 90, 90:00, 1:30:00, 1-12 or 1-12:00:00, in whole minutes."""
    match = re.fullmatch(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?", text)
    if not match:
        raise UserError(f"--slurm: time={text} is no time; give minutes, as in 90, or HOURS:MINUTES:SECONDS.")
    days, *given = match.groups()
    numbers = [int(number) for number in given if number is not None]
    if days is None and len(numbers) < 3:  # MINUTES, MINUTES:SECONDS
        numbers = [0, *numbers]
    hours, minutes, seconds = [*numbers, 0, 0][:3]
    return math.ceil((int(days or 0) * 24 + hours) * 60 + minutes + seconds / 60)


def _memory(gigabytes: str) -> str:
    """As in 64 or 1.5, as sbatch takes it."""
    if not re.fullmatch(r"\d+(\.\d+)?", gigabytes):
        raise UserError(f"--slurm: mem_gb={gigabytes} is no number of gigabytes; give such as mem_gb=64")
    return f"{math.ceil(float(gigabytes) * 1024)}M"


def _value(text: str) -> str | int | float | bool:
    if text.lower() == "true":
        return True
    if re.fullmatch(r"\d+", text):
        return int(text)
    return float(text) if re.fullmatch(r"\d+\.\d+", text) else text
