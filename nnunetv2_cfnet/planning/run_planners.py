"""What `nnunetv2_cfnet plan` and `plan_and_preprocess` do: check all input, then nnU-Net's own three steps."""

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import nnunetv2
from nnunetv2.experiment_planning.plan_and_preprocess_api import (
    extract_fingerprint_dataset,
    plan_experiment_dataset,
    preprocess_dataset,
)
from nnunetv2.experiment_planning.verify_dataset_integrity import verify_dataset_integrity
from nnunetv2.utilities.dataset_name_id_conversion import convert_id_to_dataset_name
from nnunetv2.utilities.find_class_by_name import recursive_find_python_class
from nnunetv2.utilities.label_handling.label_handling import LabelManager
from nnunetv2.utilities.utils import get_filenames_of_train_images_and_targets

from nnunetv2_cfnet.errors import UserError
from nnunetv2_cfnet.files.json_files import read_json_object
from nnunetv2_cfnet.host import nnunet_folder
from nnunetv2_cfnet.planning.modality_groups import (
    ModalityGroups,
    channel_names_of,
    describe_groups,
    named_groups,
    resolve_modality_groups,
)
from nnunetv2_cfnet.planning.planners import DEFAULT_PLANS, DEFAULT_PREPROCESSOR, PLANNERS, switched_off
from nnunetv2_cfnet.planning.plans import MALFORMED
from nnunetv2_cfnet.planning.show import describe_plans

PLANNED = ("2d", "3d_fullres", "3d_lowres", "3d_cascade_fullres")  # configurations that nnU-Net's planners can make
EXAMPLE = '"T1,T2|T1ce,FLAIR" or "0,2|1,3"'
FINGERPRINT = "dataset_fingerprint.json"
COPIED_BY_PLAN = "nnunetv2_cfnet plan copies it from nnUNet_raw."
# files of nnU-Net in a preprocessed dataset, less .json: of its planners, and others
RESERVED_NAMES = (
    DEFAULT_PLANS,
    *(f"nnUNetResEncUNet{size}Plans" for size in ("", "M", "L", "XL")),
    *("dataset", "dataset_fingerprint", "splits_final"),
)


@dataclass(frozen=True)
class Request:
    """What is to be planned: nnU-Net's flags under their names, and this package's own.

    Args:
        dataset_ids: -d
        planner: -pl
        gpu_memory_target: in GB; None: the planner's.
        preprocessor_name: class of nnunetv2.preprocessing.
        overwrite_target_spacing: three numbers, in mm; None: nnU-Net's choice.
        overwrite_plans_name: None: the planner's.
        groups: channel names as in "T1,T2|T1ce,FLAIR"; None: chosen from dataset.json.
        without: parts of CFNet.
    """

    dataset_ids: Sequence[int]
    planner: str
    gpu_memory_target: float | None
    preprocessor_name: str
    overwrite_target_spacing: Sequence[float] | None
    overwrite_plans_name: str | None
    groups: str | None
    without: Sequence[str]

    @property
    def plans_name(self) -> str:
        return self.overwrite_plans_name or PLANNERS[self.planner].preset_plans_name

    @property
    def is_as_preset(self) -> bool:
        """No option asks for other plans than the planner's own."""
        chosen = (self.gpu_memory_target, self.overwrite_target_spacing, self.groups)
        return chosen == (None, None, None) and not self.without and self.preprocessor_name == DEFAULT_PREPROCESSOR

    def plans_file(self, dataset: str) -> Path:
        return nnunet_folder("nnUNet_preprocessed") / dataset / f"{self.plans_name}.json"


def plan(request: Request, show: bool) -> None:
    """Plan each dataset, its fingerprint extracted first where it is missing.

    Args:
        request: what to plan.
        show: print the plans. Plans that exist are not made anew for it, unless an option asks for other ones.

    Raises:
        UserError: bad input, before anything is written; or a memory target that no patch fits, which shows when the
            fingerprint is known. No plans of that dataset are written then.
    """
    datasets = _check(request)
    if show and request.is_as_preset and request.overwrite_plans_name:
        for _, dataset in datasets:
            _read_plans(request.plans_file(dataset))  # a name to be shown, not one to be given to new plans
    to_plan = [
        (number, dataset)
        for number, dataset in datasets
        if not (show and request.is_as_preset and request.plans_file(dataset).is_file())
    ]
    for _, dataset in to_plan:
        _check_dataset(request, dataset)
    for number, dataset in to_plan:
        if not (nnunet_folder("nnUNet_preprocessed") / dataset / FINGERPRINT).is_file():
            extract_fingerprint_dataset(number)
    _plan(request, to_plan)
    if show:
        for _, dataset in datasets:
            dataset_json = read_json_object(
                nnunet_folder("nnUNet_preprocessed") / dataset / "dataset.json", COPIED_BY_PLAN
            )
            print(f"\n{describe_plans(_read_plans(request.plans_file(dataset)), dataset_json)}")


def plan_and_preprocess(
    request: Request,
    *,
    configurations: Sequence[str],
    num_processes: Sequence[int] | None,
    num_processes_fingerprint: int,
    verify: bool,
    clean: bool,
    preprocess: bool,
    verbose: bool,
    progress_bar: bool,
) -> None:
    """Extract fingerprints, plan, and preprocess, as nnUNetv2_plan_and_preprocess does.

    Args:
        request: what to plan.
        configurations: those to be preprocessed; one that a dataset does not have is skipped.
        num_processes: one for each configuration, or one for all; None: nnU-Net's defaults.
        num_processes_fingerprint: processes that verify and extract.
        verify: verify the datasets' integrity first.
        clean: extract fingerprints that exist already, too, and preprocess data that are shared anew.
        preprocess: False stops after planning.
        verbose: print what nnU-Net's --verbose prints.
        progress_bar: show nnU-Net's progress bars.

    Raises:
        UserError: see plan.
    """
    datasets = _check(request)
    if num_processes is None:
        # nnU-Net's (nnunetv2/experiment_planning/plan_and_preprocess_entrypoints.py)
        num_processes = [{"2d": 8, "3d_fullres": 4, "3d_lowres": 8}.get(name, 4) for name in configurations]
    if len(num_processes) not in (1, len(configurations)) or min(*num_processes, num_processes_fingerprint) < 1:
        raise UserError(
            f"-np {' '.join(map(str, num_processes))}, -npfp {num_processes_fingerprint}: give positive numbers, and "
            f"with -np one for all configurations or one for each of {', '.join(configurations)}."
        )
    for _, dataset in datasets:
        _check_dataset(request, dataset, clean=clean)
        file = request.plans_file(dataset)
        known = {*PLANNED, *(_read_plans(file)["configurations"] if file.is_file() else ())}
        if not known.issuperset(configurations):
            raise UserError(f"-c {' '.join(configurations)}: {dataset} can have {', '.join(sorted(known))}.")
    if verify:
        for _, dataset in datasets:
            try:
                verify_dataset_integrity(str(nnunet_folder("nnUNet_raw") / dataset), num_processes_fingerprint)
            except (AssertionError, OSError, RuntimeError) as error:
                raise UserError(
                    f"{nnunet_folder('nnUNet_raw') / dataset} is not as nnU-Net needs it: {error}"
                ) from error
    for number, _ in datasets:
        extract_fingerprint_dataset(
            number,
            num_processes=num_processes_fingerprint,
            clean=clean,
            verbose=verbose,
            show_progress_bar=progress_bar,
        )
    _plan(request, datasets)
    if preprocess:
        jobs = dict(zip(configurations, [*num_processes] * (len(configurations) // len(num_processes)), strict=True))
        for number, dataset in datasets:
            # --clean is for changed images
            there = [] if clean else [name for name in jobs if _is_shared_and_there(request, dataset, name)]
            for name in there:
                print(f"{dataset}, {name}: the data that {DEFAULT_PLANS} have are used.")
            todo = {name: processes for name, processes in jobs.items() if name not in there}
            preprocess_dataset(
                number, request.plans_name, list(todo), list(todo.values()), verbose, show_progress_bar=progress_bar
            )


def _is_shared_and_there(request: Request, dataset: str, configuration: str) -> bool:
    """Whether data that other plans use too are complete: nnU-Net's preprocessing would delete them first."""
    plans_file = request.plans_file(dataset)
    identifier = _read_plans(plans_file)["configurations"].get(configuration, {}).get("data_identifier")
    if identifier is None or identifier.startswith(request.plans_name):
        return False
    cases = get_filenames_of_train_images_and_targets(
        str(nnunet_folder("nnUNet_raw") / dataset), _dataset_json(dataset)
    )
    # nnU-Net writes a case's properties last
    return all(plans_file.with_name(identifier).joinpath(f"{case}.pkl").is_file() for case in cases)


def _plan(request: Request, datasets: Sequence[tuple[int, str]]) -> None:
    if not request.is_as_preset and not request.overwrite_plans_name:
        print(
            f"These are not the plans that {request.planner} makes on its own: -overwrite_plans_name keeps them apart "
            f"from {request.plans_name}."
        )
    for number, dataset in datasets:
        dataset_json = _dataset_json(dataset)
        groups = _groups(request, dataset_json)
        described = describe_groups(groups.groups, channel_names_of(dataset_json))
        print(f"{dataset}: CFNet's modality groups: {described} - {groups.reason}.")
        plan_experiment_dataset(
            number,
            partial(PLANNERS[request.planner], modality_groups=groups.groups, without=request.without),
            request.gpu_memory_target,
            request.preprocessor_name,
            request.overwrite_target_spacing,
            request.overwrite_plans_name,
        )


def _check(request: Request) -> list[tuple[int, str]]:
    """The datasets' ids and names; UserError for what is wrong with the request, whatever the datasets are."""
    if request.planner not in PLANNERS:
        raise UserError(
            f"-pl {request.planner}: CFNet's planners are {', '.join(PLANNERS)}. For nnU-Net's own planners use "
            "nnUNetv2_plan_experiment."
        )
    target, spacing = request.gpu_memory_target, request.overwrite_target_spacing
    if target is not None and not 0 < target < math.inf:
        raise UserError(f"-gpu_memory_target {target:g}: give a positive number of GB.")
    if spacing is not None and (len(spacing) != 3 or not all(0 < number < math.inf for number in spacing)):
        raise UserError(f"-overwrite_target_spacing {' '.join(map(str, spacing))}: give three positive numbers, in mm.")
    switched_off(request.without)
    if Path(request.plans_name).name != request.plans_name or request.plans_name.startswith("."):
        raise UserError(f"-overwrite_plans_name {request.plans_name}: give a name, without a folder.")
    folder = os.path.join(nnunetv2.__path__[0], "preprocessing")
    if not isinstance(recursive_find_python_class(folder, request.preprocessor_name, "nnunetv2.preprocessing"), type):
        raise UserError(f"-preprocessor_name {request.preprocessor_name}: there is no such class in {folder}.")
    for variable in ("nnUNet_raw", "nnUNet_preprocessed"):
        nnunet_folder(variable)
    try:
        return [(number, str(convert_id_to_dataset_name(number))) for number in request.dataset_ids]
    except RuntimeError as error:
        raise UserError(str(error)) from error


def _check_dataset(request: Request, dataset: str, clean: bool = False) -> None:
    """UserError for what would stop planning this dataset, or lose plans that are not CFNet's."""
    dataset_json = _dataset_json(dataset)
    _groups(request, dataset_json)
    raw = nnunet_folder("nnUNet_raw") / dataset
    images, ending = raw / "imagesTr", dataset_json["file_ending"]
    if not dataset_json.get("dataset") and not any(images.glob(f"*_0000{ending}")):
        raise UserError(f"{images} holds no images named *_0000{ending}: put the images there.")
    cases = get_filenames_of_train_images_and_targets(str(raw), dataset_json).values()
    for file in (file for case in cases for file in (*case["images"], case["label"])):
        if not Path(file).is_file():
            raise UserError(f"{file} is missing: put it there, or take its case out of {raw}.")

    file = request.plans_file(dataset)
    if request.plans_name in RESERVED_NAMES:
        raise UserError(
            f"{file} is for what nnU-Net's own commands put there: choose another name with -overwrite_plans_name."
        )
    if file.is_file():
        made_by = _read_plans(file).get("experiment_planner_used")
        if made_by not in PLANNERS:
            raise UserError(
                f"{file} holds plans of {made_by or 'an unknown planner'}, which would be lost: choose another name "
                "with -overwrite_plans_name."
            )
    default_plans = file.with_name(f"{DEFAULT_PLANS}.json")
    if default_plans.is_file():
        _read_plans(default_plans)
    fingerprint = file.with_name(FINGERPRINT)
    if fingerprint.is_file() and not clean:
        way_out = f"Extract it anew: nnUNetv2_extract_fingerprint -d {int(dataset[7:10])} --clean"
        extracted = read_json_object(fingerprint, way_out)
        # what nnU-Net's planners read
        for key in (
            "spacings",
            "shapes_after_crop",
            "median_relative_size_after_cropping",
            "foreground_intensity_properties_per_channel",
        ):
            if not extracted.get(key):
                raise UserError(f"{fingerprint} has no {key!r}. {way_out}")


def _groups(request: Request, dataset_json: dict) -> ModalityGroups:
    if request.groups is None:
        return resolve_modality_groups(dataset_json, {})
    names, where = channel_names_of(dataset_json), f'--groups "{request.groups}"'
    given = [[channel.strip() for channel in group.split(",")] for group in request.groups.split("|")]
    if len(given) != 2:
        raise UserError(f"{where}: give two groups, as in {EXAMPLE}; channels: {names}.")
    groups = [[int(c) if c.isdecimal() and c not in names else c for c in group] for group in given]
    try:
        return ModalityGroups(named_groups(groups, names, where, EXAMPLE), "named by --groups")
    except ValueError as error:
        raise UserError(str(error)) from error


def _dataset_json(dataset: str) -> dict:
    file = nnunet_folder("nnUNet_raw") / dataset / "dataset.json"
    dataset_json = read_json_object(file, "Write it as nnU-Net's documentation/dataset_format.md says.")
    for key, kind in (("labels", dict), ("numTraining", int), ("file_ending", str)):
        if not isinstance(dataset_json.get(key), kind):
            raise UserError(f"{file}: {key}={dataset_json.get(key)!r} is missing or wrong; nnU-Net needs it.")
    try:
        resolve_modality_groups(dataset_json, {})
        LabelManager(dataset_json["labels"], dataset_json.get("regions_class_order"))
    except (AssertionError, ValueError, *MALFORMED) as error:
        raise UserError(f"{file}: {error or 'regions_class_order is missing or wrong'}") from error
    return dataset_json


def _read_plans(file: Path) -> dict:
    way_out = "Restore it, or delete it to plan anew."
    plans = read_json_object(file, way_out)
    if not isinstance(plans.get("configurations"), dict):
        raise UserError(f"{file} has no configurations. {way_out}")
    return plans
