"""A release's layout to a dataset that nnU-Net accepts and back to the release's labels, with the console commands."""

import json

import numpy as np
import pytest
import SimpleITK

from nnunetv2_cfnet.brats.sources import find_cases

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("edition", ["2018", "2020", "2024", "msd"])  # a layout of each kind
def test_nnunet_plans_the_dataset_and_reference_labels_come_back_as_they_were(edition, new_workspace):
    workspace = new_workspace()
    named = ("--edition", "2024") if edition == "2024" else ()  # its cases are named as in 2023
    workspace.run("nnunetv2_cfnet", "make_phantom", "-o", "release", "--edition", edition, "--cases", 5)
    workspace.run("nnunetv2_cfnet", "convert_brats", "release", "-d", 1, "-np", 2, *named)
    (dataset,) = workspace.raw.glob("Dataset001_*/")
    workspace.dataset = dataset.name
    workspace.extract_fingerprint()
    output = workspace.run(
        "nnUNetv2_plan_and_preprocess", "-d", 1, "-npfp", 1, "--no_pp", "--verify_dataset_integrity"
    ).stdout
    assert "verify_dataset_integrity Done." in output

    (dataset / "labelsTr" / "dataset.json").write_text((dataset / "dataset.json").read_text())
    workspace.run("nnunetv2_cfnet", "export_brats", dataset / "labelsTr", "-o", "back")
    cases = [case for case in find_cases(workspace.root / "release", edition).cases if case.is_training]
    assert len(cases) >= 5
    for case in cases:
        (source,) = (SimpleITK.ReadImage(str(path)) for path in case.files["seg"])
        back = SimpleITK.ReadImage(str(workspace.root / "back" / f"{case.name}.nii.gz"))
        assert np.array_equal(*map(SimpleITK.GetArrayFromImage, (source, back)))
        for of in ("GetOrigin", "GetSpacing", "GetDirection"):
            assert getattr(back, of)() == pytest.approx(getattr(source, of)(), abs=1e-4)
    assert json.loads((dataset / "dataset.json").read_text())["edition"] == edition
