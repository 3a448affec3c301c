"""From nnU-Net's plans to CFNet's arguments."""

import inspect
import json
import re
from copy import deepcopy
from pathlib import Path

import pytest
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
from nnunetv2.utilities.label_handling.label_handling import determine_num_input_channels
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunetv2_cfnet.architecture.cfnet import CFNet
from nnunetv2_cfnet.errors import UserError
from nnunetv2_cfnet.planning import plans as module
from nnunetv2_cfnet.planning.plans import CFNET, cfnet_plans, check_classes, published_plans, read_plans


@pytest.mark.parametrize("residual", [False, True])
def test_every_configuration_names_cfnet_with_every_argument(make_plans, dataset_json, residual):
    plans = make_plans(residual)
    translated = cfnet_plans(plans, dataset_json, "3d_fullres").plans
    expected = set(inspect.signature(CFNet).parameters) - {"input_channels", "num_classes", "deep_supervision"}
    for name, configuration in translated["configurations"].items():
        architecture = configuration["architecture"]
        assert architecture["network_class_name"] == CFNET, name
        assert set(architecture["arch_kwargs"]) == expected, name
        own = make_plans(residual)["configurations"][name].get("architecture", {"arch_kwargs": {}})["arch_kwargs"]
        assert own.items() <= architecture["arch_kwargs"].items(), name
    assert json.loads(json.dumps(translated)) == translated
    assert plans == make_plans(residual)


@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("configuration", ["2d", "3d_lowres", "3d_fullres", "3d_cascade_fullres"])
def test_stock_nnunet_builds_the_network_from_the_plans(make_plans, dataset_json, configuration, residual):
    manager = PlansManager(cfnet_plans(make_plans(residual), dataset_json, configuration).plans)
    architecture = manager.get_configuration(configuration)
    channels = determine_num_input_channels(manager, architecture, dataset_json)
    network = get_network_from_plans(
        architecture.network_arch_class_name,
        architecture.network_arch_init_kwargs,
        architecture.network_arch_init_kwargs_req_import,
        channels,
        4,
        deep_supervision=False,
    )
    # the cascade's three one-hot channels go to both encoders
    one_hot = [4, 5, 6] if configuration == "3d_cascade_fullres" else []
    assert network.encoder.modality_groups == [[0, 1, *one_hot], [2, 3, *one_hot]]


def test_note_says_which_groups_and_why(make_plans, dataset_json):
    (note,) = cfnet_plans(make_plans(), dataset_json, "2d").notes
    assert note == (
        "CFNet's modality groups: (T1, T1ce) and (T2, FLAIR) - the pairing (T1, T1ce) and (T2, FLAIR), by channel name."
    )


@pytest.mark.parametrize(
    ("arguments", "residual"),
    [
        ({}, True),
        ({"n_conv_per_stage": 4}, True),
        ({"n_conv_per_stage": [2, 2, 3, 2]}, False),  # no whole number of blocks
        ({"nonlin_first": True}, False),  # residual blocks have none
        ({"residual_encoders": False}, False),  # as the plan says
        ({"n_conv_per_stage": None, "n_blocks_per_stage": [1, 1, 1, 1]}, False),  # they are so without it
    ],
    ids=str,
)
def test_convs_of_a_u_net_become_residual_blocks_where_they_can(make_plans, dataset_json, arguments, residual):
    plans = make_plans()
    plans["configurations"]["3d_fullres"]["architecture"]["arch_kwargs"] |= arguments
    architecture = cfnet_plans(plans, dataset_json, "3d_fullres").plans["configurations"]["3d_fullres"]["architecture"]
    assert architecture["arch_kwargs"]["residual_encoders"] is residual


def test_convs_stay_as_they_are_in_2d(make_plans, dataset_json):
    architecture = cfnet_plans(make_plans(), dataset_json, "2d").plans["configurations"]["2d"]["architecture"]
    assert architecture["arch_kwargs"]["residual_encoders"] is False


def test_plans_that_name_cfnet_without_residual_encoders_keep_plain_ones(own_plans, dataset_json):
    """As they were written before there were any."""
    for configuration in own_plans["configurations"].values():
        del configuration["architecture"]["arch_kwargs"]["residual_encoders"]
    architecture = cfnet_plans(own_plans, dataset_json, "3d_fullres").plans["configurations"]["3d_fullres"][
        "architecture"
    ]
    assert architecture["arch_kwargs"]["residual_encoders"] is False


def test_dilations_fit_the_bottleneck(make_plans, dataset_json):
    plans = make_plans()
    plans["configurations"]["3d_fullres"]["patch_size"] = [8, 24, 64]
    arguments = cfnet_plans(plans, dataset_json, "3d_fullres").plans["configurations"]["3d_fullres"]["architecture"]
    assert arguments["arch_kwargs"]["context_dilations"] == [[1, 1, 1], [1, 2, 2], [1, 2, 3], [1, 2, 4]]


@pytest.fixture
def own_plans(make_plans, dataset_json) -> dict:
    """Plans that name CFNet, as a model folder has them."""
    return cfnet_plans(make_plans(), dataset_json, "2d").plans


def set_arguments(plans: dict, **arguments: object) -> None:
    for configuration in plans["configurations"].values():
        configuration["architecture"]["arch_kwargs"] |= arguments


def test_plans_that_name_cfnet_are_used_as_they_are(own_plans, dataset_json):
    set_arguments(own_plans, context=False, modality_groups=[[0], [1, 2, 3]], fusion_heads=[1] * 4)
    again = cfnet_plans(own_plans, dataset_json, "2d")
    assert again.plans == own_plans
    assert again.notes == ["CFNet's modality groups: (T1) and (T1ce, T2, FLAIR) - named by the plans file."]


@pytest.mark.parametrize(
    "defect",
    [
        {"architecture": None},
        {"patch_size": None},
        {"inherits_from": "2d"},
        {"architecture": {"network_class_name": CFNET}},
    ],
    ids=str,
)
def test_a_malformed_configuration_is_named_and_blocks_no_other(make_plans, dataset_json, defect):
    plans = make_plans()
    plans["configurations"]["2d"] |= defect
    with pytest.raises(ValueError, match=r"plans 'nnUNetPlans', configuration '2d': .*Plan the dataset anew"):
        cfnet_plans(plans, dataset_json, "2d")
    ours = cfnet_plans(plans, dataset_json, "3d_fullres")
    assert ours.notes[0].startswith("Configuration '2d' is left as it is: ")


def test_a_class_that_cannot_be_imported_is_named(make_plans, dataset_json):
    plans = make_plans()
    plans["configurations"]["2d"]["architecture"]["arch_kwargs"]["norm_op"] = "torch.nn.InstancNorm2d"
    with pytest.raises(ValueError, match=r"norm_op='torch\.nn\.InstancNorm2d' can't be imported"):
        cfnet_plans(plans, dataset_json, "2d")


def test_a_class_in_a_module_that_fails_is_named(make_plans, dataset_json, tmp_path, monkeypatch):
    (tmp_path / "broken.py").write_text("import a_library_that_is_not_there")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(module, "TRUSTED", (*module.TRUSTED, "broken"))
    plans = make_plans()
    plans["configurations"]["2d"]["architecture"]["arch_kwargs"]["norm_op"] = "broken.Norm"
    message = r"configuration '2d': norm_op='broken\.Norm' can't be imported \(No module named 'a_library_that"
    with pytest.raises(ValueError, match=message):
        cfnet_plans(plans, dataset_json, "2d")


@pytest.mark.parametrize(
    "change",
    [
        {"nonlin": "os.mkdir", "nonlin_kwargs": {"path": "witness"}},
        {"nonlin": "torch.os.mkdir", "nonlin_kwargs": {"path": "witness"}},
        {"norm_op": "subprocess.Popen", "norm_op_kwargs": {"args": ["mkdir", "witness"]}},
        {"dropout_op": "module_that_makes_witness.Dropout", "dropout_op_kwargs": {}},
        {"nonlin": "torch.nn.functional.relu"},
    ],
    ids=str,
)
def test_what_is_no_layer_is_named_and_not_called(make_plans, dataset_json, tmp_path, monkeypatch, change):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    Path("module_that_makes_witness.py").write_text(
        "import os, torch\nos.mkdir('witness')\nDropout = torch.nn.Dropout2d"
    )
    plans = make_plans()
    plans["configurations"]["2d"]["architecture"]["arch_kwargs"] |= change
    message = rf"configuration '2d': \w+='{next(iter(change.values()))}' is no network or layer"
    with pytest.raises(ValueError, match=message):
        cfnet_plans(plans, dataset_json, "2d")
    assert not Path("witness").exists()


OUTSIDE = {
    "data_identifier": "../../outside",
    "previous_stage": "/outside",
    "next_stage": ["3d_lowres", ".."],
}


@pytest.mark.parametrize("key", ["dataset_name", "plans_name", "configuration", *OUTSIDE])
def test_a_name_that_leads_out_of_its_folder_is_refused(make_plans, dataset_json, tmp_path, key):
    plans = make_plans()
    if key in OUTSIDE:
        plans["configurations"]["2d"][key] = OUTSIDE[key]
    elif key == "configuration":
        plans["configurations"]["../2d"] = {"inherits_from": "2d"}
    else:
        plans[key] = "a/../../outside"
    message = rf"{key}.* is '.*', and must be a name without a folder: correct it in the plans file"
    for translate in (cfnet_plans, published_plans):
        with pytest.raises(ValueError, match=message):
            translate(plans, dataset_json, "2d")
    file = tmp_path / "plans.json"
    file.write_text(json.dumps(plans))
    with pytest.raises(UserError, match=rf"{file}: {message}"):
        read_plans(file)


def test_a_name_that_would_act_on_a_terminal_is_refused(make_plans, dataset_json):
    plans = make_plans() | {"dataset_name": "Dataset001\x1b[2J"}
    with pytest.raises(ValueError, match=r"dataset_name is 'Dataset001\\x1b\[2J', and must be a name"):
        cfnet_plans(plans, dataset_json, "2d")


def test_a_network_elsewhere_is_not_imported():
    # the second would be found, where nnU-Net searches for a network of that name
    for path in ("os.path.PlainConvUNet", "torch.nowhere.rearrange"):
        with pytest.raises(ValueError, match=rf"network_class_name='{re.escape(path)}' is no network or layer"):
            check_classes({"network_class_name": path, "arch_kwargs": {}, "_kw_requires_import": []})
    moved = "dynamic_network_architectures.once.PlainConvUNet"
    check_classes({"network_class_name": moved, "arch_kwargs": {}, "_kw_requires_import": []})


@pytest.mark.parametrize("name", ["modality_groups", "encoder_features_per_stage", "fusion_heads", "context_dilations"])
def test_plans_that_name_cfnet_may_leave_its_own_arguments_out(own_plans, dataset_json, name):
    short = deepcopy(own_plans)
    for configuration in short["configurations"].values():
        del configuration["architecture"]["arch_kwargs"][name]
    assert cfnet_plans(short, dataset_json, "2d").plans == own_plans
    set_arguments(short, **{name: None})
    assert cfnet_plans(short, dataset_json, "2d").plans == own_plans


@pytest.mark.parametrize("configuration", ["3d_fullres", "3d_cascade_fullres"])
@pytest.mark.parametrize(
    ("groups", "problem"),
    [
        ([[0, 2], [1, 4]], r"4 is none of the 4 channel\(s\)"),  # in a cascade, 4 is a segmentation
        ([[0], [1]], r"channels \['T2', 'FLAIR'\] are in no group"),
        ([0, 1], "is not two lists"),
        ([["T1", "PD"], ["T1ce", "FLAIR"]], "'PD' is none of"),
    ],
)
def test_wrong_groups_in_plans_that_name_cfnet_are_refused(own_plans, dataset_json, configuration, groups, problem):
    set_arguments(own_plans, modality_groups=groups)
    with pytest.raises(ValueError, match=rf"modality_groups=.* in the plans file.*{problem}"):
        cfnet_plans(own_plans, dataset_json, configuration)


def test_a_patch_is_checked_in_plans_that_name_cfnet(own_plans, dataset_json):
    own_plans["configurations"]["3d_fullres"]["patch_size"] = [32, 32, 36]
    with pytest.raises(ValueError, match=r"patch_size \[32, 32, 36\] has 36 voxels on axis 2"):
        cfnet_plans(own_plans, dataset_json, "3d_fullres")


def test_scalars_for_all_stages_are_spelled_out(make_plans, dataset_json):
    plans = make_plans()
    plans["configurations"]["2d"]["architecture"]["arch_kwargs"] |= {"features_per_stage": 16, "strides": [1, 2, 2, 2]}
    arguments = cfnet_plans(plans, dataset_json, "2d").plans["configurations"]["2d"]["architecture"]["arch_kwargs"]
    assert arguments["encoder_features_per_stage"] == [8, 8, 8, 12]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"features_per_stage": [8, 16]}, r"features_per_stage=\[8, 16\] has 2 entries; n_stages=4 asks for 4"),
        ({"strides": [[1, 1, 1]] + [[2, 2, 2]] * 3}, "strides=.* does not have a value an axis of Conv2d"),
        ({"kernel_sizes": [[3, 3, 3]] * 4}, "kernel_sizes=.* does not have a value an axis of Conv2d"),
        ({"n_conv_per_stage": None}, "give exactly one"),
        ({"features_per_stage": [8, 0, 8, 8]}, r"features_per_stage=\[8, 0, 8, 8\] has entries that are not whole"),
        ({"n_conv_per_stage": 0}, r"n_conv_per_stage=\[0, 0, 0, 0\] has entries that are not whole"),
        ({"strides": None}, r"lacks the arguments \['strides'\]"),
        ({"encoder_features_per_stage": [4, 8]}, r"encoder_features_per_stage=\[4, 8\] has 2 entries"),
        ({"context": "false"}, "context='false' is neither true nor false"),
    ],
)
def test_arguments_that_do_not_fit_each_other_are_named(make_plans, dataset_json, change, message):
    plans = make_plans()
    plans["configurations"]["2d"]["architecture"]["arch_kwargs"] |= change
    with pytest.raises(ValueError, match=rf"plans 'nnUNetPlans', configuration '2d': .*{message}"):
        cfnet_plans(plans, dataset_json, "2d")


@pytest.mark.parametrize(
    ("where", "value", "message"),
    [
        ("patch_size", [10**9, 32], r"patch_size \[1000000000, 32\] is no patch of 1 to 536870912 voxels"),
        ("patch_size", [10**30, 32], "patch_size .* is no patch"),
        ("patch_size", [-32, 32], "patch_size .* is no patch"),
        ("n_conv_per_stage", 10**6, "n_conv_per_stage asks for more than 1000 layers in all"),
        ("n_conv_per_stage", [2, 2, 2, 10**9], "n_conv_per_stage asks for more than 1000 layers in all"),
        ("n_conv_per_stage", [10**6, -(10**6), 2, 2], "n_conv_per_stage asks for more than 1000 layers in all"),
        ("n_conv_per_stage_decoder", 400, "n_conv_per_stage_decoder asks for more than 1000 layers in all"),
        ("n_stages", 10**9, "n_stages asks for more than 1000 layers in all"),
        ("strides", [[1, 1], [2, 2], [2, 2], [2, 10**30]], "OverflowError"),
    ],
    ids=str,
)
def test_what_no_machine_could_train_is_refused_before_it_is_built(
    make_plans, dataset_json, monkeypatch, where, value, message
):
    monkeypatch.setattr(module, "get_network_from_plans", None)
    plans = make_plans()
    configuration = plans["configurations"]["2d"]
    (configuration if where in configuration else configuration["architecture"]["arch_kwargs"])[where] = value
    with pytest.raises(ValueError, match=f"plans 'nnUNetPlans', configuration '2d': .*{message}"):
        cfnet_plans(plans, dataset_json, "2d")


def test_a_missing_argument_is_named(make_plans, dataset_json):
    plans = make_plans()
    del plans["configurations"]["2d"]["architecture"]["arch_kwargs"]["strides"]
    with pytest.raises(ValueError, match=r"PlainConvUNet lacks the arguments \['strides'\]"):
        cfnet_plans(plans, dataset_json, "2d")


def test_another_configuration_that_cannot_be_translated_is_left_as_it_is(make_plans, dataset_json):
    plans = make_plans()
    plans["configurations"]["2d"]["architecture"]["network_class_name"] = "some.where.Primus"
    ours = cfnet_plans(plans, dataset_json, "3d_fullres")
    assert ours.plans["configurations"]["2d"] == plans["configurations"]["2d"]
    assert ours.notes[0].startswith(
        "Configuration '2d' is left as it is: plans 'nnUNetPlans', configuration '2d': CFNet"
    )


def test_plans_in_nnunets_old_format_are_translated(make_plans, dataset_json):
    plans = make_plans()
    configuration = plans["configurations"]["2d"]
    del configuration["architecture"]
    configuration |= {
        "UNet_class_name": "PlainConvUNet",
        "UNet_base_num_features": 8,
        "n_conv_per_stage_encoder": [2, 2, 2],
        "n_conv_per_stage_decoder": [2, 2],
        "num_pool_per_axis": [2, 2],
        "pool_op_kernel_sizes": [[1, 1], [2, 2], [2, 2]],
        "conv_kernel_sizes": [[3, 3]] * 3,
        "unet_max_num_features": 16,
    }
    with pytest.warns(UserWarning, match="old nnU-Net plans format"):
        translated = cfnet_plans(plans, dataset_json, "2d").plans
    assert translated["configurations"]["2d"]["architecture"]["arch_kwargs"]["features_per_stage"] == [8, 16, 16]


def test_another_architecture_is_refused(make_plans, dataset_json):
    plans = make_plans()
    plans["configurations"]["2d"]["architecture"]["network_class_name"] = "some.where.Primus"
    message = (
        r"plans 'nnUNetPlans', configuration '2d': CFNet can't take the place of some\.where\.Primus.*Use plans of"
    )
    with pytest.raises(ValueError, match=message):
        cfnet_plans(plans, dataset_json, "2d")


def test_an_argument_that_cfnet_lacks_is_refused(make_plans, dataset_json):
    plans = make_plans(residual=True)
    plans["configurations"]["2d"]["architecture"]["arch_kwargs"] |= {"stem_channels": 16, "bottleneck_channels": None}
    with pytest.raises(ValueError, match=r"CFNet has no argument for \{'stem_channels': 16\}"):
        cfnet_plans(plans, dataset_json, "2d")


def test_a_patch_that_the_strides_do_not_divide_is_refused(make_plans, dataset_json):
    plans = make_plans()
    plans["configurations"]["3d_fullres"]["patch_size"] = [32, 36, 32]
    message = (
        r"configuration '3d_fullres': patch_size \[32, 36, 32\] has 36 voxels on axis 1, which the strides' product 8 "
        "does not divide. Set it to 32 or 40 in the plans file"
    )
    with pytest.raises(ValueError, match=message):
        cfnet_plans(plans, dataset_json, "3d_fullres")


def test_arguments_that_cfnet_refuses_name_the_plans(own_plans, dataset_json):
    set_arguments(own_plans, architecture_version=99)
    with pytest.raises(ValueError, match="plans 'nnUNetPlans', configuration '2d': architecture_version=99"):
        cfnet_plans(own_plans, dataset_json, "2d")
    set_arguments(own_plans, architecture_version=2, typo=1)
    with pytest.raises(ValueError, match=r"CFNet has no argument for \{'typo': 1\}"):
        cfnet_plans(own_plans, dataset_json, "2d")
