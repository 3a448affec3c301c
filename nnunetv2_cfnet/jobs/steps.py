"""nnU-Net's console commands as steps that are shown, logged and can be resumed: for the demo and for trainings."""

import re
import shlex
import shutil
import signal
import subprocess
import sysconfig
import time
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from tqdm import tqdm

from nnunetv2_cfnet.errors import UserError
from nnunetv2_cfnet.files.children import ending_with_us
from nnunetv2_cfnet.host import supported_versions
from nnunetv2_cfnet.training.interruptible import STOPPED

NUM_LOG_LINES = 15  # shown when a command fails
# by which users, systems and clusters end a command; the others are faults of its own
ENDING_SIGNALS = ("SIGKILL", "SIGTERM", "SIGINT", "SIGHUP", "SIGUSR2")


@dataclass(frozen=True)
class Step:
    """One nnU-Net command and what it leaves behind.

    Args:
        name: Names the log and the `.done` file.
        command: The command as a user would type it.
        product: The last thing that the command writes.
        obstacles: What an interrupted run of this step may have left and a new one must not find.
        num_epochs: Of a training, for its progress bar; None where it is not known.
        program: What is started in the place of the command's first word; that word's console script if not given.
    """

    name: str
    command: list[str]
    product: Path
    obstacles: list[Path] = field(default_factory=list)
    num_epochs: int | None = None
    program: tuple[str, ...] = ()


class StepError(UserError):
    """A step's command failed.

    Args:
        step: it.
        exit_code: negative where a signal ended it.
        log: with all its output.
    """

    def __init__(self, step: Step, exit_code: int, log: Path) -> None:
        lines = log.read_text(errors="replace").splitlines(keepends=True)
        self.exit_code = exit_code
        self.last_line = next((line.strip() for line in reversed(lines) if line.strip()), "no output")
        how = f"was ended by signal {-exit_code}" if exit_code < 0 else f"failed with exit code {exit_code}"
        super().__init__(
            f"{step.command[0]} {how}. The last lines of {log}:\n\n{''.join(lines[-NUM_LOG_LINES:])}\n"
            "Once the cause is mended, the same command continues with this step."
        )

    @property
    def is_interruption(self) -> bool:
        """Whether the command itself was all right, and was ended from outside."""
        ended = [-getattr(signal, name, 0) for name in ENDING_SIGNALS]  # not every system has all
        return self.exit_code in (*ended, STOPPED)


def choose_device(device: str) -> str:
    """Turn auto into cuda or cpu, and refuse a cuda that this machine does not have."""
    import torch

    if device == "cuda" and not torch.cuda.is_available():
        raise UserError(
            "-device cuda: torch finds no CUDA device here; choose -device cpu (or auto), or install a driver and a "
            "torch build with CUDA"
        )
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return device


def find_command(name: str) -> str:
    """Find a console command, first beside the running interpreter, then on PATH."""
    scripts = sysconfig.get_path("scripts")
    path = shutil.which(name, path=scripts) or shutil.which(name)
    if path is None:
        install = "pip install . in the source folder of nnunetv2_cfnet"
        if name != "nnunetv2_cfnet":
            install = f'pip install "nnunetv2{supported_versions("nnunetv2")}"'
        raise UserError(f"{name} is neither in {scripts} nor on PATH; install it into this environment with: {install}")
    return path


def has_checkpoint(fold_folder: Path) -> bool:
    """Whether a training can continue."""
    return any(zipfile.is_zipfile(path) for path in fold_folder.glob("checkpoint_*.pth"))


def drop_torn_checkpoints(fold_folder: Path) -> None:
    """Remove the checkpoints that an interruption cut short, which nnU-Net would fail to load."""
    for path in fold_folder.glob("checkpoint_*.pth"):
        if not zipfile.is_zipfile(path):  # torch's checkpoints are zip archives
            path.unlink()


def run_step(step: Step, environment: Mapping[str, str], logs: Path, bar_position: int | None = None) -> None:
    """Run one command with its progress shown and its output logged.

    Args:
        bar_position: of its progress bar, where several run at a time.

    Raises:
        StepError: it fails.
    """
    for obstacle in step.obstacles:
        shutil.rmtree(obstacle, ignore_errors=True)
    log = logs / f"{step.name}.log"
    print(f"\n$ {shlex.join(step.command)}", flush=True)
    start = time.monotonic()
    if step.command[0] != "nnUNetv2_train":
        bar = tqdm(bar_format="  {elapsed}  {desc}", leave=False, disable=None)  # only where a person watches
        show = partial(show_line, bar)
    else:
        bar = tqdm(total=step.num_epochs, unit="epoch", desc=step.name, position=bar_position)
        show = partial(show_epoch, bar)
    program = step.program or (find_command(step.command[0]),)
    with bar:
        exit_code = run_command([*program, *step.command[1:]], environment, log, show)
    if exit_code != 0:
        raise StepError(step, exit_code, log)
    print(f"  done in {time.monotonic() - start:.0f} s (log: {log})", flush=True)


def run_command(command: list[str], environment: Mapping[str, str], log: Path, on_line: Callable[[str], None]) -> int:
    """Run a command, append its output to `log`, hand each line on, and return the exit code."""
    with (
        log.open("a") as log_file,
        subprocess.Popen(
            command,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        ) as process,
        ending_with_us(process),
    ):
        assert process.stdout is not None
        for line in process.stdout:
            log_file.write(line)
            log_file.flush()
            on_line(line)
    return process.returncode


def show_line(bar: tqdm, line: str) -> None:
    """Show the latest line of output."""
    bar.set_description_str(line.strip()[:80])


def show_epoch(bar: tqdm, line: str) -> None:
    """Move the bar by a line of nnU-Net's training log."""
    if match := re.search(r": Epoch (\d+)\s*$", line):
        bar.update(int(match[1]) - bar.n)  # a continued training starts at a later epoch
    elif match := re.search(r": train_loss (\S+)", line):
        bar.set_postfix_str(f"loss {match[1]}", refresh=False)
    elif match := re.search(r": Pseudo dice (.+)", line):
        dice = " ".join(f"{float(value):.2f}" for value in re.findall(r"\d\.\d+|nan", match[1]))
        bar.set_postfix_str(f"{bar.postfix}, Dice {dice}", refresh=False)
    elif ": Epoch time" in line:
        bar.update(1)
    elif ": predicting" in line:
        bar.set_description("validating")
