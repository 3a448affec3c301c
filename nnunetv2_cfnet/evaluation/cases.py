"""`nnunetv2_cfnet evaluate`: folders of labels and predictions -> a table of metrics for each case and region.

    pairs of files -> check them all -> region_metrics of each -> rows -> per_case.csv
                                                                       -> summarise -> cfnet_summary.json

Files are read by nnU-Net's reader for the dataset. All cases are checked before the first is evaluated, and results are
written only when all are there.
"""

import io
import json
import math
import platform
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, nullcontext, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import pandas
import torch
from nibabel.affines import voxel_sizes
from nnunetv2.imageio.base_reader_writer import BaseReaderWriter
from nnunetv2.imageio.reader_writer_registry import determine_reader_writer_from_dataset_json
from tqdm import tqdm

from nnunetv2_cfnet import __version__
from nnunetv2_cfnet.errors import NUM_LISTED, UserError, listing_of
from nnunetv2_cfnet.evaluation.metrics import METRICS, region_metrics
from nnunetv2_cfnet.files.json_files import read_dataset_json, to_json
from nnunetv2_cfnet.files.processes import check_num_processes, run, workers
from nnunetv2_cfnet.files.volumes import BROKEN, Geometry, count_non_finite
from nnunetv2_cfnet.files.whole import check_place

SUMMARY, PER_CASE = "cfnet_summary.json", "per_case.csv"
PROGRESS = ".cfnet_evaluate.jsonl"
PACKAGES = ("nnunetv2", "monai", "numpy", "scipy", "SimpleITK", "torch")

SURFACE_METRICS = ("hd95", "hd95_max", "assd", "nsd_1mm")
RULES = {
    "brats": "Over all cases. A region that is empty in reference and prediction is right: Dice, NSD and sensitivity "
    "1, distances 0. One that is empty in one of them is wrong: Dice, NSD and sensitivity 0, distances the diagonal of "
    "the volume. Only dice_nnunet leaves out cases that are empty in both.",
    "nnunet": "As nnU-Net drops NaN: cases where the region is empty in both are left out; for hd95, hd95_max, assd "
    "and nsd_1mm also those where it is empty in one, and for sensitivity those where it is empty in the reference.",
    "hd95": "95th percentile of both directed sets of surface distances pooled (BraTS 2020 and 2021), in mm.",
    "hd95_max": "The larger of the two directed 95th percentiles, in mm.",
    "lesion-wise": "BraTS 2023, adult glioma: what dilating the reference by 3 voxels joins is one lesion; lesions of "
    "more than 50 mm3 count; missed lesions and false components score Dice 0 and HD95 374 mm.",
    "volumes": "Of 2D images, slices of 1 mm.",
}

Result = TypeVar("Result")
Metrics = dict[str, dict[str, float]]  # region -> metric -> value


class Pair(NamedTuple):
    """The files of one case."""

    reference: Path
    prediction: Path


@dataclass(frozen=True)
class Labelling:
    """What the values in a dataset's segmentations mean.

    regions: name -> labels, in the dataset's order, without background.
    ignore_label: marks voxels of the reference that count for nothing.
    """

    regions: Mapping[str, tuple[int, ...]]
    ignore_label: int | None = None

    @property
    def values(self) -> list[int]:
        """All that may occur."""
        ignored = () if self.ignore_label is None else (self.ignore_label,)
        return sorted({0, *ignored}.union(*self.regions.values()))


class Segmentation(NamedTuple):
    """A file as nnU-Net reads it: (z, y, x), the spacing of these axes, and where it lies."""

    labels: np.ndarray
    spacing_mm: tuple[float, ...]
    geometry: Geometry


def evaluate(
    labels: Path, predictions: Path, dataset_json_file: Path | None, out: Path | None, num_processes: int
) -> None:
    """Evaluate a folder of predictions, write both results and print a table.

    Args:
        labels: folder of reference segmentations.
        predictions: folder with one for each.
        dataset_json_file: PREDICTIONS/dataset.json if not given, where nnUNetv2_predict leaves it.
        out: where the results go; PREDICTIONS if not given.
        num_processes: at a time; each holds one case.

    Raises:
        UserError: whatever is wrong with the input; nothing is written then.
    """
    check_folders(labels, predictions)
    out = out or predictions
    check_place(out, (SUMMARY, PER_CASE))
    json_file = dataset_json_file or predictions / "dataset.json"
    dataset_json = read_dataset_json(json_file, "Give that of the model, or of the dataset, with -djfile.")
    labelling = read_labelling(dataset_json, json_file)
    pairs = pair_files(labels, predictions, dataset_json["file_ending"])

    progress_file = out / PROGRESS
    rows = evaluate_pairs(
        pairs, labelling, dataset_json, num_processes=num_processes, description="cases", progress_file=progress_file
    )
    regions = summarise(rows)
    summary = {
        "provenance": {
            "labels": str(labels.resolve()),
            "predictions": str(predictions.resolve()),
            "dataset_json": str(json_file.resolve()),
            "num_cases": len(pairs),
            "regions": labelling.regions,
            "ignore_label": labelling.ignore_label,
            "rules": RULES,
            "versions": versions(),
        },
        "regions": regions,
        "metric_per_case": _list_cases(rows, pairs),
    }
    _write_results(summary, rows, out)
    progress_file.unlink(missing_ok=True)
    print_table(regions)
    print(f"{len(pairs)} cases. Written: {out / SUMMARY} and {out / PER_CASE}")


def read_labelling(dataset_json: Mapping[str, Any], file: Path) -> Labelling:
    """Regions and ignore label of a dataset.

    Args:
        file: where it was read, for messages.

    Raises:
        UserError: it has no labels, or what is there are none.
    """
    labels = dataset_json.get("labels")
    if not isinstance(labels, dict):
        labels = {}
    values = {name: tuple(value) if isinstance(value, list) else (value,) for name, value in labels.items()}
    are_numbers = all(values.values()) and all(type(label) is int for value in values.values() for label in value)
    ignored = values.pop("ignore", ())
    regions = {name: value for name, value in values.items() if value != (0,)}
    if not (regions and are_numbers and len(ignored) <= 1):
        raise UserError(
            f"{file}: labels are {json.dumps(dataset_json.get('labels'))}; they must give each name a number or, for "
            'regions, several, such as {"background": 0, "whole_tumor": [1, 2, 3], "enhancing_tumor": [3]}.'
        )
    return Labelling(regions, ignored[0] if ignored else None)


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
        progress_file: gets each case as it is finished. A later call takes over what is there of the same files.
            Whoever calls deletes it when the results are safe.

    Returns:
        Columns case, region and METRICS; a row for each case and region, in the order of pairs and regions.

    Raises:
        UserError: something is wrong with a case; all that is wrong with any of them is told.
    """
    check_num_processes(num_processes)
    reader = _choose_reader(dataset_json, pairs)
    keys = {case: _key(pair, labelling, reader) for case, pair in pairs.items()}
    done = _read_progress(progress_file, keys)
    if done:
        print(f"{len(done)} of {len(pairs)} {description} are taken over from an interrupted run.", flush=True)
    todo = {case: pair for case, pair in pairs.items() if case not in done}

    with _executor(min(num_processes, len(todo)), description) as executor:
        check = partial(_check_pair, labelling=labelling, reader=reader)
        problems = dict(_results(executor, check, todo, f"checking {description}"))
        _raise_problems([problem for case in todo for problem in problems[case]], description)
        evaluate_pair = partial(_evaluate_pair, labelling=labelling, reader=reader)
        for case, metrics in _results(executor, evaluate_pair, todo, f"evaluating {description}"):
            done[case] = metrics
            _add_progress(progress_file, case, keys[case], metrics)
    rows = [{"case": case, "region": region, **values} for case in pairs for region, values in done[case].items()]
    return pandas.DataFrame(rows, columns=["case", "region", *METRICS])


def check_folders(labels: Path, predictions: Path) -> None:
    """A UserError if one of them is none."""
    for folder in (labels, predictions):
        if not folder.is_dir():
            raise UserError(f"{folder} is no folder: give the one with the labels, and that of the predictions.")


def summarise(rows: pandas.DataFrame) -> dict[str, dict[str, Any]]:
    """For each region: numbers of cases, and mean and median of each metric by both rules for empty regions (RULES).

    Args:
        rows: what evaluate_pairs returns.

    Returns:
        Region -> num_cases, empty_in_reference, empty_in_prediction, empty_in_both, and metrics: metric -> rule
        ("brats", "nnunet") -> mean, median, num_cases. NaN where no case is left.
    """
    regions = {}
    for region, table in rows.groupby("region", sort=False):
        without_reference, without_prediction = table["volume_reference_ml"] == 0, table["volume_prediction_ml"] == 0
        defined = dict.fromkeys(METRICS, ~(without_reference & without_prediction))
        defined |= dict.fromkeys(SURFACE_METRICS, ~(without_reference | without_prediction))
        defined["sensitivity"] = ~without_reference
        regions[str(region)] = {
            "num_cases": len(table),
            "empty_in_reference": int(without_reference.sum()),
            "empty_in_prediction": int(without_prediction.sum()),
            "empty_in_both": int((without_reference & without_prediction).sum()),
            "metrics": {
                name: {"brats": _statistics(table[name]), "nnunet": _statistics(table.loc[defined[name], name])}
                for name in METRICS
            },
        }
    return regions


def versions() -> dict[str, str]:
    """Of Python and the packages that have a part in the figures."""
    return {
        "python": platform.python_version(),
        "nnunetv2_cfnet": __version__,
        **{package: version(package) for package in PACKAGES},
    }


def print_table(regions: Mapping[str, Mapping[str, Any]]) -> None:
    """What summarise returns, in up to 100 columns."""
    columns = (  # heading, metric, rule, statistic
        ("Dice\nmean", "dice", "brats", "mean"),
        ("Dice,NaN\nmean", "dice", "nnunet", "mean"),
        ("HD95\nmedian", "hd95", "brats", "median"),
        ("\nmean", "hd95", "brats", "mean"),
        ("ASSD\nmedian", "assd", "brats", "median"),
        ("NSD 1mm\nmean", "nsd_1mm", "brats", "mean"),
        ("Sens.\nmean", "sensitivity", "brats", "mean"),
        ("LW Dice\nmean", "lesion_dice", "brats", "mean"),
        ("LW HD95\nmedian", "lesion_hd95", "brats", "median"),
    )
    width = min(19, max(len(region) for region in regions))  # as much as 100 columns leave
    for line in (0, 1):
        print(" " * width, *(f"{heading.splitlines()[line]:>8}" for heading, *_ in columns))
    for region, summary in regions.items():
        cells = []
        for _, metric, rule, statistic in columns:
            value = summary["metrics"][metric][rule][statistic]
            digits = 2 if METRICS[metric].unit else 3
            cells.append(f"{'-' if math.isnan(value) else f'{value:.{digits}f}':>8}")
        print(f"{region[:width]:<{width}}", *cells)
    for region, summary in regions.items():
        if summary["empty_in_reference"] or summary["empty_in_prediction"]:
            print(
                f"{region} is empty in {summary['empty_in_reference']} references, {summary['empty_in_prediction']} "
                f"predictions, both in {summary['empty_in_both']} of {summary['num_cases']} cases."
            )
    print("LW: lesion-wise. Distances in mm. Empty regions as in BraTS: Dice 1 and 0 mm where that is right,")
    print("else 0 and the volume's diagonal. NaN, nnU-Net's rule, leaves out cases where both are empty.")


# Files


def pair_files(labels: Path, predictions: Path, ending: str) -> dict[str, Pair]:
    """The cases of both folders, which must be the same.

    Raises:
        UserError: they are not, or there are none.
    """
    references, predicted = _files_of(labels, ending), _files_of(predictions, ending)
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


def _files_of(folder: Path, ending: str) -> dict[str, Path]:
    return {
        path.name.removesuffix(ending): path
        for path in sorted(folder.iterdir())
        if path.name.endswith(ending) and not path.name.startswith(".") and path.is_file()
    }


def _choose_reader(dataset_json: Mapping[str, Any], pairs: Mapping[str, Pair]) -> type[BaseReaderWriter]:
    """nnU-Net's reader for the first file that any of them can read.

    Raises:
        UserError: there is none.
    """
    for pair in pairs.values():
        for file in pair:
            try:
                with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):  # it prints tracebacks
                    return determine_reader_writer_from_dataset_json(dataset_json, str(file), verbose=False)
            except RuntimeError:
                continue
    first = next((pair.reference for pair in pairs.values()), "no file")
    raise UserError(
        f"No reader of nnU-Net takes any of the files ({first}, ..): check that they are whole, and file_ending "
        f"{dataset_json['file_ending']} and overwrite_image_reader_writer in dataset.json."
    )


def _read(file: Path, reader: type[BaseReaderWriter]) -> Segmentation:
    """A file, as nnU-Net's reader has it.

    Raises:
        UserError: it can't be read or is no segmentation.
    """
    try:
        with redirect_stdout(io.StringIO()):  # warnings, that would break the bar
            array, properties = reader().read_seg(str(file))
    except Exception as error:  # every format's library has its own
        raise UserError(_unreadable(file, error)) from error
    spacing_mm = tuple(float(spacing) for spacing in properties["spacing"])
    if len(array) != 1:
        raise UserError(f"{file} has {len(array)} channels, and a segmentation has one. Save it with one.")
    if not all(0 < spacing < math.inf for spacing in spacing_mm):
        raise UserError(f"{file} has the spacing {spacing_mm}, which is not positive. Mend its header.")
    return Segmentation(array[0], spacing_mm, _geometry(properties))


def _unreadable(file: Path, error: Exception) -> str:
    lines = str(error).strip().splitlines()
    reason = lines[-1].rstrip(".") if lines else type(error).__name__
    return f"{file} can't be read: {reason}. Make it again."


def _geometry(properties: Mapping[str, Any]) -> Geometry:
    """Where a segmentation lies, as far as its reader knows; the size is left to the array."""
    if "sitk_stuff" in properties:
        stuff = properties["sitk_stuff"]
        return Geometry((), stuff["spacing"], stuff["origin"], stuff["direction"])
    if "nibabel_stuff" in properties:
        stuff = properties["nibabel_stuff"]
        affine = stuff.get("reoriented_affine", stuff["original_affine"])
        spacing = voxel_sizes(affine)
        return Geometry((), tuple(spacing), tuple(affine[:3, 3]), tuple((affine[:3, :3] / spacing).ravel()))
    return Geometry((), tuple(properties["spacing"]), (), ())


# One case, in a worker process


def _check_pair(pair: Pair, labelling: Labelling, reader: type[BaseReaderWriter]) -> list[str]:
    """What is wrong with a case, a sentence each."""
    problems, segmentations = [], []
    for file in pair:
        try:
            problems += _find_unsound_voxels(file)
            segmentation = _read(file, reader)
        except UserError as error:
            problems.append(str(error))
            continue
        segmentations.append(segmentation)
        problems += _find_unknown_values(file, segmentation.labels, labelling)
    if len(segmentations) == len(pair):
        problems += _find_differences(pair, *segmentations)
    return problems


def _find_unsound_voxels(file: Path) -> list[str]:
    """NaN, which SimpleITK reads as 0 in NIfTI; it also takes such files for whole when they were cut off.

    Raises:
        UserError: the file was cut off.
    """
    if not file.name.endswith((".nii", ".nii.gz")):
        return []
    try:
        num_bad = count_non_finite(file)
    except BROKEN as error:
        raise UserError(_unreadable(file, error)) from error
    return [f"{file} has {num_bad} voxels that are NaN or infinite. Make it again."] if num_bad else []


def _find_unknown_values(file: Path, labels: np.ndarray, labelling: Labelling) -> list[str]:
    unknown = sorted(set(pandas.unique(labels.ravel()).tolist()) - set(labelling.values))
    if not unknown:
        return []
    values, known = listing_of([f"{value:g}" for value in unknown]), ", ".join(map(str, labelling.values))
    return [
        f"{file} has the values {values}, which are no labels of dataset.json ({known}). Use the dataset.json that "
        "belongs to it, or mend the file."
    ]


def _find_differences(pair: Pair, reference: Segmentation, prediction: Segmentation) -> list[str]:
    """Prediction and reference must lie on the same grid."""
    way_out = "Predict the images that the labels were drawn on."
    shapes = [" x ".join(map(str, segmentation.labels.shape)) for segmentation in (prediction, reference)]
    if shapes[0] != shapes[1]:
        return [f"{pair.prediction} has {shapes[0]} voxels and {pair.reference} has {shapes[1]} (z, y, x). {way_out}"]
    num_axes = [len(segmentation.geometry.spacing_mm) for segmentation in (prediction, reference)]
    if num_axes[0] != num_axes[1]:
        return [f"{pair.prediction} has {num_axes[0]} axes and {pair.reference} has {num_axes[1]}. {way_out}"]
    if difference := prediction.geometry.differences(reference.geometry):
        return [f"{pair.prediction} lies elsewhere than {pair.reference}: {difference}. {way_out}"]
    return []


def _evaluate_pair(pair: Pair, labelling: Labelling, reader: type[BaseReaderWriter]) -> Metrics:
    reference, prediction = (_read(file, reader) for file in pair)
    ignored = None if labelling.ignore_label is None else reference.labels == labelling.ignore_label
    return {
        region: region_metrics(
            np.isin(reference.labels, labels), np.isin(prediction.labels, labels), reference.spacing_mm, ignored
        )
        for region, labels in labelling.regions.items()
    }


# All cases


@contextmanager
def _executor(num_processes: int, description: str) -> Iterator[ProcessPoolExecutor | None]:
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
    torch.set_num_threads(1)


def _results(
    executor: ProcessPoolExecutor | None, function: Callable[[Pair], Result], pairs: Mapping[str, Pair], title: str
) -> Iterator[tuple[str, Result]]:
    """Case and function(pair) of all cases as they are finished, with a bar."""
    if executor:
        yield from run(executor, function, pairs, title)
    else:
        for case, pair in tqdm(pairs.items(), desc=title, unit="case"):
            yield case, function(pair)


def _raise_problems(problems: Sequence[str], description: str) -> None:
    if problems:
        listed = "".join(f"\n  {problem}" for problem in problems[:NUM_LISTED])
        rest = f"\n  and {len(problems) - NUM_LISTED} more" if len(problems) > NUM_LISTED else ""
        found = "1 problem was" if len(problems) == 1 else f"{len(problems)} problems were"
        raise UserError(f"{found} found with {description}; nothing was evaluated:{listed}{rest}")


def _key(pair: Pair, labelling: Labelling, reader: type[BaseReaderWriter]) -> str:
    """What the metrics of a case depend on."""
    files = [(str(file.resolve()), file.stat().st_size, file.stat().st_mtime_ns) for file in pair]
    regions = list(labelling.regions.items())
    return json.dumps([files, regions, labelling.ignore_label, reader.__name__, __version__])


def _read_progress(progress_file: Path, keys: Mapping[str, str]) -> dict[str, Metrics]:
    """The finished cases whose key is still the same; a line that was torn is none."""
    done = {}
    for line in progress_file.read_text(encoding="utf-8").splitlines() if progress_file.exists() else ():
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if record["key"] == keys.get(record["case"]):
            done[record["case"]] = {
                region: {name: math.nan if value is None else value for name, value in values.items()}
                for region, values in record["metrics"].items()
            }
    return done


def _add_progress(progress_file: Path, case: str, key: str, metrics: Metrics) -> None:
    progress_file.parent.mkdir(parents=True, exist_ok=True)
    line = to_json({"case": case, "key": key, "metrics": metrics})
    with progress_file.open("a", encoding="utf-8") as file:
        file.write(f"\n{line}\n")  # the first line break ends one that was torn


# Results


def _statistics(values: pandas.Series) -> dict[str, float | int]:
    return {"mean": float(values.mean()), "median": float(values.median()), "num_cases": int(values.count())}


def _list_cases(rows: pandas.DataFrame, pairs: Mapping[str, Pair]) -> list[dict[str, Any]]:
    return [
        {
            "case": case,
            "reference_file": str(pairs[str(case)].reference),
            "prediction_file": str(pairs[str(case)].prediction),
            "metrics": table.set_index("region")[list(METRICS)].to_dict(orient="index"),
        }
        for case, table in rows.groupby("case", sort=False)
    ]


def _write_results(summary: Mapping[str, Any], rows: pandas.DataFrame, out: Path) -> None:
    """Both files, whole."""
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out, prefix=".cfnet_evaluate.") as folder:
        summary_file, table_file = Path(folder, SUMMARY), Path(folder, PER_CASE)
        summary_file.write_text(to_json(summary, indent=4), encoding="utf-8")
        rows.to_csv(table_file, index=False)
        table_file.replace(out / PER_CASE)
        summary_file.replace(out / SUMMARY)
