"""What the published network alone needs, against restatements; test_parity.py compares with the network's own."""

from functools import partial

import torch
from torch import nn
from torch.nn import functional as F

from nnunetv2_cfnet.architecture.decoder import CommunicationGate
from nnunetv2_cfnet.architecture.published_blocks import (
    FeatureCommunication,
    PublishedContext,
    PublishedGate,
    UpsamplingBlock,
)


def test_published_weights_of_branches_sum_to_one_over_all_values():
    weights = PublishedContext(16)._branch_weights(torch.randn(2, 4, 4, 6, 5))
    torch.testing.assert_close(weights.sum(dim=(1, 2)), torch.ones(2))


def test_published_gate_never_goes_below_half():
    assert PublishedGate(8)(torch.ones(1, 8, 6, 5), torch.randn(1, 8, 6, 5)).min() >= 0.5


def test_communication_matches_float64_reference():
    gate = CommunicationGate(nn.Conv3d, 8, kernel_size=1, norm=nn.InstanceNorm3d, nonlin=nn.ReLU)
    communication = FeatureCommunication(
        nn.Conv3d, 8, 16, upsample_mode="trilinear", gate=gate, norm=nn.InstanceNorm3d
    ).double()
    shallow, deep = torch.randn(1, 8, 4, 6, 8).double(), torch.randn(1, 16, 2, 3, 4).double()
    s = communication.shallow_projection[1](communication.shallow_projection[0](shallow))
    e = communication.deep_projection[1](communication.deep_projection[0](deep))
    e = F.interpolate(e, scale_factor=2, mode="trilinear", align_corners=False)
    conv, norm = communication.conv
    expected = e + norm(F.conv3d(communication.gate(s, e), conv.weight, conv.bias, padding=1))
    torch.testing.assert_close(communication(shallow, deep), expected, rtol=0, atol=1e-10)


def test_upsampling_block_matches_float64_reference():
    block = UpsamplingBlock(
        nn.Conv3d, nn.ConvTranspose3d, 16, 8, norm=partial(nn.InstanceNorm3d, affine=True), nonlin=nn.ReLU
    ).double()
    x = torch.randn(1, 16, 3, 5, 4, dtype=torch.float64)
    reduce, norm_1, _, up, norm_2, _, expand, norm_3, _ = block
    # a transposed conv of stride 2 is a conv, flipped, of the input with zeros between its values
    spread = torch.zeros(1, 4, 6, 10, 8, dtype=torch.float64)
    spread[:, :, ::2, ::2, ::2] = F.relu(norm_1(F.conv3d(x, reduce.weight, reduce.bias)))
    upsampled = F.conv3d(spread, up.weight.transpose(0, 1).flip(2, 3, 4), up.bias, padding=1)
    expected = F.relu(norm_3(F.conv3d(F.relu(norm_2(upsampled)), expand.weight, expand.bias)))
    output = block(x)
    torch.testing.assert_close(output, expected, rtol=0, atol=1e-10)
    output.square().sum().backward()
    assert [name for name, parameter in block.named_parameters() if parameter.grad is None] == []
