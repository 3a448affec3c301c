"""`evaluate --html`: one model's page, beside what evaluate writes; read by a browser in test_browser.py."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from images import write_image

from nnunetv2_cfnet import cli

DATASET_JSON = {
    "channel_names": {"0": "T1ce"},
    "labels": {"background": 0, "whole": [1, 2], "core": [2]},
    "regions_class_order": [1, 2],
    "numTraining": 3,
    "file_ending": ".nii.gz",
}


@pytest.fixture
def folders(tmp_path) -> tuple[str, str]:
    """labelsTr, with imagesTr beside it, and predictions, which are worse from case to case."""
    cube = np.zeros((14, 14, 14), np.uint8)
    cube[3:9, 4:10, 4:10], cube[5:8, 5:8, 5:8] = 1, 2
    for shift in range(3):
        write_image(cube, tmp_path / "labelsTr" / f"case_{shift}.nii.gz")
        write_image(np.roll(cube, shift, axis=0), tmp_path / "predictions" / f"case_{shift}.nii.gz")
        write_image(cube.astype(np.float32), tmp_path / "imagesTr" / f"case_{shift}_0000.nii.gz")
    (tmp_path / "predictions" / "dataset.json").write_text(json.dumps(DATASET_JSON))
    return str(tmp_path / "labelsTr"), str(tmp_path / "predictions")


@pytest.mark.usefixtures("quick_drawing")
def test_the_page_has_every_case_its_slices_and_no_comparison(folders, capsys):
    assert cli.main(["evaluate", *folders, "--html", "-np", "1"]) == 0
    out = Path(folders[1])
    assert {"cfnet_summary.json", "per_case.csv", "report.html"} <= {path.name for path in out.iterdir()}
    size = (out / "report.html").stat().st_size / 1e6
    assert capsys.readouterr().out.endswith(f"{out}/report.html: {size:.2f} MB\n")
    page = (out / "report.html").read_text(encoding="utf-8")
    # shifted by 0, 1 and 2 of 6 voxels: Dice 1, 5/6 and 2/3
    assert "predictions, 3 cases: mean Dice whole 0.833, core 0.667; median HD95 whole 1.00 mm" in page
    assert page.count("<tr data-case=") == page.count('class="pictured"') == 3
    assert page.count('json" data-sheets=') == 3
    for of_comparisons in ('class="forest"', 'id="tests"', 'id="ranks"', 'id="cost"', 'id="differences"', "minus"):
        assert of_comparisons not in page


@pytest.mark.usefixtures("quick_drawing")
@pytest.mark.parametrize(("flags", "num_worst"), [([], 5), (["--cases", "9"], 9), (["--all-cases"], 12)])
def test_cases_are_the_worst_ones_beside_the_best_and_the_median(tmp_path, flags, num_worst):
    reference = np.zeros((8, 9, 10), np.uint8)
    reference[2:6, 2:7, 2:7] = 1  # 100 voxels, of which each case lacks 4 more
    for case in range(12):
        prediction = reference.copy()
        prediction.flat[np.flatnonzero(reference)[: 4 * case]] = 0
        write_image(reference, tmp_path / "labels" / f"case_{case:02d}.nii.gz")
        write_image(prediction, tmp_path / "predictions" / f"case_{case:02d}.nii.gz")
    labels, predictions = tmp_path / "labels", tmp_path / "predictions"
    dataset_json = {**DATASET_JSON, "labels": {"background": 0, "tumour": 1}, "numTraining": 12}
    (predictions / "dataset.json").write_text(json.dumps(dataset_json))
    assert cli.main(["evaluate", str(labels), str(predictions), "--html", *flags, "-np", "1"]) == 0
    page = (predictions / "report.html").read_text(encoding="utf-8")
    pictured = re.findall(r'<tr data-case="\d+" class="pictured">\n.+?>case_(\d+)<', page)
    assert set(map(int, pictured)) == {0, 5, *range(12 - num_worst, 12)}
    assert "--cases N puts those of the N worst cases into it" in page


@pytest.mark.parametrize("flags", [["--cases", "5"], ["--all-cases"]])
def test_flags_of_the_page_are_refused_without_it(folders, capsys, flags):
    assert cli.main(["evaluate", *folders, *flags]) == 2
    assert "--cases and --all-cases choose what the page shows: give --html with them." in capsys.readouterr().err
    assert not (Path(folders[1]) / "per_case.csv").exists()


@pytest.mark.usefixtures("quick_drawing")
def test_it_goes_where_the_results_go(folders, tmp_path):
    out = tmp_path / "results"
    assert cli.main(["evaluate", *folders, "--html", "--cases", "0", "-np", "1", "-o", str(out)]) == 0
    assert {path.name for path in out.iterdir()} == {"cfnet_summary.json", "per_case.csv", "report.html"}


def test_without_the_flag_there_is_no_page(folders):
    assert cli.main(["evaluate", *folders, "-np", "1"]) == 0
    assert not (Path(folders[1]) / "report.html").exists()


def test_a_folder_in_the_place_of_the_page_is_refused_before_anything_is_evaluated(folders, capsys):
    (Path(folders[1]) / "report.html").mkdir()
    assert cli.main(["evaluate", *folders, "--html"]) == 2
    assert "report.html is a folder, and a file is to be written there" in capsys.readouterr().err
    assert not (Path(folders[1]) / "per_case.csv").exists()


def test_wrong_numbers_of_cases_are_refused(folders, capsys):
    assert cli.main(["evaluate", *folders, "--html", "--cases", "-2"]) == 2
    assert "--cases -2: give 0, for the best, median and worst case alone, or more." in capsys.readouterr().err
