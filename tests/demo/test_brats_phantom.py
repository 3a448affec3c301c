"""Phantom releases: each edition's layout, equal for equal seeds, and what is refused."""

from pathlib import Path

import pytest

from nnunetv2_cfnet.brats.editions import CHANNELS, EDITIONS
from nnunetv2_cfnet.brats.sources import find_cases
from nnunetv2_cfnet.demo.brats_phantom import make_phantom
from nnunetv2_cfnet.errors import UserError

SHAPE = (20, 24, 18)  # no two axes alike
OLD = ("flair", "seg", "t1", "t1ce", "t2")
NEW = ("seg", "t1c", "t1n", "t2f", "t2w")
TRAINING_2020, VALIDATION_2020 = "MICCAI_BraTS2020_TrainingData", "MICCAI_BraTS2020_ValidationData"
# What three cases of an edition consist of.
LAYOUTS = {
    "2018": ["survival_data.csv"]
    + [f"HGG/Brats18_CBICA_AAB_1/Brats18_CBICA_AAB_1_{content}.nii.gz" for content in OLD]
    + [f"HGG/Brats18_TCIA01_101_1/Brats18_TCIA01_101_1_{content}.nii.gz" for content in OLD]
    + [f"LGG/Brats18_TCIA10_102_1/Brats18_TCIA10_102_1_{content}.nii.gz" for content in OLD],
    "2020": [f"{TRAINING_2020}/{table}.csv" for table in ("name_mapping", "survival_info")]
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
    "msd": ["Task01_BrainTumour/dataset.json"]
    + [
        f"Task01_BrainTumour/{folder}/{shadow}BRATS_00{number}.nii.gz"
        for folder, numbers in {"imagesTr": (1, 2, 3), "labelsTr": (1, 2, 3), "imagesTs": (4,)}.items()
        for number in numbers
        for shadow in ("", "._")  # of the Mac that packed the archive
    ],
}


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("edition", LAYOUTS)
def test_files_lie_as_in_the_release(edition, tmp_path):
    make_phantom(tmp_path / "release", edition, 3, shape=SHAPE)
    assert sorted(tree(tmp_path / "release")) == sorted(LAYOUTS[edition])


@pytest.mark.parametrize("edition", EDITIONS)
def test_every_case_is_found_with_all_its_channels(edition, tmp_path):
    names = make_phantom(tmp_path / "release", edition, 6, shape=SHAPE)
    source = find_cases(tmp_path / "release", edition)
    training = [case for case in source.cases if case.is_training]
    assert [case.name for case in training] == sorted(names)
    assert len(names) == 6
    assert all(len(case.files[content]) == 1 for case in training for content in (*CHANNELS, "seg"))
    assert source.unclaimed == []
    assert [path.name for path in tmp_path.iterdir()] == ["release"]


def test_equal_seeds_give_equal_files_and_other_seeds_do_not(tmp_path):
    for name, seed in {"one": 1, "same": 1, "other": 2}.items():
        make_phantom(tmp_path / name, "2020", 2, seed=seed, shape=SHAPE)
    one, same, other = (tree(tmp_path / name) for name in ("one", "same", "other"))
    assert one == same
    assert one.keys() == other.keys()
    assert all(one[name] != other[name] for name in one if "nii" in name)


def test_what_cannot_be_made_is_refused_and_nothing_is_written(tmp_path):
    note = tmp_path / "note.txt"
    note.write_text("mine")
    out = tmp_path / "out"
    for folder, edition, num_cases, shape, message in (
        (out, "2017", 2, SHAPE, "There is no edition '2017': choose one of 2018, 2019, 2020, 2021, 2023, 2024, msd."),
        (out, "2020", 0, SHAPE, "0 cases is too few: ask for at least 1."),
        (out, "2020", 1, (8, 24, 24), "give each axis at least 16 voxels"),
        (tmp_path, "2020", 1, SHAPE, f"{tmp_path} exists and is no empty folder: choose another one for -o"),
        (note, "2020", 1, SHAPE, f"{note} exists and is no empty folder"),
    ):
        with pytest.raises(UserError) as refused:
            make_phantom(folder, edition, num_cases, shape=shape)
        assert message in str(refused.value)
    assert tree(tmp_path) == {"note.txt": b"mine"}
