import os
import shutil
import signal
import subprocess
import sys
from functools import partial

import pytest
import torch
from children import ends

from nnunetv2_cfnet.errors import UserError
from nnunetv2_cfnet.jobs import steps


def test_a_checkpoint_cut_short_is_dropped(tmp_path):
    (tmp_path / "checkpoint_latest.pth").write_bytes(b"PK\x03\x04 the beginning of an archive")
    assert not steps.has_checkpoint(tmp_path)
    steps.drop_torn_checkpoints(tmp_path)
    assert not list(tmp_path.iterdir())
    torch.save({"current_epoch": 1}, tmp_path / "checkpoint_best.pth")
    steps.drop_torn_checkpoints(tmp_path)
    assert steps.has_checkpoint(tmp_path)


@pytest.mark.parametrize(
    ("command", "install"),
    [
        ("nnUNetv2_train", 'pip install "nnunetv2<2.9,>=2.8"'),
        ("nnunetv2_cfnet", "pip install . in the source folder of nnunetv2_cfnet"),
    ],
)
def test_a_missing_command_is_answered_with_its_own_package(monkeypatch, command, install):
    monkeypatch.setattr(shutil, "which", lambda *args, **kwargs: None)
    with pytest.raises(UserError, match=f"^{command} is neither in .* nor on PATH; install it .* with: {install}$"):
        steps.find_command(command)


@pytest.mark.parametrize(("available", "device"), [(True, "cuda"), (False, "cpu")])
def test_device_auto_takes_cuda_where_there_is_one(monkeypatch, available, device):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: available)
    assert steps.choose_device("auto") == device


def test_run_command_logs_every_line_and_returns_the_exit_code(tmp_path):
    lines: list[str] = []
    program = "import os, sys; print('one'); print(os.environ['WORD'], file=sys.stderr); sys.exit(3)"
    environment = {**os.environ, "WORD": "two", "PYTHONUNBUFFERED": "1"}
    exit_code = steps.run_command([sys.executable, "-c", program], environment, tmp_path / "log", lines.append)
    assert exit_code == 3
    assert lines == ["one\n", "two\n"]
    assert (tmp_path / "log").read_text() == "one\ntwo\n"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
def test_a_command_and_its_workers_end_with_the_process_that_started_them(tmp_path, number):
    worker = "import os, time; print(os.getpid(), flush=True); time.sleep(100)"
    command = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {worker!r}])"
    program = f"""
import os, pathlib, signal
from nnunetv2_cfnet import cli
from nnunetv2_cfnet.commands import doctor
from nnunetv2_cfnet.jobs.steps import run_command
command = [{sys.executable!r}, "-c", {command!r}]
show = lambda line: print(line, flush=True)
doctor.run = lambda options: run_command(command, dict(os.environ), pathlib.Path("log"), show)
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # nohup's ignore it
raise SystemExit(cli.main(["doctor"]))
"""
    with subprocess.Popen([sys.executable, "-c", program], cwd=tmp_path, stdout=subprocess.PIPE, text=True) as process:
        child = int(process.stdout.readline())
        process.send_signal(number)
        assert process.wait(timeout=30) == (-number if number == signal.SIGKILL else 128 + number)
    assert ends(child)


def test_training_log_moves_the_bar():
    with steps.tqdm(total=10, file=open(os.devnull, "w")) as bar:
        read = partial(steps.show_epoch, bar)
        read("2026-11-23 02:39:17.017807: Epoch 4 \n")
        assert bar.n == 4  # a continued training
        read("2026-11-23 02:39:39.606157: train_loss -0.3201 \n")
        read("2026-11-23 02:39:39.606574: Pseudo dice [np.float32(0.8875), np.float32(0.6482), nan] \n")
        read("2026-11-23 02:39:39.606657: Epoch time: 22.59 s \n")
        assert bar.n == 5
        assert bar.postfix == "loss -0.3201, Dice 0.89 0.65 nan"
