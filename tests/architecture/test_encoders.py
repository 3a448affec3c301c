"""The dual encoder: grouping and independence."""

import torch
from torch import nn

from nnunetv2_cfnet.architecture.encoders import DualEncoder


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
    return DualEncoder(input_channels, groups, arguments)


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


def test_channels_of_no_group_go_to_both_encoders():
    """So that a cascade's one-hot channels need no entry of their own."""
    encoder = make_encoder([[0, 2], [1, 3]], 6)
    assert encoder.modality_groups == [[0, 2, 4, 5], [1, 3, 4, 5]]
