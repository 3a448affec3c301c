"""`nnunetv2_cfnet benchmark`: CFNet and its baselines, trained at a matched budget by nnU-Net's commands, and compared.

    fingerprint, plans, preprocessed data where they are missing -> nnUNetv2_train for each replicate, model and fold
    -> the report of `nnunetv2_cfnet compare` over all replicates

Data and plans are the user's, in nnUNet_raw and nnUNet_preprocessed. Models are trained into OUT/replicate_0,
OUT/replicate_1, .., each in the place of nnUNet_results; they differ by chance, since nnU-Net sets no seed. What is
there already is not done again, so an interrupted benchmark goes on.
"""

import os
import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from itertools import product
from pathlib import Path

from nnunetv2_cfnet.errors import UserError
from nnunetv2_cfnet.files.lock import locked
from nnunetv2_cfnet.files.paths import resolved
from nnunetv2_cfnet.files.processes import check_num_processes
from nnunetv2_cfnet.host import dataset_name, find_trainer, nnunet_folder
from nnunetv2_cfnet.jobs.steps import Step, choose_device, drop_torn_checkpoints, find_command, has_checkpoint, run_step
from nnunetv2_cfnet.planning.datasets import read_dataset
from nnunetv2_cfnet.planning.planners import DEFAULT_PLANS, is_preprocessed
from nnunetv2_cfnet.planning.plans import read_plans
from nnunetv2_cfnet.report.collect import compare_models
from nnunetv2_cfnet.report.write import check_report_place
from nnunetv2_cfnet.training.trainers import EPOCH_VARIANTS, nnUNetTrainerCFNet, nnUNetTrainerCFNetPublished

DEFAULT_MODELS = (
    "nnUNetTrainerCFNet__nnUNetPlans",
    "nnUNetTrainer__nnUNetPlans",
    "nnUNetTrainer__nnUNetResEncUNetMPlans",
)
COMPARISON = "comparison"  # folder of the report
NUM_EPOCHS = 1000  # of nnUNetTrainer and nnUNetTrainerCFNet
CASCADE = "3d_cascade_fullres"  # trains on what another configuration predicts
CONFIGURATIONS = ("2d", "3d_fullres", "3d_lowres")  # what planners plan, but for the cascade
COMMANDS = ("nnUNetv2_extract_fingerprint", "nnUNetv2_plan_experiment", "nnUNetv2_preprocess", "nnUNetv2_train")
# plans -> the command that makes them
PLANNING_COMMANDS = {DEFAULT_PLANS: ["nnUNetv2_plan_experiment"]}
for _size in ("M", "L", "XL"):
    _of_nnunet = ["nnUNetv2_plan_experiment", "-pl", f"nnUNetPlannerResEnc{_size}"]
    PLANNING_COMMANDS[f"nnUNetResEncUNet{_size}Plans"] = _of_nnunet
    PLANNING_COMMANDS[f"nnUNetCFNetPlans{_size}"] = ["nnunetv2_cfnet", "plan", "-pl", f"nnUNetPlannerCFNet{_size}"]


def benchmark(
    dataset_id: int,
    configuration: str,
    trainers: Sequence[str],
    *,
    folds: Sequence[int],
    num_epochs: int | None,
    replicates: int,
    out: Path,
    device: str,
    num_processes: int,
    dry_run: bool,
) -> None:
    """Train what is missing and compare, or print the commands.

    Args:
        dataset_id: of a dataset in nnUNet_raw.
        configuration: of its plans.
        trainers: TRAINER__PLANS of each model, or TRAINER alone for nnUNetPlans; the first is compared with the others.
        folds: of each model.
        num_epochs: what the trainers have, or have a variant for; None: what all of them have.
        replicates: how often each is trained.
        out: folder of the trained models, the logs and the report.
        device: auto, cpu or cuda.
        num_processes: of the evaluation.
        dry_run: print the commands and run none.

    Raises:
        UserError: bad input, before anything is run; or a command that failed.
    """
    if not dry_run or device == "auto":  # a dry run may be for another machine
        device = choose_device(device)
    models = _models(trainers, num_epochs)
    _check(configuration, models, folds, replicates)
    dataset = dataset_name(dataset_id)
    raw, preprocessed = nnunet_folder("nnUNet_raw") / dataset, nnunet_folder("nnUNet_preprocessed") / dataset
    dataset_json = read_dataset(raw / "dataset.json", "The benchmark starts from the raw dataset.")
    out = resolved(out)
    check_report_place(out / COMPARISON)
    check_num_processes(num_processes)

    def run(step: Step, **variables: str) -> None:
        if dry_run:
            print(shlex.join(step.command))
        else:
            (out / "logs").mkdir(parents=True, exist_ok=True)
            run_step(step, {**os.environ, **variables}, out / "logs")

    # the comparison is what all of it is for
    with nullcontext() if dry_run else locked(out / COMPARISON):
        _prepare(dataset_id, configuration, models, raw, preprocessed, dataset_json, run)
        results = [out / f"replicate_{replicate}" for replicate in range(replicates)]
        for folder in results:
            print(f"\nexport nnUNet_results={shlex.quote(str(folder))}")
            if not dry_run:
                folder.mkdir(parents=True, exist_ok=True)
            for model, fold in product(models, folds):
                if not dry_run:
                    drop_torn_checkpoints(_fold_folder(folder / dataset, model, configuration, fold))
                step = _training(dataset_id, configuration, model, fold, folder / dataset, device, num_epochs)
                if step.product.exists():
                    print(f"# {folder.name}, {model}, fold {fold} is done already")
                else:
                    run(step, nnUNet_results=str(folder))
        if dry_run:
            print(f"# and, over all replicates, the comparison of {', '.join(models)} in {out / COMPARISON}")
            return
        compare_models(
            dataset_id,
            configuration,
            models,
            folds=folds,
            out=out / COMPARISON,
            num_processes=num_processes,
            results=results,
        )


def _models(trainers: Sequence[str], num_epochs: int | None) -> list[str]:
    """TRAINER__PLANS of each, where TRAINER is the one given or its variant, so that all have the same epochs."""
    given = []
    for name in trainers:
        trainer, _, plans = name.partition("__")
        if not trainer or "__" in plans:
            raise UserError(f"--trainers {name}: give TRAINER or TRAINER__PLANS, as in {DEFAULT_MODELS[-1]}.")
        given.append((trainer, plans or DEFAULT_PLANS))
    matched = _matched(list(dict.fromkeys(trainer for trainer, _ in given)), num_epochs)
    return [f"{matched[trainer]}__{plans}" for trainer, plans in given]


def _matched(trainers: Sequence[str], num_epochs: int | None) -> dict[str, str]:
    """Each trainer's variant of that many epochs; None: of as many as they have themselves, if that is one number."""
    own: dict[str, int] = {}
    for name in trainers:
        if (epochs := _num_epochs(name)) is None:
            raise UserError(f"nnU-Net finds no trainer {name}.")
        own[name] = epochs
    asked = set(own.values()) if num_epochs is None else {num_epochs}
    if len(asked) == 1:
        (number,) = asked
        variants = {name: variant for name in own if (variant := _with_epochs(number, name, own[name]))}
        if len(variants) == len(own):
            return variants
        lacking = ", ".join(name for name in own if name not in variants)
        problem = f"--epochs {number}: {lacking} can't be trained for so many."
    else:
        listed = ", ".join(f"{name} {epochs}" for name, epochs in own.items())
        problem = f"Trained for different numbers of epochs ({listed}), models can't be compared."
    known = {*EPOCH_VARIANTS, *own.values()}
    of_all = [str(n) for n in sorted(known) if all(_with_epochs(n, name, own[name]) for name in own)]
    remedy = f"With these trainers, --epochs can be {', '.join(of_all)}." if of_all else "Choose other --trainers."
    raise UserError(f"{problem} {remedy}")


def _with_epochs(num_epochs: int, trainer: str, own: int) -> str | None:
    """The trainer itself where that is its own number of epochs, or its variant by nnU-Net's name, if there is one."""
    if num_epochs == own:
        return trainer
    variant = f"{trainer}_{num_epochs}epoch{'s' if num_epochs > 1 else ''}"
    return variant if _num_epochs(variant) == num_epochs else None


def _num_epochs(trainer: str) -> int | None:
    """As its class or its name says, or else nnU-Net's own, also for a user's trainer; None: there is no such one."""
    try:
        own = getattr(find_trainer(trainer), "epochs", None)
    except RuntimeError:
        return None
    except (Exception, SystemExit) as error:  # of any module on nnUNet_extTrainer
        raise UserError(
            f"nnU-Net's search for {trainer} stops with {type(error).__name__}: {error}. To find the module, run: "
            "nnunetv2_cfnet doctor"
        ) from error
    of_name = re.search(r"_(\d+)epochs?(_|$)", trainer)
    return own or (int(of_name[1]) if of_name else NUM_EPOCHS)


def _check(configuration: str, models: Sequence[str], folds: Sequence[int], replicates: int) -> None:
    if configuration == CASCADE:
        raise UserError(
            f"-c {CASCADE} is trained on predictions of 3d_lowres: train it with nnU-Net's commands, then compare."
        )
    if len(set(models)) < max(2, len(models)):
        raise UserError(f"--trainers {' '.join(models)}: give two models or more, each once.")
    if replicates < 1:
        raise UserError(f"--replicates {replicates}: give at least 1.")
    if len(set(folds)) < len(folds) or min(folds) < 0:
        raise UserError(f"--folds {' '.join(map(str, folds))}: give each once, from 0 on.")
    for trainer in (model.partition("__")[0] for model in models):
        if configuration.startswith("3d") and issubclass(find_trainer(trainer), nnUNetTrainerCFNetPublished):
            raise UserError(f"-c {configuration}: {trainer} is of the published CFNet, which is 2D: give -c 2d.")
    for command in COMMANDS:
        find_command(command)


def _prepare(
    dataset_id: int,
    configuration: str,
    models: Sequence[str],
    raw: Path,
    preprocessed: Path,
    dataset_json: dict,
    run: Callable[[Step], None],
) -> None:
    """Run what makes fingerprint, plans and preprocessed data, as far as they are missing."""
    dataset = ["-d", str(dataset_id)]
    names = list(dict.fromkeys(model.partition("__")[2] for model in models))
    plans_files = {name: preprocessed / f"{name}.json" for name in names}
    for name, file in plans_files.items():
        if name not in PLANNING_COMMANDS and not file.is_file():
            raise UserError(f"{file} is not there: plan it first, or take one of {', '.join(PLANNING_COMMANDS)}.")
        if file.is_file():
            _data_identifier(file, configuration)
        elif configuration not in CONFIGURATIONS:
            raise UserError(f"-c {configuration}: {name} can have {', '.join(CONFIGURATIONS)}.")
    fingerprint = preprocessed / "dataset_fingerprint.json"
    if not fingerprint.is_file():
        command = ["nnUNetv2_extract_fingerprint", *dataset, "--verify_dataset_integrity"]
        run(Step(name="fingerprint", command=command, product=fingerprint))
    for name, file in plans_files.items():
        if not file.is_file():
            run(Step(name=f"plan_{name}", command=[*PLANNING_COMMANDS[name], *dataset], product=file))
    _check_trainable(models, configuration, plans_files, dataset_json)
    made = set()
    for name, file in plans_files.items():
        # in a dry run plans can be missing; those of PLANNING_COMMANDS share data where they can
        identifier = _data_identifier(file, configuration) if file.is_file() else f"{DEFAULT_PLANS}_{configuration}"
        folder = preprocessed / identifier
        if identifier not in made and not is_preprocessed(folder, raw):
            command = ["nnUNetv2_preprocess", *dataset, "-plans_name", name, "-c", configuration]
            run(Step(name=f"preprocess_{name}", command=command, product=folder))
        made.add(identifier)


def _check_trainable(
    models: Sequence[str], configuration: str, plans_files: Mapping[str, Path], dataset_json: dict
) -> None:
    """Refuse plans that a trainer of CFNet would refuse, before data are preprocessed and other models trained."""
    for trainer, _, name in (model.partition("__") for model in models):
        trainer_class = find_trainer(trainer)
        if issubclass(trainer_class, nnUNetTrainerCFNet) and plans_files[name].is_file():
            try:
                trainer_class.translate(read_plans(plans_files[name]), dataset_json, configuration)
            except ValueError as error:
                raise UserError(f"{trainer} can't be trained with {plans_files[name]}: {error}") from error


def _data_identifier(plans_file: Path, configuration: str) -> str:
    plans = read_plans(plans_file)
    try:
        return plans["configurations"][configuration]["data_identifier"]
    except (KeyError, TypeError):
        raise UserError(f"{plans_file} has no configuration {configuration}: choose another one with -c.") from None


def _training(
    dataset_id: int, configuration: str, model: str, fold: int, results: Path, device: str, num_epochs: int | None
) -> Step:
    trainer, plans = model.split("__")
    fold_folder = _fold_folder(results, model, configuration, fold)
    resume = ["--c"] if has_checkpoint(fold_folder) else []
    what = [str(dataset_id), configuration, str(fold), "-tr", trainer, "-p", plans]
    return Step(
        name=f"{results.parent.name}_{model}_fold_{fold}",
        command=["nnUNetv2_train", *what, "-device", device, *resume],
        product=fold_folder / "validation" / "summary.json",
        num_epochs=num_epochs,
    )


def _fold_folder(results: Path, model: str, configuration: str, fold: int) -> Path:
    return results / f"{model}__{configuration}" / f"fold_{fold}"
