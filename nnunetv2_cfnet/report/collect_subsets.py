"""`nnunetv2_cfnet evaluate_subsets`: what trained models predict from every subset of their sequences.

cases that each fold left out, their raw images -> evaluate_jobs ----+
folders of predictions, one for each subset     -> evaluate_pairs ---+-> rows -> SubsetComparison -> report
"""

import json
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunetv2_cfnet.brats.editions import REGIONS
from nnunetv2_cfnet.errors import UserError, listing_of
from nnunetv2_cfnet.evaluation.cases import check_folders, evaluate_pairs, pair_files
from nnunetv2_cfnet.evaluation.predict_subsets import Job, LeftOutCase, check_predictable, evaluate_jobs
from nnunetv2_cfnet.evaluation.segmentations import Labelling, read_labelled_dataset
from nnunetv2_cfnet.evaluation.subsets import (
    Subset,
    check_channels,
    choose_subsets,
    means_of_subsets,
    subset_name,
)
from nnunetv2_cfnet.evaluation.summary import versions
from nnunetv2_cfnet.files.json_files import read_dataset_json, read_json_object
from nnunetv2_cfnet.files.lock import locked
from nnunetv2_cfnet.files.whole import check_place
from nnunetv2_cfnet.host import dataset_name, nnunet_folder
from nnunetv2_cfnet.planning.modality_groups import (
    ModalityGroups,
    channel_names_of,
    describe_groups,
    resolve_modality_groups,
)
from nnunetv2_cfnet.planning.plans import CFNET, PUBLISHED
from nnunetv2_cfnet.report.collect import (
    Contender,
    check_folds,
    check_labels,
    check_names,
    check_same_cases,
    left_out_pairs,
    model_folder,
    training_images,
)
from nnunetv2_cfnet.report.comparison import Model
from nnunetv2_cfnet.report.names import choose_names
from nnunetv2_cfnet.report.subsets import STEM, SubsetComparison, write_subsets_report
from nnunetv2_cfnet.report.write import check_report_place, size_of_page

RECORDS = ".cfnet_subsets.jsonl"  # of predictions, which stay
PROGRESS = ".cfnet_subsets_given.jsonl"
ENHANCING, LEAST_ENHANCING = "enhancing_tumor", 500  # voxels: of papers on missing sequences, as mmFormer's
REMEDY = "Copy it there from where the model was trained."
ZEROS = (
    "A subset's sequences were given as they are, and the others as images of zeros, before crop and normalisation. A "
    "case in which all sequences of a subset are zero counts as an empty prediction."
)


def evaluate_trained(
    dataset_id: int,
    configuration: str,
    names: Sequence[str],
    *,
    folds: Sequence[int],
    subsets: str | None,
    out: Path,
    device: str,
    mirroring: bool,
    num_processes: int,
    shown_names: Sequence[str] = (),
) -> None:
    """Predict the cases that the models' folds left out from each subset, and write the report.

    Args:
        dataset_id: theirs.
        configuration: theirs, such as "3d_fullres".
        names: TRAINER__PLANS of each; the first is compared with each of the others.
        folds: whose cases are predicted, each by the fold's own model.
        subsets: as choose_subsets takes them.
        out: folder of the report, and of the records that a later run takes over.
        device: "cpu" or "cuda".
        mirroring: nnU-Net's test-time augmentation.
        num_processes: at a time, which evaluate.
        shown_names: of the models in the report; none: short ones.

    Raises:
        UserError: something is wrong with the input; no report is written then.
    """
    check_names(names)
    shown = choose_names(names, shown_names)
    check_folds(folds)
    _check_out(out)
    dataset = dataset_name(dataset_id)
    folders = {name: model_folder(nnunet_folder("nnUNet_results") / dataset, name, configuration) for name in names}
    json_file = folders[names[0]] / "dataset.json"
    dataset_json, labelling = read_labelled_dataset(json_file, REMEDY)
    channels = _channels(dataset_json, json_file)
    chosen = choose_subsets(subsets, channels)
    for folder in folders.values():
        check_labels(folder / "dataset.json", labelling, json_file)
        _check_same_channels(folder / "dataset.json", channels, json_file)
    contenders = [
        Contender(name, [left_out_pairs(folder, dataset_json["file_ending"], folds)], [folder])
        for name, folder in folders.items()
    ]
    check_same_cases(contenders)
    for folder in folders.values():
        check_predictable(folder, configuration, folds)
    groups = _groups_of({shown[name]: folder for name, folder in folders.items()}, configuration, dataset_json)
    images = _raw_images(dataset, dataset_json, contenders[0].pairs[0], channels)
    jobs = {
        _key(contender.name, subset, case): Job(
            LeftOutCase(pair.prediction.parent.parent, images[case], pair.reference), subset
        )
        for contender in contenders
        for case, pair in contender.pairs[0].items()
        for subset in chosen
    }
    labelling = _with_large_enhancing(labelling)
    notes = [
        f"Cross-validation, folds {', '.join(map(str, folds))}: each case was predicted by the model that never saw it"
        + (", with mirroring." if mirroring else ", without mirroring."),
        ZEROS,
    ]
    with locked(out / f"{STEM}.json") as made_in:
        rows = evaluate_jobs(
            jobs, labelling, device=device, mirroring=mirroring, num_processes=num_processes, records=out / RECORDS
        )
        title = f"{dataset}, {configuration}, from every subset of its sequences"
        _report(title, rows, shown, labelling, channels, groups, chosen, notes, out, made_in)


def evaluate_given(
    predictions: Sequence[tuple[str, Path]],
    labels: Path,
    dataset_json_file: Path | None,
    *,
    subsets: str | None,
    out: Path,
    num_processes: int,
) -> None:
    """Evaluate predictions from elsewhere, of the same cases from each subset, and write the report.

    Args:
        predictions: name of each model, and its folder, which has one for each subset, named as in T1+FLAIR.
        labels: folder of the reference segmentations.
        dataset_json_file: dataset.json in the first folder if not given.
        subsets: as choose_subsets takes them.
        out: folder of the report.
        num_processes: at a time.

    Raises:
        UserError: something is wrong with the input; no report is written then.
    """
    names = [name for name, _ in predictions]
    check_names(names)
    _check_out(out)
    for _, folder in predictions:
        check_folders(labels, folder)
    json_file = dataset_json_file or predictions[0][1] / "dataset.json"
    dataset_json, labelling = read_labelled_dataset(
        json_file, "Give that of the model, or of the dataset, with -djfile."
    )
    channels = _channels(dataset_json, json_file)
    chosen = choose_subsets(subsets, channels)
    if dataset_json_file is None:
        for _, folder in predictions:
            if (folder / "dataset.json").is_file():
                check_labels(folder / "dataset.json", labelling, json_file)
                _check_same_channels(folder / "dataset.json", channels, json_file)
    pairs = {
        _key(name, subset, case): pair
        for name, folder in predictions
        for subset in chosen
        for case, pair in pair_files(labels, _folder_of(subset, folder, channels), dataset_json["file_ending"]).items()
    }
    labelling = _with_large_enhancing(labelling)
    with locked(out / f"{STEM}.json") as made_in:
        rows = evaluate_pairs(
            pairs,
            labelling,
            dataset_json,
            num_processes=num_processes,
            description="predictions",
            progress_file=out / PROGRESS,
        )
        title = f"Predictions of {labels.resolve()} from every subset of its sequences"
        groups = resolve_modality_groups(dataset_json, {})
        _report(
            title, rows, dict(zip(names, names, strict=True)), labelling, channels, groups, chosen, [], out, made_in
        )
        (out / PROGRESS).unlink(missing_ok=True)


def _check_out(out: Path) -> None:
    check_report_place(out, STEM)
    check_place(out, (RECORDS, PROGRESS))


def _channels(dataset_json: Mapping[str, Any], json_file: Path) -> list[str]:
    try:
        channels = channel_names_of(dataset_json)
        resolve_modality_groups(dataset_json, {})
    except ValueError as error:
        raise UserError(f"{json_file}: {error}") from error
    check_channels(channels, json_file)
    return channels


def _check_same_channels(json_file: Path, channels: Sequence[str], of_first: Path) -> None:
    others = _channels(read_dataset_json(json_file, REMEDY), json_file)
    if others != channels:
        raise UserError(
            f"{json_file} and {of_first} have different channels, {', '.join(others)} and {', '.join(channels)}: "
            "compare models that have the same ones."
        )


def _groups_of(folders: Mapping[str, Path], configuration: str, dataset_json: Mapping[str, Any]) -> ModalityGroups:
    """The modality groups of the first model that is a CFNet, else those of the dataset."""
    for name, folder in folders.items():
        plans = read_json_object(folder / "plans.json", REMEDY)
        architecture = PlansManager(plans).get_configuration(configuration).configuration["architecture"]
        if architecture.get("network_class_name") in (CFNET, PUBLISHED):
            named = architecture["arch_kwargs"].get("modality_groups")
            try:
                groups, reason = resolve_modality_groups(dataset_json, plans, named)
            except ValueError as error:
                raise UserError(f"{folder / 'plans.json'}: {error}") from error
            return ModalityGroups(groups, f"of {name}, {reason}")
    return resolve_modality_groups(dataset_json, {})


def _raw_images(
    dataset: str, dataset_json: Mapping[str, Any], cases: Mapping[str, object], channels: Sequence[str]
) -> dict[str, tuple[Path, ...]]:
    """The images of each case, in channel order."""
    raw = nnunet_folder("nnUNet_raw") / dataset
    images = {
        case: tuple(files.values())
        for case, files in training_images(dataset, dataset_json).items()
        if len(files) == len(channels)
    }
    if missing := sorted(cases.keys() - images.keys()):
        raise UserError(
            f"{raw}: {len(missing)} of {len(cases)} cases do not have their {len(channels)} images there: "
            f"{listing_of(missing)}. Put the dataset there that the models were trained on."
        )
    return images


def _folder_of(subset: Subset, folder: Path, channels: Sequence[str]) -> Path:
    """Of the predictions from a subset; its name may have the channels in any order and case."""
    name = subset_name(subset, channels)
    wanted = sorted(name.lower().split("+"))
    for path in sorted(folder.iterdir()):
        if path.is_dir() and sorted(path.name.lower().split("+")) == wanted:
            return path
    raise UserError(
        f"{folder} has no folder {name}, for what is predicted from these sequences alone: predict them, or name the "
        "subsets that are there in --subsets."
    )


def _with_large_enhancing(labelling: Labelling) -> Labelling:
    """BraTS's regions with one more, as papers have it: enhancing tumour, and none where it has few voxels."""
    if not REGIONS.keys() <= labelling.regions.keys():
        return labelling
    name = f"{ENHANCING} (none below {LEAST_ENHANCING} voxels)"
    return replace(
        labelling,
        regions={**labelling.regions, name: labelling.regions[ENHANCING]},
        least_voxels={name: LEAST_ENHANCING},
    )


def _key(model: str, subset: Subset, case: str) -> str:
    return json.dumps([model, subset, case])


def _report(
    title: str,
    table: pandas.DataFrame,
    names: Mapping[str, str],
    labelling: Labelling,
    channels: Sequence[str],
    modality_groups: ModalityGroups,
    subsets: Sequence[Subset],
    notes: Sequence[str],
    out: Path,
    made_in: Path,
) -> None:
    """Take the keys apart, write the report and say where it is."""
    groups, reason = modality_groups
    keys = table["case"].map(json.loads)
    table = table.assign(subset=[subset_name(subset, channels) for subset in keys.str[1]], case=keys.str[2])
    comparison = SubsetComparison(
        title=title,
        channels=channels,
        subsets=subsets,
        means=means_of_subsets(subsets, channels, groups),
        regions=list(labelling.regions),
        models=[Model(name, table[keys.str[0] == name].reset_index(drop=True), {}) for name in names],
        notes=[*notes, f"Modality groups: {describe_groups(groups, channels)} - {reason}."],
        provenance={"command": shlex.join(["nnunetv2_cfnet", *sys.argv[1:]]), **versions()},
    )
    write_subsets_report(comparison, names, out, made_in)
    print(
        f"{table['case'].nunique()} cases, {len(subsets)} subsets, {len(names)} models. Written: "
        f"{out / 'report.html'}, {STEM}.md, {STEM}.json"
    )
    print(f"The page has {size_of_page(out)}.")
