"""nnUNetv2_train that loses nothing when it is interrupted: `python -m nnunetv2_cfnet.training.interruptible ..`.

Takes nnUNetv2_train's arguments, for any trainer. Three things differ from it:

- a checkpoint is saved after every epoch, where nnU-Net saves every 50th,
- and put in the place of the last one when it is whole, so that none is ever cut short;
- SIGUSR2, by which a cluster announces that a job is about to end, ends the training at the end of its epoch.

The signal stays blocked, for threads and worker processes too, which inherit that. So it can neither end a worker nor
come at a bad moment: at the end of each epoch it is looked up whether it waits. What comes after the last epoch, the
validation, it simply ends.
"""

import os
import signal
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

STOPPED = 75  # exit code of a training that the signal ended, and that can go on: EX_TEMPFAIL of sysexits.h


def interruptible(trainer: "nnUNetTrainer") -> "nnUNetTrainer":
    """The trainer, with the three differences. They are made on the object, since trainers override each other."""
    save_checkpoint: Callable[[str], None] = trainer.save_checkpoint
    on_epoch_end: Callable[[], None] = trainer.on_epoch_end
    on_train_end: Callable[[], None] = trainer.on_train_end

    def save_whole(filename: str) -> None:
        unfinished = f"{filename}.unfinished"
        save_checkpoint(unfinished)
        if os.path.exists(unfinished):  # other ranks, and --disable_checkpointing, save none
            os.replace(unfinished, filename)

    def end_epoch_and_stop_if_asked() -> None:
        on_epoch_end()
        if signal.SIGUSR2 in signal.sigpending() and trainer.current_epoch < trainer.num_epochs:
            trainer.print_to_log_file("Stopped by SIGUSR2 at the end of the epoch: --c goes on from here.")
            raise SystemExit(STOPPED)

    def end_training() -> None:
        on_train_end()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGUSR2})

    trainer.save_every = 1
    trainer.save_checkpoint = save_whole
    trainer.on_epoch_end = end_epoch_and_stop_if_asked
    trainer.on_train_end = end_training
    return trainer


def main() -> None:
    """nnUNetv2_train, with its trainer made interruptible."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR2})  # before threads are started, which inherit it
    from nnunetv2.run import run_training

    make_trainer = run_training.get_trainer_from_args

    def make_interruptible_trainer(*args: Any, **kwargs: Any) -> "nnUNetTrainer":
        return interruptible(make_trainer(*args, **kwargs))

    run_training.get_trainer_from_args = make_interruptible_trainer
    run_training.run_training_entry()


if __name__ == "__main__":
    main()
