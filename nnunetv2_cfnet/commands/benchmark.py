"""`nnunetv2_cfnet benchmark`: CFNet and its baselines, trained at a matched budget and compared."""

import argparse
from pathlib import Path

from nnunetv2_cfnet.commands.flags import ALL_FOLDS, add_device, add_folds, add_processes, add_way

DESCRIPTION = (
    "Train CFNet and nnU-Net baselines at a matched budget, and compare them. Runs nnU-Net's own commands for what is "
    "missing; an interrupted run goes on where it stopped. Models are trained into OUT, in the place of "
    "nnUNet_results."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-d", type=int, required=True, metavar="ID", help="of the dataset, as in: 1")
    parser.add_argument(
        "-c", default="3d_fullres", metavar="CONFIGURATION", help="to be trained (default: %(default)s)"
    )
    parser.add_argument(
        "--trainers",
        nargs="+",
        metavar="TRAINER[__PLANS]",
        help="the models; the first is compared with the others (default: nnUNetTrainerCFNet and nnUNetTrainer on "
        "nnUNetPlans, nnUNetTrainer on nnUNetResEncUNetMPlans)",
    )
    add_folds(parser)
    parser.add_argument(
        "--epochs",
        type=int,
        metavar="N",
        help="of each training, by the trainers' variants, as in 250 (default: the trainers' own)",
    )
    parser.add_argument(
        "--replicates", type=int, default=1, metavar="R", help="how often each is trained (default: %(default)s)"
    )
    parser.add_argument(
        "-o", type=Path, default=Path("cfnet_benchmark"), metavar="OUT", help="its folder (default: %(default)s)"
    )
    add_device(parser)
    add_processes(parser)
    add_way(parser)


def run(options: argparse.Namespace) -> int:
    from nnunetv2_cfnet.jobs.matched_training import DEFAULT_MODELS, matched_training
    from nnunetv2_cfnet.jobs.ways import Way, carry_out_by

    way = Way.of(options)
    experiment = matched_training(
        options.d,
        options.c,
        options.trainers or DEFAULT_MODELS,
        folds=options.folds or ALL_FOLDS,
        num_epochs=options.epochs,
        replicates=options.replicates,
        out=options.o,
        device=way.device(options.device),
        num_processes=options.np,
    )
    carry_out_by(way, experiment)
    return 0
