"""What submitit runs in a job: work that is interrupted without loss, and starts again under the same job."""

import os
import signal
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from nnunetv2_cfnet.files.children import interrupt_children
from nnunetv2_cfnet.files.lock import locked
from nnunetv2_cfnet.jobs.experiment import Experiment, Training
from nnunetv2_cfnet.jobs.records import CONCLUSION, PREPARATION, Records
from nnunetv2_cfnet.jobs.steps import StepError
from nnunetv2_cfnet.jobs.training import INTERRUPTIBLE, train, workers_for

if TYPE_CHECKING:
    from submitit.helpers import DelayedSubmission

KILLED = 137  # exit code of a job that was killed, 128 + SIGKILL: slurm.py has such a one requeued


@dataclass(frozen=True)
class Job:
    """A callable for submitit, which asks it for its `checkpoint` when the job is about to end.

    Args:
        work: What is done; done again, it goes on where it was.
        variables: Of the environment that it was submitted in, which not every cluster hands on.
        patience_s: How long it may take to stop.
    """

    work: Callable[[], None]
    variables: Mapping[str, str]
    patience_s: float

    def __call__(self) -> None:
        """Do the work. A command of it that was ended from outside, as by a preemption, makes this a killed job."""
        os.environ.update(self.variables)
        _keep_handlers_from_forked_processes()
        try:
            self.work()
        except StepError as error:
            if error.is_interruption:
                raise SystemExit(KILLED) from error
            raise

    def checkpoint(self) -> "DelayedSubmission":
        """Stop what runs: a training at the end of its epoch if that is soon enough. What starts again is this job."""
        from submitit.helpers import DelayedSubmission

        interrupt_children(signal.SIGUSR2, self.patience_s)
        return DelayedSubmission(self)


def _keep_handlers_from_forked_processes() -> None:
    """Have signals end forked processes as ever, where submitit's handlers let SIGTERM pass and requeue at SIGUSR2.

    nnU-Net's pools end their processes by SIGTERM, and wait until they have ended.
    """
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR2)}

    def set_handlers(of_submitit: bool) -> None:
        if threading.current_thread() is threading.main_thread():  # no other may
            for number, handler in handlers.items():
                signal.signal(number, handler if of_submitit else signal.SIG_DFL)

    os.register_at_fork(before=partial(set_handlers, False), after_in_parent=partial(set_handlers, True))


def prepare_in_job(experiment: Experiment) -> None:
    """prepare, recorded."""
    from nnunetv2_cfnet.jobs.preparation import prepare

    with Records(experiment.out).running(PREPARATION):
        prepare(experiment)


def train_in_job(training: Training, out: Path) -> None:
    """train, interruptible, with as many workers as the job has cores for."""
    num_cores = int(os.environ["SLURM_CPUS_ON_NODE"])  # of the job; what a process may use is not always bound to them
    train(training, out, workers_for(num_cores), program=INTERRUPTIBLE)


def conclude_in_job(experiment: Experiment) -> None:
    """conclude_if_complete, recorded."""
    from nnunetv2_cfnet.jobs.carry_out import conclude_if_complete

    sys.argv = [*experiment.command]  # a report says by what command it was made
    records = Records(experiment.out)
    with locked(records.folder, wait=True), records.running(CONCLUSION):
        conclude_if_complete(experiment)
