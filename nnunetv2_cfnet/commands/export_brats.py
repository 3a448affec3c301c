"""`nnunetv2_cfnet export_brats`: predictions -> a BraTS submission."""

import argparse
from pathlib import Path

from nnunetv2_cfnet.brats.editions import AUTO, EDITIONS

DESCRIPTION = (
    "Turn nnU-Net's predictions into a BraTS submission: the edition's labels, names and geometry. What the predicted "
    "values mean is read from the dataset.json beside them."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("predictions", type=Path, metavar="PREDICTIONS", help="folder that nnUNetv2_predict wrote")
    parser.add_argument("-o", type=Path, required=True, metavar="OUT", help="to be written; new, or an empty folder")
    parser.add_argument("--edition", choices=tuple(EDITIONS), help="default: the dataset's, or by case names")
    parser.add_argument(
        "--like",
        type=Path,
        metavar="SOURCE",
        help="the release's cases that were predicted: names and geometry are checked against it",
    )
    parser.add_argument(
        "--et-threshold",
        type=_voxels_or_auto,
        metavar="N|auto",
        help="fewer voxels of enhancing tumour than N become necrotic core; auto chooses N by --cv (default: off)",
    )
    parser.add_argument("--cv", type=Path, metavar="MODEL_FOLDER", help="whose cross-validation chooses N")
    parser.add_argument("--zip", action="store_true", help="also write OUT.zip, for upload")


def run(options: argparse.Namespace) -> int:
    from nnunetv2_cfnet.brats.export import export_brats

    export_brats(
        options.predictions,
        options.o,
        edition=options.edition,
        like=options.like,
        et_threshold=options.et_threshold,
        cv=options.cv,
        zip_archive=options.zip,
    )
    return 0


def _voxels_or_auto(text: str) -> int | str:
    if text == AUTO:
        return text
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r}: give a number of voxels, or {AUTO}") from None
