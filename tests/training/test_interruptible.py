"""The three differences to nnUNetv2_train, on a trainer that is stood in for, in a process that can be signalled."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from nnunetv2_cfnet.training.interruptible import STOPPED

# prints its steps; a checkpoint is written in two halves
TRAINING = """
import multiprocessing, os, signal, sys, time
from types import ModuleType, SimpleNamespace
from unittest import mock
from nnunetv2_cfnet.training import interruptible

trainer = SimpleNamespace(current_epoch=0, num_epochs=3, save_every=50)

def say(*words):
    print(*words, flush=True)

def save(filename):
    with open(filename, "w") as file:
        file.write("half")
        file.flush()
        say("saving", trainer.current_epoch)
        sys.stdin.readline()
        file.write(" and half")

def end_epoch():
    if (trainer.current_epoch + 1) % trainer.save_every == 0:
        trainer.save_checkpoint("checkpoint_latest.pth")
    trainer.current_epoch += 1

def run_training_entry():
    found = run_training.get_trainer_from_args("1", "3d_fullres", 0)
    worker = multiprocessing.get_context("spawn").Process(target=time.sleep, args=(100,), daemon=True)
    worker.start()
    say("worker", worker.pid)
    while found.current_epoch < found.num_epochs:
        found.on_epoch_end()
    found.on_train_end()
    say("validating")
    sys.stdin.readline()
    say("validated")

trainer.save_checkpoint, trainer.on_epoch_end, trainer.on_train_end = save, end_epoch, lambda: None
trainer.print_to_log_file = say
run_training = ModuleType("nnunetv2.run.run_training")
run_training.get_trainer_from_args = lambda *args: trainer
run_training.run_training_entry = run_training_entry
if __name__ == "__main__":
    run = ModuleType("nnunetv2.run")
    run.run_training = run_training
    with mock.patch.dict(sys.modules, {"nnunetv2.run": run, "nnunetv2.run.run_training": run_training}):
        interruptible.main()
"""


@pytest.fixture
def training(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(TRAINING)
    with subprocess.Popen(
        [sys.executable, str(script)], cwd=tmp_path, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        yield process
        process.kill()


def expect(process: subprocess.Popen, line: str) -> None:
    assert process.stdout.readline().strip() == line


def go_on(process: subprocess.Popen) -> None:
    process.stdin.write("\n")
    process.stdin.flush()


@pytest.mark.host
def test_every_epoch_is_saved_and_the_last_checkpoint_stays_until_the_next_is_whole(training, tmp_path):
    checkpoint = tmp_path / "checkpoint_latest.pth"
    training.stdout.readline()
    expect(training, "saving 0")
    assert not checkpoint.exists()
    go_on(training)
    expect(training, "saving 1")
    assert checkpoint.read_text() == "half and half"
    training.kill()
    training.wait()
    assert checkpoint.read_text() == "half and half"


@pytest.mark.host
def test_the_signal_ends_the_training_when_its_epoch_is_saved_and_no_worker_before(training, tmp_path):
    worker = int(training.stdout.readline().split()[1])
    expect(training, "saving 0")
    os.kill(worker, signal.SIGUSR2)  # as where the signal is sent to all processes of a job
    training.send_signal(signal.SIGUSR2)
    time.sleep(0.2)
    os.kill(worker, 0)  # it is there
    assert Path(f"/proc/{worker}/stat").read_text().split()[2] != "Z"
    go_on(training)
    expect(training, "Stopped by SIGUSR2 at the end of the epoch: --c goes on from here.")
    assert training.wait(timeout=30) == STOPPED
    assert (tmp_path / "checkpoint_latest.pth").read_text() == "half and half"


@pytest.mark.host
def test_the_signal_ends_a_validation_at_once(training):
    training.stdout.readline()
    for epoch in range(3):
        expect(training, f"saving {epoch}")
        go_on(training)
    expect(training, "validating")
    training.send_signal(signal.SIGUSR2)
    assert training.wait(timeout=30) == -signal.SIGUSR2


@pytest.mark.host
def test_a_signal_in_the_last_epoch_comes_after_what_ends_the_training(training):
    worker = int(training.stdout.readline().split()[1])
    for epoch in range(3):
        expect(training, f"saving {epoch}")
        if epoch == 2:
            training.send_signal(signal.SIGUSR2)
        go_on(training)
    assert training.wait(timeout=30) == -signal.SIGUSR2
    os.kill(worker, signal.SIGKILL)  # it holds the output open
    assert "Stopped" not in training.stdout.read()
