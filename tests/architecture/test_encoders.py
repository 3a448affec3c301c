"""The dual encoder: grouping, independence and widths."""

import pytest
import torch
from dynamic_network_architectures.building_blocks.plain_conv_encoder import PlainConvEncoder
from torch import nn

from nnunetv2_cfnet.architecture.encoders import DualEncoder, default_encoder_features, default_modality_groups


def make_encoder(groups, input_channels) -> DualEncoder:
    arguments = {
        "n_stages": 2,
        "features_per_stage": [4, 8],
        "conv_op": nn.Conv2d,
        "kernel_sizes": [[3, 3], [3, 3]],
        "strides": [[1, 1], [2, 2]],
        "n_conv_per_stage": [1, 1],
        "nonlin": nn.ReLU,
    }
    return DualEncoder(input_channels, groups, PlainConvEncoder, arguments)


def test_each_group_sees_its_channels_alone():
    encoder = make_encoder([[0, 2], [1, 3]], 4)
    x = torch.randn(1, 4, 8, 8)
    first, second = encoder(x)
    changed = x.clone()
    changed[:, 1] += 1
    other_first, other_second = encoder(changed)
    assert all(torch.equal(a, b) for a, b in zip(first, other_first, strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(second, other_second, strict=True))


def test_encoders_are_independent_and_structurally_identical():
    encoder = make_encoder([[0, 2], [1, 3]], 4)
    first, second = dict(encoder.first.named_parameters()), dict(encoder.second.named_parameters())
    assert {name: p.shape for name, p in first.items()} == {name: p.shape for name, p in second.items()}
    assert not {p.data_ptr() for p in first.values()} & {p.data_ptr() for p in second.values()}


def test_unequal_groups_differ_in_the_stems_only():
    encoder = make_encoder([[0, 1, 2], [3, 4]], 5)
    second = dict(encoder.second.named_parameters())
    different = [name for name, p in encoder.first.named_parameters() if p.shape != second[name].shape]
    assert all(name.startswith("stages.0.0.convs.0") for name in different)
    assert different


@pytest.mark.parametrize(
    ("channels", "groups"),
    [(1, [[0], [0]]), (2, [[0], [1]]), (3, [[0, 1], [2]]), (4, [[0, 1], [2, 3]]), (5, [[0, 1, 2], [3, 4]])],
)
def test_default_groups_are_halves(channels, groups):
    assert default_modality_groups(channels) == groups


def test_channels_of_no_group_go_to_both_encoders():
    """So that a cascade's one-hot channels need no entry of their own."""
    encoder = make_encoder([[0, 2], [1, 3]], 6)
    assert encoder.modality_groups == [[0, 2, 4, 5], [1, 3, 4, 5]]


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
        make_encoder(groups, 4)


def test_default_widths_halve_fine_stages_and_keep_three_quarters_of_coarse_ones():
    isotropic = [[1, 1, 1]] + [[2, 2, 2]] * 5
    assert default_encoder_features([32, 64, 128, 256, 320, 320], isotropic) == [16, 32, 64, 192, 240, 240]
    plane = [[1, 1]] + [[2, 2]] * 6
    assert default_encoder_features([32, 64, 128, 256, 512, 512, 512], plane) == [16, 32, 64, 128, 256, 384, 384]


def test_default_widths_of_odd_plans_are_rounded_up():
    assert default_encoder_features([5, 1], [[1, 1, 1], [4, 4, 4]]) == [3, 1]
