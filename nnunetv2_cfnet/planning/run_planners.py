"""What `nnunetv2_cfnet plan` does: check all input, extract the fingerprints that are missing, plan."""

import math
import os
import shlex
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import nnunetv2
from nnunetv2.experiment_planning.plan_and_preprocess_api import extract_fingerprint_dataset, plan_experiment_dataset
from nnunetv2.utilities.find_class_by_name import recursive_find_python_class
from nnunetv2.utilities.utils import get_filenames_of_train_images_and_targets

from nnunetv2_cfnet.errors import UserError
from nnunetv2_cfnet.files.json_files import read_json_object
from nnunetv2_cfnet.files.names import is_plain_name
from nnunetv2_cfnet.host import dataset_name, nnunet_folder
from nnunetv2_cfnet.planning.datasets import read_dataset
from nnunetv2_cfnet.planning.modality_groups import (
    ModalityGroups,
    channel_names_of,
    describe_groups,
    named_groups,
    resolve_modality_groups,
)
from nnunetv2_cfnet.planning.planners import (
    DEFAULT_PLANS,
    DEFAULT_PREPROCESSOR,
    FINGERPRINT,
    INTENSITIES,
    NOT_PLANS,
    PLANNERS,
    is_preprocessed,
    switched_off,
)
from nnunetv2_cfnet.planning.plans import MALFORMED, read_plans

EXAMPLE = '"T1,T1ce|T2,FLAIR" or "0,1|2,3"'
READ_BY_PLANNERS = ("spacings", "shapes_after_crop", "median_relative_size_after_cropping", INTENSITIES)
RESERVED_NAMES = (DEFAULT_PLANS, *(f"nnUNetResEncUNet{size}Plans" for size in ("", "M", "L", "XL")), *NOT_PLANS)


class Dataset(NamedTuple):
    """A dataset to be planned: its folders, what its dataset.json says, and the modality groups of its network."""

    number: int
    raw: Path
    preprocessed: Path
    json: dict[str, Any]
    groups: ModalityGroups


def plan(
    dataset_ids: Sequence[int],
    planner: str,
    *,
    gpu_memory_target: float | None = None,
    preprocessor_name: str = DEFAULT_PREPROCESSOR,
    overwrite_target_spacing: Sequence[float] | None = None,
    overwrite_plans_name: str | None = None,
    groups: str | None = None,
    without: Sequence[str] = (),
) -> None:
    """Plan each dataset, its fingerprint extracted first where it is missing, and say what to do next.

    What nnU-Net prints on the way goes to a log file beside the plans.

    Args:
        dataset_ids: of datasets in nnUNet_raw.
        planner: one of PLANNERS.
        gpu_memory_target: in GB; None: the planner's.
        preprocessor_name: class of nnunetv2.preprocessing.
        overwrite_target_spacing: three numbers, in mm; None: nnU-Net's choice.
        overwrite_plans_name: None: the planner's.
        groups: channel names as in "T1,T1ce|T2,FLAIR"; None: chosen from dataset.json.
        without: parts of CFNet.

    Raises:
        UserError: bad input, before anything is written; or a memory target that no patch fits, which shows when the
            fingerprint is known. No plans of that dataset are written then.
    """
    if planner not in PLANNERS:
        raise UserError(
            f"-pl {planner}: CFNet's planners are {', '.join(PLANNERS)}. For nnU-Net's own planners use "
            "nnUNetv2_plan_experiment."
        )
    plans_name = overwrite_plans_name or PLANNERS[planner].preset_plans_name
    if not is_plain_name(plans_name):
        raise UserError(f"-overwrite_plans_name {plans_name}: give a name, without a folder.")
    _check_options(gpu_memory_target, preprocessor_name, overwrite_target_spacing)
    switched_off(without)
    datasets = [_read_dataset(number, groups) for number in dataset_ids]
    for dataset in datasets:
        _check_images(dataset)
        _check_preprocessed(dataset, plans_name)

    options = (gpu_memory_target, overwrite_target_spacing, groups, *without)
    as_preset = preprocessor_name == DEFAULT_PREPROCESSOR and all(option is None for option in options)
    if not as_preset and overwrite_plans_name is None:
        print(
            f"These are not the plans that {planner} makes on its own: -overwrite_plans_name keeps them apart from "
            f"{plans_name}."
        )
    for dataset in datasets:
        described = describe_groups(dataset.groups.groups, channel_names_of(dataset.json))
        print(f"{dataset.raw.name}: CFNet's modality groups: {described} - {dataset.groups.reason}.")
        with _nnunets_output_in(dataset.preprocessed / f"{plans_name}.log"):
            if not (dataset.preprocessed / f"{FINGERPRINT}.json").is_file():
                extract_fingerprint_dataset(dataset.number)
            plans, _ = plan_experiment_dataset(
                dataset.number,
                partial(PLANNERS[planner], modality_groups=dataset.groups.groups, without=without),
                gpu_memory_target,
                preprocessor_name,
                overwrite_target_spacing,
                overwrite_plans_name,
            )
        print(f"Plans: {dataset.preprocessed / f'{plans_name}.json'} (nnU-Net's output: {plans_name}.log)")
        print(_next_step(dataset, plans))


@contextmanager
def _nnunets_output_in(log: Path) -> Iterator[None]:
    """Screens of raw dictionaries; progress bars and warnings go to stderr and are seen.

    Raises:
        UserError: ours as it is, without a log; an error of nnU-Net's, most often about an image, with the log's place.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w") as file, redirect_stdout(file):
        try:
            yield
        except UserError:
            log.unlink()
            raise
        except Exception as error:
            traceback.print_exc(file=file)
            raise UserError(
                f"nnU-Net's planning stopped with {type(error).__name__}: {error}. What it printed is in {log}. Check "
                "the dataset with: nnUNetv2_extract_fingerprint -d ID --verify_dataset_integrity"
            ) from error


def _next_step(dataset: Dataset, plans: Mapping) -> str:
    """What to preprocess before training: never shared data that are there, since nnU-Net would make them anew."""
    there: list[str] = []
    missing: list[str] = []
    for name, configuration in plans["configurations"].items():
        identifier = configuration.get("data_identifier")  # a configuration that inherits its data has none
        if identifier is None:
            continue
        is_shared = not identifier.startswith(f"{plans['plans_name']}_")
        is_there = is_shared and is_preprocessed(dataset.preprocessed / identifier, dataset.raw)
        (there if is_there else missing).append(name)
    used = f"The data of {DEFAULT_PLANS} are there and are used for {', '.join(there)}. " if there else ""
    if not missing:
        return f"{used}Nothing is to be preprocessed."
    command = ["nnUNetv2_preprocess", "-d", str(dataset.number), "-plans_name", plans["plans_name"], "-c", *missing]
    return f"{used}Before training {', '.join(missing)}: {shlex.join(command)}"


def _check_options(
    gpu_memory_target: float | None, preprocessor_name: str, overwrite_target_spacing: Sequence[float] | None
) -> None:
    if gpu_memory_target is not None and not 0 < gpu_memory_target < math.inf:
        raise UserError(f"-gpu_memory_target {gpu_memory_target:g}: give a positive number of GB.")
    spacing = overwrite_target_spacing
    if spacing is not None and (len(spacing) != 3 or not all(0 < number < math.inf for number in spacing)):
        raise UserError(f"-overwrite_target_spacing {' '.join(map(str, spacing))}: give three positive numbers, in mm.")
    folder = os.path.join(nnunetv2.__path__[0], "preprocessing")
    if not isinstance(recursive_find_python_class(folder, preprocessor_name, "nnunetv2.preprocessing"), type):
        raise UserError(f"-preprocessor_name {preprocessor_name}: there is no such class in {folder}.")


def _read_dataset(number: int, groups: str | None) -> Dataset:
    raw, preprocessed = nnunet_folder("nnUNet_raw"), nnunet_folder("nnUNet_preprocessed")
    name = dataset_name(number)
    file = raw / name / "dataset.json"
    dataset_json = read_dataset(file, "Write it as nnU-Net's documentation/dataset_format.md says.")
    if not isinstance(dataset_json.get("numTraining"), int):
        raise UserError(
            f"{file}: numTraining={dataset_json.get('numTraining')!r} is missing or wrong; nnU-Net needs it."
        )
    try:
        chosen = resolve_modality_groups(dataset_json, {})
    except (ValueError, *MALFORMED) as error:
        raise UserError(f"{file}: {error}") from error
    if groups is not None:
        chosen = ModalityGroups(_named_groups(groups, channel_names_of(dataset_json)), "named by --groups")
    return Dataset(number, raw / name, preprocessed / name, dataset_json, chosen)


def _named_groups(text: str, names: list[str]) -> list[list[int]]:
    where = f'--groups "{text}"'
    given = [[channel.strip() for channel in group.split(",")] for group in text.split("|")]
    if len(given) != 2:
        raise UserError(f"{where}: give two groups, as in {EXAMPLE}; channels: {names}.")
    groups = [[int(c) if c.isdecimal() and c not in names else c for c in group] for group in given]
    try:
        return named_groups(groups, names, where, EXAMPLE)
    except ValueError as error:
        raise UserError(str(error)) from error


def _check_images(dataset: Dataset) -> None:
    images, ending = dataset.raw / "imagesTr", dataset.json["file_ending"]
    if not dataset.json.get("dataset") and not any(images.glob(f"*_0000{ending}")):
        raise UserError(f"{images} holds no images named *_0000{ending}: put the images there.")
    cases = get_filenames_of_train_images_and_targets(str(dataset.raw), dataset.json).values()
    for file in (file for case in cases for file in (*case["images"], case["label"])):
        if not Path(file).is_file():
            raise UserError(f"{file} is missing: put it there, or take its case out of {dataset.raw}.")


def _check_preprocessed(dataset: Dataset, plans_name: str) -> None:
    """UserError for files there that would stop planning, and for plans that are not CFNet's and would be lost."""
    file = dataset.preprocessed / f"{plans_name}.json"
    if plans_name in RESERVED_NAMES:
        raise UserError(
            f"{file} is for what nnU-Net's own commands put there: choose another name with -overwrite_plans_name."
        )
    if file.is_file():
        made_by = read_plans(file).get("experiment_planner_used")
        if made_by not in PLANNERS:
            raise UserError(
                f"{file} holds plans of {made_by or 'an unknown planner'}, which would be lost: choose another name "
                "with -overwrite_plans_name."
            )
    default_plans = dataset.preprocessed / f"{DEFAULT_PLANS}.json"
    if default_plans.is_file():
        read_plans(default_plans)
    fingerprint = dataset.preprocessed / f"{FINGERPRINT}.json"
    if fingerprint.is_file():
        remedy = f"Extract it anew: nnUNetv2_extract_fingerprint -d {dataset.number} --clean"
        extracted = read_json_object(fingerprint, remedy)
        for key in READ_BY_PLANNERS:
            if not extracted.get(key):
                raise UserError(f"{fingerprint} has no {key!r}. {remedy}")
