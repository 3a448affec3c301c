"""The guard of trained model folders."""

import json
from copy import deepcopy

import pytest

from nnunetv2_cfnet.planning import trained_plans
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
    dataset_json["cfnet_modality_groups"] = [["T1", "T1ce"], ["T2", "FLAIR"]]
    with pytest.raises(
        ValueError, match=r"modality_groups: trained with \[\[0, 2\], \[1, 3\]\], now \[\[0, 1\], \[2, 3\]\]"
    ):
        keep(make_plans(), dataset_json, trained)


def test_the_same_groups_written_otherwise_are_no_change(make_plans, dataset_json, trained):
    plans = make_plans()
    plans["cfnet_modality_groups"] = [["T1", "T2"], ["T1ce", "FLAIR"]]
    keep(plans, dataset_json, trained)
    dataset_json["cfnet_modality_groups"] = [[0, 2], [1, 3]]
    keep(make_plans(), dataset_json, trained)


def test_another_configuration_may_change(make_plans, dataset_json, trained):
    plans = make_plans()
    plans["configurations"]["3d_fullres"]["batch_size"] = 4
    keep(plans, dataset_json, trained)


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
    with pytest.raises(ValueError, match="architecture_version: trained with 0, now 1"):
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


@pytest.mark.parametrize("content", ["{", "{}", "null", "[1]", '{"configurations": {}}'])
def test_an_unreadable_model_folder_is_named(make_plans, dataset_json, trained, content, monkeypatch):
    monkeypatch.setattr(trained_plans, "PAUSE_SECONDS", 0)
    trained.write_text(content)
    with pytest.raises(ValueError, match=r"plans\.json can't be read as CFNet's plans of '2d'.*Restore it"):
        keep(make_plans(), dataset_json, trained)


def test_plans_that_another_fold_is_writing_are_read_again(make_plans, dataset_json, trained, monkeypatch):
    """nnU-Net writes in place: at first there is nothing, then half of it."""
    whole, pauses = trained.read_text(), []

    def pause(seconds: float) -> None:
        pauses.append(seconds)
        trained.write_text(whole if len(pauses) > 1 else whole[: len(whole) // 2])

    monkeypatch.setattr(trained_plans.time, "sleep", pause)
    trained.write_text("")
    assert keep(make_plans(), dataset_json, trained) == cfnet_plans(make_plans(), dataset_json, "2d")
    assert len(pauses) == 2
