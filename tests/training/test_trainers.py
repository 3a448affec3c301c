"""The trainer classes, without training."""

import json
import os
import pickle
import sys
from contextlib import nullcontext

import pytest
import torch
from batchgeneratorsv2.transforms.base.basic_transform import BasicTransform
from dynamic_network_architectures.architectures.unet import PlainConvUNet
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.training.nnUNetTrainer.variants.training_length import nnUNetTrainer_Xepochs
from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name

from nnunetv2_cfnet.architecture.cfnet import CFNet
from nnunetv2_cfnet.planning.plans import cfnet_plans
from nnunetv2_cfnet.training import trainers
from nnunetv2_cfnet.training.modality_dropout import ModalityDropout
from nnunetv2_cfnet.training.trainers import (
    nnUNetTrainerCFNet,
    nnUNetTrainerCFNetModalityDropout,
    nnUNetTrainerModalityDropout,
)

DROPOUT_TRAINERS = (nnUNetTrainerModalityDropout, nnUNetTrainerCFNetModalityDropout)


@pytest.fixture
def plans(make_plans):
    return make_plans()


@pytest.mark.parametrize(
    "trainer",
    ["CFNet", "CFNetModalityDropout", "ModalityDropout", "CFNetPublished", "CFNetPublishedImageNet"],
)
def test_epoch_variants_are_nnunets_own_list(trainer):
    theirs = {name.partition("_")[2] for name in vars(nnUNetTrainer_Xepochs) if name.startswith("nnUNetTrainer_")}
    ours = {name.partition("_")[2] for name in vars(trainers) if name.startswith(f"nnUNetTrainer{trainer}_")}
    assert ours == theirs - {"NoMirroring"}


@pytest.fixture
def results(tmp_path, monkeypatch):
    monkeypatch.setenv("nnUNet_results", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize(("suffix", "epochs"), [("", 1000), ("_1epoch", 1), ("_5epochs", 5), ("_8000epochs", 8000)])
def test_variants_differ_in_epochs_alone(plans, dataset_json, results, suffix, epochs):
    trainer_class = recursive_find_trainer_class_by_name(f"nnUNetTrainerCFNet{suffix}")
    trainer = trainer_class(plans, "2d", 0, dataset_json, torch.device("cpu"))
    assert trainer.num_epochs == epochs
    assert trainer.num_iterations_per_epoch == 250
    assert issubclass(trainer_class, nnUNetTrainerCFNet)
    assert pickle.loads(pickle.dumps(trainer_class)) is trainer_class
    assert trainer_class.__module__ in sys.modules


def test_log_says_which_groups_were_chosen(plans, dataset_json, results):
    trainer = nnUNetTrainerCFNet(plans, "2d", 0, dataset_json, torch.device("cpu"))
    with open(trainer.log_file) as log:
        assert "CFNet's modality groups: (T1, T1ce) and (T2, FLAIR) - the pairing" in log.read()


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("configuration", ["2d", "3d_lowres", "3d_fullres", "3d_cascade_fullres"])
def test_any_number_of_channels_and_every_configuration(plans, dataset_json, results, configuration, channels):
    dataset_json["channel_names"] = {str(index): f"c{index}" for index in range(channels)}
    trainer = nnUNetTrainerCFNet(plans, configuration, 0, dataset_json, torch.device("cpu"))
    inputs = channels + (3 if trainer.is_cascaded else 0)
    network = trainer.build_network_architecture(
        trainer.plans_manager, trainer.configuration_manager, inputs, trainer.label_manager.num_segmentation_heads
    )
    assert isinstance(network, CFNet)
    size = trainer.configuration_manager.patch_size
    assert network(torch.zeros(1, inputs, *size))[0].shape == (1, 4, *size)


@pytest.mark.parametrize("dropout", DROPOUT_TRAINERS)
@pytest.mark.parametrize("suffix", ["", "_1epoch"])
def test_trainers_with_dropout_are_found_and_pickled(plans, dataset_json, results, dropout, suffix):
    trainer_class = recursive_find_trainer_class_by_name(f"{dropout.__name__}{suffix}")
    assert issubclass(trainer_class, dropout)
    assert pickle.loads(pickle.dumps(trainer_class)) is trainer_class
    assert trainer_class(plans, "2d", 0, dataset_json, torch.device("cpu")).num_epochs == (1 if suffix else 1000)


def network_of(trainer: nnUNetTrainer) -> torch.nn.Module:
    inputs = len(trainer.dataset_json["channel_names"]) + (3 if trainer.is_cascaded else 0)
    return trainer.build_network_architecture(trainer.plans_manager, trainer.configuration_manager, inputs, 4)


@pytest.mark.parametrize("configuration", ["2d", "3d_lowres", "3d_fullres", "3d_cascade_fullres"])
def test_dropout_trains_a_masked_cfnet_or_the_plans_own_network(plans, dataset_json, results, configuration):
    cpu = torch.device("cpu")
    assert not network_of(nnUNetTrainerCFNet(plans, configuration, 0, dataset_json, cpu)).mask_missing_groups
    trainer = nnUNetTrainerCFNetModalityDropout(plans, configuration, 0, dataset_json, cpu)
    assert network_of(trainer).mask_missing_groups
    spelled_out = cfnet_plans(plans, dataset_json, configuration).plans  # where the mask is off
    trainer = nnUNetTrainerCFNetModalityDropout(spelled_out, configuration, 0, dataset_json, cpu)
    assert network_of(trainer).mask_missing_groups
    assert isinstance(
        network_of(nnUNetTrainerModalityDropout(plans, configuration, 0, dataset_json, cpu)), PlainConvUNet
    )


def augmentations(trainer: nnUNetTrainer) -> tuple[BasicTransform, BasicTransform]:
    """What get_dataloaders makes, without data."""
    patch_size, scales = trainer.configuration_manager.patch_size, trainer._get_deep_supervision_scales()
    rotation, dummy_2d, _, mirror_axes = trainer.configure_rotation_dummyDA_mirroring_and_inital_patch_size()
    training = trainer.get_training_transforms(patch_size, rotation, scales, mirror_axes, dummy_2d)
    return training, trainer.get_validation_transforms(scales)


@pytest.mark.parametrize("dropout", DROPOUT_TRAINERS)
def test_dropout_is_the_last_of_the_training_augmentation_alone(plans, dataset_json, results, dropout):
    training, validation = augmentations(dropout(plans, "2d", 0, dataset_json, torch.device("cpu")))
    assert isinstance(training, ModalityDropout)
    assert training.num_channels == 4
    assert "ModalityDropout" not in repr(validation)


@pytest.mark.parametrize("dropout", DROPOUT_TRAINERS)
def test_dropout_of_a_single_channel_is_refused_before_anything_is_written(plans, dataset_json, results, dropout):
    dataset_json["channel_names"] = {"0": "CT"}
    with pytest.raises(ValueError, match=r"Dataset001_Phantom has one channel, 'CT'.* Train nnUNetTrainerCFNet or"):
        dropout(plans, "2d", 0, dataset_json, torch.device("cpu"))
    assert list(results.iterdir()) == []


def test_an_unusable_plan_is_refused_before_anything_is_written(plans, dataset_json, results):
    plans["configurations"]["2d"]["patch_size"] = [32, 33]
    with pytest.raises(ValueError, match=r"patch_size \[32, 33\]"):
        nnUNetTrainerCFNet(plans, "2d", 0, dataset_json, torch.device("cpu"))
    assert list(results.iterdir()) == []


def test_changed_groups_leave_a_trained_folder_as_it_is(plans, dataset_json, results):
    trainer = nnUNetTrainerCFNet(json.loads(json.dumps(plans)), "2d", 0, dataset_json, torch.device("cpu"))
    model = results / "Dataset001_Phantom" / "nnUNetTrainerCFNet__nnUNetPlans__2d"
    (model / "plans.json").write_text(json.dumps(trainer.plans_manager.plans))  # as on_train_start does
    before = sorted(model.rglob("*")), (model / "plans.json").read_text()
    dataset_json["cfnet_modality_groups"] = [[0, 2], [1, 3]]
    with pytest.raises(ValueError, match="was trained with other settings"):
        nnUNetTrainerCFNet(plans, "2d", 1, dataset_json, torch.device("cpu"))
    assert (sorted(model.rglob("*")), (model / "plans.json").read_text()) == before


def test_debug_json_names_the_model_folder(plans, dataset_json, results, monkeypatch):
    monkeypatch.setattr(nnUNetTrainer, "on_train_start", lambda trainer: trainer._save_debug_information())
    trainer = nnUNetTrainerCFNet(plans, "2d", 0, dataset_json, torch.device("cpu"))
    trainer.on_train_start()
    model = results / "Dataset001_Phantom" / "nnUNetTrainerCFNet__nnUNetPlans__2d"
    assert json.loads((model / "fold_0" / "debug.json").read_text())["output_folder_base"] == str(model)


WRITTEN = ("plans.json", "dataset.json", "dataset_fingerprint.json")


@pytest.mark.parametrize("full_disk", [False, True])
def test_the_model_folders_files_are_written_whole_or_not_at_all(plans, dataset_json, results, monkeypatch, full_disk):
    def start(trainer: nnUNetTrainer) -> None:
        """As nnU-Net's on_train_start, which opens each in place."""
        for name in WRITTEN:
            with open(os.path.join(trainer.output_folder_base, name), "w") as file:
                file.write("new")
                if full_disk:
                    raise OSError("No space left")

    monkeypatch.setattr(nnUNetTrainer, "on_train_start", start)
    trainer = nnUNetTrainerCFNet(plans, "2d", 0, dataset_json, torch.device("cpu"))
    model = results / "Dataset001_Phantom" / "nnUNetTrainerCFNet__nnUNetPlans__2d"
    for name in WRITTEN:
        (model / name).write_text("old")
    with pytest.raises(OSError, match="No space") if full_disk else nullcontext():
        trainer.on_train_start()
    assert [(model / name).read_text() for name in WRITTEN] == ["old" if full_disk else "new"] * 3
    assert trainer.output_folder_base == str(model)
    assert sorted(path.name for path in model.iterdir()) == sorted(("fold_0", *WRITTEN))
    full_disk = False
    trainer.on_train_start()  # the same command goes on
    assert [(model / name).read_text() for name in WRITTEN] == ["new"] * 3
    assert {path.suffix for path in (model / "fold_0").iterdir()} == {".txt"}
