"""One model, trained, continued, validated, predicted and shared with nnU-Net's own commands."""

import json
import os
import shutil
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import SimpleITK
import torch
from nnunetv2.experiment_planning.plan_and_preprocess_api import plan_experiments

from nnunetv2_cfnet.planning.plans import CFNET, cfnet_plans

TRAINER = "nnUNetTrainerCFNetTiny"


@pytest.fixture(scope="module")
def workspace(make_workspace):
    return make_workspace()


@pytest.fixture(scope="module")
def model(workspace) -> Path:
    """A model folder with fold 0 trained; tests that change it work on a copy."""
    workspace.train("3d_fullres", 0, "--npz")
    return workspace.model(TRAINER, "3d_fullres")


def edit_checkpoint(path: Path, **changes: object) -> None:
    checkpoint = torch.load(path, weights_only=False)
    torch.save({**checkpoint, **changes}, path)


def test_model_folder_names_cfnet_with_every_argument(model):
    plans = json.loads((model / "plans.json").read_text())
    for configuration in plans["configurations"].values():
        assert configuration["architecture"]["network_class_name"] == CFNET
        assert configuration["architecture"]["arch_kwargs"]["modality_groups"] == [[0, 1], [2, 3]]
    assert (model / "fold_0" / "checkpoint_final.pth").is_file()
    assert len(list((model / "fold_0" / "validation").glob("*.npz"))) == 1
    (log,) = (model / "fold_0").glob("training_log_*.txt")
    assert "CFNet's modality groups: (T1, T1ce) and (T2, FLAIR) - the pairing" in log.read_text()


def test_prediction_has_the_images_geometry(workspace, model, tmp_path):
    workspace.predict(tmp_path, "3d_fullres", "-f", 0)
    images = workspace.raw / workspace.dataset / "imagesTs"
    predictions = sorted(tmp_path.glob("*.nii.gz"))
    assert len(predictions) == 2
    for prediction in predictions:
        image = SimpleITK.ReadImage(str(images / prediction.name.replace(".nii.gz", "_0000.nii.gz")))
        segmentation = SimpleITK.ReadImage(str(prediction))
        for of in ("GetSize", "GetSpacing", "GetOrigin", "GetDirection"):
            assert getattr(segmentation, of)() == getattr(image, of)()


def test_stock_trainer_predicts_the_same_probabilities(workspace, model, tmp_path):
    as_stock = tmp_path / "as_stock"
    shutil.copytree(model, as_stock)
    edit_checkpoint(as_stock / "fold_0" / "checkpoint_final.pth", trainer_name="nnUNetTrainer")
    ours = workspace.probabilities(model, tmp_path / "ours")
    stock = workspace.probabilities(as_stock, tmp_path / "stock")
    assert ours.keys() == stock.keys()
    assert len(ours) == 2
    for name, probabilities in ours.items():
        assert np.array_equal(probabilities, stock[name])
        assert probabilities.std() > 0


def test_interrupted_training_is_continued(workspace, model):
    fold = model / "fold_0"
    kept = shutil.copytree(fold, model.parent / "kept")
    edit_checkpoint(fold / "checkpoint_final.pth", current_epoch=1)
    (fold / "checkpoint_final.pth").rename(fold / "checkpoint_latest.pth")
    try:
        output = workspace.train("3d_fullres", 0, "--c").stdout
        assert (fold / "checkpoint_final.pth").is_file()
    finally:
        shutil.rmtree(fold)
        kept.rename(fold)
    assert "Epoch 1" in output
    assert "Epoch 0" not in output


def test_changed_groups_are_refused_and_the_model_kept(workspace, model):
    dataset_file = workspace.preprocessed / workspace.dataset / "dataset.json"
    original, plans = dataset_file.read_text(), (model / "plans.json").read_text()
    dataset_file.write_text(json.dumps({**json.loads(original), "cfnet_modality_groups": [[0, 2], [1, 3]]}))
    try:
        refused = workspace.train("3d_fullres", 1, check=False)
    finally:
        dataset_file.write_text(original)
    assert refused.returncode != 0
    assert "modality_groups: trained with [[0, 1], [2, 3]], now [[0, 2], [1, 3]]" in refused.stderr
    assert refused.stderr.strip().splitlines()[-1].endswith("move the folder away to train anew.")
    assert (model / "plans.json").read_text() == plans
    assert not (model / "fold_1").exists()


def test_unusable_plans_are_refused_with_one_message(workspace, model):
    plans = json.loads(workspace.plans_file.read_text())
    plans["plans_name"] = "Unusable"
    plans["configurations"]["3d_fullres"]["patch_size"] = [24, 24, 30]
    workspace.plans_file.with_name("Unusable.json").write_text(json.dumps(plans))
    refused = workspace.train("3d_fullres", 0, "-p", "Unusable", check=False)
    assert refused.returncode != 0
    assert (
        refused.stderr.strip()
        .splitlines()[-1]
        .startswith(
            "ValueError: plans 'Unusable', configuration '3d_fullres': patch_size [24, 24, 30] has 30 voxels on axis 2"
        )
    )
    assert not workspace.model(TRAINER, "3d_fullres", plans="Unusable").exists()


@pytest.mark.slow
@pytest.mark.parametrize("flags", [("--val",), ("--val", "--val_best")])
def test_validation_alone(workspace, model, flags):
    validation = model / "fold_0" / "validation"
    shutil.rmtree(validation)
    output = workspace.train("3d_fullres", 0, "--npz", *flags).stdout
    assert "Validation complete" in output
    assert "Epoch 0" not in output
    assert (validation / "summary.json").is_file()
    assert len(list(validation.glob("*.npz"))) == 1


@pytest.mark.slow
def test_a_part_is_switched_off_as_the_readme_says(workspace, model):
    plans = json.loads((model / "plans.json").read_text())
    plans["plans_name"] = "MyPlans"
    plans["configurations"]["3d_fullres"]["architecture"]["arch_kwargs"]["context"] = False
    workspace.plans_file.with_name("MyPlans.json").write_text(json.dumps(plans))
    workspace.train("3d_fullres", 0, "-p", "MyPlans")
    fold = workspace.model(TRAINER, "3d_fullres", plans="MyPlans") / "fold_0"
    weights = torch.load(fold / "checkpoint_final.pth", weights_only=False)["network_weights"]
    assert not any(name.startswith("context.") for name in weights)


@pytest.mark.slow
@pytest.mark.parametrize("size", ["M", "L", "XL"])
def test_plans_of_the_resenc_presets(workspace, model, size):
    """The plan's own network at full width is built; M is trained, with narrow stages, too."""
    plans_name = f"nnUNetResEncUNet{size}Plans"
    with mock.patch.dict(os.environ, workspace.environment):
        plan_experiments([1], f"nnUNetPlannerResEnc{size}")
    plans = json.loads(workspace.plans_file.with_name(f"{plans_name}.json").read_text())
    dataset_json = json.loads((workspace.raw / workspace.dataset / "dataset.json").read_text())
    for configuration in ("2d", "3d_fullres"):
        ours = cfnet_plans(plans, dataset_json, configuration).plans["configurations"][configuration]
        assert ours["architecture"]["network_class_name"] == CFNET
        assert ours["architecture"]["arch_kwargs"]["n_blocks_per_stage"]
    if size == "M":
        workspace.shrink_plans(plans_name)
        workspace.train("3d_fullres", 0, "-p", plans_name)
        assert (workspace.model(TRAINER, "3d_fullres", plans=plans_name) / "fold_0" / "checkpoint_final.pth").is_file()


@pytest.mark.slow
def test_two_dimensional_configuration(workspace, tmp_path):
    workspace.train("2d", 0)
    workspace.predict(tmp_path, "2d", "-f", 0)
    assert len(list(tmp_path.glob("*.nii.gz"))) == 2


@pytest.mark.slow
def test_shared_as_a_zip(workspace, model, tmp_path):
    archive = tmp_path / "model.zip"
    workspace.run("nnUNetv2_export_model_to_zip", "-d", 1, "-o", archive, "-c", "3d_fullres", "-tr", TRAINER, "-f", 0)
    received = tmp_path / "results"
    received.mkdir()
    workspace.run("nnUNetv2_install_pretrained_model_from_zip", archive, nnUNet_results=str(received))
    installed = received / model.relative_to(workspace.results)
    expected = workspace.probabilities(model, tmp_path / "expected")
    predicted = workspace.probabilities(installed, tmp_path / "predicted")
    assert predicted.keys() == expected.keys()
    for name, probabilities in predicted.items():
        assert np.array_equal(probabilities, expected[name])


@pytest.mark.slow
def test_pretrained_weights_for_labels_with_an_ignore_label(workspace, model):
    """Another class count, labels instead of regions, and voxels that no loss sees."""
    source, other = (workspace.raw / name for name in (workspace.dataset, "Dataset002_Labels"))
    shutil.copytree(source, other)
    dataset_json = json.loads((source / "dataset.json").read_text())
    dataset_json["labels"] = {"background": 0, "oedema": 1, "core": 2, "ignore": 3}
    del dataset_json["regions_class_order"]
    (other / "dataset.json").write_text(json.dumps(dataset_json))
    plans = json.loads(workspace.plans_file.read_text())
    plans["dataset_name"] = other.name
    planned = workspace.preprocessed / other.name
    planned.mkdir()
    shutil.copy(workspace.plans_file.with_name("dataset_fingerprint.json"), planned)
    (planned / "nnUNetPlans.json").write_text(json.dumps(plans))
    (planned / "dataset.json").write_text(json.dumps(dataset_json))
    workspace.run("nnUNetv2_preprocess", "-d", 2, "-c", "3d_fullres", "-np", 1)
    checkpoint = model / "fold_0" / "checkpoint_final.pth"
    output = workspace.run(
        *("nnUNetv2_train", 2, "3d_fullres", 0, "-tr", TRAINER, "-device", "cpu", "-pretrained_weights", checkpoint),
        nnUNet_n_proc_DA="0",
    ).stdout
    assert "Loading pretrained weights" in output
    assert "Validation complete" in output
