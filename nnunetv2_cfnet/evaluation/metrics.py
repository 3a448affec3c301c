"""Metrics of one region: two masks and a spacing -> numbers.

    masks -> dropped axes of length 1, ignored voxels out -> overlap_metrics, volumes
          -> crop around both                             -> surface_metrics, lesion_metrics

**Empty regions** are scored as BraTS does: empty in both masks is right (Dice, sensitivity and NSD 1, distances 0), in
one of them entirely wrong (0, and for distances the diagonal of the whole volume, 373.13 mm in BraTS). `dice_nnunet` is
NaN where both are empty, as nnU-Net has it.

**Surfaces** are the voxels of a mask that have a face outside of it, where the image's border counts as outside. Two
sets of distances, each surface's to the other: `hd95` is the 95th percentile of both sets pooled (BraTS 2020 and 2021),
`hd95_max` the larger of their two 95th percentiles, `assd` the mean of both pooled, `nsd_1mm` the share within 1 mm.

**Lesion-wise** metrics are those of BraTS 2023 for adult glioma; see `lesion_metrics`.

**2D**: a mask of three axes, one of them of length 1, is a slice; nnU-Net reads 2D images so, with a made-up spacing
for that axis. It is dropped, and counts as 1 mm in volumes.

MONAI is imported where distances are computed, since it takes seconds: the names of metrics are needed before, where
input is checked.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import ndimage

from nnunetv2_cfnet.files.volumes import SPACING_TOLERANCE

PERCENTILE = 95
NSD_TOLERANCE_MM = 1 + SPACING_TOLERANCE  # 1 mm, for headers that say 1.0000001
MM3_PER_ML = 1000

# BraTS 2023, adult glioma.
LESION_DILATIONS = 3  # by one voxel each
SMALL_LESION_MM3 = 50
LESION_PENALTY_MM = 374.0


class Metric(NamedTuple):
    """How a metric is written and read.

    title: for people.
    unit: "", "mm" or "ml".
    larger_is_better: None where neither is.
    bounded: within 0 and 1, and summarised by its mean; distances by the median, since penalties dominate.
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

Box = tuple[slice, ...]


def region_metrics(
    reference: np.ndarray, prediction: np.ndarray, spacing_mm: Sequence[float], ignored: np.ndarray | None = None
) -> dict[str, float]:
    """All of METRICS, in their order.

    Args:
        reference: a mask.
        prediction: a mask.
        spacing_mm: of the masks' axes, in their order.
        ignored: mask of the voxels that count for nothing, as nnU-Net leaves out those with the ignore label.

    Shape:
        Masks: bool, all of one shape with 2 or 3 axes.

    Raises:
        ValueError: they are not.
    """
    masks = [reference, prediction] if ignored is None else [reference, prediction, ignored]
    _check(masks, spacing_mm)
    if ignored is not None:
        reference, prediction = reference & ~ignored, prediction & ~ignored
    num_voxels = reference.size - (0 if ignored is None else int(np.count_nonzero(ignored)))
    if reference.ndim == 3 and 1 in reference.shape:
        axis = reference.shape.index(1)
        reference, prediction = reference.squeeze(axis), prediction.squeeze(axis)
        spacing_mm = [*spacing_mm[:axis], *spacing_mm[axis + 1 :]]
    diagonal_mm = float(np.linalg.norm(np.multiply(reference.shape, spacing_mm)))

    values = overlap_metrics(reference, prediction, num_voxels)
    voxel_ml = math.prod(spacing_mm) / MM3_PER_ML
    values["volume_reference_ml"] = int(np.count_nonzero(reference)) * voxel_ml
    values["volume_prediction_ml"] = int(np.count_nonzero(prediction)) * voxel_ml
    if box := _box_around(reference | prediction, LESION_DILATIONS):
        reference, prediction = reference[box], prediction[box]
    values |= surface_metrics(reference, prediction, spacing_mm, diagonal_mm)
    values |= lesion_metrics(reference, prediction, spacing_mm)
    return {name: float(values[name]) for name in METRICS}


def overlap_metrics(reference: np.ndarray, prediction: np.ndarray, num_voxels: int) -> dict[str, float]:
    """Dice by both rules, sensitivity and specificity; the last is 1 where the reference leaves nothing out.

    Args:
        num_voxels: that count, which are fewer than the masks have where some are ignored.
    """
    num_reference, num_prediction = int(np.count_nonzero(reference)), int(np.count_nonzero(prediction))
    true_positives = int(np.count_nonzero(reference & prediction))
    false_positives, num_negatives = num_prediction - true_positives, num_voxels - num_reference
    if num_reference + num_prediction:
        dice = dice_nnunet = 2 * true_positives / (num_reference + num_prediction)
    else:
        dice, dice_nnunet = 1.0, math.nan
    return {
        "dice": dice,
        "dice_nnunet": dice_nnunet,
        "sensitivity": true_positives / num_reference if num_reference else float(num_prediction == 0),
        "specificity": 1 - false_positives / num_negatives if num_negatives else 1.0,
    }


def surface_metrics(
    reference: np.ndarray, prediction: np.ndarray, spacing_mm: Sequence[float], diagonal_mm: float
) -> dict[str, float]:
    """Both HD95, ASSD and NSD.

    Args:
        reference: a mask, which may be cropped to what is in both.
        prediction: a mask, cropped alike.
        diagonal_mm: of the whole volume, for regions that are empty in one mask.
    """
    if not (reference.any() and prediction.any()):
        is_right = reference.any() == prediction.any()
        distance = 0.0 if is_right else diagonal_mm
        return {"hd95": distance, "hd95_max": distance, "assd": distance, "nsd_1mm": float(is_right)}
    from monai.metrics.utils import get_mask_edges, get_surface_distance

    edges = get_mask_edges(prediction, reference, crop=False)
    directed = [get_surface_distance(*pair, spacing=spacing_mm) for pair in (edges, edges[::-1])]
    pooled = np.concatenate(directed)
    return {
        "hd95": np.percentile(pooled, PERCENTILE),
        "hd95_max": max(np.percentile(distances, PERCENTILE) for distances in directed),
        "assd": pooled.mean(dtype=np.float64),
        "nsd_1mm": np.mean(pooled <= NSD_TOLERANCE_MM),
    }


def lesion_metrics(reference: np.ndarray, prediction: np.ndarray, spacing_mm: Sequence[float]) -> dict[str, float]:
    """Lesion-wise Dice and HD95 as BraTS 2023 has them for adult glioma.

    1. The reference is dilated three times by the 18-neighbourhood. Its voxels that lie in one 26-connected component
       of that belong to one lesion.
    2. A 26-connected component of the prediction belongs to every lesion whose dilated component it touches. It is
       false if there is none, however small it is.
    3. A lesion of more than 50 mm3 is scored against all voxels of all its components: Dice, and the larger of the two
       directed 95th percentiles of the distances between surface elements, weighted by their areas. A lesion without a
       component is missed: 0 and 374 mm.
    4. Smaller lesions are left out; a component that belongs to one is not false for that.
    5. The mean over lesions and false components, which score 0 and 374 mm each; 1 and 0 where there are neither.

    Sources: https://www.synapse.org/Synapse:syn51156910/discussion/threadId=10357, the challenge's announcement, and
    https://github.com/rachitsaluja/BraTS-2023-Metrics, its program, for the details.

    Where that program was made for 1 mm alone, this is what it does with others: dilations count voxels, volumes and
    distances millimetres, and the penalty stays 374 mm, whatever the volume's diagonal. In 2D, which BraTS lacks, the
    neighbourhoods are the eight voxels of a slice of theirs, and 50 mm3 are 50 mm2. Ignored voxels, which BraTS lacks
    too, are background. There is no other departure.

    Args:
        reference: a mask; if cropped, then with three voxels around what is in both, or to the image's end.
        prediction: a mask, cropped alike.
    """
    lesions, zones = _find_lesions(reference)
    everywhere = ndimage.generate_binary_structure(prediction.ndim, prediction.ndim)
    components, num_components = ndimage.label(prediction, everywhere)
    touching = (zones > 0) & prediction
    pairs = np.unique(zones[touching].astype(np.int64) * (num_components + 1) + components[touching])
    zone_of, component_of = np.divmod(pairs, num_components + 1)

    scores = [(0.0, LESION_PENALTY_MM)] * (num_components - len(set(component_of)))
    lesion_boxes, component_boxes = ndimage.find_objects(lesions), ndimage.find_objects(components)
    for lesion, lesion_box in enumerate(lesion_boxes, start=1):
        matched = component_of[zone_of == lesion]
        box = _union([lesion_box, *(component_boxes[component - 1] for component in matched)])
        own = lesions[box] == lesion
        if np.count_nonzero(own) * math.prod(spacing_mm) > SMALL_LESION_MM3:
            scores.append(_score_lesion(own, np.isin(components[box], matched), spacing_mm))
    dice, hd95 = np.mean(scores, axis=0) if scores else (1.0, 0.0)
    return {"lesion_dice": dice, "lesion_hd95": hd95}


def _check(masks: Sequence[np.ndarray], spacing_mm: Sequence[float]) -> None:
    shapes = [mask.shape for mask in masks]
    if len(set(shapes)) > 1 or masks[0].ndim not in (2, 3) or masks[0].size == 0:
        raise ValueError(f"masks must be of one shape of 2 or 3 axes, got {shapes}")
    if any(mask.dtype != bool for mask in masks):
        raise ValueError(f"masks must be bool, got {[str(mask.dtype) for mask in masks]}")
    if len(spacing_mm) != masks[0].ndim or not all(0 < spacing < math.inf for spacing in spacing_mm):
        raise ValueError(f"spacing_mm must be a positive number for each of {masks[0].ndim} axes, got {spacing_mm}")


def _box_around(mask: np.ndarray, margin: int) -> Box | None:
    """The smallest box that holds the mask, with a margin as far as there are voxels; None if the mask is empty."""
    found = ndimage.find_objects(mask.view(np.uint8))
    return tuple(slice(max(0, axis.start - margin), axis.stop + margin) for axis in found[0]) if found else None


def _union(boxes: Sequence[Box]) -> Box:
    return tuple(
        slice(min(axis.start for axis in axes), max(axis.stop for axis in axes)) for axes in zip(*boxes, strict=True)
    )


def _find_lesions(reference: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The number of its lesion in each voxel of the reference, and in each voxel of the dilated reference; else 0."""
    dim = reference.ndim
    zones = np.zeros(reference.shape, dtype=np.int32)
    if box := _box_around(reference, LESION_DILATIONS):
        around = ndimage.generate_binary_structure(dim, 2)  # 18 neighbours in 3D, 8 in 2D
        dilated = ndimage.binary_dilation(reference[box], around, iterations=LESION_DILATIONS)
        zones[box] = ndimage.label(dilated, ndimage.generate_binary_structure(dim, dim))[0]
    return zones * reference, zones


def _score_lesion(lesion: np.ndarray, found: np.ndarray, spacing_mm: Sequence[float]) -> tuple[float, float]:
    """Dice and HD95 of a lesion against its components."""
    if not found.any():
        return 0.0, LESION_PENALTY_MM
    both = np.count_nonzero(lesion & found)
    dice = 2 * both / (np.count_nonzero(lesion) + np.count_nonzero(found))
    return dice, _weighted_hd95(lesion, found, spacing_mm)


def _weighted_hd95(reference: np.ndarray, prediction: np.ndarray, spacing_mm: Sequence[float]) -> float:
    """HD95 of surface elements between voxels, as in the surface-distance library that BraTS 2023 used."""
    import torch
    from monai.metrics.utils import get_mask_edges, get_surface_distance

    padded = [torch.from_numpy(np.pad(mask, 1)) for mask in (prediction, reference)]
    results = get_mask_edges(*padded, crop=False, spacing=spacing_mm)
    edges, areas = [edge.numpy() for edge in results[:2]], [area.numpy() for area in results[2:]]
    return max(
        _weighted_percentile(
            get_surface_distance(edges[own], edges[1 - own], spacing=spacing_mm), areas[own][edges[own]]
        )
        for own in (0, 1)
    )


def _weighted_percentile(distances: np.ndarray, areas: np.ndarray) -> float:
    """The smallest distance that PERCENTILE % of the area lie within."""
    order = np.argsort(distances)
    shares = np.cumsum(areas[order], dtype=np.float64) / areas.sum(dtype=np.float64)
    return float(distances[order][min(int(np.searchsorted(shares, PERCENTILE / 100)), len(shares) - 1)])
