"""Multi-scale context against a branch-by-branch restatement of its equation."""

from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from nnunetv2_cfnet.architecture.context import MultiScaleContext


def make_context(size, dilations, kernel_size=None) -> MultiScaleContext:
    dim = len(size)
    return MultiScaleContext(
        {2: nn.Conv2d, 3: nn.Conv3d}[dim],
        16,
        kernel_size=kernel_size or [3] * dim,
        dilations=dilations,
        norm=partial({2: nn.InstanceNorm2d, 3: nn.InstanceNorm3d}[dim], affine=True),
        nonlin=partial(nn.LeakyReLU, inplace=True),
    )


def naive_context(module: MultiScaleContext, x: torch.Tensor, kernel_size, dilations) -> torch.Tensor:
    conv = {4: F.conv2d, 5: F.conv3d}[x.ndim]
    y = module.squeeze(x)
    branches = []
    for branch, dilation in zip(module.branches, dilations, strict=True):
        f = y
        for layer, d in ((0, [1] * len(dilation)), (3, [1] * len(dilation)), (6, dilation)):
            padding = tuple((k - 1) * step // 2 for k, step in zip(kernel_size, d, strict=True))
            f = conv(f, branch[layer].weight, branch[layer].bias, padding=padding, dilation=tuple(d))
            f = F.leaky_relu(branch[layer + 1](f))
        branches.append(f)
    logits = module.select[0](sum(branches)).chunk(len(branches), dim=1)
    total = sum(logit.exp() for logit in logits)
    mixed = sum(logit.exp() / total * f for logit, f in zip(logits, branches, strict=True))
    return x + module.gain * module.expand[1](F.leaky_relu(mixed))


@pytest.mark.parametrize(
    ("size", "kernel_size", "dilations"),
    [
        ((6, 5), [3, 3], [[1, 1], [2, 2], [3, 3], [4, 4]]),
        ((3, 5, 4), [1, 3, 3], [[1, 1, 1], [1, 2, 2], [1, 3, 3], [1, 4, 3]]),
    ],
)
def test_context_matches_float64_reference(size, kernel_size, dilations):
    module = make_context(size, dilations, kernel_size).double()
    x = torch.randn(2, 16, *size, dtype=torch.float64)
    expected = naive_context(module, x, kernel_size, dilations)
    torch.testing.assert_close(module(x), expected, rtol=0, atol=1e-10)


def test_every_context_parameter_gets_a_gradient():
    module = make_context((3, 5, 4), [[1, 1, 1], [2, 2, 2]])
    module(torch.randn(1, 16, 3, 5, 4)).square().sum().backward()
    assert [name for name, parameter in module.named_parameters() if parameter.grad is None] == []
