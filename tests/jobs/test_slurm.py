"""Submission by submitit's own code, to commands that stand in for SLURM's: what is submitted, after what."""

import os
import sys
from pathlib import Path

import pytest
from slurm_stand_in import FakeSlurm

from nnunetv2_cfnet import cli
from nnunetv2_cfnet.errors import UserError
from nnunetv2_cfnet.jobs import slurm
from nnunetv2_cfnet.jobs.records import Record, Records

OPTIONS = "partition=gpu,time=24:00:00,gpus_per_node=1,cpus_per_task=12,mem_gb=64,licenses=matlab"
NAMES = [
    f"replicate_0_{trainer}_5epochs__nnUNetPlans_fold_{fold}"
    for trainer in ("nnUNetTrainerCFNet", "nnUNetTrainer")
    for fold in (0, 1)
]


@pytest.fixture
def fake(nnunet, tmp_path, monkeypatch) -> FakeSlurm:
    folder = tmp_path / "slurm"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    return FakeSlurm(folder)


def run(tmp_path: Path, *flags: object, code: int = 0) -> None:
    what = ("-d", 1, "--epochs", 5, "--folds", 0, 1, "--trainers", "nnUNetTrainerCFNet", "nnUNetTrainer")
    assert cli.main(["benchmark", *map(str, (*what, "-o", tmp_path / "out", *flags))]) == code


def finish(tmp_path: Path, name: str) -> None:
    """Leave what nnU-Net leaves of a training."""
    model, fold = name.removeprefix("replicate_0_").rsplit("_fold_", 1)
    validation = tmp_path / f"out/replicate_0/Dataset001_Phantom/{model}__3d_fullres/fold_{fold}/validation"
    validation.mkdir(parents=True, exist_ok=True)
    (validation / "summary.json").write_text("{}")


def test_preparation_trainings_and_comparison_wait_for_each_other(fake, nnunet, tmp_path, capsys):
    run(tmp_path, "--slurm", OPTIONS)
    preparation, trainings, conclusion = fake.jobs
    assert "dependency" not in preparation
    assert (trainings["array"], trainings["dependency"]) == ("0-3%4", "afterok:1")
    assert conclusion["dependency"] == "afterany:2"
    for job in fake.jobs:
        asked = {name: job[name] for name in ("partition", "time", "gpus-per-node", "cpus-per-task", "mem", "licenses")}
        assert asked == {
            "partition": "gpu",
            "time": "1440",
            "gpus-per-node": "1",
            "cpus-per-task": "12",
            "mem": "65536M",
            "licenses": "matlab",
        }
        assert (job["kill-on-invalid-dep"], "requeue" in job, job["signal"]) == ("yes", True, "USR2@300")
    assert nnunet.commands == []
    printed = capsys.readouterr().out
    assert "job 1: preparation" in printed
    assert "job 2_3: replicate_0, nnUNetTrainer_5epochs__nnUNetPlans, fold 1" in printed
    assert f"job 3: {tmp_path / 'out' / 'comparison'}" in printed
    assert Records(tmp_path / "out").submitted() == {
        "preparation": "1",
        **{name: f"2_{task}" for task, name in enumerate(NAMES)},
        "conclusion": "3",
    }


def test_setup_and_arguments_of_srun_are_lines_of_the_job(fake, tmp_path):
    run(tmp_path, "--slurm", "time=60,setup=module load cuda,srun_args=--cpu-bind=none")
    lines = (fake.folder / "job_1").read_text().splitlines()
    assert "SRUN_CPUS_PER_TASK" not in " ".join(lines)
    assert lines.index("module load cuda") < next(n for n, line in enumerate(lines) if line.startswith("srun "))
    assert [line for line in lines if line.startswith("srun ") and " --cpu-bind=none " in line]


def test_srun_is_told_of_the_cores(fake, tmp_path):
    run(tmp_path, "--slurm", "time=60,cpus_per_task=4,setup=module load cuda")
    export, setup = (fake.folder / "job_1").read_text().partition("# setup\n")[2].splitlines()[:2]
    assert (export, setup) == ('export SRUN_CPUS_PER_TASK="$SLURM_CPUS_PER_TASK"', "module load cuda")


def test_a_dry_run_says_what_is_submitted_already(fake, nnunet, tmp_path, capsys):
    run(tmp_path, "--slurm", OPTIONS)
    finish(tmp_path, NAMES[0])
    fake.queue = ["2_1", "2_2", "3"]
    capsys.readouterr()
    run(tmp_path, "--slurm", OPTIONS, "--dry-run")
    printed = capsys.readouterr().out
    assert f"# {NAMES[1]} is submitted already, as job 2_1\n" in printed
    assert "# an array of 1 jobs" in printed
    assert [line.partition("  # ")[2] for line in printed.splitlines() if line.startswith("nnUNetv2_train")] == [
        "replicate_0, nnUNetTrainer_5epochs__nnUNetPlans, fold 1"
    ]
    (fake.folder / "squeue").write_text("#!/bin/sh\nexit 1\n")
    run(tmp_path, "--slurm", OPTIONS, "--dry-run")
    assert "# an array of 3 jobs" in capsys.readouterr().out


def test_a_dry_run_refuses_the_same_options(nnunet, tmp_path, capsys):
    run(tmp_path, "--slurm", "time=60,output=here", "--dry-run", code=2)
    assert "output can't be given" in capsys.readouterr().err


def test_submitting_again_submits_nothing_while_all_is_in_the_queue(fake, tmp_path, capsys):
    run(tmp_path, "--slurm", OPTIONS)
    run(tmp_path, "--slurm", OPTIONS)
    assert len(fake.jobs) == 3
    assert "Everything is submitted already" in capsys.readouterr().out


def test_submitting_again_submits_what_is_missing_and_a_new_comparison(fake, nnunet, tmp_path):
    run(tmp_path, "--prepare")
    run(tmp_path, "--slurm", OPTIONS)
    assert [job.get("dependency") for job in fake.jobs] == [None, "afterany:1"]  # prepared already
    finish(tmp_path, NAMES[0])
    finish(tmp_path, NAMES[2])
    fake.queue = ["1_3", "2"]  # 1_1 failed, 1_3 goes on, and so does the comparison that waits for it
    run(tmp_path, "--slurm", OPTIONS)
    *_, training, conclusion = fake.jobs
    assert ("array" in training, conclusion["dependency"]) == (False, "afterany:1:3")
    assert fake.queue == ["1_3", "3", "4"]  # the old comparison was taken back
    submitted = Records(tmp_path / "out").submitted()
    assert [submitted[name] for name in NAMES] == ["1_0", "3", "1_2", "1_3"]


def test_other_trainings_wait_until_those_of_the_folder_have_left_the_queue(fake, tmp_path, capsys):
    run(tmp_path, "--slurm", OPTIONS)
    run(tmp_path, "--slurm", OPTIONS, "--folds", 0, code=2)
    message = f"has other trainings among SLURM's jobs, {{}}:\n  {NAMES[1]}\n  {NAMES[3]}\n"
    what_to_do = "which end in a conclusion of their own: let them end, or end them with this command's --cancel"
    assert message.format(what_to_do) in capsys.readouterr().err
    run(tmp_path, "--folds", 2, code=2)
    assert f"{NAMES[0]} was submitted as job 2_0: let it end" in capsys.readouterr().err
    assert len(fake.jobs) == 3
    run(tmp_path, "--slurm", OPTIONS, "--folds", 0, 1, 2)  # these are all of it: one conclusion
    assert [job.get("dependency") for job in fake.jobs[3:]] == ["afterok:1", "afterany:2:4"]


def test_a_training_that_was_taken_over_here_is_in_no_jobs_hands(fake, nnunet, tmp_path):
    run(tmp_path, "--slurm", OPTIONS)
    fake.queue = []
    records = Records(tmp_path / "out")
    for name in NAMES:
        records.give_up(name)
    nnunet.fails_at = "nnUNetv2_train"
    run(tmp_path, code=2)
    records.write(NAMES[0], Record(state="interrupted"))  # as Ctrl-C leaves it
    nnunet.fails_at = None
    run(tmp_path)


def test_when_all_is_trained_the_comparison_alone_is_submitted(fake, tmp_path):
    run(tmp_path, "--prepare")
    for name in NAMES:
        finish(tmp_path, name)
    run(tmp_path, "--slurm", OPTIONS)
    assert ["dependency" in job for job in fake.jobs] == [False]


def test_cancelled_jobs_leave_the_queue_and_can_be_trained_here(fake, nnunet, tmp_path, capsys):
    run(tmp_path, "--slurm", OPTIONS)
    fake.queue = [*fake.queue, "99"]  # somebody else's
    run(tmp_path, code=2)
    assert "fold 0 was submitted as job 2_0: let it end, or end it with this command's --cancel" in (
        capsys.readouterr().err
    )
    assert nnunet.commands == []
    run(tmp_path, "--cancel")
    assert fake.queue == ["99"]
    assert "Cancelled 6 jobs" in capsys.readouterr().out
    records = Records(tmp_path / "out")
    assert {records.read(name).state for name in NAMES} == {"cancelled"}
    run(tmp_path)
    assert nnunet.compared is not None


def test_wait_ends_with_the_jobs_and_names_what_failed(fake, tmp_path, monkeypatch, capsys):
    def time_passes(seconds: float) -> None:
        fake.queue = []

    monkeypatch.setattr(slurm.time, "sleep", time_passes)
    run(tmp_path, "--slurm", OPTIONS, "--wait", code=2)
    captured = capsys.readouterr()
    assert "6 waiting" in captured.out
    assert f"{tmp_path / 'out' / 'comparison'} was not made (waiting)" in captured.err


def test_wait_outlasts_a_controller_that_does_not_answer(fake, tmp_path, monkeypatch, capsys):
    answers = (fake.folder / "squeue").read_text()

    def time_passes(seconds: float) -> None:
        if (fake.folder / "squeue").read_text() == answers:
            (fake.folder / "squeue").write_text("#!/bin/sh\necho 'Socket timed out' >&2; exit 1\n")
        else:
            (fake.folder / "squeue").write_text(answers)
            fake.queue = []

    monkeypatch.setattr(slurm.time, "sleep", time_passes)
    run(tmp_path, "--slurm", OPTIONS, "--wait", code=2)
    assert "was not made (waiting)" in capsys.readouterr().err


def test_ctrl_c_of_wait_leaves_the_jobs(fake, tmp_path, monkeypatch, capsys):
    def interrupt(seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(slurm.time, "sleep", interrupt)
    run(tmp_path, "--slurm", OPTIONS, "--wait", code=130)
    assert len(fake.queue) == 6
    assert "The jobs go on." in capsys.readouterr().out


def test_what_sbatch_says_is_the_message(fake, tmp_path, capsys):
    (fake.folder / "refuse").touch()
    run(tmp_path, "--slurm", OPTIONS, code=2)
    assert "SLURM refuses the jobs: " in (error := capsys.readouterr().err)
    assert "invalid partition specified: gpu" in error
    assert Records(tmp_path / "out").names() == []  # nothing waits


def test_what_failed_and_is_refused_has_failed_still(fake, tmp_path, capsys):
    run(tmp_path, "--prepare")
    run(tmp_path, "--slurm", OPTIONS)
    fake.queue = []
    records = Records(tmp_path / "out")
    for name in NAMES:
        records.give_up(name)
    (fake.folder / "refuse").touch()
    run(tmp_path, "--slurm", OPTIONS, code=2)
    assert {records.read(name).state for name in NAMES} == {"failed"}
    run(tmp_path)  # no job has them


def test_without_the_extra_the_message_says_what_to_install(fake, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "submitit", None)
    run(tmp_path, "--slurm", OPTIONS, code=2)
    assert 'install it with: pip install ".[cluster]" in the source folder' in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_without_slurm_the_message_says_where_to_go(nnunet, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent))
    run(tmp_path, "--slurm", OPTIONS, code=2)
    assert (
        "--slurm: sbatch, srun, squeue, scancel, scontrol not found. Give the command where sbatch and srun are."
        in capsys.readouterr().err
    )
    assert not (tmp_path / "out").exists()


def test_a_dry_run_prints_the_jobs_and_submits_none(fake, nnunet, tmp_path, capsys):
    run(tmp_path, "--slurm", OPTIONS, "--dry-run")
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].startswith("# each job has partition=gpu, time=1440, gpus_per_node=1")
    assert "# an array of 4 jobs, after that one" in printed
    trained = [line for line in printed if line.startswith("nnUNetv2_train")]
    assert len(trained) == 4
    assert all("-device cuda" in line for line in trained)  # which the jobs have, if not this machine
    assert (fake.jobs, nnunet.commands) == ([], [])
    assert not (tmp_path / "out").exists()


def test_lines_of_shell_depend_on_each_other_and_can_be_started_again(nnunet, tmp_path, capsys):
    run(tmp_path, "--dry-run", "--format", "shell", "-device", "cuda")
    lines = capsys.readouterr().out.splitlines()
    own = "nnunetv2_cfnet benchmark -d 1 -c 3d_fullres --trainers nnUNetTrainerCFNet_5epochs__nnUNetPlans "
    assert [line for line in lines if line.startswith("#")] == [
        "# 1. first",
        "# 2. after 1, in any order and at the same time",
        "# 3. after all of 2",
    ]
    first, *trainings, last = [line for line in lines if line and not line.startswith("#")]
    assert first == f"{last} --prepare"
    assert last.startswith(own)
    assert trainings[0] == (
        f"nnUNet_results={tmp_path}/out/replicate_0 {sys.executable} -m nnunetv2_cfnet.training.interruptible "
        "1 3d_fullres 0 -tr nnUNetTrainerCFNet_5epochs -p nnUNetPlans -device cuda --c  "
        "# replicate_0, nnUNetTrainerCFNet_5epochs__nnUNetPlans, fold 0"
    )
    assert len(trainings) == 4
    assert nnunet.commands == []


@pytest.mark.parametrize(
    ("text", "options"),
    [
        ("time=90", {"time": 90}),
        ("time=90:30", {"time": 91}),
        ("timeout_min=90", {"time": 90}),
        ("time=24:00:00", {"time": 1440}),
        ("time=1-12", {"time": 2160}),
        ("time=1-12:30", {"time": 2190}),
        ("time=1-12:30:30", {"time": 2191}),
        ("time=1,mem_gb=1.5", {"time": 1, "mem": "1536M"}),
        ("time=1, mem=64G, cpus-per-task=4", {"time": 1, "mem": "64G", "cpus_per_task": 4}),
        ("exclude=node1,node2,time=1", {"exclude": "node1,node2", "time": 1}),
        ("nodelist=node[1,3-5],exclusive=true,time=1", {"nodelist": "node[1,3-5]", "exclusive": True, "time": 1}),
        ("slurm_gres=gpu:a100:1,time=1", {"gres": "gpu:a100:1", "time": 1}),
        ("comment=a=b,time=1", {"comment": "a=b", "time": 1}),
    ],
)
def test_options_are_as_sbatch_and_submitit_name_them(text, options):
    assert slurm.read_options(text) == options


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "--slurm : give a job's time limit, time=.., as in partition=gpu,time=24:00:00"),
        ("partition=gpu", "--slurm partition=gpu: give a job's time limit, time=.."),
        ("gpu", "--slurm gpu: 'gpu' is no NAME=VALUE; give such as in partition=gpu,time=24:00:00"),
        ("partition=", "'partition=' is no NAME=VALUE"),
        ("a b=1", "'a b=1' is no NAME=VALUE"),
        ("time=a day", "time=a day is no time; give minutes, as in 90, or HOURS:MINUTES:SECONDS."),
        ("mem_gb=much", "mem_gb=much is no number of gigabytes"),
        ("time=1,timeout_min=2", "time is given twice"),
        ("mem=1G,mem_gb=2", "mem is given twice"),
        ("time=1,signal_delay_s=1:00", "--slurm: signal_delay_s=1:00 is no whole number from 1 on."),
        ("time=1,array_parallelism=many", "array_parallelism=many is no whole number from 1 on."),
        ("time=1,array_parallelism=0", "array_parallelism=0 is no whole number from 1 on."),
        ("time=1,cpus_per_task=true", "cpus_per_task=True is no whole number from 1 on."),
        ("time=1,nodes=2", "nodes=2: a job is one task on one node; give nodes=1, or leave it out."),
        ("time=1,tasks_per_node=2", "ntasks_per_node=2: a job is one task on one node"),
        ("time=1,teardown=true", "--slurm: teardown can't be given: the jobs need their own."),
        ("time=1,use-srun=false", "use_srun can't be given"),
        ("time=1,signal=USR1@100", "signal can't be given"),
        ("time=1,array=0-3", "array can't be given"),
        ("time=1,output=/dev/null", "output can't be given"),
        ("time=1,error=/dev/null", "error can't be given"),
        ("time=1,slurm_additional_parameters=x", "additional_parameters can't be given"),
    ],
)
def test_options_that_are_none_are_named(text, message):
    with pytest.raises(UserError) as error:
        slurm.read_options(text)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("text", "device"),
    [
        ("partition=gpu", "cpu"),
        ("gpus_per_node=1", "cuda"),
        ("gpus=1", "cuda"),
        ("gres=gpu:1", "cuda"),
        ("gres=license:1", "cpu"),
        ("gpus_per_node=0", "cpu"),
        ("gres=gpu:0", "cpu"),
        ("gres=gpu:10", "cuda"),
    ],
)
def test_jobs_train_on_what_they_ask_for(text, device):
    assert slurm.device_of(slurm.read_options(f"time=1,{text}")) == device


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--wait",), "--wait is for jobs: give it together with --slurm."),
        (("--format", "shell"), "--format shell is printed: give it together with --dry-run."),
        (("--cancel", "--dry-run"), "exclude each other"),
        (("--slurm", "time=1", "--prepare"), "--prepare has no jobs"),
    ],
)
def test_flags_that_say_nothing_together_are_refused(nnunet, tmp_path, capsys, flags, message):
    run(tmp_path, *flags, code=2)
    assert message in capsys.readouterr().err
