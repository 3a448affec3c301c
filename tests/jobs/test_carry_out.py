import os
import signal
import subprocess
import sys
import threading

import pytest
import torch
from children import ends

from nnunetv2_cfnet import cli
from nnunetv2_cfnet.jobs import carry_out, steps
from nnunetv2_cfnet.jobs.records import Records

TRAINERS = ("nnUNetTrainerCFNet", "nnUNetTrainer")
FLAGS = ("benchmark", "-d", "1", "--epochs", "5", "--folds", "0", "1", "--trainers", *TRAINERS)


def test_there_is_a_place_for_each_gpu_that_may_be_used(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(os, "cpu_count", lambda: 16)
    monkeypatch.delenv("nnUNet_n_proc_DA", raising=False)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert carry_out.places("cuda") == [
        {"CUDA_VISIBLE_DEVICES": "0", "nnUNet_n_proc_DA": "7"},
        {"CUDA_VISIBLE_DEVICES": "1", "nnUNet_n_proc_DA": "7"},
    ]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    monkeypatch.setenv("nnUNet_n_proc_DA", "4")
    assert carry_out.places("cuda") == [{"CUDA_VISIBLE_DEVICES": "3"}, {"CUDA_VISIBLE_DEVICES": "5"}]
    assert carry_out.places("cpu") == [{}]
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert carry_out.places("cuda") == [{}]


def test_each_training_takes_the_next_gpu_that_is_free(nnunet, tmp_path, monkeypatch):
    """The first of four waits until all others have ended, which then must have had the other GPU."""
    others_ended = threading.Semaphore(0)
    used: list[str] = []

    def on_gpus(command, environment, log, on_line) -> int:
        if not command[0].endswith("nnUNetv2_train"):
            return nnunet(command, environment, log, on_line)
        used.append(gpu := environment["CUDA_VISIBLE_DEVICES"])
        if gpu == "0":
            for _ in range(3):
                assert others_ended.acquire(timeout=30)
        exit_code = nnunet(command, environment, log, on_line)
        others_ended.release()
        return exit_code

    monkeypatch.setattr(steps, "run_command", on_gpus)
    monkeypatch.setattr(carry_out, "places", lambda device: [{"CUDA_VISIBLE_DEVICES": gpu} for gpu in "01"])
    assert cli.main([*FLAGS, "-o", str(tmp_path / "out")]) == 0
    assert sorted(used) == ["0", "1", "1", "1"]
    assert nnunet.compared is not None


def test_a_training_that_fails_does_not_stop_the_others(nnunet, tmp_path, capsys):
    nnunet.fails_at = "-tr nnUNetTrainerCFNet_5epochs"
    assert cli.main([*FLAGS, "-o", str(tmp_path / "out")]) == 2
    captured = capsys.readouterr()
    assert captured.out.count("CUDA out of memory") == 2
    assert "2 of 4 trainings are missing" in captured.err
    assert "replicate_0, nnUNetTrainerCFNet_5epochs__nnUNetPlans, fold 1" in captured.err
    assert nnunet.compared is None
    records = Records(tmp_path / "out")
    assert [records.read(name).state for name in records.names()] == [
        *("done", "failed", "failed", "done", "done", "failed"),
    ]
    assert records.read("replicate_0_nnUNetTrainerCFNet_5epochs__nnUNetPlans_fold_0").why == "CUDA out of memory"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_ends_what_is_trained_at_the_same_time(tmp_path, number):
    program = f"""
import signal, sys
from pathlib import Path
from nnunetv2_cfnet import cli
from nnunetv2_cfnet.commands import doctor
from nnunetv2_cfnet.errors import UserError
from nnunetv2_cfnet.jobs import carry_out, steps
from nnunetv2_cfnet.jobs.experiment import Experiment
sleep = (sys.executable, "-c", "import os, time; print(os.getpid(), flush=True); time.sleep(100)")
run_command = steps.run_command
show = lambda line: print(line, end="", flush=True)
steps.run_command = lambda command, environment, log, on_line: run_command([*sleep], environment, log, show)
out = Path({str(tmp_path)!r})
experiment = Experiment(
    dataset_id=1, dataset="Dataset001_A", configuration="2d", models=["nnUNetTrainer__nnUNetPlans"], folds=[0, 1, 2],
    results=[out], out=out, target=out / "target", conclude=print, command=[], device="cpu", num_epochs=1,
)
doctor.run = lambda options: carry_out._train_all(experiment, [{{}}, {{}}])
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
raise SystemExit(cli.main(["doctor"]))
"""
    command = [sys.executable, "-c", program]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        children: list[int] = []
        while len(children) < 2:
            line = process.stdout.readline()
            children += [int(line)] if line.strip().isdigit() else []
        process.send_signal(number)
        assert process.wait(timeout=30) == 128 + number
    assert all(map(ends, children))
    records = Records(tmp_path)
    states = {name: records.read(name).state for name in records.names()}
    assert sorted(states.values()) == ["interrupted", "interrupted"]  # the third was not started
