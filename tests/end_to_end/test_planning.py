"""CFNet's own plans through nnU-Net's commands: CFNet's trainer and stock ones, prediction, and shared data."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2

from nnunetv2_cfnet.planning.plans import CFNET

pytestmark = pytest.mark.slow

PLANS = "nnUNetCFNetPlansM"


@pytest.fixture(scope="module")
def workspace(new_workspace):
    """A phantom that nothing but this package's command has planned, preprocessed by these plans."""
    workspace = new_workspace()
    workspace.write_phantom(num_training=5, num_test=2)
    printed = workspace.run("nnunetv2_cfnet", "plan", "-d", 1).stdout
    assert printed.endswith(f"nnUNetv2_preprocess -d 1 -plans_name {PLANS} -c 2d 3d_fullres\n")
    workspace.run("nnUNetv2_preprocess", "-d", 1, "-plans_name", PLANS, "-c", "3d_fullres", "-np", 1)
    workspace.shrink_plans(PLANS)
    return workspace


@pytest.mark.parametrize(
    "trainer", ["nnUNetTrainerCFNetTiny", "nnUNetTrainerTiny", "nnUNetTrainerDA5Tiny", "nnUNetTrainerBNTiny"]
)
def test_cfnets_and_stock_trainers_train_and_predict_it(workspace, tmp_path, trainer):
    workspace.train("3d_fullres", 0, "-p", PLANS, trainer=trainer)
    model = workspace.model(trainer, "3d_fullres", plans=PLANS)
    plans = json.loads((model / "plans.json").read_text())
    assert plans["configurations"]["3d_fullres"]["architecture"]["network_class_name"] == CFNET
    weights = torch.load(model / "fold_0" / "checkpoint_final.pth", weights_only=False)["network_weights"]
    assert any(name.startswith("encoder.second.") for name in weights)
    assert any(name.endswith(".running_mean") for name in weights) == (trainer == "nnUNetTrainerBNTiny")
    assert len(workspace.probabilities(model, tmp_path)) == 2


def test_data_preprocessed_for_it_are_those_of_nnunets_plans(workspace, planned):
    def read(preprocessed: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        data = nnUNetDatasetBlosc2(str(preprocessed / workspace.dataset / "nnUNetPlans_3d_fullres"))
        return {name: tuple(array[:] for array in data.load_case(name)[:2]) for name in data.identifiers}

    ours, nnunets = read(workspace.preprocessed), read(planned / "nnUNet_preprocessed")
    assert len(ours) == 5
    assert ours.keys() == nnunets.keys()
    for name, arrays in ours.items():
        assert all(np.array_equal(*pair) for pair in zip(arrays, nnunets[name], strict=True))
