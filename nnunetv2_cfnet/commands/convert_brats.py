"""`nnunetv2_cfnet convert_brats`: a BraTS release -> a raw dataset of nnU-Net."""

import argparse
from pathlib import Path

from nnunetv2_cfnet.brats.editions import AUTO, EDITIONS
from nnunetv2_cfnet.commands.flags import add_processes

DESCRIPTION = (
    "Convert a BraTS release (2018 to 2024, MSD Task01) to a raw nnU-Net dataset in nnUNet_raw, with channels T1, "
    "T1ce, T2, FLAIR, regions, and splits that keep patients together. Every case is checked before any is "
    "converted; an interrupted run goes on where it stopped, and checks no unchanged case again."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", type=Path, metavar="SOURCE", help="folder that the release was unpacked to")
    parser.add_argument("-d", type=int, required=True, metavar="ID", help="of the dataset, as in: 1")
    parser.add_argument(
        "--name", metavar="NAME", help="of the dataset (default: BraTS and the edition, as in BraTS2020)"
    )
    parser.add_argument(
        "--edition", choices=(AUTO, *EDITIONS), default=AUTO, help="decides labels and names (default: by case names)"
    )
    parser.add_argument(
        "--labels", metavar="LABELS", help="of the source where they are not the edition's, as in: ED=1,NCR=2,ET=3"
    )
    add_processes(parser)
    for flag, purpose in (
        ("--symlink", "link images that need no rewriting instead of copying them"),
        ("--overwrite", "replace a dataset folder that exists, once the new one is complete"),
        ("--dry-run", "check and report; write nothing"),
        ("--allow-missing", "write zero images for sequences that a case lacks, to train with modality dropout"),
        ("--skip-bad", "convert the other cases where some are bad"),
        ("--fix-headers", "where voxels align and headers do not, write the header that most files of the case have"),
    ):
        parser.add_argument(flag, action="store_true", help=purpose)


def run(options: argparse.Namespace) -> int:
    from nnunetv2_cfnet.brats.convert import convert_brats

    convert_brats(
        options.source,
        dataset_id=options.d,
        name=options.name,
        edition=options.edition,
        num_processes=options.np,
        symlink=options.symlink,
        overwrite=options.overwrite,
        dry_run=options.dry_run,
        skip_bad=options.skip_bad,
        fix_headers=options.fix_headers,
        labels=options.labels,
        allow_missing=options.allow_missing,
    )
    return 0
