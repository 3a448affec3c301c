"""What the published network alone needs, against restatements; test_parity.py compares with the network's own."""

from functools import partial

import torch
from torch import nn
from torch.nn import functional as F

from nnunetv2_cfnet.architecture.published_blocks import (
    FeatureCommunication,
    PublishedGate,
    UpsamplingBlock,
)


def make_gate(conv_op: type[nn.Module], norm: type[nn.Module]) -> PublishedGate:
    return PublishedGate(conv_op, 8, norm=norm, nonlin=nn.ReLU)


def test_published_gate_never_goes_below_half():
    gate = make_gate(nn.Conv2d, nn.BatchNorm2d)
    assert gate(torch.ones(1, 8, 6, 5), torch.randn(1, 8, 6, 5)).min() >= 0.5


def test_communication_matches_float64_reference():
    communication = FeatureCommunication(
        nn.Conv3d,
        8,
        16,
        upsample_mode="trilinear",
        gate=make_gate(nn.Conv3d, nn.InstanceNorm3d),
        norm=nn.InstanceNorm3d,
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
