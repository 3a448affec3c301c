"""The demo's dataset: what nnU-Net finds of it, and that equal seeds make equal cases."""

import json

import numpy as np
import pytest
import SimpleITK

from nnunetv2_cfnet.demo.phantom import make_case, write_dataset
from nnunetv2_cfnet.errors import UserError

SHAPE = (20, 24, 18)  # no two axes alike


def read(path):
    return SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(path)))


def test_dataset_has_nnunets_files(tmp_path):
    folder = tmp_path / "nnUNet_raw" / "Dataset001_Phantom"
    write_dataset(folder, num_training=4, num_test=1, seed=3, shape=SHAPE)

    description = json.loads((folder / "dataset.json").read_text())
    assert description["channel_names"] == {"0": "T1", "1": "T1ce", "2": "T2", "3": "FLAIR"}
    assert description["labels"] == {
        "background": 0,
        "whole_tumor": [1, 2, 3],
        "tumor_core": [2, 3],
        "enhancing_tumor": [3],
    }
    assert description["regions_class_order"] == [1, 2, 3]
    assert description["numTraining"] == 4
    assert description["file_ending"] == ".nii.gz"

    cases = [f"phantom_tr_00{index}" for index in range(4)]
    assert sorted(path.name for path in (folder / "labelsTr").iterdir()) == [f"{case}.nii.gz" for case in cases]
    assert sorted(path.name for path in (folder / "imagesTr").iterdir()) == [
        f"{case}_000{channel}.nii.gz" for case in cases for channel in range(4)
    ]
    assert sorted(path.name for path in (folder / "labelsTs").iterdir()) == ["phantom_ts_000.nii.gz"]
    assert len(list((folder / "imagesTs").iterdir())) == 4

    images, labels = make_case([3, 0, 1], SHAPE, with_enhancing=True)
    assert set(np.unique(labels)) == {0, 1, 2, 3}
    np.testing.assert_array_equal(read(folder / "labelsTr" / "phantom_tr_001.nii.gz"), labels, strict=True)
    np.testing.assert_array_equal(read(folder / "imagesTr" / "phantom_tr_001_0002.nii.gz"), images[2], strict=True)
    has_enhancing = [(read(folder / "labelsTr" / f"{case}.nii.gz") == 3).any() for case in cases]
    assert has_enhancing == [True, True, False, True]


def test_a_larger_dataset_of_a_seed_starts_with_the_smaller_ones_cases(tmp_path):
    for num_training in (1, 2):
        write_dataset(tmp_path / str(num_training), num_training=num_training, num_test=1, seed=3, shape=SHAPE)
    for file in ("imagesTr/phantom_tr_000_0000.nii.gz", "imagesTs/phantom_ts_000_0000.nii.gz"):
        np.testing.assert_array_equal(read(tmp_path / "1" / file), read(tmp_path / "2" / file))
    images = [read(tmp_path / "2" / f"images{set_}_0000.nii.gz") for set_ in ("Tr/phantom_tr_000", "Ts/phantom_ts_000")]
    assert (images[0] != images[1]).any()


def test_an_existing_dataset_is_not_overwritten(tmp_path):
    (tmp_path / "dataset.json").write_text("{}")
    with pytest.raises(UserError, match="exists and is no empty folder"):
        write_dataset(tmp_path, num_training=1, num_test=1, seed=0, shape=SHAPE)


def test_a_shape_too_small_for_a_brain_is_named():
    with pytest.raises(ValueError, match=r"shape must be three numbers of at least 16 voxels, got \(8, 32, 32\)"):
        make_case(0, (8, 32, 32), with_enhancing=True)
