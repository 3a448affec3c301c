"""1x1 convs as matrix products against PyTorch's own."""

import pytest
import torch
from dynamic_network_architectures.initialization.weight_init import InitWeights_He
from torch import nn

from nnunetv2_cfnet.architecture.pointwise import POINTWISE


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(("conv_op", "size"), [(nn.Conv2d, (6, 5)), (nn.Conv3d, (3, 5, 4))])
def test_matrix_product_is_the_conv(conv_op, size, bias):
    ours, theirs = POINTWISE[conv_op](3, 4, 1, bias=bias).double(), conv_op(3, 4, 1, bias=bias).double()
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(2, 3, *size, dtype=torch.float64)
    torch.testing.assert_close(ours(x), theirs(x))
    for conv in (ours, theirs):
        conv(x).square().sum().backward()
    for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad)


def test_channels_last_and_autocast_change_nothing_but_precision():
    conv = POINTWISE[nn.Conv3d](3, 4, 1)
    x = torch.randn(2, 3, 4, 5, 6)
    expected = conv(x)
    torch.testing.assert_close(conv(x.to(memory_format=torch.channels_last_3d)), expected)
    for dtype in (torch.bfloat16, torch.float16):
        with torch.autocast("cpu", dtype=dtype):
            output = conv(x)
        assert output.dtype == dtype
        torch.testing.assert_close(output.float(), expected, rtol=0.05, atol=0.05)


def test_nnunets_initialisation_takes_it_for_a_conv():
    conv = POINTWISE[nn.Conv3d](3, 4, 1)
    InitWeights_He(1e-2)(conv)
    assert conv.bias.abs().max() == 0
