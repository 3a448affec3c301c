"""`convert_brats`: phantom releases in each layout, and a few crops of real MRI, to raw datasets of nnU-Net."""

import csv
import gzip
import io
import json
import multiprocessing.dummy
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from defects import RAS, change, relabelled
from images import geometry, read

from nnunetv2_cfnet import cli
from nnunetv2_cfnet.brats import convert, records
from nnunetv2_cfnet.brats.convert import convert_brats
from nnunetv2_cfnet.brats.editions import CHANNELS, EDITIONS
from nnunetv2_cfnet.brats.findings import Kind
from nnunetv2_cfnet.brats.sources import find_cases
from nnunetv2_cfnet.brats.target import Target
from nnunetv2_cfnet.errors import UserError
from nnunetv2_cfnet.files.lock import locked

OPEN_MS = Path(__file__).parents[1] / "data" / "open_ms"


@pytest.fixture
def raw(tmp_path, monkeypatch) -> Path:
    folder = tmp_path / "nnUNet_raw"
    folder.mkdir()
    monkeypatch.setenv("nnUNet_raw", str(folder))
    monkeypatch.delenv("nnUNet_preprocessed", raising=False)
    monkeypatch.delenv("nnUNet_results", raising=False)
    return folder


@pytest.fixture(autouse=True)
def in_this_process(monkeypatch) -> None:
    """Without worker processes, which take a second to start."""
    monkeypatch.setattr(convert, "in_parallel", lambda function, cases, *_: [function(case) for case in cases])


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def refusal(source: Path, **options) -> str:
    with pytest.raises(UserError) as refused:
        convert_brats(source, 7, **options)
    return str(refused.value)


def test_a_second_conversion_to_one_dataset_is_refused_and_touches_nothing(raw, write_release):
    release = write_release("2021", num_cases=1)
    lock = raw / "Dataset007"  # by whatever name
    with locked(lock):
        unfinished = raw / ".Dataset007_BraTS2021.unfinished"
        (unfinished / "imagesTr").mkdir(parents=True)  # of the first
        for name in (None, "Another"):
            assert refusal(release, name=name).startswith(f"{lock} is being written by process {os.getpid()} on ")
        assert (unfinished / "imagesTr").is_dir()
        convert_brats(release, 7, dry_run=True)


def test_a_second_conversion_does_not_look_at_what_the_first_is_changing(raw, write_release, monkeypatch):
    (raw / ".Dataset007_BraTS2021.unfinished").mkdir()
    monkeypatch.setattr(Path, "rglob", lambda *_: pytest.fail("a file there may be renamed meanwhile"))
    release = write_release("2021", num_cases=1)
    with locked(raw / "Dataset007"):
        assert "Dataset007 is being written by process" in refusal(release)


def test_a_dataset_that_was_made_meanwhile_is_not_replaced(raw, write_release, monkeypatch):
    release = write_release("2021", num_cases=1)
    for dataset, problem in (
        ("Dataset007_BraTS2021", f"{raw / 'Dataset007_BraTS2021'} exists already"),
        ("Dataset007_Another", "nnU-Net has a dataset with ID 7 already, Dataset007_Another"),
    ):

        def finished_by_another_run(target: Path, dataset: str = dataset):
            (raw / dataset).mkdir()
            return locked(target)

        monkeypatch.setattr(convert, "locked", finished_by_another_run)
        assert refusal(release).startswith(problem)
        (raw / dataset).rmdir()


# What is written


@pytest.mark.parametrize("edition", EDITIONS)
def test_every_layout_is_converted_voxel_by_voxel(edition, raw, write_release):
    release = write_release(edition, num_cases=6)
    convert_brats(release, 7, edition=edition)
    source = find_cases(release, edition)
    dataset = raw / f"Dataset007_BraTS{edition.upper()}"
    labels_of_nnunet = {"ED": 1, "NCR/NET": 2, "ET": 3, "RC": 4}
    for case in source.cases:
        images = dataset / ("imagesTr" if case.is_training else "imagesTs")
        first = images / f"{case.name}_0000.nii.gz"
        for number, channel in enumerate(("T1", "T1ce", "T2", "FLAIR")):
            before = read(case.files[channel][0])
            if edition == "msd":
                before = before[("FLAIR", "T1", "T1ce", "T2").index(channel)]
            written = images / f"{case.name}_{number:04d}.nii.gz"
            np.testing.assert_array_equal(read(written), before, strict=True)
            assert geometry(written) == geometry(first)
        if edition != "msd":
            assert geometry(first) == geometry(case.files["T1"][0])
        if case.is_training:
            before = read(case.files["seg"][0])
            labels = dataset / "labelsTr" / f"{case.name}.nii.gz"
            after = read(labels)
            assert after.dtype == np.uint8
            assert geometry(labels) == geometry(first) == geometry(case.files["seg"][0])
            np.testing.assert_array_equal(after == 0, before == 0)
            for tissue, label in source.edition.labels.items():
                np.testing.assert_array_equal(after == labels_of_nnunet[tissue], before == label)
    num_training = sum(case.is_training for case in source.cases)
    assert len(list((dataset / "imagesTr").iterdir())) == 4 * num_training
    assert len(list((dataset / "labelsTr").iterdir())) == num_training
    others = 4 * (len(source.cases) - num_training)
    assert len(list(dataset.glob("imagesTs/*"))) == others
    assert sorted(path.name for path in raw.iterdir()) == [dataset.name, f"{dataset.name}_findings.csv"]
    assert {path.name for path in dataset.iterdir()} - {"imagesTs"} == {
        "dataset.json",
        "imagesTr",
        "labelsTr",
        "splits_final.json",
    }


@pytest.mark.parametrize(("edition", "has_cavity"), [("2020", False), ("2024", True), ("msd", False)])
def test_dataset_json_has_regions_edition_names_and_label_order(edition, has_cavity, raw, write_release):
    release = write_release(edition)
    convert_brats(release, 7, "Glioma", edition)
    description = json.loads((raw / "Dataset007_Glioma" / "dataset.json").read_text())
    assert description["channel_names"] == {"0": "T1", "1": "T1ce", "2": "T2", "3": "FLAIR"}
    regions = {"background": 0, "whole_tumor": [1, 2, 3], "tumor_core": [2, 3], "enhancing_tumor": [3]}
    order = {"ED": 1, "NCR/NET": 2, "ET": 3}
    assert description["labels"] == regions | ({"resection_cavity": [4]} if has_cavity else {})
    assert description["regions_class_order"] == ([1, 2, 3, 4] if has_cavity else [1, 2, 3])
    assert description["label_order"] == order | ({"RC": 4} if has_cavity else {})
    assert description["numTraining"] == 2
    assert description["file_ending"] == ".nii.gz"
    assert description["edition"] == edition
    names = [case.name for case in find_cases(release, edition).cases]
    assert description["source_cases"] == {name: name for name in names}


def test_splits_keep_twins_together(raw, write_release):
    convert_brats(write_release("2020", num_cases=10), 7)
    splits = json.loads((raw / "Dataset007_BraTS2020" / "splits_final.json").read_text())
    twins = {"BraTS20_Training_004", "BraTS20_Training_005"}  # of one 2019 ID
    assert [len(twins & set(fold["val"])) for fold in splits].count(2) == 1
    assert sorted(name for fold in splits for name in fold["val"]) == [
        f"BraTS20_Training_{number:03d}" for number in range(1, 11)
    ]


@pytest.mark.parametrize(("num_cases", "has_splits", "fold"), [(6, True, "0"), (2, False, "all")])
def test_it_ends_with_the_commands_that_train_on_it(num_cases, has_splits, fold, raw, write_release, capsys):
    """Too few patients for five folds get no splits, and train on all."""
    convert_brats(write_release(num_cases=num_cases), 7)
    assert (raw / "Dataset007_BraTS2021" / "splits_final.json").exists() is has_splits
    output = capsys.readouterr().out
    assert ("No splits_final.json: five folds take at least five patients" in output) is not has_splits
    assert output.endswith(
        "Next:\n"
        "  nnUNetv2_plan_and_preprocess -d 7 -c 3d_fullres --verify_dataset_integrity\n"
        f"  nnUNetv2_train 7 3d_fullres {fold} -tr nnUNetTrainerCFNet\n"
    )


def test_images_that_need_nothing_are_copied_and_plain_ones_compressed_byte_by_byte(raw, write_release):
    release = write_release("2020")
    convert_brats(release, 7)
    for case in find_cases(release).cases:
        for number, channel in enumerate(CHANNELS):
            (before,) = case.files[channel]
            (after,) = (raw / "Dataset007_BraTS2020").glob(f"images*/{case.name}_{number:04d}.nii.gz")
            if before.name.endswith(".gz"):
                assert after.read_bytes() == before.read_bytes()
            else:
                assert gzip.decompress(after.read_bytes()) == before.read_bytes()
                assert after.read_bytes()[3:8] == bytes(5)  # no file name, no time


def test_symlinks_are_absolute_and_only_for_what_needs_no_rewriting(raw, write_release, tmp_path, monkeypatch):
    release = write_release("2020")
    monkeypatch.chdir(tmp_path)
    convert_brats(Path("release"), 7, symlink=True)
    for case in find_cases(release).cases:
        for number, channel in enumerate(CHANNELS):
            (after,) = (raw / "Dataset007_BraTS2020").glob(f"images*/{case.name}_{number:04d}.nii.gz")
            (before,) = case.files[channel]
            assert after.is_symlink() == before.name.endswith(".gz")
            if after.is_symlink():
                assert os.readlink(after) == str(before)
            np.testing.assert_array_equal(read(after), read(before))
    assert not any(path.is_symlink() for path in raw.glob("*/labelsTr/*"))


def test_endings_in_capitals_are_copied_and_compressed_as_any(raw, write_release):
    release = write_release(num_cases=1)
    case = release / "BraTS2021_00000"
    before = (case / "BraTS2021_00000_t2.nii.gz").read_bytes()
    (case / "BraTS2021_00000_t2.nii.gz").rename(case / "BraTS2021_00000_t2.NII.GZ")
    convert_brats(release, 7)
    assert (raw / "Dataset007_BraTS2021" / "imagesTr" / "BraTS2021_00000_0002.nii.gz").read_bytes() == before


def test_headers_within_the_tolerance_become_the_first_modalitys(raw, write_release):
    """nnU-Net takes no images of different spacing, however little it is."""
    release = write_release()
    file = release / "BraTS2021_00000" / "BraTS2021_00000_t2.nii.gz"
    change(file, header=lambda image: image.SetSpacing((1, 1, 1.0005)))
    convert_brats(release, 7, symlink=True)
    images = raw / "Dataset007_BraTS2021" / "imagesTr"
    assert geometry(images / "BraTS2021_00000_0002.nii.gz") == geometry(images / "BraTS2021_00000_0000.nii.gz")
    np.testing.assert_array_equal(read(images / "BraTS2021_00000_0002.nii.gz"), read(file))


def test_real_mri_in_brats_names_is_converted_and_its_turned_header_repaired(raw, tmp_path, capsys):
    """Crops of real brains: as they lie they align, mirrored they do not."""
    release = tmp_path / "release"
    for patient in ("07", "19", "26"):
        case = f"BraTS20_Training_0{patient}"
        (release / case).mkdir(parents=True)
        for name in ("t1", "t1ce", "t2", "flair", "seg"):
            shutil.copy(OPEN_MS / f"patient{patient}_{name}.nii.gz", release / case / f"{case}_{name}.nii.gz")
    turned = {"BraTS20_Training_007": "t2", "BraTS20_Training_019": "seg"}
    for case, name in turned.items():
        change(release / case / f"{case}_{name}.nii.gz", header=lambda image: image.SetDirection(RAS))
    change(
        release / "BraTS20_Training_026" / "BraTS20_Training_026_seg.nii.gz",
        lambda array: np.flip(array, 2),
        lambda image: image.SetDirection((-1, 0, 0, 0, 1, 0, 0, 0, 1)),
    )

    convert_brats(release, 7, fix_headers=True, skip_bad=True)
    output = capsys.readouterr().out
    assert "BraTS20_Training_007  repaired  header " in output
    assert "BraTS20_Training_019  repaired  header " in output
    assert "BraTS20_Training_026  error     geometry " in output
    dataset = raw / "Dataset007_BraTS2020"
    assert sorted(path.name for path in (dataset / "labelsTr").iterdir()) == [f"{case}.nii.gz" for case in turned]
    for case in turned:
        for number, name in enumerate(("t1", "t1ce", "t2", "flair")):
            written = dataset / "imagesTr" / f"{case}_{number:04d}.nii.gz"
            np.testing.assert_array_equal(read(written), read(release / case / f"{case}_{name}.nii.gz"), strict=True)
            assert geometry(written) == geometry(release / case / f"{case}_t1.nii.gz")
        labels = dataset / "labelsTr" / f"{case}.nii.gz"
        np.testing.assert_array_equal(read(labels), 2 * read(release / case / f"{case}_seg.nii.gz"))
        assert geometry(labels) == geometry(release / case / f"{case}_t1.nii.gz")


# What stops it


def kept(raw: Path, name: str = "BraTS2021") -> str:
    """What a message ends with after the checks."""
    return (
        f"What was checked is kept in {raw / f'.Dataset007_{name}.unfinished'}: a case is not checked again while its "
        "files, edition and labels stay the same."
    )


def test_all_findings_are_in_one_table_and_bad_cases_stop_it(raw, write_release, capsys):
    release = write_release(num_cases=4, defects=(Kind.MISSING, Kind.OUTSIDE, Kind.HEADER, Kind.UNCLAIMED))
    assert refusal(release) == (
        "2 of 4 cases have errors, listed above. Mend the files, or take zero images for sequences that are missing "
        "with --allow-missing, or repair headers with --fix-headers, or leave them out with --skip-bad. "
        f"{kept(raw)}"
    )
    table = [line.split()[:3] for line in capsys.readouterr().out.splitlines()[2:]]
    rows = [
        ["case", "severity", "kind"],
        ["BraTS2021_00000", "error", "missing"],
        ["BraTS2021_00001", "warning", "outside"],
        ["BraTS2021_00002", "error", "header"],
        ["-", "warning", "unclaimed"],
    ]
    assert table == rows
    # nothing of a dataset, and what was found, for the next run
    unfinished = raw / ".Dataset007_BraTS2021.unfinished"
    assert sorted(raw.iterdir()) == [unfinished, raw / "Dataset007_BraTS2021_findings.csv"]
    assert {path.parent.name for path in unfinished.rglob("*") if path.is_file()} == {"checked"}
    with (raw / "Dataset007_BraTS2021_findings.csv").open(newline="") as file:
        lines = list(csv.reader(file))
    assert [line[:3] for line in lines] == rows
    assert "BraTS2021_00000: " not in lines[1][3]
    assert lines[1][3].startswith("T1ce: no file of that modality")


@pytest.mark.parametrize("symlink", [False, True])
def test_a_missing_sequence_becomes_a_zero_image_where_allowed(raw, write_release, capsys, symlink):
    release = write_release(num_cases=3, defects=(Kind.MISSING,))
    for path in release.rglob("BraTS2021_00001_*"):
        if path.name.endswith(("_t1.nii.gz", "_t2.nii.gz")):
            path.unlink()
    counted = "2 of 3 cases lack a sequence, zero images stand for it: T1 1, T1ce 1, T2 1."
    convert_brats(release, 7, allow_missing=True, dry_run=True)
    assert counted in capsys.readouterr().out
    convert_brats(release, 7, allow_missing=True, symlink=symlink)
    output = capsys.readouterr().out
    assert counted in output
    assert "BraTS2021_00000  repaired  missing  T1ce: no file of that modality" in output
    assert "-tr nnUNetTrainerCFNetModalityDropout" in output
    images = raw / "Dataset007_BraTS2021" / "imagesTr"
    assert len(list(images.iterdir())) == 12
    for case, channels in {"BraTS2021_00000": (1,), "BraTS2021_00001": (0, 2), "BraTS2021_00002": ()}.items():
        for channel in range(4):
            image = images / f"{case}_{channel:04d}.nii.gz"
            assert read(image).any() == (channel not in channels)
            assert geometry(image) == geometry(images / f"{case}_0003.nii.gz")


def test_a_case_without_any_sequence_is_refused_all_the_same(raw, write_release):
    release = write_release(num_cases=2)
    for path in release.rglob("BraTS2021_00000_*"):
        if not path.name.endswith("_seg.nii.gz"):
            path.unlink()
    for allow_missing in (False, True):
        problem = refusal(release, allow_missing=allow_missing)
        expected = "1 of 2 cases have errors, listed above. Mend the files, or leave them out with --skip-bad."
        assert problem == f"{expected} {kept(raw)}"


def test_a_4d_file_with_too_few_volumes_is_refused_all_the_same(raw, write_release):
    release = write_release("msd", num_cases=2, defects=(Kind.MISSING,))
    assert refusal(release, allow_missing=True).startswith("1 of 3 cases have errors")


def test_skip_bad_leaves_out_cases_with_errors_and_keeps_those_with_warnings(raw, write_release, capsys):
    release = write_release(num_cases=3, defects=(Kind.LABELS, Kind.OUTSIDE))
    convert_brats(release, 7, skip_bad=True)
    dataset = raw / "Dataset007_BraTS2021"
    assert [path.name[:15] for path in sorted((dataset / "labelsTr").iterdir())] == [
        "BraTS2021_00001",
        "BraTS2021_00002",
    ]
    assert len(list((dataset / "imagesTr").iterdir())) == 8
    assert json.loads((dataset / "dataset.json").read_text())["numTraining"] == 2
    assert "1 of 3 cases have errors and are left out." in capsys.readouterr().out


def test_a_link_to_nothing_is_a_finding_that_skip_bad_leaves_out(raw, write_release, capsys):
    release = write_release(num_cases=2)
    bad, good = find_cases(release).cases
    image = bad.files["T1"][0]
    image.unlink()
    image.symlink_to("../.git/annex/objects/t1")
    convert_brats(release, 7, skip_bad=True)
    assert f"{image} can't be read (a link to ../.git/annex/objects/t1, which is not there)" in capsys.readouterr().out
    assert [path.name for path in (raw / "Dataset007_BraTS2021/labelsTr").iterdir()] == [f"{good.name}.nii.gz"]


def test_labels_that_seem_to_mean_something_else_stop_it_until_they_are_given(raw, write_release, capsys):
    """What --labels says is read, recorded and written in nnU-Net's order; cases can't be skipped around it."""
    release = write_release("2023", num_cases=3)
    for path in release.rglob("*-seg.nii.gz"):
        change(path, lambda array: relabelled(array, {1: 2, 2: 3, 3: 1}))
    message = "The release as a whole has an error, listed above, which --skip-bad can't leave out."
    assert refusal(release, edition="2023", skip_bad=True) == f"{message} {kept(raw, 'BraTS2023')}"
    assert "labels seem to be 1 = ET, 2 = NCR/NET, 3 = ED. " in capsys.readouterr().out

    convert_brats(release, 7, edition="2023", labels="ED=3, ncr = 2, ET=1")
    assert "Its labels: 1 = ET, 2 = NCR/NET, 3 = ED.\nNothing was found wrong" in capsys.readouterr().out
    dataset = raw / "Dataset007_BraTS2023"
    assert json.loads((dataset / "dataset.json").read_text())["label_order"] == {"ED": 1, "NCR/NET": 2, "ET": 3}
    for case in find_cases(release, "2023").cases:
        after = read(dataset / "labelsTr" / f"{case.name}.nii.gz")
        np.testing.assert_array_equal(after, relabelled(read(case.files["seg"][0]), {1: 3, 3: 1}))


@pytest.mark.parametrize(
    "labels", ["", "ED", "ED=1,NCR=2", "ED=1,NCR=2,ET=2", "ED=1,NCR=2,ET=0", "ED=1,NCR=2,ET=x", "ED=1,NCR=2,ET=3,RC=4"]
)
def test_labels_must_be_one_for_each_tissue_of_the_edition(labels, raw, write_release):
    assert refusal(write_release(), labels=labels) == (
        f"--labels {labels} does not give each tissue of edition 2021 a label of its own from 1 on, as in --labels "
        "ED=2,NCR=1,ET=4."
    )


def test_other_labels_start_an_interrupted_conversion_anew(raw, write_release, monkeypatch, capsys):
    release = write_release()
    monkeypatch.setattr(Target, "finish", lambda *_: None)
    for _ in range(2):
        convert_brats(release, 7)
    assert "Going on in " in capsys.readouterr().out
    convert_brats(release, 7, labels="ED=1,NCR=2,ET=4")
    assert "is of a run with other files, edition or options: starting anew." in capsys.readouterr().out


def test_names_with_escapes_are_printed_and_tabled_escaped(raw, write_release, capsys):
    release = write_release(num_cases=1)
    for name in (b"\x1b[2Jscan.nii.gz", b"caf\xe9.nii.gz"):
        Path(os.fsdecode(os.fsencode(release) + b"/" + name)).touch()
    convert_brats(release, 7)
    table = (raw / "Dataset007_BraTS2021_findings.csv").read_text()
    for text in (capsys.readouterr().out, table):
        assert r"release/\x1b[2Jscan.nii.gz belongs to no case" in text
        assert r"release/caf\udce9.nii.gz belongs to no case" in text


def test_nothing_but_bad_cases_is_no_dataset(raw, write_release):
    release = write_release(num_cases=1, defects=(Kind.EMPTY,))
    assert refusal(release, skip_bad=True) == f"1 of 1 cases have errors, listed above. Mend the files. {kept(raw)}"


def test_a_dry_run_checks_and_writes_nothing(raw, write_release, capsys):
    release = write_release(num_cases=2, defects=(Kind.HEADER,))
    refused = refusal(release, dry_run=True)
    assert "1 of 2 cases have errors" in refused
    assert "kept" not in refused
    convert_brats(release, 7, dry_run=True, fix_headers=True)
    output = capsys.readouterr().out
    assert (
        f"{release} holds cases of edition 2021, by their names: 2 with segmentation (imagesTr, labelsTr), 0" in output
    )
    assert f"{raw / 'Dataset007_BraTS2021'} would get 2 with segmentation (imagesTr, labelsTr), 0 without" in output
    assert "Nothing was written." in output
    assert list(raw.iterdir()) == []


def test_an_existing_dataset_is_replaced_only_on_demand_and_only_by_a_complete_one(
    raw, write_release, tmp_path, monkeypatch
):
    convert_brats(write_release(num_cases=2), 7)
    dataset = raw / "Dataset007_BraTS2021"
    before = content(dataset)
    release = write_release(num_cases=1, folder=tmp_path / "new")
    assert (
        refusal(release) == f"{dataset} exists already: replace it with --overwrite, or choose another -d and --name."
    )

    convert_case = convert.convert_case
    monkeypatch.setattr(convert, "convert_case", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        convert_brats(release, 7, overwrite=True)
    assert content(dataset) == before

    monkeypatch.setattr(convert, "convert_case", convert_case)
    convert_brats(release, 7, overwrite=True)
    assert [path.name for path in (dataset / "labelsTr").iterdir()] == ["BraTS2021_00000.nii.gz"]
    assert sorted(path.name for path in raw.iterdir()) == [dataset.name, f"{dataset.name}_findings.csv"]


def test_a_source_inside_the_dataset_is_not_overwritten(raw, write_release):
    release = write_release(folder=raw / "Dataset007_BraTS2021" / "release")
    message = refusal(release, overwrite=True)
    assert message == f"{release} lies in {release.parent}, which would be replaced: choose another -d."
    assert find_cases(release).cases


def test_refusals_say_what_to_do(raw, write_release, tmp_path, monkeypatch):
    release = write_release()
    (raw / "Dataset007_Other").mkdir()
    assert refusal(release) == (
        "nnU-Net has a dataset with ID 7 already, Dataset007_Other: choose another -d, or --name Other for that one."
    )
    assert refusal(release, name="a/b") == "'a/b' is no name for a dataset: give --name letters, digits, _ and - only."
    assert refusal(release, num_processes=0) == "0 processes can't do anything: give -np at least 1."
    with pytest.raises(UserError, match=r"^1000 is no dataset ID of nnU-Net: give -d a number from 1 to 999\.$"):
        convert_brats(release, 1000)
    monkeypatch.setenv("nnUNet_raw", str(tmp_path / "absent"))
    assert refusal(release).startswith(
        f"nnUNet_raw={tmp_path / 'absent'} is no folder; fix it with: export nnUNet_raw="
    )
    monkeypatch.delenv("nnUNet_raw")
    assert refusal(release).startswith("nnUNet_raw is not set; fix it with: export nnUNet_raw=")
    assert [path.name for path in raw.iterdir()] == ["Dataset007_Other"]


@pytest.mark.host
def test_a_full_disk_is_one_message_and_no_file_is_torn(raw, write_release, capsys):
    """No file may grow beyond 2 KiB. SimpleITK, which writes the first one for its other header, does not notice."""
    release = write_release(num_cases=1)
    first = release / "BraTS2021_00000" / "BraTS2021_00000_t1.nii.gz"
    change(first, header=lambda image: image.SetSpacing((1, 1, 2)))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2048, hard))
    try:
        assert cli.main(["convert_brats", str(release), "-d", "7", "--fix-headers"]) == 2
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    errors = capsys.readouterr().err
    assert "BraTS2021_00000_0000.nii.gz can't be written (a full disk?)" in errors
    kept = r"\.unfinished is kept: the same command goes on there\. It needs about \S+ GB more; \S+ GB are free\."
    assert re.search(kept, errors)
    assert not list(raw.glob("Dataset007*/"))
    assert not list(raw.rglob("*.nii.gz"))


def test_a_place_without_room_is_found_before_any_case_is_checked(raw, write_release, monkeypatch):
    release = write_release(num_cases=1)
    monkeypatch.setattr(convert, "in_parallel", lambda *_: pytest.fail("cases were checked"))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    needs = (
        rf"{raw}/\.Dataset007_BraTS2021\.unfinished needs about \S+ GB, and 1e-06 GB are free: make room, then the same"
    )
    assert re.match(needs, refusal(release))
    assert list(raw.iterdir()) == []
    monkeypatch.setenv("nnUNet_raw", "/proc")
    assert re.match(r"/proc can't be written \(/proc: .*\): choose another nnUNet_raw\.", refusal(release))


@pytest.mark.parametrize("edition", ["2020", "msd"])
def test_the_room_that_is_asked_for_is_less_than_the_dataset_takes_and_not_far_from_it(edition, raw, write_release):
    release = write_release(edition, num_cases=6)
    convert_brats(release, 7)
    taken = sum(path.stat().st_size for path in raw.rglob("*.nii.gz"))
    source = find_cases(release)
    assert 0.4 * taken < convert._needed_bytes(source, symlink=False) < 1.02 * taken
    assert (convert._needed_bytes(source, symlink=True) < 0.5 * taken) == (
        edition == "2020"
    )  # 4D files can't be linked


def test_splits_of_an_earlier_conversion_are_warned_of(raw, write_release, tmp_path, monkeypatch, capsys):
    older = tmp_path / "preprocessed" / "Dataset007_BraTS2021" / "splits_final.json"
    older.parent.mkdir(parents=True)
    older.write_text("[]")
    monkeypatch.setenv("nnUNet_preprocessed", str(tmp_path / "preprocessed"))
    convert_brats(write_release(num_cases=6), 7)
    assert f"{older} is of an earlier conversion: remove it before you plan" in capsys.readouterr().out
    shutil.copy(raw / "Dataset007_BraTS2021" / "splits_final.json", older)
    convert_brats(tmp_path / "release", 7, overwrite=True)
    assert "earlier conversion" not in capsys.readouterr().out


# Names


def test_a_name_beyond_ascii_is_read_and_written_where_python_takes_names_for_ascii(
    raw, write_release, tmp_path, monkeypatch
):
    """There a path holds surrogates for its bytes, with LC_ALL=C and PYTHONUTF8=0: here as well, by name."""
    as_ascii = os.fsencode(tmp_path / "ö").decode("ascii", "surrogateescape")
    write_release(num_cases=1, folder=tmp_path / "ö" / "release")
    (tmp_path / "ö" / "raw").mkdir()
    monkeypatch.setenv("nnUNet_raw", f"{as_ascii}/raw")
    convert_brats(Path(as_ascii, "release"), 7)
    assert len(list((tmp_path / "ö" / "raw").glob("Dataset007_BraTS2021/*Tr/*.nii.gz"))) == 5


def test_a_name_that_is_not_utf_8_is_named(raw, write_release, tmp_path, monkeypatch, capfd):
    """SimpleITK ends the process at one."""
    name = os.fsdecode(b"caf\xe9")
    release = write_release(num_cases=1, folder=tmp_path / name)
    output = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
    monkeypatch.setattr(sys, "stdout", output)
    assert cli.main(["convert_brats", str(release), "-d", "7"]) == 2
    output.seek(0)
    assert "caf\\xe9/BraTS2021_00000/BraTS2021_00000_t1.nii.gz' is not UTF-8: rename it" in output.read()


# Interruptions


SLOW = """
import signal, sys, time
from pathlib import Path
from nnunetv2_cfnet.brats import convert
from nnunetv2_cfnet.files import processes

def convert_case(case, **options):
    while case.name == sys.argv[2] and not Path(sys.argv[1], "..", "go").exists():
        time.sleep(0.02)
    WHOLE(case, **options)

class Executor(processes.ProcessPoolExecutor):
    def shutdown(self, **options):
        Path(sys.argv[1], "..", "stopping").touch()
        super().shutdown(**options)

WHOLE = convert.convert_case
convert.convert_case = convert_case
processes.ProcessPoolExecutor = Executor
if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    try:
        convert.convert_brats(Path(sys.argv[1]), 7, num_processes=1)
    except KeyboardInterrupt:
        sys.exit(130)
"""


def start_and_wait(script: Path, release: Path, stuck: str, until: Callable[[], bool]) -> subprocess.Popen:
    """A conversion in processes of its own that gets stuck at a case."""
    script.write_text(SLOW)
    process = subprocess.Popen(
        [sys.executable, str(script), str(release), stuck],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,  # so that a signal can go to all of its processes, as Ctrl-C does
    )
    wait_for(until, process)
    return process


def wait_for(until: Callable[[], bool], process: subprocess.Popen) -> None:
    deadline = time.monotonic() + 60
    while not until():
        if process.poll() is not None or time.monotonic() > deadline:
            process.kill()
            pytest.fail("".join(process.communicate()))
        time.sleep(0.02)


def worker_of(process: subprocess.Popen) -> int:
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    (worker,) = [int(child) for child in children if "spawn_main" in Path(f"/proc/{child}/cmdline").read_text()]
    return worker


@pytest.mark.host
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="looks for worker processes in /proc")
def test_a_killed_conversion_goes_on_where_it_was_and_leaves_no_worker(raw, write_release, tmp_path, capsys):
    release = write_release("2020", num_cases=3)
    unfinished = raw / ".Dataset007_BraTS2020.unfinished"
    done = [unfinished / "labelsTr" / f"BraTS20_Training_00{number}.nii.gz" for number in (1, 2)]
    process = start_and_wait(
        tmp_path / "slow.py", release, "BraTS20_Training_003", lambda: all(path.exists() for path in done)
    )
    worker = worker_of(process)
    process.kill()
    process.communicate()  # which ends when the worker, too, has closed its output
    assert not Path(f"/proc/{worker}").exists() or "Z" in Path(f"/proc/{worker}/stat").read_text()
    assert not list(raw.glob("Dataset*_BraTS2020"))
    written = {path.name: path.stat().st_mtime_ns for path in unfinished.rglob("*.nii.gz")}
    assert len(written) >= 10
    # what a file being written leaves
    (unfinished / "in_work" / ".1.BraTS20_Training_003_0000.nii.gz").write_bytes(b"torn")

    convert_brats(release, 7, num_processes=1)
    dataset = raw / "Dataset007_BraTS2020"
    assert f"Going on in {unfinished}, which an interrupted run left." in capsys.readouterr().out
    after = {path.name: path.stat().st_mtime_ns for path in dataset.rglob("*.nii.gz")}
    assert {name: after[name] for name in written} == written
    assert len(after) == 3 * 5 + 4
    resumed = content(dataset)
    convert_brats(release, 7, overwrite=True, num_processes=1)
    assert content(dataset) == resumed
    assert sorted(path.name for path in raw.iterdir()) == [dataset.name, f"{dataset.name}_findings.csv"]


@pytest.mark.host
def test_ctrl_c_keeps_what_is_done_and_shows_no_traceback(raw, write_release, tmp_path):
    release = write_release(num_cases=2)
    unfinished = raw / ".Dataset007_BraTS2021.unfinished"
    script = tmp_path / "slow.py"
    first = unfinished / "labelsTr" / "BraTS2021_00000.nii.gz"
    process = start_and_wait(script, release, "BraTS2021_00001", first.exists)
    stopping = tmp_path / "stopping"
    stopping.unlink()  # of the checks
    os.killpg(process.pid, signal.SIGINT)
    wait_for(stopping.exists, process)
    (tmp_path / "go").touch()  # the case at hand is finished first
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in errors
    assert f"{unfinished} is kept: the same command goes on there." in errors
    assert first.exists()


def test_what_was_checked_is_not_checked_again(raw, write_release, monkeypatch, capsys):
    release = write_release(num_cases=2, defects=(Kind.HEADER,))
    refusal(release)
    table = capsys.readouterr().out
    monkeypatch.setattr(records, "inspect_case", lambda *_: pytest.fail("a case was checked again"))
    refusal(release)
    assert capsys.readouterr().out == table
    convert_brats(release, 7, fix_headers=True)
    assert sorted(path.name for path in raw.iterdir()) == ["Dataset007_BraTS2021", "Dataset007_BraTS2021_findings.csv"]


def test_images_that_go_missing_while_others_are_converted_are_not_reported_as_there(raw, write_release, monkeypatch):
    """As when another process removes them."""
    whole = convert.convert_case

    def convert_case(case, folder, **options):
        whole(case, folder=folder, **options)
        (folder / "imagesTr" / "BraTS2021_00000_0002.nii.gz").unlink(missing_ok=True)

    monkeypatch.setattr(convert, "convert_case", convert_case)
    release = write_release()
    assert "of 11 files, 1 files are not there: imagesTr/BraTS2021_00000_0002.nii.gz." in refusal(release)
    assert not (raw / "Dataset007_BraTS2021").exists()
    monkeypatch.setattr(convert, "convert_case", whole)
    convert_brats(release, 7)
    assert len(list((raw / "Dataset007_BraTS2021").glob("*Tr/*.nii.gz"))) == 10


def test_another_conversion_starts_anew_and_says_so(raw, write_release, capsys, monkeypatch):
    release = write_release()
    finish = Target.finish
    monkeypatch.setattr(Target, "finish", lambda *_: None)
    convert_brats(release, 7)
    (label,) = raw.glob(".Dataset007_BraTS2021.unfinished/labelsTr/*0.nii.gz")
    before = label.stat().st_mtime_ns
    capsys.readouterr()

    convert_brats(release, 7)
    assert "Going on in" in capsys.readouterr().out
    assert label.stat().st_mtime_ns == before

    convert_brats(release, 7, symlink=True)
    anew = f"{label.parents[1]} is of a run with other files, edition or options: starting anew."
    assert anew in capsys.readouterr().out
    assert label.stat().st_mtime_ns != before

    changed = release / "BraTS2021_00000" / "BraTS2021_00000_t1.nii.gz"
    change(changed, lambda array: array + (array > 0))
    monkeypatch.setattr(Target, "finish", finish)
    convert_brats(release, 7, symlink=True)
    assert anew in capsys.readouterr().out


def test_nnunet_accepts_the_dataset(raw, write_release, monkeypatch, capsys):
    """By nnUNetv2_plan_and_preprocess --verify_dataset_integrity, here with threads for its processes."""
    from nnunetv2.experiment_planning import verify_dataset_integrity as nnunet

    convert_brats(write_release("2024", num_cases=5), 7, edition="2024")
    capsys.readouterr()
    monkeypatch.setattr(nnunet.multiprocessing, "get_context", lambda method: multiprocessing.dummy)
    nnunet.verify_dataset_integrity(str(raw / "Dataset007_BraTS2024"), 1)
    output = capsys.readouterr().out
    assert "verify_dataset_integrity Done." in output
    assert "Error:" not in output
    assert "arning" not in output
