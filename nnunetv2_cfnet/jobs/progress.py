"""How far a training is, by the logs that nnU-Net writes into its folder."""

import re
from dataclasses import dataclass
from pathlib import Path
from statistics import median

NUM_RECENT = 20  # epochs whose times tell how long the next ones take


@dataclass(frozen=True)
class Progress:
    """What the logs say.

    Args:
        epoch: Number of epochs that are finished, without those that were repeated.
        num_trained: Number of epochs that were finished, each time counted.
        dice: The last pseudo Dice, a mean over classes or regions; None before the first epoch ends.
        epoch_s: Median time of recent epochs; None before the first one ends.
        is_validating: Whether the last epoch has ended and its validation has begun.
    """

    epoch: int = 0
    num_trained: int = 0
    dice: float | None = None
    epoch_s: float | None = None
    is_validating: bool = False


def read_progress(fold_folder: Path) -> Progress:
    """Read all logs of a training, in the order in which they were begun: each start has one of its own."""
    epoch = num_trained = current = 0
    dice = None
    epoch_times_s: list[float] = []
    is_validating = False
    # a log's name has the time of its start, with months and days of one digit or two
    logs = sorted(fold_folder.glob("training_log_*.txt"), key=lambda file: [*map(int, re.findall(r"\d+", file.stem))])
    for log in logs:
        for line in log.read_text(errors="replace").splitlines():
            if match := re.search(r": Epoch (\d+)\s*$", line):
                current = int(match[1])
            elif match := re.search(r": Pseudo dice (.+)", line):
                values = [float(value) for value in re.findall(r"\d\.\d+(?:e-\d+)?", match[1])]
                dice = sum(values) / len(values) if values else None
            elif match := re.search(r": Epoch time: (\d+(?:\.\d+)?) s", line):
                epoch, num_trained = current + 1, num_trained + 1
                epoch_times_s.append(float(match[1]))
            is_validating = ": predicting " in line or (is_validating and ": Epoch " not in line)
    return Progress(
        epoch=epoch,
        num_trained=num_trained,
        dice=dice,
        epoch_s=median(epoch_times_s[-NUM_RECENT:]) if epoch_times_s else None,
        is_validating=is_validating,
    )
