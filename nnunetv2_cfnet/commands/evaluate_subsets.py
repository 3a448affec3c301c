"""`nnunetv2_cfnet evaluate_subsets`: what models predict where sequences are missing."""

import argparse
from pathlib import Path

from nnunetv2_cfnet.commands.flags import (
    ALL_FOLDS,
    add_dataset_json,
    add_device,
    add_folds,
    add_predictions,
    add_processes,
    add_trained_models,
)
from nnunetv2_cfnet.errors import UserError
from nnunetv2_cfnet.files.paths import resolved

DESCRIPTION = (
    "Predict the cases of a cross-validation from every subset of their sequences, by nnU-Net's own predictor, the "
    "others set to zero, and evaluate that. Written are subsets.md, subsets.json and report.html: Dice of each subset, "
    "means, paired differences, and what each sequence adds. The same command goes on where it was stopped."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    trained = parser.add_argument_group("models that nnU-Net trained, on the cases that their folds left out")
    add_trained_models(trained)
    add_folds(trained)
    add_device(trained, "predict")
    trained.add_argument("--disable_tta", action="store_true", help="predict without mirroring: faster, less accurate")
    given = parser.add_argument_group("predictions, wherever they are from: a folder for each subset, as in T1+FLAIR")
    add_predictions(given)
    add_dataset_json(given, "dataset.json in the first folder")
    parser.add_argument(
        "--subsets",
        metavar="SUBSETS",
        help='channels of each, as in "T1,T2;FLAIR" (default: all; with more than 5 channels, say so)',
    )
    parser.add_argument(
        "-o", type=Path, default=Path("cfnet_subsets"), metavar="OUT", help="its folder (default: %(default)s)"
    )
    add_processes(parser)


def run(options: argparse.Namespace) -> int:
    trained = (options.d, options.c, options.models)
    given = (options.predictions, options.reference)
    of_trained = (options.folds, options.names, options.device, options.disable_tta)
    is_trained = None not in trained and given == (None, None) and options.djfile is None
    is_given = None not in given and trained == (None, None, None) and of_trained == (None, None, "auto", False)
    if not (is_trained or is_given):
        raise UserError(
            "give either -d, -c and --models (and --names, --folds, -device, --disable_tta), for trained models, or "
            "--predictions and --reference (and -djfile, if dataset.json does not lie in the first folder)"
        )
    from nnunetv2_cfnet.report.collect_subsets import evaluate_given, evaluate_trained

    common = {"subsets": options.subsets, "out": resolved(options.o), "num_processes": options.np}
    if is_trained:
        from nnunetv2_cfnet.jobs.steps import choose_device

        evaluate_trained(
            options.d,
            options.c,
            options.models,
            folds=options.folds or ALL_FOLDS,
            device=choose_device(options.device),
            mirroring=not options.disable_tta,
            shown_names=options.names or (),
            **common,
        )
    else:
        evaluate_given(options.predictions, options.reference, options.djfile, **common)
    return 0
