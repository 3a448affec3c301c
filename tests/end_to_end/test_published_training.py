"""The published network, trained, continued, validated, predicted and fine-tuned with nnU-Net's own commands."""

import json
import shutil

import pytest
import SimpleITK
import timm
import torch

from nnunetv2_cfnet.architecture.published import RESNET
from nnunetv2_cfnet.commands.import_weights import import_weights
from nnunetv2_cfnet.planning.plans import PUBLISHED

TRAINER = "nnUNetTrainerCFNetPublishedTiny"


@pytest.fixture(scope="module")
def workspace(make_workspace):
    workspace = make_workspace(("2d",), num_training=5, num_test=1)
    workspace.set_patch_size_2d(32, 48)
    return workspace


@pytest.fixture(scope="module")
def model(workspace):
    workspace.train("2d", 0, trainer=TRAINER)
    return workspace.model(TRAINER, "2d")


def learning_rates(fold) -> list[float]:
    return torch.load(fold / "checkpoint_final.pth", weights_only=False)["logging"]["lrs"]


def test_trains_with_the_published_schedule(model):
    plans = json.loads((model / "plans.json").read_text())
    assert plans["configurations"]["2d"]["architecture"]["network_class_name"] == PUBLISHED
    assert learning_rates(model / "fold_0") == pytest.approx([0.01, 0.0096])
    assert (model / "fold_0" / "validation" / "summary.json").is_file()


def test_predicts_from_the_model_folder(workspace, model, tmp_path):
    workspace.predict(tmp_path, "2d", "-f", 0, trainer=TRAINER)
    (prediction,) = tmp_path.glob("*.nii.gz")
    image = workspace.raw / workspace.dataset / "imagesTs" / prediction.name.replace(".nii.gz", "_0000.nii.gz")
    size, expected = (SimpleITK.ReadImage(str(path)).GetSize() for path in (prediction, image))
    assert size == expected


def test_a_3d_configuration_is_refused_with_one_message(workspace, model):
    refused = workspace.train("3d_fullres", 0, trainer=TRAINER, check=False)
    assert refused.returncode != 0
    assert "the published CFNet is 2D, the patch is [" in refused.stderr.strip().splitlines()[-1]
    assert not workspace.model(TRAINER, "3d_fullres").exists()


@pytest.mark.slow
def test_interrupted_training_is_continued_at_its_epochs_rate(workspace, model):
    fold, interrupted = model / "fold_0", model / "fold_1"
    shutil.copytree(fold, interrupted)
    checkpoint = torch.load(interrupted / "checkpoint_final.pth", weights_only=False)
    checkpoint["current_epoch"] = 1
    torch.save(checkpoint, interrupted / "checkpoint_latest.pth")
    (interrupted / "checkpoint_final.pth").unlink()
    output = workspace.train("2d", 1, "--c", trainer=TRAINER).stdout
    assert "Epoch 1" in output
    assert "Epoch 0" not in output
    assert learning_rates(interrupted) == pytest.approx([0.01, 0.0096])


@pytest.mark.slow
def test_validation_alone(workspace, model):
    validation = model / "fold_0" / "validation"
    shutil.rmtree(validation)
    output = workspace.train("2d", 0, "--val", trainer=TRAINER).stdout
    assert "Epoch 0" not in output
    assert (validation / "summary.json").is_file()


@pytest.mark.slow
def test_imagenet_weights_are_asked_for_by_the_variant_alone_and_only_from_scratch(workspace, model, tmp_path):
    """Training from scratch without them fails with what to do; with them it starts; --c and prediction need none."""
    trainer, nowhere = "nnUNetTrainerCFNetPublishedImageNetTiny", {"https_proxy": "http://127.0.0.1:9"}
    torch_home = tmp_path / "torch"
    refused = workspace.train("2d", 0, trainer=trainer, check=False, TORCH_HOME=str(torch_home), **nowhere)
    assert refused.returncode != 0
    file = torch_home / "hub" / "checkpoints" / "resnet50_a1_0-14fe96d1.pth"
    assert f"put it at {file}" in refused.stderr
    assert "Epoch 0" not in refused.stdout

    file.parent.mkdir(parents=True, exist_ok=True)
    torch.save(timm.create_model(RESNET).state_dict(), file)
    output = workspace.train("2d", 0, trainer=trainer, TORCH_HOME=str(torch_home), **nowhere).stdout
    assert f"The encoders start from the ImageNet weights in {file}" in output

    file.unlink()
    more = {"trainer": trainer, "TORCH_HOME": str(torch_home), **nowhere}
    output = workspace.train("2d", 0, "--c", **more).stdout
    assert "The encoders start from" not in output
    workspace.predict(tmp_path / "predicted", "2d", "-f", 0, **more)
    assert not file.exists()


@pytest.mark.slow
def test_imported_weights_are_fine_tuned(workspace, model, release_state_dict, tmp_path):
    """The phantom has three regions, the release four classes: the head's last conv starts anew."""
    torch.save(release_state_dict, tmp_path / "best.pth")
    import_weights(tmp_path / "best.pth", tmp_path / "model")
    pretrained = tmp_path / "model" / "fold_0" / "checkpoint_final.pth"
    output = workspace.train("2d", 2, "-pretrained_weights", pretrained, trainer=TRAINER).stdout
    assert "Loading pretrained weights" in output
    assert (model / "fold_2" / "checkpoint_final.pth").is_file()
