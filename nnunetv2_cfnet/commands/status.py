"""`nnunetv2_cfnet status`: how trainings get on."""

import argparse
from pathlib import Path

DESCRIPTION = (
    "Show each training of a benchmark or a cross-validation: its state, epoch, last pseudo Dice, the time that is "
    "left, and its log. Reads files alone, on any machine that has them."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "out", type=Path, metavar="OUT", help="the folder of benchmark, or the model folder of cross_validate"
    )


def run(options: argparse.Namespace) -> int:
    from nnunetv2_cfnet.files.paths import resolved
    from nnunetv2_cfnet.jobs.status import print_status

    print_status(resolved(options.out))
    return 0
