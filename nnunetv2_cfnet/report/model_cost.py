"""What it cost to train a model, and how training went, from the folder that nnU-Net trained it in.

Epoch times and curves are what nnU-Net logged (read_logs); parameters, FLOPs and the memory of a training step are
found anew in a process for each model, the same way for all (measure_cost).
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from numbers import Real
from pathlib import Path
from statistics import median
from typing import NamedTuple

from nnunetv2_cfnet.errors import UserError
from nnunetv2_cfnet.files.children import ending_with_us
from nnunetv2_cfnet.host import VARIABLES
from nnunetv2_cfnet.report.comparison import Cost, Curves

# What training_step puts before its findings. It stands here, since importing nnU-Net's trainer takes seconds.
MARK = "nnunetv2_cfnet.report.training_step: "
CHECKPOINT = "checkpoint_final.pth"
LOGGED = ("train_losses", "val_losses", "mean_fg_dice", "epoch_start_timestamps", "epoch_end_timestamps")


class Logs(NamedTuple):
    """What the trainings of some folds logged.

    curves: of each fold of each folder.
    epoch_s: median time of an epoch in seconds, without the first of each fold; None where there is no other.
    notes: why it is None.
    """

    curves: list[Curves]
    epoch_s: float | None
    notes: tuple[str, ...]


def read_logs(model_folders: Sequence[Path], folds: Sequence[int]) -> Logs:
    """Read curves and epoch times from the final checkpoint of each fold.

    Pseudo Dice is the logged mean_fg_dice: of each epoch alone, not nnU-Net's moving average over epochs. Only
    tensors, plain values and numpy's numbers are unpickled, so that nothing in a checkpoint is run; weights are not
    read.

    Args:
        model_folders: of one model; several are its replicates, and epochs of all of them count.
        folds: of each.

    Raises:
        UserError: a checkpoint is missing, can't be read, holds objects of other kinds or no log.
    """
    logs = [(str(fold), _read_log(folder / f"fold_{fold}" / CHECKPOINT)) for folder in model_folders for fold in folds]
    curves = [Curves(fold, log["train_losses"], log["val_losses"], log["mean_fg_dice"]) for fold, log in logs]
    durations = [
        end - start
        for _, log in logs
        for start, end in list(zip(log["epoch_start_timestamps"], log["epoch_end_timestamps"], strict=False))[1:]
    ]
    if not durations:
        return Logs(curves, None, ("No epoch time: the first epoch of a fold is left out, and there is no other.",))
    return Logs(curves, median(durations), ())


def measure_cost(model_folder: Path, configuration: str, device: str) -> Cost:
    """Count parameters and FLOPs and measure the peak memory of a training step, in a fresh process.

    On the CPU small blocks of memory are kept apart from large ones, which go back to the system as soon as they are
    freed. So the peak is what the step holds; left alone, glibc adds about a tenth, and another amount in each run.

    Args:
        model_folder: TRAINER__PLANS__CONFIGURATION, with plans.json and dataset.json.
        configuration: of the plans.
        device: "cpu" or "cuda"; its memory is measured.

    Returns:
        Where something fails, None in its place and a note why. The time of an epoch is left to read_logs.
    """
    command = [sys.executable, "-m", "nnunetv2_cfnet.report.training_step"]
    with tempfile.TemporaryDirectory(prefix="nnunetv2_cfnet_cost_") as folder:
        environment = {
            **os.environ,
            **dict.fromkeys(VARIABLES, folder),
            "nnUNet_wandb_enabled": "0",
            # glibc alone reads it: a threshold that is set stays as it is, and doesn't grow with what was freed
            "MALLOC_MMAP_THRESHOLD_": "65536",
        }
        with (
            subprocess.Popen(
                [*command, str(model_folder.resolve()), configuration, device],
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                errors="replace",
                start_new_session=True,
            ) as process,
            ending_with_us(process),
        ):
            output, errors = process.communicate()
    return cost_of(subprocess.CompletedProcess(process.args, process.returncode, output, errors), device)


def cost_of(outcome: subprocess.CompletedProcess[str], device: str) -> Cost:
    """What a run of training_step found, and a note of how it failed if it did.

    Args:
        outcome: with its output.
        device: to name where the run failed before it named it.
    """
    lines = [line.partition(MARK) for line in outcome.stdout.splitlines()]
    findings = [json.loads(finding) for _, mark, finding in lines if mark]
    notes = [finding.pop("note") for finding in findings if "note" in finding]
    if outcome.returncode:
        notes.append(f"A training step could not be measured: {_cause(outcome)}")
    fields = {key: value for finding in findings for key, value in finding.items()}
    return Cost(**{"device": device, **fields}, notes=tuple(notes))


def _cause(outcome: subprocess.CompletedProcess[str]) -> str:
    if outcome.returncode < 0:
        name = signal.Signals(-outcome.returncode).name
        return f"killed by {name}{', most likely because memory ran out' if name == 'SIGKILL' else ''}."
    lines = [line for line in outcome.stderr.splitlines() if line.strip()]
    return lines[-1].strip() if lines else f"exit code {outcome.returncode}."


def _read_log(checkpoint: Path) -> Mapping[str, list[float]]:
    if not checkpoint.is_file():
        raise UserError(f"{checkpoint} is not there: finish the training of this fold with nnUNetv2_train and --c.")
    from nnunetv2_cfnet.files.checkpoints import read_checkpoint  # torch takes seconds

    content = read_checkpoint(
        checkpoint, "Copy it anew from where the training ran, or compare this model's predictions (--predictions)."
    )
    logging = content.get("logging") if isinstance(content, Mapping) else None
    log = logging if isinstance(logging, Mapping) else {}
    numbers = {key: _numbers(log.get(key)) for key in LOGGED}
    missing = [key for key, values in numbers.items() if values is None]
    if missing:
        raise UserError(
            f"{checkpoint} does not hold what nnU-Net's trainers log ({', '.join(missing)}), so there are neither "
            "curves nor epoch times. Train this fold with nnUNetv2_train, or compare this model's predictions instead."
        )
    return {key: values for key, values in numbers.items() if values is not None}


def _numbers(logged: object) -> list[float] | None:
    """None where it is no list of numbers."""
    if not isinstance(logged, list) or not all(isinstance(value, Real) for value in logged):
        return None
    try:
        return [float(value) for value in logged]
    except OverflowError:  # an integer of hundreds of digits
        return None
