"""`nnunetv2_cfnet compare`: models that nnU-Net trained, or folders of predictions, side by side.

    nnUNet_results/DATASET/TRAINER__PLANS__CONFIGURATION -> its cross-validation -> evaluate_pairs -> rows
                                                         -> logs, a training step -> Curves, Cost
    rows of all models -> paired_tests, brats_ranks -> Comparison -> compare.md, compare.json, figures, report.html

All files of all models are checked before the first case is evaluated. Results are kept while the rest is computed, so
that an interrupted run goes on.
"""

import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas

from nnunetv2_cfnet.errors import UserError, listing_of
from nnunetv2_cfnet.evaluation.cases import Pair, check_folders, evaluate_pairs, pair_files
from nnunetv2_cfnet.evaluation.cross_validation import cross_validation
from nnunetv2_cfnet.evaluation.metrics import METRICS
from nnunetv2_cfnet.evaluation.segmentations import Labelling, read_labelled_dataset
from nnunetv2_cfnet.evaluation.summary import versions
from nnunetv2_cfnet.files.lock import locked
from nnunetv2_cfnet.files.whole import check_place
from nnunetv2_cfnet.host import dataset_name, nnunet_folder
from nnunetv2_cfnet.planning.modality_groups import channel_names_of
from nnunetv2_cfnet.report.comparison import Comparison, Model
from nnunetv2_cfnet.report.model_cost import Logs, measure_cost, read_logs
from nnunetv2_cfnet.report.names import choose_names
from nnunetv2_cfnet.report.presentation import Presentation
from nnunetv2_cfnet.report.statistics import brats_ranks, paired_tests
from nnunetv2_cfnet.report.write import JSON, check_report_place, size_of_page, write_report

PROGRESS = ".cfnet_compare.jsonl"


@dataclass(frozen=True)
class Contender:
    """A model before it is evaluated.

    name: as the report calls it.
    pairs: for each replicate, the files by case.
    folders: for each replicate, the model folder; none where predictions were given.
    """

    name: str
    pairs: Sequence[Mapping[str, Pair]]
    folders: Sequence[Path] = ()


def compare_models(
    dataset_id: int,
    configuration: str,
    names: Sequence[str],
    *,
    folds: Sequence[int],
    out: Path,
    num_processes: int,
    results: Sequence[Path] | None = None,
    presentation: Presentation | None = None,
) -> None:
    """Compare the cross-validation of models that nnU-Net trained.

    Args:
        dataset_id: theirs.
        configuration: theirs, such as "3d_fullres".
        names: TRAINER__PLANS of each; the first is compared with each of the others.
        folds: whose cases are compared.
        out: folder of the report.
        num_processes: at a time.
        results: folders in place of nnUNet_results, one for each replicate of the trainings.
        presentation: how the report shows it; the default one if not given.

    Raises:
        UserError: something is wrong with the input; no report is written then.
    """
    _check(names, "--models TRAINER__PLANS TRAINER__PLANS ..", out)
    check_folds(folds)
    presentation = presentation or Presentation()
    shown_names = choose_names(names, presentation.names)
    if results is None:
        results = [nnunet_folder("nnUNet_results")]
    dataset = dataset_name(dataset_id)
    folders = {name: [model_folder(root / dataset, name, configuration) for root in results] for name in names}
    json_file = folders[names[0]][0] / "dataset.json"
    dataset_json, labelling = read_labelled_dataset(json_file, "Copy it there from where the model was trained.")
    for folder in (folder for replicates in folders.values() for folder in replicates):
        check_labels(folder / "dataset.json", labelling, json_file)
    contenders = [
        Contender(
            name, [left_out_pairs(folder, dataset_json["file_ending"], folds) for folder in replicates], replicates
        )
        for name, replicates in folders.items()
    ]
    check_same_cases(contenders)
    logs = {contender.name: read_logs(contender.folders, folds) for contender in contenders}

    notes = [
        f"Cross-validation, folds {', '.join(map(str, folds))}: each case was predicted by models that never saw it."
    ]
    notes += _budget_notes({shown_names[name]: log for name, log in logs.items()})
    if len(results) > 1:
        notes.append(
            f"Each model was trained {len(results)} times. In tests and plots, the metrics of a case are means over "
            "these trainings; pictures are those of the first."
        )
    with locked(out / JSON) as made_in:
        evaluated = _evaluate(contenders, labelling, dataset_json, out, num_processes)
        models = [
            _with_cost(model, contender.folders[0], configuration, logs[model.name])
            for model, contender in zip(evaluated, contenders, strict=True)
        ]
        _report(
            f"{dataset}, {configuration}",
            contenders,
            models,
            labelling,
            images=training_images(dataset, dataset_json),
            notes=notes,
            out=out,
            made_in=made_in,
            presentation=presentation,
        )


def compare_predictions(
    predictions: Sequence[tuple[str, Path]],
    labels: Path,
    dataset_json_file: Path | None,
    *,
    out: Path,
    num_processes: int,
    presentation: Presentation,
) -> None:
    """Compare folders of predictions of the same cases.

    Args:
        predictions: name and folder of each model; the first is compared with each of the others.
        labels: folder of the reference segmentations.
        dataset_json_file: dataset.json beside the first predictions if not given.
        out: folder of the report.
        num_processes: at a time.
        presentation: how the report shows it.

    Raises:
        UserError: something is wrong with the input; no report is written then.
    """
    _check([name for name, _ in predictions], "--predictions NAME=FOLDER NAME=FOLDER ..", out)
    for _, folder in predictions:
        check_folders(labels, folder)
    json_file = dataset_json_file or predictions[0][1] / "dataset.json"
    dataset_json, labelling = read_labelled_dataset(
        json_file, "Give that of the model, or of the dataset, with -djfile."
    )
    if dataset_json_file is None:
        for _, folder in predictions:
            if (folder / "dataset.json").is_file():
                check_labels(folder / "dataset.json", labelling, json_file)
    contenders = [
        Contender(name, [pair_files(labels, folder, dataset_json["file_ending"])]) for name, folder in predictions
    ]
    with locked(out / JSON) as made_in:
        models = _evaluate(contenders, labelling, dataset_json, out, num_processes)
        _report(
            f"Predictions of {labels.resolve()}",
            contenders,
            models,
            labelling,
            images=images_beside(labels, contenders[0].pairs[0], dataset_json),
            notes=[],
            out=out,
            made_in=made_in,
            presentation=presentation,
        )


def _check(names: Sequence[str], usage: str, out: Path) -> None:
    """Refuse what no comparison can be made of, or written to."""
    if len(names) < 2:
        raise UserError(f"A comparison takes two models at least: give {usage}")
    check_names(names)
    check_report_place(out)
    check_place(out, (PROGRESS,))


def check_names(names: Sequence[str]) -> None:
    """A UserError where a model is named twice."""
    if repeated := {name for name in names if names.count(name) > 1}:
        raise UserError(f"{', '.join(sorted(repeated))} is given twice: name each model once.")


def check_folds(folds: Sequence[int]) -> None:
    """A UserError where a fold is named twice."""
    if len(set(folds)) < len(folds):
        raise UserError(f"--folds {' '.join(map(str, folds))}: give each once.")


def model_folder(dataset_folder: Path, name: str, configuration: str) -> Path:
    """Where nnU-Net trained TRAINER__PLANS; a UserError where it did not."""
    if len(name.split("__")) != 2:
        raise UserError(f"{name} is no model: give TRAINER__PLANS, as in nnUNetTrainerCFNet__nnUNetPlans.")
    folder = dataset_folder / f"{name}__{configuration}"
    if not folder.is_dir():
        trained = sorted(path.name for path in dataset_folder.glob(f"*__*__{configuration}"))
        there = (
            f"Trained there for {configuration} are {', '.join(trained)}" if trained else "Nothing was trained there"
        )
        raise UserError(f"{folder} is not there. {there}: name one of these in --models, or train it.")
    return folder


def check_labels(json_file: Path, labelling: Labelling, of_first: Path) -> None:
    """A UserError where a dataset.json has other labels than the first one."""
    _, other = read_labelled_dataset(json_file, "Copy it there from where the model was trained.")
    if other != labelling:
        raise UserError(
            f"{json_file} and {of_first} have different labels, {dict(other.regions)} and {dict(labelling.regions)}: "
            "compare models that have the same ones."
        )


def left_out_pairs(folder: Path, ending: str, folds: Sequence[int]) -> dict[str, Pair]:
    """Label and prediction of each case of a model's cross-validation, in order."""
    predictions, labels = cross_validation(folder, ending, folds)
    return {case: Pair(labels[case], predictions[case]) for case in sorted(predictions)}


def check_same_cases(contenders: Sequence[Contender]) -> None:
    """A UserError where they have not."""
    first = contenders[0].pairs[0].keys()
    for contender in contenders:
        for replicate, pairs in enumerate(contender.pairs):
            who = contender.name + (f" (replicate {replicate})" if replicate else "")
            for cases, problem in (
                (first - pairs.keys(), f"{who} did not predict"),
                (pairs.keys() - first, f"{who} alone predicted"),
            ):
                if cases:
                    raise UserError(
                        f"The models' cases differ: {len(cases)} that {problem}: {listing_of(sorted(cases))}. Compare "
                        "models that were trained with the same splits_final.json, or the folds that agree, with "
                        "--folds."
                    )


def _evaluate(
    contenders: Sequence[Contender],
    labelling: Labelling,
    dataset_json: Mapping[str, Any],
    out: Path,
    num_processes: int,
) -> list[Model]:
    """All models at once, so that every file is checked before the first case is evaluated."""
    pairs = {
        f"{number}/{replicate}/{case}": pair
        for number, contender in enumerate(contenders)
        for replicate, by_case in enumerate(contender.pairs)
        for case, pair in by_case.items()
    }
    table = evaluate_pairs(
        pairs,
        labelling,
        dataset_json,
        num_processes=num_processes,
        description=f"cases of {len(contenders)} models",
        progress_file=out / PROGRESS,
    )
    keys = table["case"].str.split("/", n=2)
    table["case"] = keys.str[2]
    models = []
    for number, contender in enumerate(contenders):
        replicates = [
            table[(keys.str[0] == str(number)) & (keys.str[1] == str(replicate))].reset_index(drop=True)
            for replicate in range(len(contender.pairs))
        ]
        by_case = pandas.concat(replicates).groupby(["case", "region"], sort=False)
        rows = by_case[list(METRICS)].mean(skipna=False).reset_index()
        predictions = {case: pair.prediction for case, pair in contender.pairs[0].items()}
        several = replicates if len(replicates) > 1 else ()
        models.append(Model(contender.name, rows, predictions, replicate_rows=several))
    return models


def _with_cost(model: Model, folder: Path, configuration: str, logs: Logs) -> Model:
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    print(f"Measuring a training step of {model.name} ({device})", flush=True)
    cost = measure_cost(folder, configuration, device)
    return replace(
        model, curves=logs.curves, cost=replace(cost, epoch_s=logs.epoch_s, notes=(*cost.notes, *logs.notes))
    )


def _report(
    title: str,
    contenders: Sequence[Contender],
    models: Sequence[Model],
    labelling: Labelling,
    *,
    images: Mapping[str, Mapping[str, Path]],
    notes: Sequence[str],
    out: Path,
    made_in: Path,
    presentation: Presentation,
) -> None:
    """Compare the models' rows, write the report and say where it is."""
    references = {case: pair.reference for case, pair in contenders[0].pairs[0].items()}
    comparison = Comparison(
        title=title,
        regions=labelling.regions,
        models=models,
        tests=paired_tests(models, labelling.regions),
        ranks=brats_ranks(models),
        references=references,
        images=images,
        ignore_label=labelling.ignore_label,
        notes=notes,
        provenance={"command": shlex.join(["nnunetv2_cfnet", *sys.argv[1:]]), **versions()},
    )
    write_report(comparison, out, made_in, presentation)
    (out / PROGRESS).unlink(missing_ok=True)
    print(f"{len(references)} cases, {len(models)} models. Written: {out / 'report.html'}, compare.md, compare.json")
    print(f"The page has {size_of_page(out)}.")


def _budget_notes(logs: Mapping[str, Logs]) -> list[str]:
    """A warning where models were not trained as long as each other."""
    epochs = {name: sorted({len(fold.train_losses) for fold in log.curves}) for name, log in logs.items()}
    if len({tuple(lengths) for lengths in epochs.values()}) == 1:
        return []
    listed = ", ".join(f"{name} {' or '.join(map(str, lengths))}" for name, lengths in epochs.items())
    return [
        f"The models were trained for different numbers of epochs ({listed}): this is no comparison at equal budget."
    ]


def training_images(dataset: str, dataset_json: Mapping[str, Any]) -> dict[str, dict[str, Path]]:
    """The images of each case by channel; none where the raw dataset is not at hand."""
    from nnunetv2.utilities.utils import get_filenames_of_train_images_and_targets

    try:
        names = channel_names_of(dataset_json)
        cases = get_filenames_of_train_images_and_targets(str(nnunet_folder("nnUNet_raw") / dataset))
    except (ValueError, OSError):  # no names, no nnUNet_raw, or no dataset.json or imagesTr there
        return {}
    return {
        case: dict(zip(names, map(Path, files["images"]), strict=False))
        for case, files in cases.items()
        if all(Path(file).is_file() for file in files["images"])
    }


def images_beside(
    labels: Path, cases: Mapping[str, Pair], dataset_json: Mapping[str, Any]
) -> dict[str, dict[str, Path]]:
    """The images of each case where labels are in a raw dataset: imagesTr beside labelsTr, imagesTs beside labelsTs."""
    labels = labels.resolve()
    folder = labels.with_name(labels.name.replace("labels", "images"))
    if folder == labels or not folder.is_dir():
        return {}
    ending = dataset_json["file_ending"]
    try:
        names = channel_names_of(dataset_json)
    except ValueError:  # they are needed for pictures only
        return {}
    files = {case: {name: folder / f"{case}_{i:04d}{ending}" for i, name in enumerate(names)} for case in cases}
    return {case: images for case, images in files.items() if all(file.is_file() for file in images.values())}
