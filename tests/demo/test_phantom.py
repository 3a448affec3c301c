"""The demo's dataset: what nnU-Net finds of it."""

import json

import numpy as np
from images import read

from nnunetv2_cfnet.demo.phantom import make_case, write_dataset

SHAPE = (20, 24, 18)  # no two axes alike


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
    assert [len(list((folder / name).iterdir())) for name in ("imagesTr", "imagesTs", "labelsTs")] == [4 * 4, 4, 1]

    images, labels = make_case([3, 0, 1], SHAPE, with_enhancing=True)
    assert set(np.unique(labels)) == {0, 1, 2, 3}
    np.testing.assert_array_equal(read(folder / "labelsTr" / "phantom_tr_001.nii.gz"), labels, strict=True)
    np.testing.assert_array_equal(read(folder / "imagesTr" / "phantom_tr_001_0002.nii.gz"), images[2], strict=True)
    has_enhancing = [(read(folder / "labelsTr" / f"{case}.nii.gz") == 3).any() for case in cases]
    assert has_enhancing == [True, True, False, True]
