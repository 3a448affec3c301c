"""`nnunetv2_cfnet evaluate`: a folder of predictions against a folder of labels."""

import argparse
from pathlib import Path

from nnunetv2_cfnet.commands.flags import add_cases, add_dataset_json, add_processes, num_different_cases
from nnunetv2_cfnet.errors import UserError
from nnunetv2_cfnet.report.presentation import Presentation

DESCRIPTION = (
    "Evaluate predictions with BraTS's metrics, on any dataset: Dice, HD95, ASSD, NSD, sensitivity, specificity, "
    "volumes, lesion-wise Dice and HD95 of each case and region, with BraTS's rule for empty regions and nnU-Net's "
    "beside it."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("labels", type=Path, metavar="LABELS", help="folder of the reference segmentations")
    parser.add_argument("predictions", type=Path, metavar="PREDICTIONS", help="folder with a prediction for each")
    add_dataset_json(parser, "PREDICTIONS/dataset.json")
    parser.add_argument(
        "-o", type=Path, metavar="OUT", help="folder for cfnet_summary.json and per_case.csv (default: PREDICTIONS)"
    )
    parser.add_argument("--html", action="store_true", help="write report.html besides: every case, and its slices")
    add_cases(parser, "worst")
    add_processes(parser)


def run(options: argparse.Namespace) -> int:
    if not options.html and (options.cases is not None or options.all_cases):
        raise UserError("--cases and --all-cases choose what the page shows: give --html with them.")
    presentation = Presentation(num_different=num_different_cases(options.cases, options.all_cases))
    if options.html:
        from nnunetv2_cfnet.report.one_model import evaluate_and_show

        evaluate_and_show(
            options.labels,
            options.predictions,
            options.djfile,
            options.o,
            num_processes=options.np,
            presentation=presentation,
        )
    else:
        from nnunetv2_cfnet.evaluation.evaluate import evaluate

        evaluate(options.labels, options.predictions, options.djfile, options.o, options.np)
    return 0
