"""Flags that several commands have, each written once."""

import argparse
import os
from pathlib import Path

from nnunetv2_cfnet.errors import UserError
from nnunetv2_cfnet.report.presentation import NUM_DIFFERENT

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


def add_device(parser: "argparse._ActionsContainer", doing: str = "train") -> None:
    """-device, as nnUNetv2_train and nnUNetv2_predict have it."""
    parser.add_argument(
        "-device", choices=("auto", "cpu", "cuda"), default="auto", help=f"where to {doing} (default: %(default)s)"
    )


def add_way(parser: argparse.ArgumentParser) -> None:
    """--slurm, --wait, --cancel, --prepare, --dry-run and --format: a Way (jobs/ways.py)."""
    group = parser.add_argument_group("where it runs; without these flags here, a training at a time on each GPU")
    group.add_argument(
        "--slurm",
        metavar="NAME=VALUE,..",
        help="submit it as SLURM's jobs with these options, submitit's or sbatch's, as in: "
        "partition=gpu,time=24:00:00,gpus_per_node=1,cpus_per_task=12,mem_gb=64",
    )
    group.add_argument("--wait", action="store_true", help="until the jobs have ended; Ctrl-C leaves them")
    group.add_argument("--cancel", action="store_true", help="end the jobs; the same command goes on later")
    group.add_argument("--prepare", action="store_true", help="plan and preprocess what is missing, and train nothing")
    group.add_argument("--dry-run", action="store_true", help="print what would be run or submitted; run nothing")
    group.add_argument(
        "--format",
        choices=("commands", "shell"),
        default="commands",
        help="of --dry-run; shell: a line for each training, for other schedulers (default: %(default)s)",
    )


def add_trained_models(parser: "argparse._ActionsContainer") -> None:
    """-d, -c, --models and --names."""
    parser.add_argument("-d", type=int, metavar="ID", help="number of the dataset, as in: 1")
    parser.add_argument("-c", metavar="CONFIGURATION", help="as in: 3d_fullres")
    parser.add_argument(
        "--models", nargs="+", metavar="TRAINER__PLANS", help="the models, as in: nnUNetTrainerCFNet__nnUNetPlans"
    )
    parser.add_argument(
        "--names", nargs="+", metavar="NAME", help="of the models on the page, as in: CFNet U-Net (default: short ones)"
    )


def add_cases(parser: argparse.ArgumentParser, which: str) -> None:
    """--cases and --all-cases, which num_different_cases takes; `which` says of what cases there are N."""
    shown = parser.add_mutually_exclusive_group()
    shown.add_argument(
        "--cases",
        type=int,
        metavar="N",
        help=f"the page has slices of the N {which} cases, beside the best, median and worst one (default: "
        f"{NUM_DIFFERENT})",
    )
    shown.add_argument("--all-cases", action="store_true", help="slices of all cases: a large page")


def num_different_cases(cases: int | None, all_cases: bool) -> int | None:
    """As Presentation has it.

    Raises:
        UserError: there are fewer than none.
    """
    if cases is None:
        cases = NUM_DIFFERENT
    if cases < 0:
        raise UserError(f"--cases {cases}: give 0, for the best, median and worst case alone, or more.")
    return None if all_cases else cases


def add_predictions(parser: "argparse._ActionsContainer") -> None:
    """--predictions and --reference."""
    parser.add_argument("--predictions", nargs="+", type=_named_folder, metavar="NAME=FOLDER", help="of each model")
    parser.add_argument("--reference", type=Path, metavar="LABELS", help="folder of the reference segmentations")


def _named_folder(text: str) -> tuple[str, Path]:
    name, separator, folder = text.partition("=")
    if not (name and separator and folder):
        raise argparse.ArgumentTypeError(f"{text!r}: give NAME=FOLDER")
    return name, Path(folder)
