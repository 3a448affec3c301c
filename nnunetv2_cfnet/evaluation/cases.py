"""Cases: pairs of files -> check them all -> region_metrics of each -> a row for each case and region.

Each finished case is noted in a file, so that an interrupted evaluation goes on where it was.
"""

import json
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, nullcontext, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas

from nnunetv2_cfnet import __version__
from nnunetv2_cfnet.errors import UserError, lines_of, listing_of
from nnunetv2_cfnet.evaluation.metrics import METRICS, region_metrics
from nnunetv2_cfnet.evaluation.segmentations import (
    Labelling,
    Segmentation,
    check_segmentation,
    choose_reader,
    read_segmentation,
)
from nnunetv2_cfnet.files.digests import content_digest
from nnunetv2_cfnet.files.json_files import to_json
from nnunetv2_cfnet.files.processes import check_num_processes, run, workers
from nnunetv2_cfnet.files.volumes import files_by_case

if TYPE_CHECKING:
    from nnunetv2.imageio.base_reader_writer import BaseReaderWriter

Metrics = dict[str, dict[str, float]]  # region -> metric -> value


class Pair(NamedTuple):
    """The files of one case."""

    reference: Path
    prediction: Path


def check_folders(labels: Path, predictions: Path) -> None:
    """A UserError if one of them is no folder."""
    for folder in (labels, predictions):
        if not folder.is_dir():
            raise UserError(f"{folder} is no folder: give the one with the labels, and that of the predictions.")


def pair_files(labels: Path, predictions: Path, ending: str) -> dict[str, Pair]:
    """The cases of both folders, which must be the same.

    Raises:
        UserError: they are not, or there are none.
    """
    references, predicted = files_by_case(labels, ending), files_by_case(predictions, ending)
    for folder, files in ((labels, references), (predictions, predicted)):
        if not files:
            raise UserError(
                f"{folder} holds no files ending in {ending}, the file_ending of dataset.json: give another folder, or "
                "-djfile."
            )
    differences = []
    if missing := references.keys() - predicted.keys():
        differences.append(f"{len(missing)} without a prediction in {predictions}: {listing_of(sorted(missing))}")
    if extra := predicted.keys() - references.keys():
        differences.append(f"{len(extra)} without a label in {labels}: {listing_of(sorted(extra))}")
    if differences:
        raise UserError(
            f"The cases of both folders differ, {'; and '.join(differences)}. Predict what is missing, and remove what "
            "is too much or evaluate it elsewhere: means over other cases can't be compared."
        )
    return {case: Pair(references[case], predicted[case]) for case in references}


def evaluate_pairs(
    pairs: Mapping[str, Pair],
    labelling: Labelling,
    dataset_json: Mapping[str, Any],
    *,
    num_processes: int,
    description: str,
    progress_file: Path,
) -> pandas.DataFrame:
    """Check all cases, then evaluate them.

    Args:
        pairs: the files of each case.
        labelling: of the dataset.
        dataset_json: of the dataset; decides which of nnU-Net's readers reads the files.
        num_processes: at a time; one works without any process beside this one.
        description: of the cases, for progress bars and messages, as in "cases of nnUNetTrainer".
        progress_file: gets each case as it is finished. A later call takes over what is there of files with the same
            content. The caller deletes it when the results are safe.

    Returns:
        Columns case, region and METRICS; a row for each case and region, in the order of pairs and regions.

    Raises:
        UserError: something is wrong with a case; the message lists the problems of all of them.
    """
    check_num_processes(num_processes)
    reader = choose_reader(dataset_json, [file for pair in pairs.values() for file in pair])
    digests = {file: digest_of(file) for file in {file for pair in pairs.values() for file in pair}}
    keys = {case: record_key([digests[file] for file in pair], labelling, reader) for case, pair in pairs.items()}
    done = read_records(progress_file, keys, labelling)
    if done:
        print(
            f"{len(done)} of {len(pairs)} {description} are taken over from an interrupted run. Remove {progress_file} "
            "to evaluate them anew.",
            flush=True,
        )
    todo = {case: pair for case, pair in pairs.items() if case not in done}

    with case_executor(min(num_processes, len(todo)), description) as executor:
        check = partial(_check_pair, labelling=labelling, reader=reader)
        problems = dict(run(executor, check, todo, f"checking {description}"))
        raise_problems([problem for case in todo for problem in problems[case]], description)
        evaluate_pair = partial(_evaluate_pair, labelling=labelling, reader=reader)
        for case, metrics in run(executor, evaluate_pair, todo, f"evaluating {description}"):
            done[case] = metrics
            add_record(progress_file, case, keys[case], metrics)
    return rows_of({case: done[case] for case in pairs})


def rows_of(metrics: Mapping[str, Metrics]) -> pandas.DataFrame:
    """Columns case, region and METRICS; a row for each case and region, in their order."""
    rows = [{"case": case, "region": region, **values} for case in metrics for region, values in metrics[case].items()]
    return pandas.DataFrame(rows, columns=["case", "region", *METRICS])


def _check_pair(pair: Pair, labelling: Labelling, reader: "type[BaseReaderWriter]") -> list[str]:
    """What is wrong with a case, a sentence each."""
    (problems, reference), (more, prediction) = (check_segmentation(file, labelling, reader) for file in pair)
    differences = find_differences(pair, reference, prediction) if reference and prediction else []
    return [*problems, *more, *differences]


def find_differences(pair: Pair, reference: Segmentation, prediction: Segmentation) -> list[str]:
    """What of their grids differs, a sentence: prediction and reference must lie on the same one."""
    remedy = "Predict the images that the labels were drawn on."
    shapes = [" x ".join(map(str, segmentation.labels.shape)) for segmentation in (prediction, reference)]
    if shapes[0] != shapes[1]:
        return [f"{pair.prediction} has {shapes[0]} voxels and {pair.reference} has {shapes[1]} (z, y, x). {remedy}"]
    num_axes = [len(segmentation.geometry.spacing_mm) for segmentation in (prediction, reference)]
    if num_axes[0] != num_axes[1]:
        return [f"{pair.prediction} has {num_axes[0]} axes and {pair.reference} has {num_axes[1]}. {remedy}"]
    if difference := prediction.geometry.differences(reference.geometry):
        return [f"{pair.prediction} lies elsewhere than {pair.reference}: {difference}. {remedy}"]
    return []


def _evaluate_pair(pair: Pair, labelling: Labelling, reader: "type[BaseReaderWriter]") -> Metrics:
    reference, prediction = (read_segmentation(file, reader) for file in pair)
    return metrics_of(reference, prediction.labels, labelling)


def metrics_of(reference: Segmentation, prediction: np.ndarray, labelling: Labelling) -> Metrics:
    """Of each region.

    Args:
        prediction: labels, in the shape of the reference's.
    """
    ignored = None if labelling.ignore_label is None else reference.labels == labelling.ignore_label
    metrics = {}
    for region, labels in labelling.regions.items():
        predicted = np.isin(prediction, labels)
        if np.count_nonzero(predicted) < labelling.least_voxels.get(region, 0):
            predicted = np.zeros_like(predicted)
        metrics[region] = region_metrics(np.isin(reference.labels, labels), predicted, reference.spacing_mm, ignored)
    return metrics


@contextmanager
def case_executor(num_processes: int, description: str) -> Iterator[ProcessPoolExecutor | None]:
    """Processes to run cases in; None where this one will do, which has loaded what takes seconds."""
    executor = (
        workers(num_processes, f"working on {description}", prepare=_use_one_thread)
        if num_processes > 1
        else nullcontext()
    )
    try:
        with executor as running:
            yield running
    except KeyboardInterrupt:
        print("Interrupted: the same command goes on where this one was.", file=sys.stderr)
        raise


def _use_one_thread() -> None:
    import torch

    torch.set_num_threads(1)


def raise_problems(problems: Sequence[str], description: str) -> None:
    if problems:
        found = "1 problem was" if len(problems) == 1 else f"{len(problems)} problems were"
        raise UserError(f"{found} found with {description}; nothing was evaluated:{lines_of(problems)}")


def digest_of(file: Path) -> str | None:
    """None for a file that can't be read: the check says so of all of them."""
    try:
        return content_digest(file)
    except OSError:
        return None


def record_key(inputs: Sequence[object], labelling: Labelling, reader: "type[BaseReaderWriter]") -> str:
    """What the metrics of a case depend on.

    Args:
        inputs: digests of its files, and what else they depend on.
    """
    meaning = [list(labelling.regions.items()), labelling.ignore_label, list(labelling.least_voxels.items())]
    return json.dumps([inputs, *meaning, reader.__name__, __version__])


def read_records(progress_file: Path, keys: Mapping[str, str], labelling: Labelling) -> dict[str, Metrics]:
    """The finished cases whose key is still the same; a line that is torn, incomplete or of something else is none."""
    done = {}
    for line in progress_file.read_bytes().splitlines() if progress_file.exists() else ():
        with suppress(ValueError, TypeError, LookupError, RecursionError):
            record = json.loads(line)
            if record["key"] == keys[record["case"]]:
                done[record["case"]] = {
                    region: {name: _recorded(record["metrics"][region][name], name) for name in METRICS}
                    for region in labelling.regions
                }
    return done


def _recorded(value: object, metric: str) -> float:
    """A metric as it was before to_json.

    Raises:
        ValueError: it is none.
    """
    if value is None and metric == "dice_nnunet":
        return math.nan
    if not isinstance(value, float) or not math.isfinite(value):
        raise ValueError(f"{metric} is {value}")
    return value


def add_record(progress_file: Path, case: str, key: str, metrics: Metrics) -> None:
    progress_file.parent.mkdir(parents=True, exist_ok=True)
    line = to_json({"case": case, "key": key, "metrics": metrics})
    with progress_file.open("a", encoding="utf-8") as file:
        file.write(f"\n{line}\n")  # the first line break ends one that was torn
