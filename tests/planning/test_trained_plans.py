"""The guard of trained model folders."""

import json
import os
from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
import torch

from nnunetv2_cfnet.files.lock import locked
from nnunetv2_cfnet.planning.plans import cfnet_plans
from nnunetv2_cfnet.planning.trained_plans import keep_trained_plans


@pytest.fixture
def trained(tmp_path, make_plans, dataset_json):
    """plans.json of a model folder, as nnU-Net writes it at a fold's start."""
    plans = cfnet_plans(make_plans(), dataset_json, "2d").plans
    del plans["continue_training"]
    path = tmp_path / "plans.json"
    path.write_text(json.dumps(plans))
    return path


def keep(plans, dataset_json, trained, configuration="2d"):
    ours = cfnet_plans(plans, dataset_json, configuration)
    return keep_trained_plans(ours, plans, dataset_json, configuration, trained)


def test_further_folds_of_an_unchanged_plan_go_on(make_plans, dataset_json, trained):
    ours = cfnet_plans(make_plans(), dataset_json, "2d")
    assert keep(make_plans(), dataset_json, trained) == ours
    assert keep(make_plans(), dataset_json, trained.with_name("absent.json")) == ours


def test_a_changed_plan_is_refused_with_the_difference(make_plans, dataset_json, trained):
    plans = make_plans()
    plans["configurations"]["2d"]["batch_size"] = 4
    plans["configurations"]["2d"]["architecture"]["arch_kwargs"]["features_per_stage"] = [8, 16, 32, 32]
    with pytest.raises(ValueError, match="was trained with other settings") as refusal:
        keep(plans, dataset_json, trained)
    message = str(refusal.value)
    assert str(trained.parent) in message
    assert "configuration.batch_size: trained with 2, now 4" in message
    assert "arch_kwargs.features_per_stage: trained with [8, 16, 32, 64], now [8, 16, 32, 32]" in message
    assert "move the folder away" in message


def test_changed_groups_are_refused_with_the_difference(make_plans, dataset_json, trained):
    dataset_json["cfnet_modality_groups"] = [["T1", "T2"], ["T1ce", "FLAIR"]]
    with pytest.raises(
        ValueError, match=r"modality_groups: trained with \[\[0, 1\], \[2, 3\]\], now \[\[0, 2\], \[1, 3\]\]"
    ):
        keep(make_plans(), dataset_json, trained)


def test_the_same_groups_written_otherwise_are_no_change(make_plans, dataset_json, trained):
    plans = make_plans()
    plans["cfnet_modality_groups"] = [["T1", "T1ce"], ["T2", "FLAIR"]]
    keep(plans, dataset_json, trained)
    dataset_json["cfnet_modality_groups"] = [[0, 1], [2, 3]]
    keep(make_plans(), dataset_json, trained)


def test_another_configuration_may_change(make_plans, dataset_json, trained):
    plans = make_plans()
    plans["configurations"]["3d_fullres"]["batch_size"] = 4
    keep(plans, dataset_json, trained)


def test_a_folder_from_before_residual_encoders_goes_on_with_plain_ones(make_plans, dataset_json, trained):
    recorded = json.loads(trained.read_text())
    for configuration in recorded["configurations"].values():
        del configuration["architecture"]["arch_kwargs"]["residual_encoders"]
    trained.write_text(json.dumps(recorded))
    kept = keep(make_plans(), dataset_json, trained, "3d_fullres")
    assert kept.plans["configurations"]["3d_fullres"]["architecture"]["arch_kwargs"]["residual_encoders"] is False
    assert kept.notes[-1] == f"CFNet's arguments are kept as {trained} has them: residual_encoders=False."


@pytest.mark.parametrize("said", [{"residual_encoders": False}, {"n_conv_per_stage": None, "n_blocks_per_stage": 1}])
def test_a_folder_from_before_residual_encoders_is_what_plans_now_say_of_it(make_plans, dataset_json, trained, said):
    plans = make_plans()
    plans["configurations"]["3d_fullres"]["architecture"]["arch_kwargs"] |= said
    ours = cfnet_plans(plans, dataset_json, "3d_fullres")
    recorded = json.loads(json.dumps(ours.plans))
    del recorded["configurations"]["3d_fullres"]["architecture"]["arch_kwargs"]["residual_encoders"]
    trained.write_text(json.dumps(recorded))
    assert keep_trained_plans(ours, plans, dataset_json, "3d_fullres", trained) == ours


def test_arguments_that_this_release_would_choose_otherwise_are_kept(make_plans, dataset_json, trained):
    recorded = json.loads(trained.read_text())
    arguments = recorded["configurations"]["2d"]["architecture"]["arch_kwargs"]
    arguments |= {"recompute": False, "fusion_heads": [1] * 4, "context_dilations": None}
    trained.write_text(json.dumps(recorded))
    kept = keep(make_plans(), dataset_json, trained)
    arguments = kept.plans["configurations"]["2d"]["architecture"]["arch_kwargs"]
    assert (arguments["recompute"], arguments["fusion_heads"]) == (False, [1] * 4)
    assert arguments["context_dilations"]  # what the folder leaves open is spelled out
    assert f"kept as {trained} has them: fusion_heads=[1, 1, 1, 1], recompute=False" in kept.notes[-1]


def test_an_argument_changed_in_plans_that_name_cfnet_is_refused(make_plans, dataset_json, trained):
    plans = deepcopy(json.loads(trained.read_text()))
    plans["configurations"]["2d"]["architecture"]["arch_kwargs"]["context"] = False
    with pytest.raises(ValueError, match="context: trained with true, now false"):
        keep(plans, dataset_json, trained)


def test_a_model_folder_of_another_version_is_refused(make_plans, dataset_json, trained):
    recorded = json.loads(trained.read_text())
    recorded["configurations"]["2d"]["architecture"]["arch_kwargs"]["architecture_version"] = 0
    trained.write_text(json.dumps(recorded))
    with pytest.raises(ValueError, match="architecture_version: trained with 0, now 2"):
        keep(make_plans(), dataset_json, trained)


def test_nan_in_the_fingerprint_is_no_change(make_plans, dataset_json, trained):
    plans, recorded = make_plans(), json.loads(trained.read_text())
    for holder in (plans, recorded):
        holder["foreground_intensity_properties_per_channel"] = {"0": {"mean": float("nan")}}
    trained.write_text(json.dumps(recorded))
    keep(plans, dataset_json, trained)


def test_kept_arguments_are_checked(make_plans, dataset_json, trained):
    recorded = json.loads(trained.read_text())
    recorded["configurations"]["2d"]["architecture"]["arch_kwargs"]["encoder_features_per_stage"] = [1, 2]
    trained.write_text(json.dumps(recorded))
    with pytest.raises(ValueError, match=r"encoder_features_per_stage=\[1, 2\] has 2 entries"):
        keep(make_plans(), dataset_json, trained)


def save_checkpoint(trained: Path, plans: object, name: str = "fold_0/checkpoint_latest.pth") -> Path:
    """As nnU-Net's trainer saves it."""
    file = trained.parent / name
    file.parent.mkdir(exist_ok=True)
    init_args = {"plans": plans, "configuration": "2d", "fold": 0, "device": torch.device("cpu")}
    torch.save({"network_weights": {}, "logging": {"train_losses": [np.float64(1)]}, "init_args": init_args}, file)
    return file


@pytest.fixture
def recorded(trained) -> dict:
    """What plans.json said before it was cut short."""
    plans = json.loads(trained.read_text())
    trained.write_text(trained.read_text()[:1000])
    return plans


@pytest.mark.parametrize(
    "content", ["", "{", "\0", "null", "[1]", "{}", '{"configurations": {}}', "[" * 10000], ids=len
)
@pytest.mark.parametrize("from_checkpoint", [True, False])
def test_unreadable_plans_are_written_anew(make_plans, dataset_json, trained, recorded, content, from_checkpoint):
    trained.write_text(content)
    if from_checkpoint:
        save_checkpoint(trained, recorded)
    before = sorted(trained.parent.iterdir())
    kept = keep(make_plans(), dataset_json, trained)
    assert kept.plans == cfnet_plans(make_plans(), dataset_json, "2d").plans
    assert json.loads(trained.read_text()) == recorded
    assert f"{trained} could not be read (" in kept.notes[-1]
    agreeing = (
        "agree with fold_0/checkpoint_latest.pth" if from_checkpoint else "written anew from the dataset's plans."
    )
    assert agreeing in kept.notes[-1]
    assert sorted(trained.parent.iterdir()) == before


def test_a_second_process_that_finds_plans_unreadable_goes_on_beside_the_one_that_writes_them(
    make_plans, dataset_json, trained, recorded
):
    with locked(trained):
        assert "written anew" in keep(make_plans(), dataset_json, trained).notes[-1]


def test_arguments_are_kept_as_the_checkpoint_has_them(make_plans, dataset_json, trained, recorded):
    arguments = recorded["configurations"]["2d"]["architecture"]["arch_kwargs"]
    arguments["recompute"] = False
    checkpoint = save_checkpoint(trained, recorded)
    kept = keep(make_plans(), dataset_json, trained)
    assert kept.plans["configurations"]["2d"]["architecture"]["arch_kwargs"] == arguments
    assert json.loads(trained.read_text()) == recorded
    assert f"kept as {checkpoint} has them: recompute=False" in kept.notes[-2]


def test_a_plan_changed_since_the_checkpoint_is_refused_with_the_difference(
    make_plans, dataset_json, trained, recorded
):
    torn = trained.read_text()
    save_checkpoint(trained, recorded)
    recorded["configurations"]["2d"]["batch_size"] = 4
    save_checkpoint(trained, recorded, "fold_1/checkpoint_final.pth")
    with pytest.raises(
        ValueError, match=r"fold_1 was trained with other settings .*\n.*batch_size: trained with 4, now 2"
    ):
        keep(make_plans(), dataset_json, trained)
    assert trained.read_text() == torn


class Malicious:
    """Unpickled without care, it makes a folder."""

    def __init__(self, witness: Path) -> None:
        self.witness = witness

    def __reduce__(self):
        return os.mkdir, (str(self.witness),)


def test_without_a_checkpoint_that_can_be_read_nothing_is_lost_or_run(make_plans, dataset_json, trained, recorded):
    torn, witness = trained.read_text(), trained.with_name("witness")
    save_checkpoint(trained, Malicious(witness), "fold_0/checkpoint_best.pth")
    save_checkpoint(trained, recorded).write_bytes(b"torn")
    message = (
        r"plans\.json can't be read .*neither can a checkpoint.*best\.pth.*latest\.pth.*remove plans\.json: it is made"
    )
    with pytest.raises(ValueError, match=message):
        keep(make_plans(), dataset_json, trained)
    assert trained.read_text() == torn
    assert not witness.exists()
    save_checkpoint(trained, recorded, "fold_1/checkpoint_final.pth")
    keep(make_plans(), dataset_json, trained)
    assert json.loads(trained.read_text()) == recorded
    assert not witness.exists()
