"""Metrics of two masks, against values worked out by hand and against two other libraries."""

from math import isnan, nan, sqrt
from pathlib import Path

import numpy as np
import pytest
import SimpleITK
from scipy.ndimage import binary_dilation, gaussian_filter, generate_binary_structure, label

from nnunetv2_cfnet.evaluation.metrics import METRICS, region_metrics

OPEN_MS = Path(__file__).parents[1] / "data" / "open_ms"
MM = (1.0, 1.0, 1.0)
SPACINGS = [MM, (3.0, 0.5, 0.7), (0.6, 2.0)]
SURFACES = ("hd95", "hd95_max", "assd", "nsd_1mm")


def mask(shape: tuple[int, ...], *boxes: tuple[slice | int, ...]) -> np.ndarray:
    array = np.zeros(shape, dtype=bool)
    for box in boxes:
        array[box] = True
    return array


def cube(*start: int, sides: tuple[int, ...] = (4, 4, 4)) -> tuple[slice, ...]:
    return tuple(slice(first, first + side) for first, side in zip(start, sides, strict=True))


def blob(seed: int, num_axes: int) -> np.ndarray:
    """Rough, in several pieces, and over the border."""
    shape = (17, 26, 23)[:num_axes]
    return gaussian_filter(np.random.default_rng(seed).normal(size=shape), 2) > 0.06


def real_mask(patient: str) -> np.ndarray:
    return SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(OPEN_MS / f"{patient}_seg.nii.gz"))) > 0


# Overlap and volumes


def test_every_metric_is_there_in_the_order_of_the_table():
    values = region_metrics(blob(0, 3), blob(1, 3), MM)
    assert list(values) == list(METRICS)
    assert all(type(value) is float for value in values.values())


def test_overlap_and_volumes_by_hand():
    """4 voxels against 3, 2 of them in both, in 60; a voxel has 1.5 mm3."""
    reference = mask((3, 4, 5), (0, 0, slice(0, 4)))
    prediction = mask((3, 4, 5), (0, 0, slice(2, 5)))
    values = region_metrics(reference, prediction, (3.0, 0.5, 1.0))
    assert values["dice"] == values["dice_nnunet"] == pytest.approx(4 / 7)
    assert values["sensitivity"] == 2 / 4
    assert values["specificity"] == pytest.approx(55 / 56)
    assert values["volume_reference_ml"] == pytest.approx(0.006)
    assert values["volume_prediction_ml"] == pytest.approx(0.0045)


def test_ignored_voxels_count_for_nothing():
    """Of the masks above, one false positive, one missed voxel and ten true negatives are ignored."""
    reference = mask((3, 4, 5), (0, 0, slice(0, 4)))
    prediction = mask((3, 4, 5), (0, 0, slice(2, 5)))
    ignored = mask((3, 4, 5), (0, 0, 0), (0, 0, 4), (2, slice(0, 2)))
    values = region_metrics(reference, prediction, MM, ignored)
    assert values["dice"] == pytest.approx(4 / 5)
    assert values["sensitivity"] == pytest.approx(2 / 3)
    assert values["specificity"] == 1
    assert values["volume_prediction_ml"] == pytest.approx(0.002)
    assert values["hd95_max"] == pytest.approx(0.9)  # 0, 0, 1 from the reference, 0, 0 from the prediction
    less = region_metrics(reference, prediction, MM, mask((3, 4, 5), (2, slice(0, 2))))
    assert less["specificity"] == pytest.approx(45 / 46)


def test_a_reference_that_fills_the_volume_leaves_nothing_to_be_specific_about():
    full = np.ones((4, 4, 4), dtype=bool)
    assert region_metrics(full, mask((4, 4, 4), 0), MM)["specificity"] == 1


# Surfaces


@pytest.mark.parametrize(("spacing_mm", "distance"), [(MM, 3), ((1, 1, 2), 6), ((1, 5, 1 / 3), 1)])
def test_two_voxels_are_their_distance_apart(spacing_mm, distance):
    values = region_metrics(mask((3, 3, 8), (1, 1, 2)), mask((3, 3, 8), (1, 1, 5)), spacing_mm)
    for name in ("hd95", "hd95_max", "assd"):
        assert values[name] == pytest.approx(distance)
    assert values["nsd_1mm"] == (1 if distance <= 1 else 0)


def test_distances_run_along_all_axes_in_mm():
    """Steps of 1, 2 and 2 voxels: 4, 4 and 2 mm."""
    values = region_metrics(mask((5, 5, 5), (0, 0, 0)), mask((5, 5, 5), (1, 2, 2)), (4.0, 2.0, 1.0))
    assert values["hd95"] == pytest.approx(sqrt(16 + 16 + 4))


def test_the_border_of_the_volume_is_a_surface():
    """A full volume of 3 x 3 x 3 and its centre: 6 faces at 1 mm, 12 edges, 8 corners, and back 1 mm."""
    values = region_metrics(np.ones((3, 3, 3), dtype=bool), mask((3, 3, 3), (1, 1, 1)), MM)
    assert values["hd95"] == pytest.approx(sqrt(3))
    assert values["hd95_max"] == pytest.approx(sqrt(3))
    assert values["assd"] == pytest.approx((7 + 12 * sqrt(2) + 8 * sqrt(3)) / 27)
    assert values["nsd_1mm"] == pytest.approx(7 / 27)


def test_a_volume_around_the_masks_changes_no_distance():
    reference, prediction = blob(0, 3), blob(1, 3)
    assert reference[0].any()
    assert reference[-1].any()
    inside, around = (
        region_metrics(np.pad(reference, margin), np.pad(prediction, margin), (2.0, 1.0, 0.5)) for margin in (0, 6)
    )
    assert {name: inside[name] for name in SURFACES} == {name: around[name] for name in SURFACES}


def test_a_far_false_island_parts_the_two_hd95():
    """10 voxels in both and one 50 mm away: 1 of 21 pooled distances, and 1 of 11 from the prediction alone."""
    row = (0, slice(0, 10))
    values = region_metrics(mask((60, 10), row), mask((60, 10), row, (50, 3)), (1.0, 1.0))
    assert values["hd95"] == 0  # of 21 values the 20th
    assert values["hd95_max"] == 25  # of 11 values halfway between the 10th and the 11th
    assert values["assd"] == pytest.approx(50 / 21)
    assert values["nsd_1mm"] == pytest.approx(20 / 21)


def test_one_mm_is_one_mm_for_headers_that_are_rounded():
    values = region_metrics(mask((5, 5), (1, 1)), mask((5, 5), (1, 2)), (1.0, 1.0000002))
    assert values["nsd_1mm"] == 1


# Empty regions


def test_a_region_that_is_empty_in_both_is_right():
    empty = np.zeros((4, 5, 6), dtype=bool)
    values = region_metrics(empty, empty, MM)
    assert isnan(values.pop("dice_nnunet"))
    ones = ("dice", "nsd_1mm", "sensitivity", "specificity", "lesion_dice")
    assert values == {name: float(name in ones) for name in METRICS if name != "dice_nnunet"}


@pytest.mark.parametrize("empty", ["reference", "prediction"])
def test_a_region_that_is_empty_in_one_is_wrong(empty):
    masks = {name: np.zeros((155, 240, 240), dtype=bool) for name in ("reference", "prediction")}
    other = next(name for name in masks if name != empty)
    masks[other][70, 100, slice(0, 60)] = True
    values = region_metrics(**masks, spacing_mm=MM)
    for name in ("dice", "dice_nnunet", "nsd_1mm", "sensitivity", "lesion_dice", f"volume_{empty}_ml"):
        assert values[name] == 0, name
    for name in ("hd95", "hd95_max", "assd"):
        assert values[name] == pytest.approx(373.13, abs=0.005)
    assert values["lesion_hd95"] == 374
    assert values[f"volume_{other}_ml"] == pytest.approx(0.06)


def test_the_diagonal_is_in_mm_and_of_the_whole_volume():
    values = region_metrics(mask((4, 5, 6), (1, 1, 1)), mask((4, 5, 6)), (1.0, 2.0, 0.5))
    assert values["hd95"] == pytest.approx(sqrt(16 + 100 + 9))


# Lesions. Each is a cube of 64 voxels, unless it says otherwise.


@pytest.mark.parametrize(
    ("prediction", "dice", "hd95"),
    [
        pytest.param([cube(4, 4, 4), cube(30, 4, 4)], 1, 0, id="both are found"),
        pytest.param([cube(4, 4, 4)], 1 / 2, 374 / 2, id="one is missed"),
        pytest.param([cube(4, 4, 4), cube(30, 4, 4), (20, 30, 30)], 2 / 3, 374 / 3, id="one false voxel is a lesion"),
        pytest.param([cube(4, 4, 4), cube(30, 4, 4), (20, 30, 30), (21, 31, 31)], 2 / 3, 374 / 3, id="corners connect"),
        pytest.param([(20, 30, 30)], 0, 374, id="two missed and one false"),
        # each lesion has the same 26 x 4 x 4 voxels
        pytest.param([cube(4, 4, 4, sides=(30, 4, 4))], 2 * 64 / (64 + 480), 26, id="one component for two lesions"),
    ],
)
def test_lesions_are_found_missed_or_false(prediction, dice, hd95):
    reference = mask((40, 40, 40), cube(4, 4, 4), cube(30, 4, 4))
    values = region_metrics(reference, mask((40, 40, 40), *prediction), MM)
    assert values["lesion_dice"] == pytest.approx(dice)
    assert values["lesion_hd95"] == pytest.approx(hd95, abs=2)  # of the 26 mm, 5 % are cut off


@pytest.mark.parametrize(("gap", "dice"), [(6, 2 * 64 / (128 + 64)), (7, 1 / 2)])
def test_parts_of_the_reference_whose_dilations_meet_are_one_lesion(gap, dice):
    """One part is found: half a lesion, or one of two."""
    reference = mask((40, 10, 10), cube(4, 3, 3), cube(8 + gap, 3, 3))
    values = region_metrics(reference, mask((40, 10, 10), cube(4, 3, 3)), MM)
    assert values["lesion_dice"] == pytest.approx(dice)


@pytest.mark.parametrize(("distance", "least", "most"), [(3, 6, sqrt(36 + 4 + 4)), (4, 374, 374)])
def test_a_component_belongs_to_a_lesion_within_three_voxels(distance, least, most):
    """A voxel beside a lesion: as far as from the lesion's other side, or it is false and the lesion missed."""
    prediction = mask((30, 12, 12), (7 + distance, 5, 5))
    values = region_metrics(mask((30, 12, 12), cube(4, 4, 4)), prediction, MM)
    assert values["lesion_dice"] == 0
    assert least <= values["lesion_hd95"] <= most


@pytest.mark.parametrize(("depth", "spacing_mm", "dice"), [(2, MM, 1), (2, (1, 1, 1.01), 1 / 2), (3, MM, 1 / 2)])
def test_lesions_up_to_50_mm3_are_left_out(depth, spacing_mm, dice):
    reference = mask((40, 12, 12), cube(4, 4, 4), cube(30, 4, 4, sides=(depth, 5, 5)))
    assert region_metrics(reference, mask((40, 12, 12), cube(4, 4, 4)), spacing_mm)["lesion_dice"] == dice


def test_what_is_predicted_of_a_small_lesion_is_not_false():
    reference = mask((40, 12, 12), cube(4, 4, 4), cube(30, 4, 4, sides=(2, 2, 2)))
    prediction = mask((40, 12, 12), cube(4, 4, 4), cube(34, 4, 4, sides=(5, 5, 5)))
    values = region_metrics(reference, prediction, MM)
    assert (values["lesion_dice"], values["lesion_hd95"]) == (1, 0)
    only_small = mask((40, 12, 12), cube(30, 4, 4, sides=(2, 2, 2)))
    values = region_metrics(only_small, mask((40, 12, 12)), MM)
    assert (values["lesion_dice"], values["lesion_hd95"], values["dice"]) == (1, 0, 0)


# 2D


def test_a_2d_image_is_a_slice_of_1_mm_whatever_its_made_up_spacing():
    reference, prediction = blob(0, 2), blob(1, 2)
    expected = region_metrics(reference, prediction, (0.5, 2.0))
    assert expected["volume_reference_ml"] == pytest.approx(np.count_nonzero(reference) / 1000)
    assert 0 < expected["lesion_dice"] < 1
    ignored = np.zeros_like(reference)
    for axis, spacing_mm in enumerate([(999.0, 0.5, 2.0), (0.5, 999.0, 2.0), (0.5, 2.0, 999.0)]):
        masks = [np.expand_dims(array, axis) for array in (reference, prediction, ignored)]
        assert region_metrics(masks[0], masks[1], spacing_mm, masks[2]) == expected
    missed = region_metrics(reference[None], np.zeros_like(reference)[None], (999.0, 3.0, 4.0))
    assert missed["hd95"] == pytest.approx(sqrt((3 * 17) ** 2 + (4 * 26) ** 2))


# Other libraries, on rough and on real masks


@pytest.mark.parametrize("spacing_mm", SPACINGS)
@pytest.mark.parametrize("seed", [0, 2, 4])
def test_distances_agree_with_simpleitks_distance_maps(spacing_mm, seed):
    reference, prediction = blob(seed, len(spacing_mm)), blob(seed + 1, len(spacing_mm))
    values = region_metrics(reference, prediction, spacing_mm)
    assert {name: values[name] for name in SURFACES} == pytest.approx(by_simpleitk(reference, prediction, spacing_mm))


@pytest.mark.parametrize("spacing_mm", [MM, (2.0, 0.7, 1.0)])
def test_distances_of_real_masks_agree_with_simpleitks_distance_maps(spacing_mm):
    reference = real_mask("patient19")
    prediction = np.roll(reference, (1, 2), (0, 2)) | real_mask("patient26")
    values = region_metrics(reference, prediction, spacing_mm)
    assert {name: values[name] for name in SURFACES} == pytest.approx(by_simpleitk(reference, prediction, spacing_mm))
    overlap = SimpleITK.LabelOverlapMeasuresImageFilter()
    overlap.Execute(*(SimpleITK.GetImageFromArray(array.astype(np.uint8)) for array in (prediction, reference)))
    assert values["dice"] == pytest.approx(overlap.GetDiceCoefficient())
    assert 1 - values["sensitivity"] == pytest.approx(overlap.GetFalseNegativeError())
    swapped = region_metrics(prediction, reference, spacing_mm)
    assert {name: swapped[name] for name in SURFACES} == {name: values[name] for name in SURFACES}
    assert swapped["volume_prediction_ml"] == values["volume_reference_ml"]


def by_simpleitk(reference: np.ndarray, prediction: np.ndarray, spacing_mm: tuple[float, ...]) -> dict[str, float]:
    """Distance maps of contours instead of nearest neighbours."""
    contours, maps = [], []
    for array in (reference, prediction):
        image = SimpleITK.GetImageFromArray(np.pad(array, 1).astype(np.uint8))
        image.SetSpacing(spacing_mm[::-1])
        contour = SimpleITK.LabelContour(image, fullyConnected=False)
        distances = SimpleITK.SignedMaurerDistanceMap(contour, squaredDistance=False, useImageSpacing=True)
        contours.append(SimpleITK.GetArrayFromImage(contour) > 0)
        maps.append(np.abs(SimpleITK.GetArrayFromImage(distances)))
    directed = [maps[0][contours[1]], maps[1][contours[0]]]
    pooled = np.concatenate(directed)
    return {
        "hd95": np.percentile(pooled, 95),
        "hd95_max": max(np.percentile(distances, 95) for distances in directed),
        "assd": pooled.mean(dtype=float),
        "nsd_1mm": np.mean(pooled < 1.001),
    }


@pytest.mark.filterwarnings("ignore:Please import")  # the library's own, of scipy's old names
@pytest.mark.parametrize("spacing_mm", SPACINGS)
@pytest.mark.parametrize("seed", [0, 2, 4])
def test_hd95_of_a_lesion_agrees_with_the_library_that_brats_used(spacing_mm, seed):
    """Masks made one lesion and one component by a bar through both."""
    library = pytest.importorskip("surface_distance", reason="surface-distance is not installed: pip install -e .[dev]")
    bar = (slice(None), *[slice(8, 12)] * (len(spacing_mm) - 1))
    reference, prediction = (joined(blob(seed + number, len(spacing_mm)), bar) for number in (0, 1))
    distances = library.compute_surface_distances(reference, prediction, spacing_mm)
    values = region_metrics(reference, prediction, spacing_mm)
    assert values["lesion_hd95"] == pytest.approx(library.compute_robust_hausdorff(distances, 95), rel=1e-5)
    assert values["lesion_dice"] == pytest.approx(library.compute_dice_coefficient(reference, prediction))


@pytest.mark.filterwarnings("ignore:Please import")
@pytest.mark.parametrize("seed", range(6))
def test_lesions_agree_with_a_plain_restatement_on_whole_volumes(seed):
    """Nothing cropped, each lesion dilated by itself, distances by the library that BraTS used."""
    library = pytest.importorskip("surface_distance", reason="surface-distance is not installed: pip install -e .[dev]")
    spacing_mm = (1.0, 1.5, 0.8)
    shape, everywhere = (30, 36, 33), np.ones((3, 3, 3))
    noise = np.random.default_rng(seed).normal(size=(2, *shape))
    reference, prediction = (
        gaussian_filter(array, 1.5) > 0.21 for array in (noise[0], 0.8 * noise[0] + 0.6 * noise[1])
    )
    around = generate_binary_structure(3, 2)
    grouped, num_lesions = label(binary_dilation(reference, around, iterations=3), everywhere)
    components, num_components = label(prediction, everywhere)
    false, scores = set(range(1, num_components + 1)), []
    for number in range(1, num_lesions + 1):
        lesion = (grouped == number) & reference
        touched = set(components[binary_dilation(lesion, around, iterations=3)]) - {0}
        false -= touched
        found = np.isin(components, list(touched))
        if lesion.sum() * np.prod(spacing_mm) > 50:
            distances = library.compute_surface_distances(lesion, found, spacing_mm)
            hd95 = library.compute_robust_hausdorff(distances, 95) if touched else 374
            scores.append((2 * (lesion & found).sum() / (lesion.sum() + found.sum()), hd95))
    assert num_lesions > len(scores) > 0
    scores += [(0, 374)] * len(false)
    values = region_metrics(reference, prediction, spacing_mm)
    assert (values["lesion_dice"], values["lesion_hd95"]) == pytest.approx(tuple(np.mean(scores, axis=0)), rel=1e-5)


def joined(array: np.ndarray, bar: tuple[slice, ...]) -> np.ndarray:
    """What of a mask is connected with a bar."""
    image = SimpleITK.GetImageFromArray((array | mask(array.shape, bar)).astype(np.uint8))
    labels = SimpleITK.GetArrayFromImage(SimpleITK.ConnectedComponent(image, True))
    return labels == labels[tuple(axis.start or 0 for axis in bar)]


# What is refused


@pytest.mark.parametrize(
    ("reference", "prediction", "spacing_mm", "message"),
    [
        (mask((3, 3)), mask((3, 4)), (1, 1), r"masks must be of one shape of 2 or 3 axes, got \[\(3, 3\), \(3, 4\)\]"),
        (mask((3,)), mask((3,)), (1,), "masks must be of one shape of 2 or 3 axes"),
        (mask((0, 3)), mask((0, 3)), (1, 1), "masks must be of one shape of 2 or 3 axes"),
        (mask((3, 3)), np.zeros((3, 3), dtype=int), (1, 1), r"masks must be bool, got \['bool', 'int64'\]"),
        (mask((3, 3)), mask((3, 3)), (1, 1, 1), r"spacing_mm must be a positive number for each of 2 axes, got"),
        (mask((3, 3)), mask((3, 3)), (1, 0), r"spacing_mm must be a positive number for each of 2 axes, got \(1, 0\)"),
        (mask((3, 3)), mask((3, 3)), (1, nan), "spacing_mm must be a positive number"),
    ],
)
def test_what_are_no_masks_or_no_spacing_is_refused(reference, prediction, spacing_mm, message):
    with pytest.raises(ValueError, match=message):
        region_metrics(reference, prediction, spacing_mm)
