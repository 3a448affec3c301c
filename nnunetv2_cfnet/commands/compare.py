"""`nnunetv2_cfnet compare`: a report on trained models, or on folders of predictions."""

import argparse
from pathlib import Path

from nnunetv2_cfnet.commands.flags import (
    ALL_FOLDS,
    add_dataset_json,
    add_folds,
    add_predictions,
    add_processes,
    add_trained_models,
)
from nnunetv2_cfnet.errors import UserError
from nnunetv2_cfnet.files.paths import resolved

DESCRIPTION = (
    "Compare trained models, or folders of predictions, case by case. The first model is compared with each of the "
    "others: paired differences with intervals, costs, figures; written to compare.md, compare.json and report.html."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    trained = parser.add_argument_group("models that nnU-Net trained, by their cross-validation")
    add_trained_models(trained)
    add_folds(trained)
    given = parser.add_argument_group("predictions, wherever they are from")
    add_predictions(given)
    add_dataset_json(given, "dataset.json beside the first predictions")
    parser.add_argument(
        "-o", type=Path, default=Path("cfnet_comparison"), metavar="OUT", help="its folder (default: %(default)s)"
    )
    add_processes(parser)


def run(options: argparse.Namespace) -> int:
    trained = (options.d, options.c, options.models)
    given = (options.predictions, options.reference)
    is_trained = None not in trained and given == (None, None) and options.djfile is None
    is_given = None not in given and trained == (None, None, None) and options.folds is None
    if not (is_trained or is_given):
        raise UserError(
            "give either -d, -c and --models (and --folds, if not all), for trained models, or --predictions and "
            "--reference (and -djfile, if dataset.json does not lie beside the first predictions)"
        )
    from nnunetv2_cfnet.report.collect import compare_models, compare_predictions

    if is_trained:
        compare_models(
            options.d,
            options.c,
            options.models,
            folds=options.folds or ALL_FOLDS,
            out=resolved(options.o),
            num_processes=options.np,
        )
    else:
        compare_predictions(options.predictions, options.reference, options.djfile, resolved(options.o), options.np)
    return 0
