"""`nnunetv2_cfnet cross_validate`: the folds of one model, and what nnU-Net makes of them."""

import argparse

from nnunetv2_cfnet.commands.flags import ALL_FOLDS, add_device, add_folds, add_way

DESCRIPTION = (
    "Train the folds of one model into nnUNet_results by nnU-Net's own commands, and put them together by "
    "nnUNetv2_accumulate_crossval_results. Plans and preprocesses what is missing; an interrupted run goes on where it "
    "stopped. Logs and records lie in the model folder."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-d", type=int, required=True, metavar="ID", help="of the dataset, as in: 1")
    parser.add_argument(
        "-c", default="3d_fullres", metavar="CONFIGURATION", help="to be trained (default: %(default)s)"
    )
    parser.add_argument("-tr", default="nnUNetTrainerCFNet", metavar="TRAINER", help="(default: %(default)s)")
    parser.add_argument("-p", default="nnUNetPlans", metavar="PLANS", help="(default: %(default)s)")
    add_folds(parser)
    parser.add_argument("--npz", action="store_true", help="keep the validations' probabilities, for ensembles")
    add_device(parser)
    add_way(parser)


def run(options: argparse.Namespace) -> int:
    from nnunetv2_cfnet.jobs.cross_validation import cross_validation
    from nnunetv2_cfnet.jobs.ways import Way, carry_out_by

    way = Way.of(options)
    experiment = cross_validation(
        options.d,
        options.c,
        options.tr,
        options.p,
        folds=options.folds or ALL_FOLDS,
        npz=options.npz,
        device=way.device(options.device),
    )
    carry_out_by(way, experiment)
    return 0
