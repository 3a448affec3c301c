"""Rows of cases -> means and medians of each region, by both rules for empty regions; and a table of them to print."""

import math
import platform
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

import pandas

from nnunetv2_cfnet import __version__
from nnunetv2_cfnet.errors import printable
from nnunetv2_cfnet.evaluation.metrics import METRICS

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
# The printed table: heading and statistic -> metric and rule.
COLUMNS = {
    ("Dice", "mean"): ("dice", "brats"),
    ("Dice,NaN", "mean"): ("dice", "nnunet"),
    ("HD95", "median"): ("hd95", "brats"),
    ("HD95", "mean"): ("hd95", "brats"),
    ("ASSD", "median"): ("assd", "brats"),
    ("NSD 1mm", "mean"): ("nsd_1mm", "brats"),
    ("Sens.", "mean"): ("sensitivity", "brats"),
    ("LW Dice", "mean"): ("lesion_dice", "brats"),
    ("LW HD95", "median"): ("lesion_hd95", "brats"),
}
NAME_WIDTH = 19  # as much of a region's name as 100 columns leave


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
    rows = [
        [
            _cell(summary["metrics"][metric][rule][statistic], metric)
            for (_, statistic), (metric, rule) in COLUMNS.items()
        ]
        for summary in regions.values()
    ]
    names = [printable(region)[:NAME_WIDTH] for region in regions]
    print(pandas.DataFrame(rows, names, pandas.MultiIndex.from_tuples(COLUMNS)).to_string(col_space=8))
    for region, summary in regions.items():
        if (in_reference := summary["empty_in_reference"]) or summary["empty_in_prediction"]:
            print(
                f"{printable(region)} is empty in {in_reference} references, {summary['empty_in_prediction']} "
                f"predictions, both in {summary['empty_in_both']} of {summary['num_cases']} cases."
            )
    print("LW: lesion-wise. Distances in mm. Empty regions as in BraTS: Dice 1 and 0 mm where that is right,")
    print("else 0 and the volume's diagonal. NaN, nnU-Net's rule, leaves out cases where both are empty.")


def _cell(value: float, metric: str) -> str:
    digits = 2 if METRICS[metric].unit else 3
    return "-" if math.isnan(value) else f"{value:.{digits}f}"


def _statistics(values: pandas.Series) -> dict[str, float | int]:
    return {"mean": float(values.mean()), "median": float(values.median()), "num_cases": int(values.count())}
