"""`nnunetv2_cfnet compare`: a report on trained models, or on folders of predictions."""

import argparse
import math
from collections.abc import Sequence
from pathlib import Path

from nnunetv2_cfnet.commands.flags import (
    ALL_FOLDS,
    add_cases,
    add_dataset_json,
    add_folds,
    add_predictions,
    add_processes,
    add_trained_models,
    num_different_cases,
)
from nnunetv2_cfnet.errors import UserError
from nnunetv2_cfnet.files.paths import resolved
from nnunetv2_cfnet.report.presentation import Presentation

DESCRIPTION = (
    "Compare trained models, or folders of predictions, case by case. The first model is compared with each of the "
    "others: paired differences with intervals, costs, every case with its slices. Written are report.html, compare.md "
    "and compare.json."
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
    add_cases(parser, "most different")
    parser.add_argument(
        "--smallest-differences",
        type=float,
        nargs=2,
        metavar=("DICE", "MM"),
        help="that matter, of Dice and HD95, as in: 0.01 1; the page shades what is below",
    )
    add_processes(parser)


def run(options: argparse.Namespace) -> int:
    trained = (options.d, options.c, options.models)
    given = (options.predictions, options.reference)
    is_trained = None not in trained and given == (None, None) and options.djfile is None
    of_trained = (options.folds, options.names)
    is_given = None not in given and trained == (None, None, None) and of_trained == (None, None)
    if not (is_trained or is_given):
        raise UserError(
            "give either -d, -c and --models (and --folds, if not all, and --names), for trained models, or "
            "--predictions and --reference (and -djfile, if dataset.json does not lie beside the first predictions)"
        )
    presentation = Presentation(
        tuple(options.names or ()),
        num_different_cases(options.cases, options.all_cases),
        _smallest_differences(options.smallest_differences),
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
            presentation=presentation,
        )
    else:
        compare_predictions(
            options.predictions,
            options.reference,
            options.djfile,
            out=resolved(options.o),
            num_processes=options.np,
            presentation=presentation,
        )
    return 0


def _smallest_differences(given: Sequence[float] | None) -> dict[str, float]:
    """By metric."""
    if given is None:
        return {}
    if not all(0 < difference < math.inf for difference in given):
        raise UserError(
            f"--smallest-differences {' '.join(f'{value:g}' for value in given)}: give two numbers above 0."
        )
    return dict(zip(("dice", "hd95"), given, strict=True))
