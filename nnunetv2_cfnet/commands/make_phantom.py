"""`nnunetv2_cfnet make_phantom`: synthetic cases in the layout of a BraTS release."""

import argparse
from pathlib import Path

from nnunetv2_cfnet.brats.editions import EDITIONS

DESCRIPTION = (
    "Write phantom cases in the layout of a BraTS release, to try convert_brats and export_brats with. They are "
    "synthetic and small."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-o", type=Path, required=True, metavar="OUT", help="to be written; new, or an empty folder")
    parser.add_argument("--edition", choices=tuple(EDITIONS), required=True, help="whose layout, names and labels")
    parser.add_argument("--cases", type=int, required=True, metavar="N", help="number of cases with a segmentation")


def run(options: argparse.Namespace) -> int:
    from nnunetv2_cfnet.demo.brats_phantom import make_phantom

    names = make_phantom(options.o, options.edition, options.cases)
    print(f"{len(names)} cases of edition {options.edition} are in {options.o}")
    return 0
