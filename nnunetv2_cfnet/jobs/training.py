"""One training: nnU-Net's command, in a process and session of its own, continued where it was interrupted."""

import os
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from nnunetv2_cfnet.jobs.experiment import Training
from nnunetv2_cfnet.jobs.records import Records
from nnunetv2_cfnet.jobs.steps import drop_torn_checkpoints, run_step

INTERRUPTIBLE = (sys.executable, "-m", "nnunetv2_cfnet.training.interruptible")


def train(
    training: Training,
    out: Path,
    variables: Mapping[str, str],
    *,
    program: tuple[str, ...] = (),
    bar_position: int | None = None,
) -> None:
    """Train to the end, from the last checkpoint on if there is one, and record it.

    Args:
        out: the experiment's folder, for log and record.
        variables: of the environment, besides those that are there.
        program: in the place of nnUNetv2_train.
        bar_position: of its progress bar, where several train at a time.

    Raises:
        StepError: it failed, or was ended from outside.
        UserError: it was interrupted again and again, and got no further.
    """
    logs = out / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    training.results.mkdir(parents=True, exist_ok=True)
    with Records(out).running(training.name, training.fold_folder):
        drop_torn_checkpoints(training.fold_folder)
        step = replace(training.step(), program=program)
        environment = {**os.environ, **variables, "nnUNet_results": str(training.results)}
        run_step(step, environment, logs, bar_position)


def workers_for(num_cores: int) -> dict[str, str]:
    """nnU-Net's variable for the processes that augment data, by the cores of a training; the user's own wins."""
    name = "nnUNet_n_proc_DA"
    return {} if name in os.environ else {name: str(max(1, num_cores - 1))}
