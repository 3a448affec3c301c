"""CFNet's arguments: defaults, and what is said of wrong ones."""

import pytest
import torch
from dynamic_network_architectures.architectures.unet import PlainConvUNet
from torch import nn

from nnunetv2_cfnet.architecture.arguments import (
    ARCHITECTURE_VERSION,
    check_modality_groups,
    default_dilations,
    default_encoder_features,
    default_fusion_heads,
    default_modality_groups,
)
from nnunetv2_cfnet.architecture.cfnet import CFNet


def test_the_version_that_plans_carry_is_2():
    """Raising it orphans every checkpoint: it has to be a decision (see CONTRIBUTING.md)."""
    assert ARCHITECTURE_VERSION == 2


@pytest.mark.parametrize(
    ("channels", "groups"),
    [(1, [[0], [0]]), (2, [[0], [1]]), (3, [[0, 1], [2]]), (4, [[0, 1], [2, 3]]), (5, [[0, 1, 2], [3, 4]])],
)
def test_default_groups_are_halves(channels, groups):
    assert default_modality_groups(channels) == groups


def test_default_widths_halve_fine_stages_and_keep_three_quarters_of_coarse_ones():
    isotropic = [[1, 1, 1]] + [[2, 2, 2]] * 5
    assert default_encoder_features([32, 64, 128, 256, 320, 320], isotropic) == [16, 32, 64, 192, 240, 240]
    plane = [[1, 1]] + [[2, 2]] * 6
    assert default_encoder_features([32, 64, 128, 256, 512, 512, 512], plane) == [16, 32, 64, 128, 256, 384, 384]


def test_default_widths_of_odd_plans_are_rounded_up():
    assert default_encoder_features([5, 1], [[1, 1, 1], [4, 4, 4]]) == [3, 1]


def test_default_heads_double_from_the_second_stage_below_full_resolution_on_and_divide_the_widths():
    strides = [[1, 1], [1, 2], [2, 2], [2, 2], [2, 2], [2, 2]]
    assert default_fusion_heads([16, 16, 32, 64, 64, 64], strides) == [0, 0, 2, 4, 8, 8]
    assert default_fusion_heads([8, 7, 6, 6, 12, 10], strides) == [0, 0, 2, 2, 4, 2]
    assert default_fusion_heads([16, 16, 32], [[2, 2], [2, 2], [2, 2]]) == [0, 2, 4]
    assert default_fusion_heads([16, 16, 32, 32], [[1, 1], [1, 1], [1, 2], [2, 2]]) == [0, 0, 0, 2]
    assert default_fusion_heads([16, 16], [[1, 1], [2, 2]]) == [0, 0]


def test_default_dilations_fit_the_map_of_the_bottleneck_where_the_patch_is_known():
    strides = [[1, 1, 1], [2, 2, 2], [1, 2, 2]]
    assert default_dilations(strides, None) == [[1, 1, 1], [2, 2, 2], [3, 3, 3], [4, 4, 4]]
    assert default_dilations(strides, [4, 12, 32]) == [[1, 1, 1], [1, 2, 2], [1, 2, 3], [1, 2, 4]]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"architecture_version": 1}, "architecture_version=1: these plans were made for another CFNet"),
        (
            {"residual_encoders": True, "n_conv_per_stage": [2, 3, 2, 2]},
            r"residual_encoders=True: residual blocks have two convs .* n_conv_per_stage=\[2, 3, 2, 2\] .* to False",
        ),
        ({"residual_encoders": True, "nonlin_first": True}, "nonlin_first=True. Set residual_encoders to False"),
        ({"residual_encoders": None}, "residual_encoders=None is neither true nor false"),
        ({"fusion": "sum"}, r"fusion='sum' is unknown; choose one of"),
        ({"strides": None}, "strides is None: give a value for each of n_stages="),
        ({"features_per_stage": [8, 16]}, r"features_per_stage=\[8, 16\] has 2 entries; n_stages=4 asks for 4"),
        ({"n_blocks_per_stage": [1] * 4}, "n_conv_per_stage=.* and n_blocks_per_stage=.*: give exactly one"),
        ({"conv_op": nn.Conv1d}, "conv_op=.* is none of"),
        ({"n_stages": 1}, "n_stages=1: a number of scales is needed, at least 2"),
        ({"modality_groups": [[0, 1], [2, 4]]}, "there are only the channels 0 to 3"),
        ({"fusion_heads": [1, 1, 3, 1]}, r"fusion_heads=\[1, 1, 3, 1\]: 3 does not divide the 16 encoder features"),
        ({"fusion_heads": [1, -1, 1, 1]}, "fusion_heads=.* has entries that are not whole numbers of at least 0"),
        ({"strides": [1, 0, 2, 2]}, "strides=.* has entries that are not whole numbers of at least 1"),
        ({"fusion_heads": 2.0}, "fusion_heads=2.0 is neither a whole number nor a list"),
        ({"strides": "1222"}, "strides='1222' is neither a whole number nor a list"),
        (
            {"fusion_heads": [[1], [1], [1], [1]]},
            "fusion_heads=.* has entries that are not whole numbers of at least 0",
        ),
        ({"fusion_heads": False}, "fusion_heads=.* has entries that are not whole numbers of at least 0"),
        ({"fusion_heads": [1, True, 1, 1]}, "fusion_heads=.* has entries that are not whole numbers of at least 0"),
        ({"context": "false"}, "context='false' is neither true nor false"),
        ({"mask_missing_groups": 1}, "mask_missing_groups=1 is neither true nor false"),
        ({"n_stages": "4"}, "n_stages='4'"),
        ({"fusion_heads": []}, r"fusion_heads=\[\] has 0 entries"),
        ({"context_dilations": [[1, 1]]}, r"context_dilations=\[\[1, 1\]\] does not have a value an axis of Conv3d"),
        ({"strides": [[1, 1]] + [[2, 2]] * 3}, "strides=.* does not have a value an axis of Conv3d"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_wrong_arguments_are_named(plan_arguments, wrong, message):
    with pytest.raises(ValueError, match=message):
        CFNet(4, num_classes=3, **{**plan_arguments(), **wrong})


@pytest.mark.parametrize(
    ("groups", "problem"),
    [
        ([[0, 1], [2, 4]], "there are only the channels 0 to 3"),
        ([[0, 1, 2, 3], []], "two non-empty groups are needed"),
        ([[0], [1], [2, 3]], "two non-empty groups are needed"),
        ([[0, 0, 1], [2, 3]], "a group names a channel twice"),
    ],
)
def test_groups_that_do_not_fit_are_named(groups, problem):
    with pytest.raises(ValueError, match=f"does not fit an input of 4 channel.*{problem}"):
        check_modality_groups(groups, 4)


@pytest.mark.parametrize(
    ("stage", "kernel", "options"),
    [
        (3, [2, 2], {"n_conv_per_stage": [2, 2, 2, 1]}),  # the context's branches would differ in size
        (3, [3, 4], {}),
        (3, [2, 2], {"context": False}),  # the stage's second conv is not strided
        (3, [2, 2], {"context": False, "n_conv_per_stage": None, "n_blocks_per_stage": [1] * 4}),
        (3, [2, 2], {"context": False, "n_conv_per_stage": 1, "strides": [[1, 1], [2, 2], [2, 2], [2, 1]]}),
        (2, [2, 2], {"n_conv_per_stage": 1}),  # the decoder's convs are not strided
        (0, [3, 2], {"n_conv_per_stage": 1}),
    ],
)
def test_an_even_kernel_that_does_not_keep_the_size_of_a_map_is_named(plan_arguments, stage, kernel, options):
    arguments = plan_arguments(2) | options
    arguments["kernel_sizes"][stage] = kernel
    with pytest.raises(ValueError, match=rf"the even kernel \[{kernel[0]}, {kernel[1]}\] of stage {stage} .* Give odd"):
        CFNet(4, num_classes=3, **arguments)


def test_an_even_kernel_of_one_strided_conv_at_the_bottleneck_is_taken_as_nnunet_does(plan_arguments):
    arguments = plan_arguments(2) | {"n_conv_per_stage": [2, 2, 2, 1]}
    arguments["kernel_sizes"][3] = [2, 4]
    x = torch.randn(1, 4, 16, 32)
    assert CFNet(4, num_classes=3, context=False, **arguments)(x).shape == (1, 3, 16, 32)
    assert PlainConvUNet(4, num_classes=3, **arguments)(x).shape == (1, 3, 16, 32)
