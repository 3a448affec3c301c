"""`nnunetv2_cfnet show`: plans of CFNet or of nnU-Net, and what CFNet costs with them."""

import argparse

DESCRIPTION = (
    "Show plans of CFNet, or of nnU-Net as CFNet would be trained with them: patch, batch, widths, modality groups, "
    "and parameters, FLOPs and estimated memory beside the U-Net of the same topology. Nothing is planned or written."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-d", type=int, nargs="+", required=True, metavar="ID", help="datasets, as in: 2 4 5")
    parser.add_argument(
        "-p", default="nnUNetCFNetPlansM", metavar="PLANS", help="name of the plans (default: %(default)s)"
    )


def run(options: argparse.Namespace) -> int:
    from nnunetv2_cfnet.planning.show import show

    show(options.d, options.p)
    return 0
