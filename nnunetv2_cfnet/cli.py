"""The console script: `nnunetv2_cfnet COMMAND`, a table of commands and the one place where errors become messages.

Each command is a module of `commands`, which adds its own flags and runs it. Only the module of the command that is
called is imported, and it imports what costs time when it runs, so that every `--help` answers at once.
"""

import argparse
import io
import sys
from collections.abc import Sequence
from importlib import import_module

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
    "benchmark": "train CFNet and nnU-Net baselines at a matched budget, and compare them",
    "convert_brats": "convert a BraTS release (2018 to 2024, MSD Task01) to a raw nnU-Net dataset",
    "export_brats": "turn nnU-Net's predictions into a BraTS submission",
    "make_phantom": "write phantom cases in the layout of a BraTS release",
    "import_weights": "make a model folder from a checkpoint of the published CFNet",
}
USER_ERROR = 2  # what argparse itself exits with
INTERRUPTED = 130  # 128 + SIGINT, as shells report it


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    for stream in (sys.stdout, sys.stderr):  # names that it has no characters for are printed all the same
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    options = _parser(arguments).parse_args(arguments)
    try:
        return options.run(options)
    except (UserError, OSError) as error:  # OSError: a folder that can't be written to, a full disk
        print(f"nnunetv2_cfnet {options.command}: {printable(str(error))}", file=sys.stderr)
        return USER_ERROR
    except KeyboardInterrupt:
        print(f"nnunetv2_cfnet {options.command}: interrupted", file=sys.stderr)
        return INTERRUPTED


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
