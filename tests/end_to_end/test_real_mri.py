"""nnU-Net's path on a crop of real four-sequence MRI (tests/data/open_ms, CC BY)."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import SimpleITK
from nnunetv2.dataset_conversion.generate_dataset_json import generate_dataset_json

pytestmark = pytest.mark.slow

SOURCE = Path(__file__).parents[1] / "data" / "open_ms"
SEQUENCES = ("t1", "t1ce", "t2", "flair")
DATASET = "Dataset001_OpenMS"


def test_real_mri_is_trained_on_and_predicted_with_its_geometry(new_workspace, tmp_path):
    workspace = new_workspace()
    images, labels = workspace.raw / DATASET / "imagesTr", workspace.raw / DATASET / "labelsTr"
    images.mkdir(parents=True)
    labels.mkdir()
    for patient in ("patient07", "patient19", "patient26"):
        for channel, sequence in enumerate(SEQUENCES):
            shutil.copy(SOURCE / f"{patient}_{sequence}.nii.gz", images / f"{patient}_{channel:04d}.nii.gz")
        shutil.copy(SOURCE / f"{patient}_seg.nii.gz", labels / f"{patient}.nii.gz")
    generate_dataset_json(
        str(workspace.raw / DATASET),
        channel_names={str(index): sequence.upper() for index, sequence in enumerate(SEQUENCES)},
        labels={"background": 0, "lesion": 1},
        num_training_cases=3,
        file_ending=".nii.gz",
    )
    workspace.dataset = DATASET
    workspace.extract_fingerprint()
    workspace.run(
        *("nnUNetv2_plan_and_preprocess", "-d", 1, "-c", "3d_fullres", "-npfp", 1, "-np", 1),
        "--verify_dataset_integrity",
    )
    output = workspace.train("3d_fullres", "all").stdout
    assert "CFNet's modality groups: (T1, T1CE) and (T2, FLAIR) - the pairing" in output
    workspace.run(
        *("nnUNetv2_predict", "-i", images, "-o", tmp_path, "-d", 1, "-c", "3d_fullres", "-f", "all"),
        *("-tr", "nnUNetTrainerCFNetTiny", "-device", "cpu", "--disable_tta", "-npp", 1, "-nps", 1),
    )
    predictions = sorted(tmp_path.glob("*.nii.gz"))
    assert len(predictions) == 3
    for path in predictions:
        prediction = SimpleITK.ReadImage(str(path))
        image = SimpleITK.ReadImage(str(images / path.name.replace(".nii.gz", "_0003.nii.gz")))
        for of in ("GetSize", "GetSpacing", "GetOrigin", "GetDirection"):
            assert getattr(prediction, of)() == getattr(image, of)()
        assert set(np.unique(SimpleITK.GetArrayFromImage(prediction))) <= {0, 1}
