"""The console script: `nnunetv2_cfnet COMMAND`, a table of commands and the one place where errors become messages.

Each command is a module of `commands`, which adds its own flags and runs it. Only the module of the command that is
called is imported, and it imports what costs time when it runs, so that every `--help` answers at once.
"""

import argparse
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from importlib import import_module
from io import TextIOWrapper

from nnunetv2_cfnet import __version__
from nnunetv2_cfnet.errors import UserError, printable

# command -> what `--help` says of it
COMMANDS = {
    "doctor": "check that training with CFNet would work here",
    "demo": "train, predict and evaluate on a small phantom dataset with nnU-Net's own commands",
    "plan": "plan CFNet for a dataset, as nnUNetv2_plan_experiment plans U-Nets",
    "show": "show plans, and what CFNet costs beside the U-Net of the same plan",
    "evaluate": "evaluate predictions with BraTS's metrics, on any dataset",
    "compare": "compare trained models, or folders of predictions, case by case",
    "evaluate_subsets": "evaluate models on every subset of their sequences",
    "benchmark": "train CFNet and nnU-Net baselines at a matched budget, and compare them",
    "cross_validate": "train the folds of one model, on all GPUs here or as SLURM's jobs, and put them together",
    "status": "show how the trainings of benchmark or cross_validate get on",
    "convert_brats": "convert a BraTS release (2018 to 2024, MSD Task01) to a raw nnU-Net dataset",
    "export_brats": "turn nnU-Net's predictions into a BraTS submission",
    "fill_missing": "complete cases that lack sequences, with zero images, for models trained with modality dropout",
    "make_phantom": "write phantom cases in the layout of a BraTS release",
    "import_weights": "make a model folder from a checkpoint of the published CFNet",
}
USER_ERROR = 2  # what argparse itself exits with
BY_SIGNAL = 128  # and its number, as shells report it
ENDING_SIGNALS = ("SIGTERM", "SIGHUP")  # of kill, schedulers, closed terminals; Windows has no SIGHUP


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    if isinstance(sys.stdout, TextIOWrapper):  # stderr is so by itself
        sys.stdout.reconfigure(errors="backslashreplace")  # a name that a terminal can't show stops no command
    arguments = sys.argv[1:] if arguments is None else arguments
    options = _parser(arguments).parse_args(arguments)
    try:
        with _interrupted_by_ending_signals():
            return options.run(options)
    except (UserError, OSError) as error:  # OSError: a folder that can't be written to, a full disk
        print(f"nnunetv2_cfnet {options.command}: {printable(str(error))}", file=sys.stderr)
        return USER_ERROR
    except KeyboardInterrupt as interruption:
        print(f"nnunetv2_cfnet {options.command}: interrupted", file=sys.stderr)
        return BY_SIGNAL + next(iter(interruption.args), signal.SIGINT)


@contextmanager
def _interrupted_by_ending_signals() -> Iterator[None]:
    """End as by Ctrl-C: what is unfinished is removed, and what was started ends too."""
    numbers = [getattr(signal, name) for name in ENDING_SIGNALS if hasattr(signal, name)]
    taken = [number for number in numbers if signal.getsignal(number) is signal.SIG_DFL]  # nohup ignores SIGHUP

    def interrupt(number: int, _: object) -> None:
        raise KeyboardInterrupt(number)

    def set_handlers(handler: Callable[[int, object], None] | signal.Handlers) -> None:
        if threading.current_thread() is threading.main_thread():  # no other may
            for number in taken:
                signal.signal(number, handler)

    set_handlers(interrupt)
    if hasattr(os, "register_at_fork"):  # not on Windows
        # nnU-Net's pools end their processes by SIGTERM: one that is just being forked would lose it to our handler
        os.register_at_fork(
            before=partial(set_handlers, signal.SIG_DFL), after_in_parent=partial(set_handlers, interrupt)
        )
    try:
        yield
    finally:
        set_handlers(signal.SIG_DFL)
        taken.clear()  # what is registered for forks stays so


def _parser(arguments: Sequence[str]) -> argparse.ArgumentParser:
    """A parser that knows all commands, and the flags of those that occur in the arguments."""
    parser = argparse.ArgumentParser(
        prog="nnunetv2_cfnet",
        description="CFNet for nnU-Net v2. Train it with nnU-Net's own commands: "
        "nnUNetv2_train DATASET CONFIGURATION FOLD -tr nnUNetTrainerCFNet",
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    subparsers = parser.add_subparsers(dest="command", metavar="command", required=True)
    for command, summary in COMMANDS.items():
        subparser = subparsers.add_parser(command, help=summary)
        if command in arguments:
            module = import_module(f"nnunetv2_cfnet.commands.{command}")
            subparser.description = module.DESCRIPTION
            module.add_arguments(subparser)
            subparser.set_defaults(run=module.run)
    return parser
