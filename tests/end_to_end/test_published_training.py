"""The published network, trained, continued, validated and predicted with nnU-Net's own commands."""

import json
import shutil
from pathlib import Path

import pytest
import SimpleITK
import timm
import torch

from nnunetv2_cfnet.architecture.published import RESNET
from nnunetv2_cfnet.planning.plans import PUBLISHED

pytestmark = pytest.mark.slow

TRAINER = "nnUNetTrainerCFNetPublishedImageNetTiny"


@pytest.fixture(scope="module")
def workspace(make_workspace):
    workspace = make_workspace()
    workspace.set_patch_size_2d(32, 48)
    return workspace


@pytest.fixture(scope="module")
def offline(tmp_path_factory) -> dict[str, str]:
    """No ImageNet weights, and nowhere to get them from."""
    return {"TORCH_HOME": str(tmp_path_factory.mktemp("torch")), "https_proxy": "http://127.0.0.1:9"}


@pytest.fixture(scope="module")
def model(workspace, offline):
    """Trained from ImageNet weights, which are gone afterwards."""
    file = imagenet_file(offline)
    file.parent.mkdir(parents=True, exist_ok=True)
    torch.save(timm.create_model(RESNET).state_dict(), file)
    output = workspace.train("2d", 0, trainer=TRAINER, **offline).stdout
    file.unlink()
    assert f"The encoders start from the ImageNet weights in {file}" in output
    return workspace.model(TRAINER, "2d")


def imagenet_file(environment: dict[str, str]) -> Path:
    return Path(environment["TORCH_HOME"], "hub", "checkpoints", "resnet50_a1_0-14fe96d1.pth")


def learning_rates(fold: Path) -> list[float]:
    return torch.load(fold / "checkpoint_final.pth", weights_only=False)["logging"]["lrs"]


def test_trains_with_the_published_schedule(model):
    plans = json.loads((model / "plans.json").read_text())
    assert plans["configurations"]["2d"]["architecture"]["network_class_name"] == PUBLISHED
    assert learning_rates(model / "fold_0") == pytest.approx([0.01, 0.0096])
    assert (model / "fold_0" / "validation" / "summary.json").is_file()


def test_training_from_scratch_without_imagenet_weights_fails_with_what_to_do(workspace, offline):
    refused = workspace.train("2d", 3, trainer=TRAINER, check=False, **offline)
    assert refused.returncode != 0
    assert f"put it at {imagenet_file(offline)}" in refused.stderr
    assert "Epoch 0" not in refused.stdout


def test_predicts_without_imagenet_weights(workspace, model, offline, tmp_path):
    workspace.predict(tmp_path, "2d", "-f", 0, trainer=TRAINER, **offline)
    for prediction in tmp_path.glob("*.nii.gz"):
        image = workspace.raw / workspace.dataset / "imagesTs" / prediction.name.replace(".nii.gz", "_0000.nii.gz")
        size, expected = (SimpleITK.ReadImage(str(path)).GetSize() for path in (prediction, image))
        assert size == expected
    assert len(list(tmp_path.glob("*.nii.gz"))) == 2


def test_interrupted_training_is_continued_at_its_epochs_rate_without_imagenet_weights(workspace, model, offline):
    interrupted = shutil.copytree(model / "fold_0", model / "fold_1")
    checkpoint = torch.load(interrupted / "checkpoint_final.pth", weights_only=False)
    checkpoint["current_epoch"] = 1
    torch.save(checkpoint, interrupted / "checkpoint_latest.pth")
    (interrupted / "checkpoint_final.pth").unlink()
    output = workspace.train("2d", 1, "--c", trainer=TRAINER, **offline).stdout
    assert "Epoch 1" in output
    assert "Epoch 0" not in output
    assert "The encoders start from" not in output
    assert learning_rates(interrupted) == pytest.approx([0.01, 0.0096])


def test_validation_alone(workspace, model, offline):
    validation = model / "fold_0" / "validation"
    shutil.rmtree(validation)
    output = workspace.train("2d", 0, "--val", trainer=TRAINER, **offline).stdout
    assert "Epoch 0" not in output
    assert (validation / "summary.json").is_file()
