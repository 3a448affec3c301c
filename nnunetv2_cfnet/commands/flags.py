"""Flags that several commands have, each written once."""

import argparse
import os
from pathlib import Path

ALL_FOLDS = (0, 1, 2, 3, 4)


def add_dataset_json(parser: "argparse._ActionsContainer", default: str) -> None:
    """-djfile, as nnUNetv2_evaluate_folder has it."""
    parser.add_argument("-djfile", type=Path, metavar="FILE", help=f"dataset.json (default: {default})")


def add_folds(parser: "argparse._ActionsContainer") -> None:
    """--folds; None stands for ALL_FOLDS."""
    parser.add_argument(
        "--folds",
        type=int,
        nargs="+",
        metavar="F",
        help=f"folds of each model (default: {' '.join(map(str, ALL_FOLDS))})",
    )


def add_processes(parser: argparse.ArgumentParser) -> None:
    """-np: nnU-Net's 8 where there are cores for it."""
    default = min(8, os.cpu_count() or 1)
    parser.add_argument("-np", type=int, default=default, metavar="N", help="processes (default: %(default)s)")


def add_device(parser: argparse.ArgumentParser) -> None:
    """-device, as nnUNetv2_train has it."""
    parser.add_argument(
        "-device", choices=("auto", "cpu", "cuda"), default="auto", help="where to train (default: %(default)s)"
    )
