"""Small enhancing tumour of predictions: what is below a threshold becomes necrotic core.

The rule is that of BraTS 2020's winner: BraTS scores a case without enhancing tumour (ET) 1 if none is predicted and 0
otherwise, so a few false voxels cost a whole case. Source: Isensee et al., "nnU-Net for Brain Tumor Segmentation",
BrainLes 2020 (doi:10.1007/978-3-030-72087-2_11).
"""

import math
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import SimpleITK
from tqdm import tqdm

from nnunetv2_cfnet.brats.editions import TISSUES
from nnunetv2_cfnet.brats.labels import read_label_order
from nnunetv2_cfnet.errors import UserError
from nnunetv2_cfnet.evaluation.bootstrap import MIN_CASES, bootstrap_interval
from nnunetv2_cfnet.evaluation.cross_validation import cross_validation
from nnunetv2_cfnet.files.json_files import read_dataset_json
from nnunetv2_cfnet.files.volumes import read_label_map

DECIMALS = 9  # of gains: what is beyond them is noise of floating-point numbers
NCR, ET = TISSUES.index("NCR/NET") + 1, TISSUES.index("ET") + 1  # in nnU-Net's order


def relabel_small_enhancing(segmentation: np.ndarray, threshold: int) -> bool:
    """Turn enhancing tumour below the threshold into NCR/NET, in place; whether there was some."""
    enhancing = segmentation == ET
    is_small = 0 < int(np.count_nonzero(enhancing)) < threshold
    if is_small:
        segmentation[enhancing] = NCR
    return is_small


class Overlap(NamedTuple):
    """Enhancing tumour of one cross-validation case: voxels predicted, voxels in the reference, voxels in both."""

    predicted: int
    reference: int
    both: int

    def dice(self, threshold: int) -> float:
        """Dice where a prediction below `threshold` voxels is none; BraTS gives 1 if both are empty, 0 if one is."""
        if self.predicted < threshold or self.predicted == 0:
            return float(self.reference == 0)
        return 2 * self.both / (self.predicted + self.reference)


def choose_threshold(model_folder: Path) -> int:
    """The threshold with the best mean ET Dice of a model's cross-validation, if it is sure to gain; otherwise 0, off.

    What it gains is measured by cross-fitting: in each fold with the threshold that is best in the others, so that no
    case has a say in its own. It is sure where the gain's interval lies above zero. Says what was measured.

    Raises:
        UserError: predictions or labels of the cross-validation are missing or can't be read.
    """
    json_file = model_folder / "dataset.json"
    dataset_json = read_dataset_json(json_file, "Give --cv the model folder, the one with fold_0, fold_1, ..")
    order = read_label_order(dataset_json, json_file)
    predictions, labels = cross_validation(model_folder, dataset_json["file_ending"])
    folds: dict[Path, list[Overlap]] = {}
    for case, prediction in tqdm(predictions.items(), desc="Cross-validation", unit="case"):
        folds.setdefault(prediction.parent, []).append(_overlap(prediction, labels[case], order))
    overlaps = [overlap for fold in folds.values() for overlap in fold]
    gains = np.round(_cross_fitted_gains(list(folds.values())), DECIMALS)
    best = _best_threshold(overlaps)
    interval = bootstrap_interval(gains) if len(gains) >= MIN_CASES else None

    print(
        f"Mean ET Dice of {len(overlaps)} cross-validation cases is {_mean_dice(overlaps, 0):.4f} without a threshold. "
        f"With one for each fold, chosen by the other folds, it changes by {gains.mean():+.4f} "
        + (f"(95 % interval {interval[0]:+.4f} to {interval[1]:+.4f})." if interval else "(too few for an interval).")
    )
    if best and interval and interval[0] > 0:
        print(f"That is a gain: the best threshold of all folds, {best} voxels, is applied.")
        return best
    print("That shows no gain: no threshold is applied.")
    return 0


def _cross_fitted_gains(folds: Sequence[Sequence[Overlap]]) -> list[float]:
    """What each case gains in Dice by the threshold that the other folds choose."""
    gains = []
    for number, fold in enumerate(folds):
        others = [overlap for other in (*folds[:number], *folds[number + 1 :]) for overlap in other]
        threshold = _best_threshold(others)
        gains += [overlap.dice(threshold) - overlap.dice(0) for overlap in fold]
    return gains


def _best_threshold(overlaps: Sequence[Overlap]) -> int:
    """The smallest one with the best mean Dice. Only one more than a predicted volume can be it, or 0, which is off."""
    candidates = sorted({0} | {overlap.predicted + 1 for overlap in overlaps if overlap.predicted})
    return max(candidates, key=partial(_mean_dice, overlaps))  # the first of equal ones


def _mean_dice(overlaps: Sequence[Overlap], threshold: int) -> float:
    # fsum, so that equal means are equal and the smallest threshold of a tie wins
    return math.fsum(overlap.dice(threshold) for overlap in overlaps) / max(1, len(overlaps))


def _overlap(prediction: Path, reference: Path, order: Mapping[int, str]) -> Overlap:
    enhancing = [value for value, tissue in order.items() if tissue == "ET"]
    masks = []
    for file in (prediction, reference):
        voxels = SimpleITK.GetArrayFromImage(read_label_map(file))
        masks.append(np.isin(voxels, enhancing))
    if masks[0].shape != masks[1].shape:
        raise UserError(
            f"{prediction} and its label {reference} differ in shape, {masks[0].shape} and {masks[1].shape}. Validate "
            "the model again with nnUNetv2_train .. --val."
        )
    predicted, labelled = masks
    return Overlap(*(int(np.count_nonzero(mask)) for mask in (predicted, labelled, predicted & labelled)))
