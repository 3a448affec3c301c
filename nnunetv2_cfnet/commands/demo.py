"""`nnunetv2_cfnet demo`: the whole path of nnU-Net with CFNet, on a synthetic dataset."""

import argparse
from pathlib import Path

from nnunetv2_cfnet.commands.flags import add_device

DESCRIPTION = (
    "Train, predict and evaluate on a small phantom dataset with nnU-Net's own commands. Takes up to 10 minutes "
    "without a GPU, resumes where it stopped, and leaves your own nnUNet_* folders alone."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-o", type=Path, default=Path("cfnet_demo"), metavar="OUT", help="its folder (default: %(default)s)"
    )
    add_device(parser)


def run(options: argparse.Namespace) -> int:
    from nnunetv2_cfnet.demo.demo import run_demo

    run_demo(out=options.o, device=options.device)
    return 0
