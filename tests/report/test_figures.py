"""Figures: what they show, on which slice, and that odd inputs are drawn."""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK
from images import write_image
from matplotlib.figure import Figure

from nnunetv2_cfnet.report import figures
from nnunetv2_cfnet.report.case_pictures import case_pictures, choose_channels, read_slice
from nnunetv2_cfnet.report.comparison import Comparison, Curves
from nnunetv2_cfnet.report.figures import (
    box_plots,
    difference_plots,
    new_figure,
    parts_of,
    to_png,
    training_curves,
)

PNG = b"\x89PNG\r\n"
SIX_REGIONS = {f"region {label}": (label,) for label in range(1, 7)}


def write_case(folder, name, mask, **header):
    file = folder / f"{name}.nii.gz"
    write_image(mask.astype(np.uint8), file, **header)
    return file


@pytest.fixture
def make_one_case(make_model, tmp_path):
    """Makes a comparison of one case from masks; label 1 is the region."""

    def make(reference, prediction, images=None, **more) -> Comparison:
        model = make_model("model", {"dice": [0.5], "hd95": [1.0]})
        model = replace(model, predictions={"case_0": write_case(tmp_path, "prediction", prediction, **more)})
        return Comparison(
            title="title",
            regions={"tumour": (1,)},
            models=[model],
            tests=[],
            ranks={"model": 1.0},
            references={"case_0": write_case(tmp_path, "reference", reference, **more)},
            images={"case_0": images or {}},
        )

    return make


def all_pictures(comparison):
    plots = [*box_plots(comparison), *difference_plots(comparison), *training_curves(comparison)]
    return [*plots, *case_pictures(comparison)]


@pytest.mark.usefixtures("quick_drawing")
@pytest.mark.filterwarnings("error::UserWarning")
@pytest.mark.parametrize(
    "arguments",
    [
        {"num_cases": 1, "names": ("a $x$ price of $", "_b"), "regions": {"$^region$": (1,)}},
        {"num_cases": 2, "num_models": 5, "regions": SIX_REGIONS},
        {"num_cases": 1, "names": ("m" * 300, "__" * 150), "regions": {"r" * 300: (1,), "\x1b[31m\udce4\r": (2,)}},
        {"num_cases": 7, "num_models": 2, "shape": (30, 24), "suffix": ".png"},
        {
            "num_cases": 1251,
            "num_models": 2,
            "regions": {"tumour": (1,)},
            "shape": (2, 6, 6),
            "images": False,
            "tests": (),
        },
    ],
    ids=[
        "one case and region, formulas",
        "five models, six regions",
        "300 letters, and none",
        "2D",
        "1251 cases without images",
    ],
)
def test_odd_comparisons_are_drawn(make_comparison, arguments):
    pictures = all_pictures(make_comparison(**arguments))
    assert all(picture.png.startswith(PNG) for picture in pictures)
    assert len({picture.name for picture in pictures}) == len(pictures)


@pytest.mark.parametrize("draw", [box_plots, difference_plots])
def test_many_regions_are_shown_in_pictures_of_a_few(make_comparison, draw, monkeypatch):
    monkeypatch.setattr(figures, "to_png", lambda figure: b"")
    regions = [f"region {number}." for number in range(9)]
    pictures = draw(make_comparison(num_cases=3, regions={region: (1,) for region in regions}))
    assert [picture.name[-2:] for picture in pictures] == ["_1", "_2"] * 2  # of Dice, of HD95
    assert [picture.title[-8:] for picture in pictures] == [", 1 of 2", ", 2 of 2"] * 2
    shown = [[region for region in regions if region in picture.alt] for picture in pictures]
    assert shown == [regions[:4], regions[4:]] * 2


@pytest.mark.parametrize(("num_regions", "sizes"), [(1, [1]), (8, [8]), (9, [4, 5]), (48, [8] * 6)])
def test_regions_are_spread_evenly_over_pictures(num_regions, sizes):
    regions = list(map(str, range(num_regions)))
    parts = parts_of(regions)
    assert [len(part.regions) for part in parts] == sizes
    assert [region for part in parts for region in part.regions] == regions


def test_without_curves_there_is_no_figure_of_them(comparison):
    assert not training_curves(replace(comparison, models=[replace(model, curves=()) for model in comparison.models]))


def test_folds_of_different_length_and_one_without_epochs_are_drawn(comparison):
    curves = [Curves("0", [0.1] * 5, [0.1] * 5, [0.5] * 5), Curves("1", [0.2], [0.2], [0.7]), Curves("2", [], [], [])]
    models = [replace(comparison.models[0], curves=curves), replace(comparison.models[1], curves=())]
    (picture,) = training_curves(replace(comparison, models=models))
    assert "nnUNetTrainerCFNet ends at a mean pseudo Dice of 0.600 over 2 folds." in picture.alt


def test_a_picture_that_is_too_large_gets_a_lower_resolution(monkeypatch):
    drawn = []
    monkeypatch.setattr(Figure, "savefig", lambda self, buffer, dpi, **_: (drawn.append(dpi), buffer.write(b"0" * dpi)))
    figure, _ = new_figure(1, 1, height=1)
    assert len(to_png(figure, max_bytes=80)) == 75
    assert drawn == [130, 110, 90, 75]


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["T1", "T1ce", "T2", "FLAIR"], ["FLAIR", "T1ce"]),
        (["t2f", "t1n", "t1c", "t2w"], ["t2f", "t1c"]),
        (["FLAIR", "T1w", "t1gd", "T2w"], ["FLAIR", "t1gd"]),
        (["CT", "PET", "MRI"], ["CT", "PET"]),
        (["FLAIR", "T1"], ["FLAIR", "T1"]),
        (["CT"], ["CT"]),
        ([], []),
    ],
)
def test_flair_and_t1ce_are_shown_and_else_the_first_two_channels(names, expected):
    assert choose_channels(names) == expected


def test_the_slice_is_where_the_reference_is_largest(make_one_case):
    reference, prediction = np.zeros((2, 5, 6, 7))
    reference[1, :2, :2], reference[3, 1:4, 2:6] = 1, 1
    prediction[0] = 1
    drawn = read_slice(make_one_case(reference, prediction, Spacing=(1.0, 2.0, 5.0)), "case_0")
    assert drawn.place == "slice 4 of 5"
    np.testing.assert_array_equal(drawn.reference, reference[3])
    np.testing.assert_array_equal(drawn.predictions["model"], prediction[3])
    assert drawn.aspect == 2  # a pixel is 1 mm wide and 2 mm high


def test_with_an_empty_reference_the_slice_is_where_the_prediction_is_largest(make_one_case):
    reference, prediction = np.zeros((2, 5, 6, 7))
    reference[2] = 3  # a label of no region
    prediction[4, 2, 2] = 1
    assert read_slice(make_one_case(reference, prediction), "case_0").place == "slice 5 of 5"
    prediction[:] = 0
    assert read_slice(make_one_case(reference, prediction), "case_0").place == "slice 3 of 5"


def test_volumes_are_turned_so_that_slices_are_axial(make_one_case):
    # array axes (z, y, x) with the image's first axis to the left, the second to the back, the third down
    reference = np.zeros((5, 6, 7))
    reference[1, 2, 3] = 1
    flipped = (1, 0, 0, 0, 1, 0, 0, 0, -1)
    drawn = read_slice(make_one_case(reference, reference, Direction=flipped), "case_0")
    assert drawn.place == "slice 4 of 5"
    assert drawn.reference[2, 3] == 1


def test_a_deviating_header_of_the_prediction_does_not_turn_it_away_from_the_reference(make_one_case, tmp_path):
    reference = np.zeros((3, 6, 7))
    reference[1, 2, 3] = 1
    comparison = make_one_case(reference, reference)
    write_case(tmp_path, "prediction", reference, Direction=(-1, 0, 0, 0, -1, 0, 0, 0, 1))
    drawn = read_slice(comparison, "case_0")
    np.testing.assert_array_equal(drawn.reference, drawn.predictions["model"])


def test_colour_images_are_shown_in_grey(make_one_case, tmp_path):
    mask = np.zeros((8, 9))
    mask[2:4, 3:6] = 1
    colours = np.stack([np.full((8, 9), value, np.uint8) for value in (30, 60, 90)], axis=-1)
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(colours, isVector=True), str(tmp_path / "colour.png"))
    comparison = make_one_case(mask, mask, images={"R": tmp_path / "colour.png"})
    drawn = read_slice(comparison, "case_0")
    np.testing.assert_array_equal(drawn.backgrounds["R"], np.full((8, 9), 60))
    assert drawn.place == ""


def test_without_images_the_picture_says_so(make_one_case):
    mask = np.ones((3, 6, 7))
    (picture,) = case_pictures(make_one_case(mask, mask))
    assert "The images are not there: the background is the reference's mask." in picture.alt


def test_a_case_that_can_not_be_read_has_no_picture(make_one_case, tmp_path):
    mask = np.ones((3, 6, 7))
    comparison = make_one_case(mask, mask)
    (tmp_path / "prediction.nii.gz").write_bytes(b"no image")
    assert case_pictures(comparison) == []


def test_a_path_beyond_ascii_is_drawn_where_python_takes_names_for_ascii(make_one_case, tmp_path):
    mask = np.ones((3, 6, 7))
    comparison = make_one_case(mask, mask)
    file = (tmp_path / "prediction.nii.gz").rename(tmp_path / "ö.nii.gz")
    comparison.models[0].predictions["case_0"] = Path(os.fsencode(file).decode("ascii", "surrogateescape"))
    np.testing.assert_array_equal(read_slice(comparison, "case_0").predictions["model"], mask[0])


def test_a_prediction_of_another_size_is_named(make_one_case):
    message = r"prediction\.nii\.gz has the size \(8, 6, 3\), and the reference \(7, 6, 3\)"
    with pytest.raises(ValueError, match=message):
        read_slice(make_one_case(np.ones((3, 6, 7)), np.ones((3, 6, 8))), "case_0")
