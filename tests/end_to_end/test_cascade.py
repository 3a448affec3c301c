"""A cascade: the low-resolution model's segmentations become input channels of the full-resolution one."""

import json
from copy import deepcopy

import pytest

pytestmark = pytest.mark.slow

TRAINER = "nnUNetTrainerCFNetTiny"


def add_cascade(plans_file) -> None:
    """nnU-Net plans a cascade for large images only: add the configurations that it would."""
    plans = json.loads(plans_file.read_text())
    lowres = deepcopy(plans["configurations"]["3d_fullres"])
    lowres |= {
        "data_identifier": "nnUNetPlans_3d_lowres",
        "spacing": [1.25 * spacing for spacing in lowres["spacing"]],
        "patch_size": [16, 16, 16],
        "next_stage": "3d_cascade_fullres",
    }
    plans["configurations"] |= {
        "3d_lowres": lowres,
        "3d_cascade_fullres": {"inherits_from": "3d_fullres", "previous_stage": "3d_lowres"},
    }
    plans_file.write_text(json.dumps(plans))


def test_cascade_trains_and_predicts(make_workspace, tmp_path):
    workspace = make_workspace()
    add_cascade(workspace.plans_file)
    workspace.run("nnUNetv2_preprocess", "-d", 1, "-c", "3d_lowres", "-np", 1)
    workspace.train("3d_lowres", "all")  # the next stage needs a segmentation of every training case
    predicted = workspace.model(TRAINER, "3d_lowres") / "predicted_next_stage" / "3d_cascade_fullres"
    assert len(list(predicted.iterdir())) == 5

    workspace.train("3d_cascade_fullres", 0)
    plans = json.loads((workspace.model(TRAINER, "3d_cascade_fullres") / "plans.json").read_text())
    architecture = plans["configurations"]["3d_cascade_fullres"]["architecture"]
    assert architecture["arch_kwargs"]["modality_groups"] == [[0, 1], [2, 3]]  # the one-hot channels go to both

    workspace.predict(tmp_path / "lowres", "3d_lowres", "-f", "all")
    workspace.predict(
        tmp_path / "cascade", "3d_cascade_fullres", "-f", 0, "-prev_stage_predictions", tmp_path / "lowres"
    )
    assert len(list((tmp_path / "cascade").glob("*.nii.gz"))) == 2
