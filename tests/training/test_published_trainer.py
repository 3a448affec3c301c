"""nnUNetTrainerCFNetPublished, without training."""

import json
import warnings

import pytest
import timm
import torch
from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name

from nnunetv2_cfnet.architecture.published import RESNET, PublishedCFNet
from nnunetv2_cfnet.planning.plans import PUBLISHED
from nnunetv2_cfnet.training import trainers
from nnunetv2_cfnet.training.losses import DiceFocalLoss
from nnunetv2_cfnet.training.trainers import nnUNetTrainerCFNetPublished, nnUNetTrainerCFNetPublishedImageNet

CPU = torch.device("cpu")


@pytest.fixture
def plans(make_plans):
    return make_plans()


@pytest.fixture(autouse=True)
def results(tmp_path, monkeypatch):
    """The results folder; preprocessed data are there as far as initialize() looks."""
    monkeypatch.setenv("nnUNet_results", str(tmp_path / "results"))
    monkeypatch.setenv("nnUNet_preprocessed", str(tmp_path / "preprocessed"))
    data = tmp_path / "preprocessed" / "Dataset001_Phantom" / "nnUNetPlans_2d"
    data.mkdir(parents=True)
    (data / "case.b2nd").touch()
    return tmp_path / "results"


@pytest.mark.parametrize("name", ["nnUNetTrainerCFNetPublished", "nnUNetTrainerCFNetPublishedImageNet"])
def test_nnunet_finds_it(name):
    assert recursive_find_trainer_class_by_name(name).__module__ == "nnunetv2_cfnet.training.trainers"


def test_recipe_is_the_published_one(plans, dataset_json):
    trainer = nnUNetTrainerCFNetPublished(plans, "2d", 0, dataset_json, CPU)
    trainer.initialize()
    assert isinstance(trainer.network, PublishedCFNet)
    assert trainer.num_epochs == 200
    assert trainer.batch_size == 2
    assert not trainer.enable_deep_supervision
    assert isinstance(trainer.loss, DiceFocalLoss)
    (group,) = trainer.optimizer.param_groups
    assert isinstance(trainer.optimizer, torch.optim.SGD)
    assert [group[name] for name in ("lr", "momentum", "weight_decay", "nesterov")] == [0.01, 0.9, 5e-4, False]


def test_learning_rate_of_an_epoch_does_not_depend_on_how_it_was_reached(plans, dataset_json):
    """A continued training restores the optimizer, and nnU-Net then asks for its epoch's rate."""
    trainer = nnUNetTrainerCFNetPublished(plans, "2d", 0, dataset_json, CPU)
    trainer.initialize()
    (group,) = trainer.optimizer.param_groups
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # torch's own scheduler warns of step(epoch)
        for epoch in (0, 1, 2, 150, 2):
            trainer.lr_scheduler.step(epoch)
            assert group["lr"] == pytest.approx(0.01 * 0.96**epoch)
            assert trainer.lr_scheduler.get_last_lr() == [group["lr"]]
    group["lr"] = 0.5
    trainer.lr_scheduler.step(3)
    assert group["lr"] == pytest.approx(0.01 * 0.96**3)


@pytest.mark.parametrize("num_epochs", [5, 250])
def test_learning_rate_of_a_variant_falls_as_far_as_in_200_epochs(plans, dataset_json, num_epochs):
    trainer = getattr(trainers, f"nnUNetTrainerCFNetPublished_{num_epochs}epochs")(plans, "2d", 0, dataset_json, CPU)
    trainer.initialize()
    assert trainer.num_epochs == num_epochs
    trainer.lr_scheduler.step(num_epochs)
    assert trainer.lr_scheduler.get_last_lr() == [pytest.approx(0.01 * 0.96**200)]


@pytest.mark.parametrize("regions", [False, True])
@pytest.mark.parametrize("ignore", [False, True])
def test_loss_of_the_datasets_labels(plans, dataset_json, regions, ignore):
    if regions:
        dataset_json["labels"] = {"background": 0, "whole": [1, 2, 3], "core": [2, 3], "enhancing": 3}
        dataset_json["regions_class_order"] = [1, 2, 3]
    if ignore:
        dataset_json["labels"]["ignore"] = 4
    trainer = nnUNetTrainerCFNetPublished(plans, "2d", 0, dataset_json, CPU)
    loss = trainer._build_loss()
    assert (loss.has_regions, loss.ignore_label) == (regions, 4 if ignore else None)
    heads = trainer.label_manager.num_segmentation_heads
    target = torch.zeros(2, heads + ignore if regions else 1, 8, 8)
    assert torch.isfinite(loss(torch.randn(2, heads, 8, 8), target))


def test_plans_name_the_published_network_in_the_trained_configuration_alone(plans, dataset_json):
    before = json.loads(json.dumps(plans))
    trainer = nnUNetTrainerCFNetPublished(plans, "2d", 0, dataset_json, CPU)
    configurations = trainer.plans_manager.plans["configurations"]
    assert configurations["2d"]["architecture"] == {
        "network_class_name": PUBLISHED,
        "arch_kwargs": {"modality_groups": [[0, 2], [1, 3]]},
        "_kw_requires_import": [],
    }
    assert configurations["3d_fullres"] == before["configurations"]["3d_fullres"]
    with open(trainer.log_file) as log:
        assert "The published CFNet's modality groups: (T1, T2) and (T1ce, FLAIR) - the paper's pairing" in log.read()


def unusable(plans: dict, dataset_json: dict, problem: str) -> str:
    """Change plans or dataset so that the published network can't be trained; return the configuration to try."""
    if problem == "patch":
        plans["configurations"]["2d"]["patch_size"] = [40, 32]
    elif problem == "groups":
        dataset_json["cfnet_modality_groups"] = [["T1"], ["T1ce", "T2", "FLAIR"]]
    return "3d_fullres" if problem == "3d" else "2d"


@pytest.mark.parametrize(
    ("problem", "message"),
    [
        ("3d", r"configuration '3d_fullres': the published CFNet is 2D, the patch is \[32, 32, 32\]. Train .* 2d"),
        ("patch", r"configuration '2d': patch_size \[40, 32\] has 40 .* 16 does not divide. Set it to 32 or 48"),
        ("groups", r"configuration '2d': modality_groups=\[\[0\], \[1, 2, 3\]\]: .* need equally many channels"),
    ],
)
def test_what_it_cannot_train_is_refused_before_anything_is_written(plans, dataset_json, results, problem, message):
    configuration = unusable(plans, dataset_json, problem)
    with pytest.raises(ValueError, match=message):
        nnUNetTrainerCFNetPublished(plans, configuration, 0, dataset_json, CPU)
    assert not results.exists()


def test_changed_groups_leave_a_trained_folder_as_it_is(plans, dataset_json, results):
    trainer = nnUNetTrainerCFNetPublished(json.loads(json.dumps(plans)), "2d", 0, dataset_json, CPU)
    trained = results / "Dataset001_Phantom" / "nnUNetTrainerCFNetPublished__nnUNetPlans__2d" / "plans.json"
    trained.write_text(json.dumps(trainer.plans_manager.plans))  # as on_train_start does
    nnUNetTrainerCFNetPublished(json.loads(json.dumps(plans)), "2d", 1, dataset_json, CPU)
    dataset_json["cfnet_modality_groups"] = [[0, 1], [2, 3]]
    with pytest.raises(ValueError, match=r"modality_groups: trained with \[\[0, 2\], \[1, 3\]\], now \[\[0, 1\]"):
        nnUNetTrainerCFNetPublished(plans, "2d", 1, dataset_json, CPU)


@pytest.fixture
def resnet(tmp_path, monkeypatch):
    """ImageNet's weights, as far as torch.hub knows."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    folder = tmp_path / "torch" / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    resnet = timm.create_model(RESNET)
    torch.save(resnet.state_dict(), folder / "resnet50_a1_0-14fe96d1.pth")
    return resnet


@pytest.mark.parametrize("continued", [False, True])
def test_imagenet_weights_are_loaded_where_a_training_starts_from_scratch_alone(
    plans, dataset_json, resnet, monkeypatch, continued
):
    monkeypatch.setattr(nnUNetTrainerCFNetPublished, "on_train_start", lambda self: None)  # nnU-Net's needs data
    trainer = nnUNetTrainerCFNetPublishedImageNet(plans, "2d", 0, dataset_json, CPU)
    if continued:
        trainer.initialize()  # as load_checkpoint and -pretrained_weights do
    trainer.on_train_start()
    for trunk in (trainer.network.first, trainer.network.second):
        assert torch.equal(trunk.layer2[0].conv1.weight, resnet.layer2[0].conv1.weight) is not continued


def test_imagenet_weights_find_their_way_through_torch_compile(plans, dataset_json, resnet, monkeypatch):
    monkeypatch.setattr(nnUNetTrainerCFNetPublished, "on_train_start", lambda self: None)
    monkeypatch.setattr(nnUNetTrainerCFNetPublishedImageNet, "_do_i_compile", lambda self: True)
    trainer = nnUNetTrainerCFNetPublishedImageNet(plans, "2d", 0, dataset_json, CPU)
    trainer.on_train_start()
    assert torch.equal(trainer.network._orig_mod.stem.conv1.weight, resnet.conv1.weight)
