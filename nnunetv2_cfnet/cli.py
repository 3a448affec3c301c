"""The console script: `nnunetv2_cfnet <subcommand>`.

Imports that cost time are inside the functions, so that `--help` answers at once.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from nnunetv2_cfnet import __version__
from nnunetv2_cfnet.errors import UserError

USER_ERROR = 2  # what argparse itself exits with
INTERRUPTED = 130  # 128 + SIGINT, as shells report it


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one subcommand and return its exit code."""
    options = _parser().parse_args(arguments)
    try:
        return options.run(options)
    except UserError as error:
        print(f"nnunetv2_cfnet {options.command}: {error}", file=sys.stderr)
        return USER_ERROR
    except KeyboardInterrupt:
        print(f"nnunetv2_cfnet {options.command}: interrupted", file=sys.stderr)
        return INTERRUPTED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="nnunetv2_cfnet",
        description="CFNet for nnU-Net v2. Train it with nnU-Net's own commands: "
        "nnUNetv2_train DATASET CONFIGURATION FOLD -tr nnUNetTrainerCFNet",
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    subcommands = parser.add_subparsers(dest="command", metavar="subcommand", required=True)

    summary = "check that training with CFNet would work here"
    doctor = subcommands.add_parser(
        "doctor", help=summary, description=f"{summary.capitalize()}: a line for each thing it takes; exits 1 if not."
    )
    doctor.set_defaults(run=_doctor)

    summary = "train, predict and evaluate on a small phantom dataset with nnU-Net's own commands"
    demo = subcommands.add_parser(
        "demo",
        help=summary,
        description=f"{summary.capitalize()}. Takes up to 10 minutes without a GPU, resumes where it stopped, and "
        "leaves your own nnUNet_* folders alone.",
    )
    demo.add_argument(
        "--out", type=Path, default=Path("cfnet_demo"), metavar="DIR", help="its folder (default: %(default)s)"
    )
    demo.add_argument(
        "--device", choices=("auto", "cpu", "cuda"), default="auto", help="where to train (default: %(default)s)"
    )
    demo.set_defaults(run=_demo)
    return parser


def _doctor(options: argparse.Namespace) -> int:
    from nnunetv2_cfnet.doctor import run_doctor

    return run_doctor()


def _demo(options: argparse.Namespace) -> int:
    from nnunetv2_cfnet.host import check_version

    check_version("nnunetv2")
    from nnunetv2_cfnet.demo import run_demo

    run_demo(out=options.out, device=options.device)
    return 0
