"""Phantom releases: each edition's layout, the same at every call, and what is refused."""

from pathlib import Path

import pytest

from nnunetv2_cfnet.demo.brats_phantom import make_phantom
from nnunetv2_cfnet.errors import UserError

OLD = ("flair", "seg", "t1", "t1ce", "t2")
NEW = ("seg", "t1c", "t1n", "t2f", "t2w")
TRAINING_2020, VALIDATION_2020 = "MICCAI_BraTS2020_TrainingData", "MICCAI_BraTS2020_ValidationData"
# What three cases of an edition consist of.
LAYOUTS = {
    "2018": [
        f"{grade}/Brats18_TCIA01_{number}_1/Brats18_TCIA01_{number}_1_{content}.nii.gz"
        for grade, number in (("HGG", 100), ("HGG", 101), ("LGG", 102))
        for content in OLD
    ],
    "2020": [f"{TRAINING_2020}/name_mapping.csv"]
    + [f"{TRAINING_2020}/BraTS20_Training_001/BraTS20_Training_001_{content}.nii" for content in OLD]
    + [f"{TRAINING_2020}/BraTS20_Training_002/BraTS20_Training_002_{content}.nii.gz" for content in OLD]
    + [f"{TRAINING_2020}/BraTS20_Training_003/BraTS20_Training_003_{c}.nii" for c in OLD if c != "seg"]
    + [f"{TRAINING_2020}/BraTS20_Training_003/W39_1998.09.19_Segm.nii"]
    + [f"{VALIDATION_2020}/BraTS20_Validation_001/BraTS20_Validation_001_{c}.nii.gz" for c in OLD if c != "seg"],
    "2023": [
        f"BraTS-GLI-{case}/BraTS-GLI-{case}-{content}.nii.gz"
        for case in ("00000-000", "00000-001", "00001-000")  # a patient's two time points
        for content in NEW
    ],
    "msd": [
        f"Task01_BrainTumour/{folder}/BRATS_00{number}.nii.gz"
        for folder, numbers in {"imagesTr": (1, 2, 3), "labelsTr": (1, 2, 3), "imagesTs": (4,)}.items()
        for number in numbers
    ],
}


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("edition", LAYOUTS)
def test_files_lie_as_in_the_release(edition, tmp_path):
    make_phantom(tmp_path / "release", edition, 3)
    assert sorted(tree(tmp_path / "release")) == sorted(LAYOUTS[edition])


def test_the_same_call_gives_the_same_files(tmp_path):
    for name in ("one", "same"):
        make_phantom(tmp_path / name, "2020", 2)
    assert tree(tmp_path / "one") == tree(tmp_path / "same")


def test_what_cannot_be_made_is_refused_and_nothing_is_written(tmp_path):
    note = tmp_path / "note.txt"
    note.write_text("mine")
    out = tmp_path / "out"
    for folder, num_cases, message in (
        (out, 0, "0 cases is too few: ask for at least 1."),
        (tmp_path, 1, f"{tmp_path} exists and is no empty folder: choose another one for -o"),
        (note, 1, f"{note} exists and is no empty folder"),
    ):
        with pytest.raises(UserError) as refused:
            make_phantom(folder, "2020", num_cases)
        assert message in str(refused.value)
    assert tree(tmp_path) == {"note.txt": b"mine"}
