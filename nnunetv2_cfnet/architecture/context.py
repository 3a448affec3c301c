"""Multi-scale Context Perception Module (MCPM): widens the view at the deepest scale."""

from collections.abc import Callable, Sequence

import torch
from torch import nn
from torch.nn.modules.conv import _ConvNd

INITIAL_GAIN = 0.1  # of what the branches add


class MultiScaleContext(nn.Module):
    """Branches of growing dilation, weighted by what their sum says, added to the input.

        y = S x (1x1 conv, C -> C/4);  F_k(y): conv, norm, phi twice, then a conv of dilation k, norm, phi
        a = softmax([L_1 f, .., L_n f]),  f = sum_k F_k;  out = x + g * E phi(sum_k a_k F_k)

    Source: paper, MCPM, dilations 1 to 4.
    Departures: the weights a are chosen voxel by voxel, L_k being 1x1 convs of f; published, from f's average over the
    voxels, which after an instance norm is the same for every input. The softmax runs across the branches, a channel at
    a time; published, it runs over all n C/4 values, so that the weights are about 1/C and the branch fades. What the
    branches add has a gain g a channel that starts small. Any width; dilations an axis at a time; phi and norm are the
    plan's; no dropout (published, 0.5), since nnU-Net's plans have none.

    Args:
        conv_op: nn.Conv2d or nn.Conv3d.
        channels: C.
        kernel_size: of the branch convs, a value an axis (odd).
        dilations: of the branches' last convs, a value an axis for each branch.
        norm: makes a norm for a number of channels.
        nonlin: makes phi.

    Shape:
        (B, C, *S) -> (B, C, *S).
    """

    def __init__(
        self,
        conv_op: Callable[..., _ConvNd],
        channels: int,
        kernel_size: Sequence[int],
        dilations: Sequence[Sequence[int]],
        norm: Callable[[int], nn.Module],
        nonlin: Callable[[], nn.Module],
    ) -> None:
        super().__init__()
        reduced, n = max(1, channels // 4), len(dilations)
        self.squeeze = conv_op(channels, reduced, 1)
        self.branches = context_branches(conv_op, reduced, kernel_size, dilations=dilations, norm=norm, nonlin=nonlin)
        # (B, C/4, *S) -> (B, n, C/4, *S)
        self.select = nn.Sequential(conv_op(reduced, n * reduced, 1), nn.Unflatten(1, (n, reduced)), nn.Softmax(dim=1))
        self.expand = nn.Sequential(nonlin(), conv_op(reduced, channels, 1))
        self.gain = nn.Parameter(torch.full((channels, *[1] * len(kernel_size)), INITIAL_GAIN))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        squeezed = self.squeeze(x)
        branches = torch.stack([branch(squeezed) for branch in self.branches], dim=1)  # (B, n, C/4, *S)
        mixed = (branches * self.select(branches.sum(dim=1))).sum(dim=1)
        return x + self.gain * self.expand(mixed)


def context_branches(
    conv_op: Callable[..., _ConvNd],
    channels: int,
    kernel_size: Sequence[int],
    dilations: Sequence[Sequence[int]],
    norm: Callable[[int], nn.Module],
    nonlin: Callable[[], nn.Module],
) -> nn.ModuleList:
    """F_1 .. F_n: conv, norm, phi twice, then a conv of dilation k, norm, phi; (B, channels, *S) -> the same."""

    def conv_norm_nonlin(dilation: Sequence[int]) -> list[nn.Module]:
        padding = [d * (k // 2) for d, k in zip(dilation, kernel_size, strict=True)]
        conv = conv_op(channels, channels, tuple(kernel_size), padding=tuple(padding), dilation=tuple(dilation))
        return [conv, norm(channels), nonlin()]

    undilated = [1] * len(kernel_size)
    return nn.ModuleList(
        nn.Sequential(*conv_norm_nonlin(undilated), *conv_norm_nonlin(undilated), *conv_norm_nonlin(dilation))
        for dilation in dilations
    )
