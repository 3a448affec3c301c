"""Sheets: every slice is where the script looks for it, labels are exact, and a case is not too large."""

import base64
import io
from dataclasses import replace

import matplotlib.image
import numpy as np
import pytest
from images import write_image

from nnunetv2_cfnet.report import case_sheets
from nnunetv2_cfnet.report.case_sheets import content_window, make_sheets, sheet_of, start_slice, wrong_voxels
from nnunetv2_cfnet.report.case_volumes import CaseVolumes, foreground
from nnunetv2_cfnet.report.comparison import Comparison

REGIONS = {"whole": (1, 2, 300), "core": (2, 300)}


@pytest.fixture
def make_case(make_model, tmp_path):
    """Makes a comparison of one case: its reference, a model's prediction, and one image."""

    def make(reference, prediction, image, suffix=".nii.gz") -> Comparison:
        files = {}
        for name, array in (("reference", reference), ("prediction", prediction), ("image", image)):
            files[name] = tmp_path / f"{name}{suffix}"
            write_image(array, files[name])
        model = make_model("model", {"dice": [0.5]})
        model.predictions["case_0"] = files["prediction"]
        return Comparison(
            "title", REGIONS, [model], [], {}, {"case_0": files["reference"]}, {"case_0": {"T1": files["image"]}}
        )

    return make


def made(comparison: Comparison) -> dict:
    sheets, problems = make_sheets(comparison, {"case_0": ""})
    assert not problems
    return sheets["case_0"]


def slice_in(sheets: dict, source: str, number: int) -> np.ndarray:
    """As report.js cuts it out."""
    kind, _, content = source.partition(";base64,")
    sheet = matplotlib.image.imread(io.BytesIO(base64.b64decode(content)), format=kind.partition("/")[2])
    if sheet.dtype != np.uint8:
        sheet = (sheet * 255).round().astype(np.uint8)
    top, left = (number // sheets["columns"]) * sheets["height"], (number % sheets["columns"]) * sheets["width"]
    return sheet[top : top + sheets["height"], left : left + sheets["width"]].astype(int)


def test_a_slice_is_where_the_page_looks_for_it_with_its_labels(make_case):
    generator = np.random.default_rng(0)
    reference = generator.choice([0, 1, 2, 300], (7, 20, 30)).astype(np.uint16)
    prediction = generator.choice([0, 1, 2, 300], (7, 20, 30)).astype(np.uint16)
    image = np.arange(1, 8, dtype=np.float32).reshape(7, 1, 1) * np.ones((7, 20, 30), np.float32)
    image[:, 0] = 0
    sheets = made(make_case(reference, prediction, image))
    assert (sheets["slices"], sheets["width"], sheets["height"], sheets["first"], sheets["of"]) == (7, 30, 20, 1, 7)
    for number in range(7):
        for source, volume in zip(sheets["labels"], (reference, prediction), strict=True):
            colours = slice_in(sheets, source, number)
            np.testing.assert_array_equal(colours[..., 0] + 256 * colours[..., 1], volume[number])
    greys = [slice_in(sheets, sheets["images"][0]["sheet"], number)[10, 15, 0] for number in range(7)]
    assert greys == sorted(greys)
    assert greys[-1] > 240 > 60 > greys[0]


def test_a_model_that_is_called_reference_has_its_own_outlines(make_case):
    reference, prediction = np.ones((3, 6, 7), np.uint8), np.full((3, 6, 7), 2, np.uint8)
    comparison = make_case(reference, prediction, reference)
    sheets = made(replace(comparison, models=[replace(comparison.models[0], name="reference")]))
    assert [slice_in(sheets, source, 0)[0, 0, 0] for source in sheets["labels"]] == [1, 2]


def test_what_is_empty_around_is_cut_off(make_case):
    reference, image = np.zeros((9, 40, 50), np.uint8), np.zeros((9, 40, 50), np.float32)
    image[2:6, 10:20, 20:40] = 1
    reference[6, 15, 30] = 1
    sheets = made(make_case(reference, reference, image))
    assert (sheets["first"], sheets["slices"], sheets["of"]) == (3, 5, 9)
    assert (sheets["height"], sheets["width"]) == (10 + 2 * 4, 20 + 2 * 4)


@pytest.mark.parametrize("around", [0, -5])
def test_a_voxel_below_what_is_empty_around_does_not_keep_it(make_case, around):
    """As filters leave them in images of background 0."""
    reference, image = np.zeros((9, 40, 50), np.uint8), np.full((9, 40, 50), around, np.float32)
    image[2:7, 10:20, 20:40] = np.linspace(100, 200, 20)
    image[4, 15, 30] = -9
    sheets = made(make_case(reference, reference, image))
    assert (sheets["first"], sheets["slices"]) == (3, 5)
    assert (sheets["height"], sheets["width"]) == (10 + 2 * 4, 20 + 2 * 4)
    greys = slice_in(sheets, sheets["images"][0]["sheet"], 0)[8, :, 0]
    assert greys[0] < 15, "air is black"
    assert 10 < greys[4] < 50, "and tissue not quite"


def test_background_is_what_most_of_the_border_is_unless_many_voxels_are_zero():
    image = np.full((20, 30), 7.0)
    image[5:9, 5:9], image[6, 6] = 3, np.nan
    inside = np.zeros((20, 30), bool)
    inside[5:9, 5:9] = True
    inside[6, 6] = False  # no number
    np.testing.assert_array_equal(foreground(image), inside)
    image[10:15, 5:25] = 0  # of 600
    np.testing.assert_array_equal(foreground(image), (image != 0) & np.isfinite(image))


def test_nothing_at_all_is_shown_whole():
    empty = np.zeros((3, 4, 5))
    window = content_window(CaseVolumes({"T1": empty}, empty, {"model": empty}, 1.0, False))
    assert window == (slice(0, 3), slice(0, 4), slice(0, 5))


def test_a_case_starts_at_the_slice_with_most_wrong_voxels(make_case):
    reference = np.zeros((5, 20, 20), np.uint8)
    reference[1:4, 5:15, 5:15] = 1
    prediction = reference.copy()
    prediction[3, 5:10] = 0
    sheets = made(make_case(reference, prediction, np.ones((5, 20, 20), np.float32)))
    assert sheets["first"] + sheets["start"] == 4
    assert sheets["errors"] == [[0, 0, 50]]


def test_a_case_starts_where_any_of_the_models_is_most_wrong(make_case):
    reference = np.zeros((5, 20, 20), np.uint8)
    reference[:, 5:15, 5:15] = 1
    wrong_in_slice_3 = reference.copy()
    wrong_in_slice_3[3, 5:10] = 0
    comparison = make_case(reference, wrong_in_slice_3, np.ones((5, 20, 20), np.float32))
    (second,) = comparison.models
    first = replace(second, name="first", predictions={"case_0": comparison.references["case_0"]})
    sheets = made(replace(comparison, models=[first, second]))
    assert sheets["errors"] == [[0] * 5, [0, 0, 0, 50, 0]]
    assert sheets["start"] == 3


def test_wrong_voxels_are_counted_in_every_region_but_for_ignored_ones():
    reference, prediction = np.zeros((1, 2, 2), int), np.zeros((1, 2, 2), int)
    reference[0, 0], prediction[0, 1] = [2, 4], [1, 0]
    assert list(wrong_voxels(reference, prediction, {"whole": (1, 2), "core": (2,)})) == [3]
    reference[0, 0, 0] = 4
    assert list(wrong_voxels(reference, prediction, {"whole": (1, 2), "core": (2,)}, ignore_label=4)) == [1]


def test_where_nothing_is_wrong_it_starts_where_the_reference_is_largest_else_in_the_middle():
    reference = np.zeros((5, 4, 4))
    assert start_slice(np.zeros(5), reference, REGIONS) == 2
    reference[4, 0, 0] = 1
    assert start_slice(np.zeros(5), reference, REGIONS) == 4


def test_a_2d_case_is_one_slice(make_case):
    mask = np.zeros((20, 30), np.uint8)
    mask[5:9, 5:9] = 1
    sheets = made(make_case(mask, mask, np.full((20, 30), 9, np.uint8), suffix=".png"))
    assert (sheets["slices"], sheets["columns"], sheets["of"], sheets["start"]) == (1, 1, 1, 0)


@pytest.mark.parametrize("shape", [(1, 5, 7), (5, 3, 3), (30, 8, 5), (3, 1, 90)])
def test_a_sheet_holds_each_slice_once_and_is_about_square(shape):
    sheet = sheet_of(np.arange(1, np.prod(shape) + 1).reshape(shape))
    assert sorted(sheet[sheet > 0]) == list(range(1, np.prod(shape) + 1))
    assert max(sheet.shape) <= max(shape[1:]) + 2 * min(sheet.shape) or 1 in shape


def test_a_large_case_is_shown_coarsely_and_stays_small(make_case, monkeypatch):
    monkeypatch.setattr(case_sheets, "MAX_BYTES", 20_000)
    noise = np.random.default_rng(0).normal(size=(10, 120, 120)).astype(np.float32)
    mask = (np.indices(noise.shape)[1] > 60).astype(np.uint8)
    sheets = made(make_case(mask, mask, noise))
    sources = [sheets["images"][0]["sheet"], *sheets["labels"]]
    assert sum(len(base64.b64decode(source.partition(",")[2])) for source in sources) <= 20_000
    assert sheets["step"] > 1
    assert sheets["width"] == -(-120 // sheets["step"])
    assert sheets["slices"] == 10
    assert len(sheets["errors"][0]) == 10


def test_a_case_that_can_not_be_read_is_named(make_case, tmp_path):
    mask = np.ones((3, 6, 7), np.uint8)
    comparison = make_case(mask, mask, mask)
    (tmp_path / "prediction.nii.gz").write_bytes(b"no image")
    sheets, (problem,) = make_sheets(comparison, {"case_0": "worst"})
    assert not sheets
    assert problem.startswith("case_0, worst, can't be shown: ")
    assert "prediction.nii.gz" in problem


def test_without_images_there_are_outlines_alone(make_case):
    mask = np.ones((3, 6, 7), np.uint8)
    comparison = make_case(mask, mask, mask)
    comparison.images["case_0"].clear()
    sheets = made(comparison)
    assert sheets["images"] == []
    assert len(sheets["labels"]) == 2
