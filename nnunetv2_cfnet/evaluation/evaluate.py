"""`nnunetv2_cfnet evaluate`: folders of labels and predictions -> a table of metrics for each case and region.

    pairs of files -> check them all -> region_metrics of each -> rows -> per_case.csv
                                                                       -> summarise -> cfnet_summary.json

All cases are checked before the first is evaluated, and results are written only when all are there.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pandas

from nnunetv2_cfnet.evaluation.cases import Pair, check_folders, evaluate_pairs, pair_files
from nnunetv2_cfnet.evaluation.metrics import METRICS
from nnunetv2_cfnet.evaluation.segmentations import Labelling, read_labelled_dataset
from nnunetv2_cfnet.evaluation.summary import RULES, print_table, summarise, versions
from nnunetv2_cfnet.files.json_files import to_json
from nnunetv2_cfnet.files.lock import locked
from nnunetv2_cfnet.files.whole import check_place, whole_file

SUMMARY, PER_CASE = "cfnet_summary.json", "per_case.csv"
PROGRESS = ".cfnet_evaluate.jsonl"


class Evaluated(NamedTuple):
    """What was evaluated: a row for each case and region, the files by case, and what the dataset says of them."""

    rows: pandas.DataFrame
    pairs: dict[str, Pair]
    labelling: Labelling
    dataset_json: dict[str, Any]


def evaluate(
    labels: Path, predictions: Path, dataset_json_file: Path | None, out: Path | None, num_processes: int
) -> Evaluated:
    """Evaluate a folder of predictions, write both results and print a table.

    Args:
        labels: folder of reference segmentations.
        predictions: folder with one for each.
        dataset_json_file: PREDICTIONS/dataset.json if not given, where nnUNetv2_predict leaves it.
        out: where the results go; PREDICTIONS if not given.
        num_processes: at a time; each holds one case.

    Raises:
        UserError: something is wrong with the input; nothing is written then.
    """
    check_folders(labels, predictions)
    out = out or predictions
    check_place(out, (SUMMARY, PER_CASE, PROGRESS))
    json_file = dataset_json_file or predictions / "dataset.json"
    dataset_json, labelling = read_labelled_dataset(
        json_file, "Give that of the model, or of the dataset, with -djfile."
    )
    pairs = pair_files(labels, predictions, dataset_json["file_ending"])

    progress_file = out / PROGRESS
    with locked(out / SUMMARY) as made_in:
        rows = evaluate_pairs(
            pairs,
            labelling,
            dataset_json,
            num_processes=num_processes,
            description="cases",
            progress_file=progress_file,
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
        _write_results(summary, rows, out, made_in)
        progress_file.unlink(missing_ok=True)
    print_table(regions)
    print(f"{len(pairs)} cases. Written: {out / SUMMARY} and {out / PER_CASE}")
    return Evaluated(rows, pairs, labelling, dataset_json)


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


def _write_results(summary: Mapping[str, Any], rows: pandas.DataFrame, out: Path, made_in: Path) -> None:
    """Both files, or none of them."""
    with whole_file(out / SUMMARY, made_in) as summary_file, whole_file(out / PER_CASE, made_in) as table_file:
        summary_file.write_text(to_json(summary, indent=4), encoding="utf-8")
        rows.to_csv(table_file, index=False, errors="backslashreplace")  # names that are no text
