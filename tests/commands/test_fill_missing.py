"""`nnunetv2_cfnet fill_missing`: what it writes, and what it refuses by name before it writes anything."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from images import geometry, read, write_image
from skimage import io

from nnunetv2_cfnet import cli
from nnunetv2_cfnet.commands import fill_missing

HEADER = {
    "Spacing": (1.0, 2.0, 3.0),
    "Origin": (-4.0, 5.0, 6.0),
    "Direction": (-1.0, 0.0, 0.0, 0.0, -1.0, 0.0, 0.0, 0.0, 1.0),
}
ROUNDED = tuple(1.00001 * spacing for spacing in HEADER["Spacing"])
CHANNELS = {"0": "T1", "1": "T1ce", "2": "T2", "3": "FLAIR"}


@pytest.fixture(autouse=True)
def in_this_process(monkeypatch):
    """Processes take seconds to start; one test has them."""

    def in_turn(function, cases, num_processes, title):
        return [function(case) for case in cases]

    monkeypatch.setattr("nnunetv2_cfnet.files.processes.in_parallel", in_turn)


@pytest.fixture
def dataset_json(tmp_path) -> Path:
    file = tmp_path / "dataset.json"
    file.write_text(json.dumps({"channel_names": CHANNELS, "file_ending": ".nii.gz", "labels": {"background": 0}}))
    return file


def image(seed: int = 0, shape: tuple[int, ...] = (4, 5, 6)) -> np.ndarray:
    return np.random.default_rng(seed).integers(1, 100, shape).astype(np.float32)


@pytest.fixture
def images(tmp_path) -> Path:
    """Case a has all four channels, case b T1 and FLAIR, case c_1 T1ce alone."""
    folder = tmp_path / "in"
    for case, channels in {"a": (0, 1, 2, 3), "b": (0, 3), "c_1": (1,)}.items():
        for channel in channels:
            write_image(image(channel), folder / f"{case}_{channel:04d}.nii.gz", **HEADER)
    return folder


def fill(images: Path, dataset_json: Path, *flags: str) -> int:
    output = images.parent / "out"
    return cli.main(["fill_missing", "-i", str(images), "-o", str(output), "-djfile", str(dataset_json), *flags])


def test_what_is_missing_becomes_zero_in_the_geometry_of_the_case(images, dataset_json):
    assert fill(images, dataset_json) == 0
    output = images.parent / "out"
    assert [path.name for path in sorted(output.iterdir())] == [
        f"{case}_{channel:04d}.nii.gz" for case in ("a", "b", "c_1") for channel in range(4)
    ]
    for path in output.iterdir():
        source = images / path.name
        if source.exists():
            assert path.read_bytes() == source.read_bytes()
            assert not path.is_symlink()
        else:
            assert not read(path).any()
            assert geometry(path) == geometry(images / "a_0000.nii.gz")
    assert not [path for path in images.parent.iterdir() if path.name.startswith(".")]


def test_says_which_cases_lack_what(images, dataset_json, capsys):
    write_image(np.zeros((4, 5, 6), dtype=np.float32), images / "a_0002.nii.gz", **HEADER)
    assert fill(images, dataset_json) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines == [
        "a lacks T2",
        "b lacks T1ce, T2",
        "c_1 lacks T1, T2, FLAIR",
        "3 of 3 cases lack a sequence: T1 1, T1ce 1, T2 3, FLAIR 1.",
        f"{images.parent / 'out'} has 3 cases of 4 images each.",
    ]


def test_complete_cases_are_taken_as_they_are(images, dataset_json, capsys):
    for path in [*images.glob("b_*"), *images.glob("c_*")]:
        path.unlink()
    assert fill(images, dataset_json) == 0
    assert "0 of 1 cases lack a sequence." in capsys.readouterr().out
    assert len(list((images.parent / "out").iterdir())) == 4


def test_images_are_linked_where_asked(images, dataset_json):
    assert fill(images, dataset_json, "--symlink") == 0
    output = images.parent / "out"
    assert (output / "b_0003.nii.gz").readlink() == images / "b_0003.nii.gz"
    assert not (output / "b_0001.nii.gz").is_symlink()


def test_what_is_filled_is_left_as_it_is_by_a_second_run(images, dataset_json, capsys):
    assert fill(images, dataset_json) == 0
    said = capsys.readouterr().out.splitlines()[:-1]
    again = images.parent / "again"
    arguments = ["-i", str(images.parent / "out"), "-o", str(again), "-djfile", str(dataset_json)]
    assert cli.main(["fill_missing", *arguments]) == 0
    assert capsys.readouterr().out.splitlines()[:-1] == said
    for path in again.iterdir():
        assert path.read_bytes() == (images.parent / "out" / path.name).read_bytes()


def test_two_dimensional_images_through_nnunets_own_reader(tmp_path):
    file = tmp_path / "dataset.json"
    file.write_text(json.dumps({"channel_names": {"0": "a", "1": "b"}, "file_ending": ".png"}))
    (tmp_path / "in").mkdir()
    io.imsave(tmp_path / "in" / "case_0001.png", image(shape=(5, 6)).astype(np.uint8), check_contrast=False)
    assert fill(tmp_path / "in", file) == 0
    filled = io.imread(tmp_path / "out" / "case_0000.png")
    assert filled.shape == (5, 6)
    assert not filled.any()


def test_the_dataset_of_an_id_names_channels_and_ending(images, dataset_json, tmp_path, monkeypatch):
    for variable in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        (tmp_path / variable).mkdir()
        monkeypatch.setenv(variable, str(tmp_path / variable))
    raw = tmp_path / "nnUNet_raw" / "Dataset007_Brains"
    raw.mkdir()
    dataset_json.rename(raw / "dataset.json")
    monkeypatch.setattr("nnunetv2_cfnet.host.dataset_name", lambda dataset_id: f"Dataset{dataset_id:03d}_Brains")
    assert cli.main(["fill_missing", "-i", str(images), "-o", str(tmp_path / "out"), "-d", "7"]) == 0


def drop_part(images: Path) -> None:
    path = images / "b_0003.nii.gz"
    path.write_bytes(path.read_bytes()[:100])


def make_link_to_nothing(images: Path) -> None:
    (images / "b_0001.nii.gz").symlink_to("nowhere.nii.gz")


def make_all_zero(images: Path) -> None:
    write_image(np.zeros((4, 5, 6), dtype=np.float32), images / "c_1_0001.nii.gz", **HEADER)


DEFECTS = {
    "unknown channel": (
        lambda images: write_image(image(), images / "b_0004.nii.gz"),
        r"b_0004.nii.gz: there is no channel 0004 \(0000 = T1, .*\): rename it",
    ),
    "no channel": (
        lambda images: write_image(image(), images / "d.nii.gz"),
        r"d.nii.gz is not named CASE_XXXX.nii.gz",
    ),
    "ending": (
        lambda images: write_image(image(), images / "b_0001.nrrd"),
        r"b_0001.nrrd does not end in .nii.gz, the file_ending of dataset.json",
    ),
    "shape": (
        lambda images: write_image(image(shape=(4, 5, 7)), images / "b_0001.nii.gz", **HEADER),
        r"b_0001.nii.gz has \(4, 5, 7\) voxels, .*b_0000.nii.gz \(4, 5, 6\): resample one",
    ),
    "geometry": (
        lambda images: write_image(image(), images / "b_0001.nii.gz", **HEADER | {"Origin": (0.0, 0.0, 0.0)}),
        r"b_0001.nii.gz has another header than .*b_0000.nii.gz: origin \(0, 0, 0\) against \(-4, 5, 6\)",
    ),
    "rounded spacing": (
        lambda images: write_image(image(), images / "b_0001.nii.gz", **HEADER | {"Spacing": ROUNDED}),
        r"b_0001.nii.gz has the spacing .*: nnU-Net takes no images whose spacings differ, however little",
    ),
    "other digits": (
        lambda images: write_image(image(), images / "b_\u0660\u0660\u0660\u0661.nii.gz", **HEADER),
        r"is not named CASE_XXXX.nii.gz",
    ),
    "folder": (
        lambda images: write_image(image(), images / "more" / "d_0000.nii.gz", **HEADER),
        r"more is a folder with images, which nnU-Net would not see: move them up",
    ),
    "several channels": (
        lambda images: write_image(image(shape=(2, 4, 5, 6)), images / "b_0001.nii.gz"),
        r"b_0001.nii.gz holds 2 channels",
    ),
    "cut off": (drop_part, r"b_0003.nii.gz can't be read"),
    "link to nothing": (make_link_to_nothing, r"b_0001.nii.gz can't be read \(a link to nowhere.nii.gz"),
    "all zero": (make_all_zero, r"c_1 has nothing: all its images are zero"),
}


@pytest.mark.parametrize("defect", DEFECTS)
def test_what_can_not_be_filled_is_refused_by_name_and_nothing_written(images, dataset_json, capsys, defect):
    make, message = DEFECTS[defect]
    make(images)
    before = sorted(images.parent.rglob("*"))
    assert fill(images, dataset_json) == 2
    error = capsys.readouterr().err
    assert "nothing was written" in error
    assert re.search(message, error)
    assert sorted(images.parent.rglob("*")) == before


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ("in", "lies in"),
        ("in/below", "lies in"),
        ("full", "exists and is no empty folder"),
        ("dataset.json", "exists and is no empty folder"),
    ],
)
def test_other_places_for_the_output_are_refused(images, dataset_json, capsys, output, message):
    (images.parent / "full" / "something").mkdir(parents=True)
    before = sorted(images.parent.rglob("*"))
    target = images.parent / output
    arguments = ["-i", str(images), "-o", str(target), "-djfile", str(dataset_json)]
    assert cli.main(["fill_missing", *arguments]) == 2
    assert f"{target} " in (error := capsys.readouterr().err)
    assert message in error
    assert sorted(images.parent.rglob("*")) == before


@pytest.mark.parametrize("content", [[], ["notes.json"]])
def test_a_folder_without_images_is_named(tmp_path, dataset_json, capsys, content):
    (tmp_path / "in").mkdir()
    for name in content:
        (tmp_path / "in" / name).touch()
    assert fill(tmp_path / "in", dataset_json) == 2
    assert f"{tmp_path / 'in'} holds no images named CASE_XXXX.nii.gz" in capsys.readouterr().err


def test_a_dataset_without_channels_is_named(images, dataset_json, capsys):
    dataset_json.write_text(json.dumps({"file_ending": ".nii.gz"}))
    assert fill(images, dataset_json) == 2
    assert f'{dataset_json}: dataset.json has no "channel_names"' in capsys.readouterr().err


def test_what_fails_while_it_is_written_leaves_nothing(images, dataset_json, capsys, monkeypatch):
    def full_disk(*_: object) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(fill_missing.shutil, "copyfile", full_disk)
    before = sorted(images.parent.rglob("*"))
    assert fill(images, dataset_json) == 2
    assert "No space left on device" in capsys.readouterr().err
    assert sorted(images.parent.rglob("*")) == before


@pytest.mark.host
def test_in_processes_of_their_own(images, dataset_json, monkeypatch):
    monkeypatch.undo()
    assert fill(images, dataset_json, "-np", "2") == 0
    assert len(list((images.parent / "out").iterdir())) == 12
