"""Metrics of one region: two masks and a spacing -> numbers."""

from typing import NamedTuple


class Metric(NamedTuple):
    """How a metric is written and read.

    title: for people.
    unit: "", "mm" or "ml".
    larger_is_better: None where neither is.
    bounded: it stays within 0 and 1, so that a mean tells something; the penalty of an empty region dominates the
        mean of a distance, and its median is told.
    """

    title: str
    unit: str
    larger_is_better: bool | None
    bounded: bool


# In the order of columns. `dice_nnunet` is nnU-Net's: NaN where reference and prediction are both empty.
METRICS = {
    "dice": Metric("Dice", "", True, True),
    "dice_nnunet": Metric("Dice, nnU-Net's rule", "", True, True),
    "hd95": Metric("HD95", "mm", False, False),
    "hd95_max": Metric("HD95, larger direction", "mm", False, False),
    "assd": Metric("ASSD", "mm", False, False),
    "nsd_1mm": Metric("NSD at 1 mm", "", True, True),
    "sensitivity": Metric("Sensitivity", "", True, True),
    "specificity": Metric("Specificity", "", True, True),
    "lesion_dice": Metric("Lesion-wise Dice", "", True, True),
    "lesion_hd95": Metric("Lesion-wise HD95", "mm", False, False),
    "volume_reference_ml": Metric("Reference volume", "ml", None, False),
    "volume_prediction_ml": Metric("Predicted volume", "ml", None, False),
}
