"""The console script: `nnunetv2_cfnet <subcommand>`.

Imports that cost time are inside the functions, so that `--help` answers at once.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from nnunetv2_cfnet import __version__
from nnunetv2_cfnet.data.editions import AUTO, EDITIONS
from nnunetv2_cfnet.data.findings import Kind
from nnunetv2_cfnet.errors import UserError
from nnunetv2_cfnet.import_weights import ASSUMED, import_weights

if TYPE_CHECKING:
    from nnunetv2_cfnet.planning.command import Request

Subcommands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"

USER_ERROR = 2  # what argparse itself exits with
ALL_FOLDS = (0, 1, 2, 3, 4)
INTERRUPTED = 130  # 128 + SIGINT, as shells report it


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one subcommand and return its exit code."""
    options = _parser().parse_args(arguments)
    try:
        return options.run(options)
    except (UserError, OSError) as error:  # OSError: a folder that can't be written to, a full disk
        print(f"nnunetv2_cfnet {options.command}: {error}", file=sys.stderr)
        return USER_ERROR
    except KeyboardInterrupt:
        print(f"nnunetv2_cfnet {options.command}: interrupted", file=sys.stderr)
        return INTERRUPTED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="nnunetv2_cfnet",
        description="CFNet for nnU-Net v2. Train it with nnU-Net's own commands: "
        "nnUNetv2_train DATASET CONFIGURATION FOLD -tr nnUNetTrainerCFNet",
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    subcommands = parser.add_subparsers(dest="command", metavar="subcommand", required=True)
    for add in (
        _add_doctor,
        _add_demo,
        _add_convert_brats,
        _add_plan,
        _add_plan_and_preprocess,
        _add_evaluate,
        _add_compare,
        _add_benchmark,
        _add_export_brats,
        _add_make_phantom,
        _add_import_weights,
    ):
        add(subcommands)
    return parser


def _add_doctor(subcommands: Subcommands) -> None:
    summary = "check that training with CFNet would work here"
    doctor = subcommands.add_parser(
        "doctor", help=summary, description=f"{_sentence(summary)}: a line for each thing it takes; exits 1 if not."
    )
    doctor.set_defaults(run=_doctor)


def _add_demo(subcommands: Subcommands) -> None:
    summary = "train, predict and evaluate on a small phantom dataset with nnU-Net's own commands"
    demo = subcommands.add_parser(
        "demo",
        help=summary,
        description=f"{_sentence(summary)}. Takes up to 10 minutes without a GPU, resumes where it stopped, and "
        "leaves your own nnUNet_* folders alone.",
    )
    demo.add_argument(
        "--out", type=Path, default=Path("cfnet_demo"), metavar="DIR", help="its folder (default: %(default)s)"
    )
    demo.add_argument(
        "--device", choices=("auto", "cpu", "cuda"), default="auto", help="where to train (default: %(default)s)"
    )
    demo.set_defaults(run=_demo)


def _add_plan(subcommands: Subcommands) -> None:
    summary = "plan CFNet for a dataset, as nnUNetv2_plan_experiment plans U-Nets"
    plan = subcommands.add_parser(
        "plan",
        help=summary,
        description="Plan CFNet for datasets; a missing fingerprint is extracted first. Flags with one dash are "
        "nnUNetv2_plan_experiment's.",
    )
    _add_planning_flags(plan)
    plan.add_argument(
        "--show", action="store_true", help="print the plans with their cost beside the U-Net's; made if missing"
    )
    plan.set_defaults(run=_plan)


def _add_plan_and_preprocess(subcommands: Subcommands) -> None:
    summary = "plan, and preprocess, as nnUNetv2_plan_and_preprocess does for U-Nets"
    preprocess = subcommands.add_parser(
        "plan_and_preprocess",
        help=summary,
        description="Extract missing fingerprints, plan CFNet and preprocess. All flags but --groups and --without are "
        "those of nnUNetv2_plan_and_preprocess.",
    )
    _add_planning_flags(preprocess)
    preprocess.add_argument(
        "-c",
        nargs="+",
        default=["2d", "3d_fullres", "3d_lowres"],
        metavar="CONFIGURATION",
        help="to be preprocessed (default: 2d 3d_fullres 3d_lowres)",
    )
    preprocess.add_argument(
        "-np",
        type=int,
        nargs="+",
        metavar="N",
        help="processes for each configuration, or for all (default: 8 for 2d and 3d_lowres, 4 for others)",
    )
    preprocess.add_argument(
        "-npfp", type=int, default=8, metavar="N", help="processes for the fingerprint (default: %(default)s)"
    )
    for flag, purpose in (
        ("--verify_dataset_integrity", "check the raw dataset first"),
        ("--no_pp", "do not preprocess"),
        ("--clean", "extract fingerprints, and preprocess data shared with nnUNetPlans, that exist anew"),
        ("--verbose", "print more"),
        ("--no_pbar", "no progress bars"),
    ):
        preprocess.add_argument(flag, action="store_true", help=purpose)
    preprocess.set_defaults(run=_plan_and_preprocess)


def _add_evaluate(subcommands: Subcommands) -> None:
    summary = "evaluate predictions with BraTS's metrics, on any dataset"
    evaluate = subcommands.add_parser(
        "evaluate",
        help=summary,
        description=f"{_sentence(summary)}: Dice, HD95, ASSD, NSD, sensitivity, specificity, volumes, lesion-wise Dice "
        "and HD95 of each case and region, with BraTS's rule for empty regions and nnU-Net's beside it.",
    )
    evaluate.add_argument("labels", type=Path, metavar="LABELS", help="folder of the reference segmentations")
    evaluate.add_argument("predictions", type=Path, metavar="PREDICTIONS", help="folder with a prediction for each")
    _add_dataset_json_flag(evaluate, "PREDICTIONS/dataset.json")
    evaluate.add_argument(
        "-o", type=Path, metavar="OUT", help="folder for cfnet_summary.json and per_case.csv (default: PREDICTIONS)"
    )
    _add_processes_flag(evaluate)
    evaluate.set_defaults(run=_evaluate)


def _add_compare(subcommands: Subcommands) -> None:
    summary = "compare trained models, or folders of predictions, case by case"
    compare = subcommands.add_parser(
        "compare",
        help=summary,
        description=f"{_sentence(summary)}. The first model is compared with each of the others: paired differences "
        "with intervals, costs, figures; written to compare.md, compare.json and report.html.",
    )
    trained = compare.add_argument_group("models that nnU-Net trained, by their cross-validation")
    trained.add_argument("-d", type=int, metavar="ID", help="of their dataset, as in: 1")
    trained.add_argument("-c", metavar="CONFIGURATION", help="theirs, as in: 3d_fullres")
    trained.add_argument("-m", nargs="+", metavar="TRAINER__PLANS", help="the models")
    _add_folds_flag(trained)
    given = compare.add_argument_group("predictions, wherever they are from")
    given.add_argument("--predictions", nargs="+", type=_named_folder, metavar="NAME=FOLDER", help="of each model")
    given.add_argument("--reference", type=Path, metavar="LABELS", help="folder of the reference segmentations")
    _add_dataset_json_flag(given, "dataset.json beside the first predictions")
    compare.add_argument(
        "-o", type=Path, default=Path("cfnet_comparison"), metavar="OUT", help="its folder (default: %(default)s)"
    )
    _add_processes_flag(compare)
    compare.set_defaults(run=_compare)


def _add_benchmark(subcommands: Subcommands) -> None:
    summary = "train CFNet and nnU-Net baselines at a matched budget, and compare them"
    benchmark = subcommands.add_parser(
        "benchmark",
        help=summary,
        description=f"{_sentence(summary)}. Runs nnU-Net's own commands for what is missing; an interrupted run goes "
        "on where it stopped. Models are trained into OUT, in the place of nnUNet_results.",
    )
    benchmark.add_argument("-d", type=int, required=True, metavar="ID", help="of the dataset, as in: 1")
    benchmark.add_argument(
        "-c", default="3d_fullres", metavar="CONFIGURATION", help="to be trained (default: %(default)s)"
    )
    benchmark.add_argument(
        "--trainers",
        nargs="+",
        metavar="TRAINER[__PLANS]",
        help="the models; the first is compared with the others (default: nnUNetTrainerCFNet and nnUNetTrainer on "
        "nnUNetPlans, nnUNetTrainer on nnUNetResEncUNetMPlans)",
    )
    _add_folds_flag(benchmark)
    benchmark.add_argument(
        "--epochs",
        type=int,
        metavar="N",
        help="of each training, by the trainers' variants for 1, 5, 10, 20, 50, 100, 250, 500, 750, 2000, 4000 or "
        "8000 epochs (default: the trainers' own, 1000)",
    )
    benchmark.add_argument(
        "--replicates", type=int, default=1, metavar="R", help="how often each is trained (default: %(default)s)"
    )
    benchmark.add_argument(
        "-o", type=Path, default=Path("cfnet_benchmark"), metavar="OUT", help="its folder (default: %(default)s)"
    )
    benchmark.add_argument(
        "-device", choices=("auto", "cpu", "cuda"), default="auto", help="where to train (default: %(default)s)"
    )
    _add_processes_flag(benchmark)
    benchmark.add_argument("--dry-run", action="store_true", help="print the commands; run none")
    benchmark.set_defaults(run=_benchmark)


def _add_dataset_json_flag(parser: "argparse._ActionsContainer", default: str) -> None:
    parser.add_argument("-djfile", type=Path, metavar="FILE", help=f"dataset.json (default: {default})")


def _add_folds_flag(parser: "argparse._ActionsContainer") -> None:
    parser.add_argument(
        "--folds", type=int, nargs="+", metavar="F", help=f"of each (default: {' '.join(map(str, ALL_FOLDS))})"
    )


def _add_processes_flag(parser: argparse.ArgumentParser) -> None:
    default = min(8, os.cpu_count() or 1)  # nnU-Net's, where there are cores for it
    parser.add_argument("-np", type=int, default=default, metavar="N", help="processes (default: %(default)s)")


def _named_folder(text: str) -> tuple[str, Path]:
    name, separator, folder = text.partition("=")
    if not (name and separator and folder):
        raise argparse.ArgumentTypeError(f"{text!r}: give NAME=FOLDER")
    return name, Path(folder)


def _add_convert_brats(subcommands: Subcommands) -> None:
    summary = "convert a BraTS release (2018 to 2024, MSD Task01) to a raw nnU-Net dataset"
    convert = subcommands.add_parser(
        "convert_brats",
        help=summary,
        description=f"{_sentence(summary)} in nnUNet_raw, with channels T1, T1ce, T2, FLAIR, regions, and splits that "
        "keep patients together. Every case is checked before anything is written; an interrupted run goes on where it "
        "stopped.",
    )
    convert.add_argument("source", type=Path, metavar="SOURCE", help="folder that the release was unpacked to")
    convert.add_argument("-d", type=int, required=True, metavar="ID", help="of the dataset, as in: 1")
    convert.add_argument("-n", metavar="NAME", help="of the dataset (default: BraTS and the edition, as in BraTS2020)")
    convert.add_argument(
        "--edition", choices=(AUTO, *EDITIONS), default=AUTO, help="decides labels and names (default: by case names)"
    )
    _add_processes_flag(convert)
    for flag, purpose in (
        ("--symlink", "link images that need no rewriting instead of copying them"),
        ("--overwrite", "replace a dataset folder that exists"),
        ("--dry-run", "check and report; write nothing"),
        ("--skip-bad", "convert the other cases where some are bad"),
        ("--fix-headers", "where voxels align and headers do not, write the header that most files of the case have"),
    ):
        convert.add_argument(flag, action="store_true", help=purpose)
    convert.set_defaults(run=_convert_brats)


def _add_export_brats(subcommands: Subcommands) -> None:
    summary = "turn nnU-Net's predictions into a BraTS submission"
    export = subcommands.add_parser(
        "export_brats",
        help=summary,
        description=f"{_sentence(summary)}: the edition's labels, names and geometry. What the predicted values mean "
        "is read from the dataset.json beside them.",
    )
    export.add_argument("predictions", type=Path, metavar="PREDICTIONS", help="folder that nnUNetv2_predict wrote")
    export.add_argument("-o", type=Path, required=True, metavar="OUT", help="to be written; new, or an empty folder")
    export.add_argument("--edition", choices=tuple(EDITIONS), help="default: the dataset's, or by case names")
    export.add_argument(
        "--like",
        type=Path,
        metavar="SOURCE",
        help="the release's cases that were predicted: checked against, and the geometry is taken from there",
    )
    export.add_argument(
        "--et-threshold",
        type=_voxels_or_auto,
        metavar="N|auto",
        help="fewer voxels of enhancing tumour than N become necrotic core; auto chooses N by --cv (default: off)",
    )
    export.add_argument("--cv", type=Path, metavar="MODEL_FOLDER", help="whose cross-validation chooses N")
    export.add_argument("--zip", action="store_true", help="also write OUT.zip, for upload")
    export.set_defaults(run=_export_brats)


def _add_make_phantom(subcommands: Subcommands) -> None:
    summary = "write phantom cases in the layout of a BraTS release"
    phantom = subcommands.add_parser(
        "make_phantom",
        help=summary,
        description=f"{_sentence(summary)}, to try convert_brats and export_brats with. They are synthetic and small.",
    )
    phantom.add_argument("-o", type=Path, required=True, metavar="DIR", help="to be written; new, or an empty folder")
    phantom.add_argument("--edition", choices=tuple(EDITIONS), required=True, help="whose layout, names and labels")
    phantom.add_argument("-n", type=int, required=True, metavar="N", help="number of cases with a segmentation")
    phantom.add_argument(
        "--plant",
        nargs="+",
        action="extend",
        default=[],
        choices=[kind.value for kind in Kind],
        metavar="DEFECT",
        help=f"each into a case of its own: {', '.join(kind.value for kind in Kind)}",
    )
    phantom.set_defaults(run=_make_phantom)


def _voxels_or_auto(text: str) -> int | str:
    if text == AUTO:
        return text
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r}: give a number of voxels, or {AUTO}") from None


def _add_import_weights(subcommands: Subcommands) -> None:
    summary = "make a model folder from a checkpoint of the published CFNet"
    importer = subcommands.add_parser(
        "import_weights",
        help=summary,
        description=f"{_sentence(summary)}, for nnUNetv2_predict_from_modelfolder -m MODEL_FOLDER -f 0, on cases "
        "named CASE_0000 .. CASE_0003 (T1, T1ce, T2, FLAIR). Labels are the release's: 1 = NCR/NET, 2 = ED, 3 = ET. "
        f"{ASSUMED}",
    )
    importer.add_argument(
        "checkpoint", type=Path, metavar="CHECKPOINT", help="what the release's training saved; nothing in it is run"
    )
    importer.add_argument(
        "-o", type=Path, required=True, metavar="MODEL_FOLDER", help="to be written; new, or an empty folder"
    )
    importer.set_defaults(run=_import_weights)


def _add_planning_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags of planning: nnU-Net's, spelled as there, and ours with two dashes."""
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
        "--groups", metavar="GROUPS", help='channels of the two encoders, as in "T1,T2|T1ce,FLAIR" (default: by name)'
    )
    parser.add_argument(
        "--without",
        nargs="+",
        action="extend",
        default=[],
        metavar="PART",
        help="parts to switch off: fusion, context, communication",
    )


def _sentence(summary: str) -> str:
    return summary[0].upper() + summary[1:]


def _doctor(options: argparse.Namespace) -> int:
    from nnunetv2_cfnet.doctor import run_doctor

    return run_doctor()


def _demo(options: argparse.Namespace) -> int:
    from nnunetv2_cfnet.host import check_version

    check_version("nnunetv2")
    from nnunetv2_cfnet.demo import run_demo

    run_demo(out=options.out, device=options.device)
    return 0


def _plan(options: argparse.Namespace) -> int:
    from nnunetv2_cfnet.host import check_version

    check_version("nnunetv2")
    from nnunetv2_cfnet.planning.command import plan

    plan(_planning_request(options), show=options.show)
    return 0


def _plan_and_preprocess(options: argparse.Namespace) -> int:
    from nnunetv2_cfnet.host import check_version

    check_version("nnunetv2")
    from nnunetv2_cfnet.planning.command import plan_and_preprocess

    plan_and_preprocess(
        _planning_request(options),
        configurations=options.c,
        num_processes=options.np,
        num_processes_fingerprint=options.npfp,
        verify=options.verify_dataset_integrity,
        clean=options.clean,
        preprocess=not options.no_pp,
        verbose=options.verbose,
        progress_bar=not options.no_pbar,
    )
    return 0


def _import_weights(options: argparse.Namespace) -> int:
    from nnunetv2_cfnet.host import check_version

    check_version("nnunetv2")
    import_weights(options.checkpoint, options.o)
    return 0


def _convert_brats(options: argparse.Namespace) -> int:
    from nnunetv2_cfnet.host import check_version

    check_version("nnunetv2")
    from nnunetv2_cfnet.data.convert import convert_brats

    convert_brats(
        options.source,
        dataset_id=options.d,
        name=options.n,
        edition=options.edition,
        num_processes=options.np,
        symlink=options.symlink,
        overwrite=options.overwrite,
        dry_run=options.dry_run,
        skip_bad=options.skip_bad,
        fix_headers=options.fix_headers,
    )
    return 0


def _evaluate(options: argparse.Namespace) -> int:
    from nnunetv2_cfnet.host import check_version

    check_version("nnunetv2")
    from nnunetv2_cfnet.evaluation.evaluate import evaluate

    evaluate(options.labels, options.predictions, options.djfile, options.o, options.np)
    return 0


def _compare(options: argparse.Namespace) -> int:
    from nnunetv2_cfnet.host import check_version

    trained = (options.d, options.c, options.m)
    given = (options.predictions, options.reference)
    is_trained = None not in trained and given == (None, None) and options.djfile is None
    is_given = None not in given and trained == (None, None, None) and options.folds is None
    if not (is_trained or is_given):
        raise UserError(
            "give either -d, -c and -m, and --folds, for trained models, or --predictions and --reference, and -djfile"
        )
    check_version("nnunetv2")
    from nnunetv2_cfnet.report.compare import compare_models, compare_predictions

    if is_trained:
        compare_models(
            options.d, options.c, options.m, folds=options.folds or ALL_FOLDS, out=options.o, num_processes=options.np
        )
    else:
        compare_predictions(options.predictions, options.reference, options.djfile, options.o, options.np)
    return 0


def _benchmark(options: argparse.Namespace) -> int:
    from nnunetv2_cfnet.host import check_version

    check_version("nnunetv2")
    from nnunetv2_cfnet.benchmark import DEFAULT_MODELS, benchmark

    benchmark(
        options.d,
        options.c,
        options.trainers or DEFAULT_MODELS,
        folds=options.folds or ALL_FOLDS,
        num_epochs=options.epochs,
        replicates=options.replicates,
        out=options.o,
        device=options.device,
        num_processes=options.np,
        dry_run=options.dry_run,
    )
    return 0


def _export_brats(options: argparse.Namespace) -> int:
    from nnunetv2_cfnet.data.export import export_brats

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


def _make_phantom(options: argparse.Namespace) -> int:
    from nnunetv2_cfnet.data.brats_phantom import make_phantom

    names = make_phantom(options.o, options.edition, options.n, options.plant)
    for name, defect in zip(names, options.plant, strict=False):
        print(f"{name}: {defect}")
    print(f"{len(names)} cases of edition {options.edition} are in {options.o}")
    return 0


def _planning_request(options: argparse.Namespace) -> "Request":
    from nnunetv2_cfnet.planning.command import Request

    return Request(
        dataset_ids=options.d,
        planner=options.pl,
        gpu_memory_target=options.gpu_memory_target,
        preprocessor_name=options.preprocessor_name,
        overwrite_target_spacing=options.overwrite_target_spacing,
        overwrite_plans_name=options.overwrite_plans_name,
        groups=options.groups,
        without=options.without,
    )
