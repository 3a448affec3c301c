"""Predict cases from subsets of their channels by nnU-Net's own predictor, and evaluate what is predicted.

    raw images, the others set to zero -> nnUNetPredictor: preprocessing, sliding window, resampling
                                       -> metrics_of -> a record of each case and subset

Crop and normalisation see what they would see of a user's folder in which zero images stand for what is missing.
Nothing but the records is kept. One whose files still have the same content is not computed again.
"""

import io
import warnings
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import redirect_stdout
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas
from tqdm import tqdm

from nnunetv2_cfnet.errors import UserError
from nnunetv2_cfnet.evaluation.cases import (
    Metrics,
    Pair,
    add_record,
    case_executor,
    digest_of,
    find_differences,
    metrics_of,
    raise_problems,
    read_records,
    record_key,
    rows_of,
)
from nnunetv2_cfnet.evaluation.segmentations import (
    Images,
    Labelling,
    Segmentation,
    check_segmentation,
    read_image,
    read_images,
    read_segmentation,
)
from nnunetv2_cfnet.evaluation.subsets import Subset
from nnunetv2_cfnet.files.json_files import read_json_object
from nnunetv2_cfnet.files.processes import check_num_processes, run, run_while_made
from nnunetv2_cfnet.planning.plans import MALFORMED

if TYPE_CHECKING:
    from nnunetv2.imageio.base_reader_writer import BaseReaderWriter
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

CHECKPOINT = "checkpoint_final.pth"
OF_A_MODEL = ("plans.json", "dataset.json")  # what a prediction depends on, beside the checkpoint
DESCRIPTION = "cases"


class LeftOutCase(NamedTuple):
    """A case that a fold did not train on: that fold's folder, the images in channel order, the reference."""

    fold: Path
    images: tuple[Path, ...]
    reference: Path


class Job(NamedTuple):
    """A case to be predicted from a subset of its channels."""

    case: LeftOutCase
    subset: Subset


def check_predictable(model_folder: Path, configuration: str, folds: Iterable[int]) -> None:
    """What the predictor needs of a trained model, but for the weights in its checkpoints.

    Raises:
        UserError: it is not there, or the model takes more than images, as a cascade does.
    """
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    file, remedy = model_folder / "plans.json", "Copy it there from where the model was trained."
    plans = read_json_object(file, remedy)
    try:
        previous = PlansManager(plans).get_configuration(configuration).previous_stage_name
        reader_of(model_folder)
    except (ValueError, *MALFORMED) as error:
        raise UserError(f"{file} does not plan {configuration} ({type(error).__name__}: {error}). {remedy}") from error
    if previous is not None:
        raise UserError(
            f"-c {configuration} takes the segmentations of {previous} besides the images: evaluate {previous}, or a "
            "configuration that predicts from images alone."
        )
    for checkpoint in (model_folder / f"fold_{fold}" / CHECKPOINT for fold in folds):
        if not checkpoint.is_file():
            raise UserError(f"{checkpoint} is not there: copy it from where the model was trained.")
        if not zipfile.is_zipfile(checkpoint):  # torch writes the list of a file's parts last
            raise UserError(f"{checkpoint} is damaged or cut off: copy it anew from where the model was trained.")


def evaluate_jobs(
    jobs: Mapping[str, Job],
    labelling: Labelling,
    *,
    device: str,
    mirroring: bool,
    num_processes: int,
    records: Path,
) -> pandas.DataFrame:
    """Check all cases, then predict and evaluate each job.

    Args:
        jobs: key -> job. The key is that of the records, in later calls too.
        labelling: of the dataset.
        device: "cpu" or "cuda".
        mirroring: nnU-Net's test-time augmentation.
        num_processes: that evaluate, while this one predicts; with one, this one does both in turn.
        records: file that gets each job as it is finished. What is there of files with the same content is taken over.

    Returns:
        As evaluate_pairs does, with the jobs' keys as cases.

    Raises:
        UserError: something is wrong with a case or a checkpoint.
    """
    check_num_processes(num_processes)
    readers = {model: reader_of(model) for model in {job.case.fold.parent for job in jobs.values()}}
    keys = _keys_of(jobs, labelling, mirroring, readers)
    done = read_records(records, keys, labelling)
    if done:
        print(f"{len(done)} of {len(jobs)} predictions are taken over. Remove {records} to make them anew.", flush=True)
    todo = {key: job for key, job in jobs.items() if key not in done}

    with case_executor(min(num_processes, len(todo)), DESCRIPTION) as executor:
        cases = {job.case.images: (job.case, readers[job.case.fold.parent]) for job in todo.values()}
        problems = dict(run(executor, partial(_check_case, labelling=labelling), cases, f"checking {DESCRIPTION}"))
        raise_problems([problem for images in cases for problem in problems[images]], DESCRIPTION)
        evaluated = run_while_made(
            executor,
            partial(_evaluate, labelling=labelling),
            _predictions(todo, device, mirroring),
            most_waiting=2 * num_processes,
        )
        for key, metrics in tqdm(evaluated, "predicting and evaluating", len(todo), unit="prediction"):
            done[key] = metrics
            add_record(records, key, keys[key], metrics)
    return rows_of({key: done[key] for key in jobs})


def _keys_of(
    jobs: Mapping[str, Job],
    labelling: Labelling,
    mirroring: bool,
    readers: Mapping[Path, "type[BaseReaderWriter]"],
) -> dict[str, str]:
    """Of each job what its metrics depend on."""

    def files_of(case: LeftOutCase) -> list[Path]:
        of_model = [case.fold / CHECKPOINT, *(case.fold.parent / name for name in OF_A_MODEL)]
        return [*of_model, *case.images, case.reference]

    digests = {file: digest_of(file) for file in {file for job in jobs.values() for file in files_of(job.case)}}
    return {
        key: record_key(
            [*(digests[file] for file in files_of(job.case)), job.subset, mirroring],
            labelling,
            readers[job.case.fold.parent],
        )
        for key, job in jobs.items()
    }


def _check_case(case: tuple[LeftOutCase, "type[BaseReaderWriter]"], labelling: Labelling) -> list[str]:
    """What is wrong with its files, a sentence each."""
    (_, images, reference), reader = case
    problems, segmentation = check_segmentation(reference, labelling, reader)
    for file in images:
        try:
            image = read_image(file, reader)
        except UserError as error:
            problems.append(str(error))
            continue
        if segmentation is not None:
            channel = Segmentation(image.channels[0], tuple(image.properties["spacing"]), image.geometry)
            problems += find_differences(Pair(reference, file), segmentation, channel)
    return problems


def _predictions(
    jobs: Mapping[str, Job], device: str, mirroring: bool
) -> Iterator[tuple[str, tuple[Path, np.ndarray, "type[BaseReaderWriter]"]]]:
    """Key, reference and predicted labels of each job, and who reads the reference; a fold and a case at a time."""
    in_order = sorted(jobs.items(), key=lambda item: item[1].case)
    for fold, of_fold in groupby(in_order, lambda item: item[1].case.fold):
        predictor = load_predictor(fold, device, mirroring)
        reader = predictor.plans_manager.image_reader_writer_class
        for case, of_case in groupby(of_fold, lambda item: item[1].case):
            images = read_images(case.images, reader)
            for key, job in of_case:
                yield key, (case.reference, predict_subset(predictor, images, job.subset), reader)


def load_predictor(fold: Path, device: str, mirroring: bool) -> "nnUNetPredictor":
    """nnU-Net's predictor of one fold, with the settings of nnUNetv2_predict.

    Raises:
        UserError: it can't be built, or its weights do not fit.
    """
    import torch
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    try:
        with redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            predictor = nnUNetPredictor(use_mirroring=mirroring, device=torch.device(device), allow_tqdm=False)
            predictor.initialize_from_trained_model_folder(str(fold.parent), (fold.name.removeprefix("fold_"),))
    except Exception as error:  # a damaged file, or somebody's trainer, can raise anything
        raise UserError(
            f"{fold / CHECKPOINT} can't be used ({type(error).__name__}: {error}): copy it from where the model was "
            "trained, and put the trainer on nnUNet_extTrainer."
        ) from error
    return predictor


def predict_subset(predictor: "nnUNetPredictor", images: Images, subset: Subset) -> np.ndarray:
    """Labels that are predicted from some channels alone, the others set to zero; none where all of these are zero.

    Shape:
        Output: that of a channel.
    """
    present = np.zeros_like(images.channels)
    present[list(subset)] = images.channels[list(subset)]
    if not present.any():  # a case without any of these sequences: nobody would predict it
        return np.zeros(present.shape[1:], np.uint8)
    properties: dict[str, Any] = dict(images.properties)  # preprocessing adds to them
    with redirect_stdout(io.StringIO()):
        return predictor.predict_single_npy_array(present, properties)


def _evaluate(prediction: tuple[Path, np.ndarray, "type[BaseReaderWriter]"], labelling: Labelling) -> Metrics:
    reference, labels, reader = prediction
    return metrics_of(read_segmentation(reference, reader), labels, labelling)


def reader_of(model_folder: Path) -> "type[BaseReaderWriter]":
    """The reader that the model's images were preprocessed with."""
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    return PlansManager(str(model_folder / "plans.json")).image_reader_writer_class
