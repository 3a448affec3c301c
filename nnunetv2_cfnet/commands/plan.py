"""`nnunetv2_cfnet plan`: CFNet's plans for datasets."""

import argparse

DESCRIPTION = (
    "Plan CFNet for datasets; a missing fingerprint is extracted first. Flags with one dash are "
    "nnUNetv2_plan_experiment's. Ends with what is to be preprocessed: data that nnUNetPlans has already are used. "
    "nnU-Net's own output is in PLANS.log, beside the plans."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-d", type=int, nargs="+", required=True, metavar="ID", help="datasets, as in: 2 4 5")
    parser.add_argument(
        "-pl",
        default="nnUNetPlannerCFNetM",
        metavar="PLANNER",
        help="nnUNetPlannerCFNetM, L or XL, for 8, 24 or 40 GB (default: %(default)s)",
    )
    parser.add_argument(
        "-gpu_memory_target", type=float, metavar="GB", help="on nnU-Net's scale (default: the planner's)"
    )
    parser.add_argument(
        "-preprocessor_name",
        default="DefaultPreprocessor",
        metavar="CLASS",
        help="class of nnunetv2.preprocessing (default: %(default)s)",
    )
    parser.add_argument(
        "-overwrite_target_spacing",
        type=float,
        nargs="+",
        metavar="MM",
        help="target spacing, three numbers (default: nnU-Net's choice)",
    )
    parser.add_argument(
        "-overwrite_plans_name",
        metavar="NAME",
        help="name of the plans, for -p of nnU-Net's commands (default: the planner's)",
    )
    parser.add_argument(
        "--groups", metavar="GROUPS", help='channels of the two encoders, as in "T1,T1ce|T2,FLAIR" (default: by name)'
    )
    parser.add_argument(
        "--without",
        nargs="+",
        action="extend",
        default=[],
        metavar="PART",
        help="parts to switch off: fusion, context, communication",
    )


def run(options: argparse.Namespace) -> int:
    from nnunetv2_cfnet.planning.run_planners import plan

    plan(
        options.d,
        options.pl,
        gpu_memory_target=options.gpu_memory_target,
        preprocessor_name=options.preprocessor_name,
        overwrite_target_spacing=options.overwrite_target_spacing,
        overwrite_plans_name=options.overwrite_plans_name,
        groups=options.groups,
        without=options.without,
    )
    return 0
