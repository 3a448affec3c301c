"""A trained model's cross-validation: what each fold predicted of the cases that it left out, and their labels.

nnUNet_results/DATASET/TRAINER__PLANS__CONFIGURATION/fold_F/validation/CASE.nii.gz
nnUNet_preprocessed/DATASET/gt_segmentations/CASE.nii.gz (a copy of nnUNet_raw/DATASET/labelsTr)
"""

import json
import os
from collections.abc import Sequence
from pathlib import Path

from nnunetv2_cfnet.errors import UserError, listing_of
from nnunetv2_cfnet.files.json_files import read_json, read_json_object
from nnunetv2_cfnet.files.names import is_plain_name
from nnunetv2_cfnet.files.volumes import files_by_case

VALIDATE = "validate them with nnUNetv2_train .. --val"


def cross_validation(
    model_folder: Path, ending: str, folds: Sequence[int] | None = None
) -> tuple[dict[str, Path], dict[str, Path]]:
    """Find the predictions of a model's folds and their labels.

    Args:
        model_folder: with fold_0, fold_1, ..
        ending: of the files, as in ".nii.gz".
        folds: that have to be there, their validation finished; None: all, which together predict every case.

    Returns:
        Predictions and labels by case, the same cases in both.

    Raises:
        UserError: a fold, a prediction or a label is missing, or a case is predicted twice.
    """
    predictions = _predictions(model_folder, ending, folds)
    folder, labels = _labels(model_folder, ending)
    splits_file = folder.parent / "splits_final.json"
    left_out = _left_out_cases(splits_file) if splits_file.exists() else [set(labels)] if folds is None else []
    # nnU-Net splits by chance for a fold beyond the list: its cases are not known
    if folds is None or max(folds) < len(left_out):
        expected = set().union(*(left_out if folds is None else [left_out[fold] for fold in folds]))
        if folds is not None and (leaked := sorted(predictions.keys() - expected)):
            raise UserError(
                f"{model_folder}: folds {listing_of(folds)} predicted {len(leaked)} cases that they don't leave out by "
                f"{splits_file}: {listing_of(leaked)}. Restore the splits that the model was trained with, or remove "
                "predictions that are left over from others."
            )
        if missing := sorted(expected - predictions.keys()):
            raise UserError(
                f"{model_folder}: {len(missing)} of {len(expected)} cases have no cross-validation prediction, such as "
                f"{missing[0]}. Train the missing folds, or {VALIDATE}."
            )
    unlabelled = sorted(predictions.keys() - labels.keys())
    if unlabelled:
        raise UserError(
            f"{len(unlabelled)} cross-validation predictions have no label in {folder}, such as "
            f"{predictions[unlabelled[0]]}. Put the dataset there that the model was trained on."
        )
    return predictions, {case: labels[case] for case in predictions}


def _predictions(model_folder: Path, ending: str, folds: Sequence[int] | None) -> dict[str, Path]:
    if folds is None:
        found = sorted(model_folder.glob("fold_[0-9]*"))  # fold_all has seen the cases that it is validated on
    else:
        found = [model_folder / f"fold_{fold}" for fold in folds]
        unfinished = [fold.name for fold in found if not (fold / "validation" / "summary.json").is_file()]
        if unfinished:
            raise UserError(
                f"{model_folder}: {', '.join(unfinished)} {'is' if len(unfinished) == 1 else 'are'} not trained and "
                "validated to the end (no validation/summary.json). Go on with nnUNetv2_train .. --c, or choose other "
                "--folds."
            )
    predictions: dict[str, Path] = {}
    for fold in found:
        for case, path in files_by_case(fold / "validation", ending).items():
            if case in predictions:
                raise UserError(
                    f"{predictions[case]} and {path}: a cross-validation predicts each case once. Remove the folds of "
                    "the other split."
                )
            predictions[case] = path
    if not predictions:
        raise UserError(
            f"{model_folder} has no cross-validation predictions (fold_*/validation/*{ending}). Train its folds, or "
            f"{VALIDATE}."
        )
    return predictions


def _labels(model_folder: Path, ending: str) -> tuple[Path, dict[str, Path]]:
    """The folder of the dataset's labels, and its files by case."""
    plans_file = model_folder / "plans.json"
    dataset = model_folder.resolve().parent.name  # where nnU-Net trains it
    if plans_file.exists():  # which knows the dataset wherever the folder was moved to
        remedy = "Copy it from where the model was trained."
        dataset = read_json_object(plans_file, remedy).get("dataset_name", dataset)
        if not is_plain_name(dataset):
            raise UserError(f"{plans_file}: dataset_name is {json.dumps(dataset)}, no name. {remedy}")
    tried = []
    for variable, subfolder in (("nnUNet_preprocessed", "gt_segmentations"), ("nnUNet_raw", "labelsTr")):
        if not os.environ.get(variable):
            tried.append(f"{variable} is not set")
            continue
        folder = Path(os.environ[variable], dataset, subfolder)
        if labels := files_by_case(folder, ending):
            return folder, labels
        tried.append(f"nothing in {folder}")
    raise UserError(
        f"The labels of {dataset}, which {model_folder} was trained on, are not found: {'; '.join(tried)}. Set "
        "nnU-Net's folders as for the training."
    )


def _left_out_cases(splits_file: Path) -> list[set[str]]:
    """The cases that each fold is validated on."""
    remedy = "Put the file there that the model was trained with."
    splits = read_json(splits_file, remedy)
    try:
        left_out = [set(split["val"]) for split in splits]
    except (KeyError, TypeError):
        left_out = [{None}]
    if not isinstance(splits, list) or not all(isinstance(case, str) for cases in left_out for case in cases):
        raise UserError(f'{splits_file} does not list cases under "val" in each of its splits. {remedy}')
    return left_out
