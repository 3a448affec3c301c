"""What trainings start from: fingerprint, plans, preprocessed data, splits and the files of their model folders.

All of it is there, whole, before the first training starts, so that trainings that start together never read what
another one is just writing.
"""

import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from nnunetv2_cfnet.errors import UserError
from nnunetv2_cfnet.files.json_files import read_json
from nnunetv2_cfnet.files.lock import locked
from nnunetv2_cfnet.files.whole import whole_file
from nnunetv2_cfnet.host import find_trainer, nnunet_folder
from nnunetv2_cfnet.jobs.experiment import Experiment
from nnunetv2_cfnet.jobs.steps import Step, find_command, run_step
from nnunetv2_cfnet.planning.datasets import read_dataset
from nnunetv2_cfnet.planning.planners import DEFAULT_PLANS, is_preprocessed
from nnunetv2_cfnet.planning.plans import read_plans
from nnunetv2_cfnet.training.trainers import nnUNetTrainerCFNet, nnUNetTrainerCFNetPublished

CASCADE = "3d_cascade_fullres"  # trains on what another configuration predicts
CONFIGURATIONS = ("2d", "3d_fullres", "3d_lowres")  # what planners plan, but for the cascade
COMMANDS = ("nnUNetv2_extract_fingerprint", "nnUNetv2_plan_experiment", "nnUNetv2_preprocess", "nnUNetv2_train")
NUM_SPLITS, SPLIT_SEED = 5, 12345  # nnU-Net's, in its trainer's do_split
# plans -> the command that makes them
PLANNING_COMMANDS = {DEFAULT_PLANS: ["nnUNetv2_plan_experiment"]}
for _size in ("M", "L", "XL"):
    _of_nnunet = ["nnUNetv2_plan_experiment", "-pl", f"nnUNetPlannerResEnc{_size}"]
    PLANNING_COMMANDS[f"nnUNetResEncUNet{_size}Plans"] = _of_nnunet
    PLANNING_COMMANDS[f"nnUNetCFNetPlans{_size}"] = ["nnunetv2_cfnet", "plan", "-pl", f"nnUNetPlannerCFNet{_size}"]


def check_trainable(configuration: str, models: Sequence[str], folds: Sequence[int]) -> None:
    """A UserError where nnU-Net could not train these, as far as that shows without plans."""
    if configuration == CASCADE:
        raise UserError(f"-c {CASCADE} is trained on predictions of 3d_lowres: train it with nnU-Net's commands.")
    if len(set(folds)) < len(folds) or min(folds) < 0:
        raise UserError(f"--folds {' '.join(map(str, folds))}: give each once, from 0 on.")
    for trainer in (model.partition("__")[0] for model in models):
        if configuration.startswith("3d") and issubclass(find_trainer(trainer), nnUNetTrainerCFNetPublished):
            raise UserError(f"-c {configuration}: {trainer} is of the published CFNet, which is 2D: give -c 2d.")
    for command in COMMANDS:
        find_command(command)


def prepare(experiment: Experiment) -> None:
    """Run what makes fingerprint, plans and preprocessed data, as far as they are missing; then write_shared_files.

    It waits while another experiment prepares the same dataset.
    """

    def run(step: Step) -> None:
        experiment.logs.mkdir(parents=True, exist_ok=True)
        run_step(step, os.environ, experiment.logs)

    _, preprocessed = _folders(experiment)
    if missing_steps(experiment):
        preprocessed.parent.mkdir(parents=True, exist_ok=True)  # to stay: who waits has a lock file in there
        with locked(preprocessed, wait=True):
            go_through(experiment, run)
    write_shared_files(experiment)


def missing_steps(experiment: Experiment) -> list[Step]:
    """The commands that prepare would run; where plans are missing, as far as these can be foreseen.

    Raises:
        UserError: plans are missing that no command makes, or are no good for these trainings.
    """
    steps: list[Step] = []
    go_through(experiment, steps.append)
    return steps


def go_through(experiment: Experiment, run: Callable[[Step], None]) -> None:
    """Hand on the missing steps one after another; what follows from plans is looked up once they are made."""
    configuration, dataset = experiment.configuration, ["-d", str(experiment.dataset_id)]
    raw, preprocessed = _folders(experiment)
    dataset_json = read_dataset(raw / "dataset.json", "Trainings start from the raw dataset.")
    _check_folds(experiment.folds, preprocessed / "splits_final.json")
    plans_files = {name: preprocessed / f"{name}.json" for name in _plans_of(experiment.models)}
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
    for model in experiment.models:
        if plans_files[model.partition("__")[2]].is_file():
            _trained_plans(model, configuration, preprocessed, dataset_json)
    made = set()
    for name, file in plans_files.items():
        # in a dry run plans can be missing; those of PLANNING_COMMANDS share data where they can
        identifier = _data_identifier(file, configuration) if file.is_file() else f"{DEFAULT_PLANS}_{configuration}"
        folder = preprocessed / identifier
        if identifier not in made and not is_preprocessed(folder, raw):
            command = ["nnUNetv2_preprocess", *dataset, "-plans_name", name, "-c", configuration]
            run(Step(name=f"preprocess_{name}", command=command, product=folder))
        made.add(identifier)


def write_shared_files(experiment: Experiment) -> None:
    """Write splits_final.json where it is missing, and plans.json, dataset.json and fingerprint of untrained models.

    They are what nnU-Net's first training would write, in place, while others start.
    """
    raw, preprocessed = _folders(experiment)
    splits = preprocessed / "splits_final.json"
    if not splits.is_file():
        _write_json(splits, _new_splits(raw))
    dataset_json = read_dataset(preprocessed / "dataset.json", "nnU-Net's planning writes it.")
    for model, folder in experiment.model_folders:
        if any(folder.glob("fold_*/checkpoint_*.pth")):  # the plans that it was trained with win
            continue
        folder.mkdir(parents=True, exist_ok=True)
        _write_json(folder / "dataset.json", dataset_json)
        fingerprint = "dataset_fingerprint.json"
        with whole_file(folder / fingerprint, made_in=folder) as unfinished:
            unfinished.write_bytes((preprocessed / fingerprint).read_bytes())
        _write_json(folder / "plans.json", _trained_plans(model, experiment.configuration, preprocessed, dataset_json))


def _folders(experiment: Experiment) -> tuple[Path, Path]:
    """The raw dataset and the preprocessed one."""
    return (
        nnunet_folder("nnUNet_raw") / experiment.dataset,
        nnunet_folder("nnUNet_preprocessed") / experiment.dataset,
    )


def _plans_of(models: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(model.partition("__")[2] for model in models))


def _trained_plans(
    model: str, configuration: str, preprocessed: Path, dataset_json: dict[str, Any]
) -> Mapping[str, Any]:
    """The plans that a trainer puts into its model folder: those of the dataset, or what a trainer of CFNet makes of
    them; a UserError where it would refuse them, before data are preprocessed and other models trained."""
    trainer, _, name = model.partition("__")
    plans_file = preprocessed / f"{name}.json"
    plans = read_plans(plans_file)
    trainer_class = find_trainer(trainer)
    if not issubclass(trainer_class, nnUNetTrainerCFNet):
        return plans
    try:
        return trainer_class.translate(plans, dataset_json, configuration).plans
    except ValueError as error:
        raise UserError(f"{trainer} can't be trained with {plans_file}: {error}") from error


def _check_folds(folds: Sequence[int], splits: Path) -> None:
    """A UserError for folds that the splits do not have: nnU-Net would train them on splits of their own."""
    content = read_json(splits, "Mend it, or remove it for nnU-Net's own.") if splits.exists() else [None] * NUM_SPLITS
    if max(folds) >= len(content):
        raise UserError(f"--folds {' '.join(map(str, folds))}: there are {len(content)} splits, from 0 on ({splits}).")


def _data_identifier(plans_file: Path, configuration: str) -> str:
    plans = read_plans(plans_file)
    try:
        return plans["configurations"][configuration]["data_identifier"]
    except (KeyError, TypeError):
        raise UserError(f"{plans_file} has no configuration {configuration}: choose another one with -c.") from None


def _new_splits(raw: Path) -> list[dict[str, list[str]]]:
    """nnU-Net's five splits of the raw dataset."""
    import numpy as np
    from nnunetv2.utilities.crossval_split import generate_crossval_split
    from nnunetv2.utilities.utils import get_filenames_of_train_images_and_targets

    cases = np.sort(list(get_filenames_of_train_images_and_targets(str(raw))))
    if len(cases) < NUM_SPLITS:
        raise UserError(
            f"{raw} has {len(cases)} training cases, and nnU-Net splits {NUM_SPLITS} or more: add cases, or write "
            "splits_final.json into the preprocessed dataset."
        )
    return generate_crossval_split(list(cases), seed=SPLIT_SEED, n_splits=NUM_SPLITS)


def _write_json(file: Path, content: object) -> None:
    with whole_file(file, made_in=file.parent) as unfinished:
        unfinished.write_text(json.dumps(content, indent=4))
