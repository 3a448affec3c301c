"""Multi-scale Context Perception Module (MCPM): widens the view at the deepest scale."""

from collections.abc import Callable, Sequence

import torch
from torch import nn
from torch.nn.modules.conv import _ConvNd


class MultiScaleContext(nn.Module):
    """Branches of growing dilation, weighted by what their sum says, added to the input.

        y = S x (1x1 conv, C -> C/4);  F_k(y): conv, norm, phi twice, then a conv of dilation k, norm, phi
        g = GAP(sum_k F_k);  a = softmax([L_1 g, .., L_n g]);  out = x + E phi(sum_k a_k F_k)

    Source: paper, MCPM, dilations 1 to 4.
    Departures: the softmax runs across the branches, a channel at a time; published, it runs over all n C/4 values, so
    that the weights are about 1/C and the branch fades. Any width; dilations an axis at a time; phi and norm are the
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
        reduced = max(1, channels // 4)

        def conv_norm_nonlin(dilation: Sequence[int]) -> list[nn.Module]:
            padding = [d * (k // 2) for d, k in zip(dilation, kernel_size, strict=True)]
            conv = conv_op(reduced, reduced, tuple(kernel_size), padding=tuple(padding), dilation=tuple(dilation))
            return [conv, norm(reduced), nonlin()]

        undilated = [1] * len(kernel_size)
        self.squeeze = conv_op(channels, reduced, 1)
        self.branches = nn.ModuleList(
            nn.Sequential(*conv_norm_nonlin(undilated), *conv_norm_nonlin(undilated), *conv_norm_nonlin(dilation))
            for dilation in dilations
        )
        self.selectors = nn.ModuleList(nn.Linear(reduced, reduced) for _ in dilations)
        self.expand = nn.Sequential(nonlin(), conv_op(reduced, channels, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        squeezed = self.squeeze(x)
        branches = torch.stack([branch(squeezed) for branch in self.branches], dim=1)  # (B, n, C/4, *S)
        weights = self._branch_weights(branches)  # (B, n, C/4)
        mixed = (branches * weights.reshape(*weights.shape, *[1] * (x.ndim - 2))).sum(dim=1)
        return x + self.expand(mixed)

    def _branch_weights(self, branches: torch.Tensor) -> torch.Tensor:
        pooled = branches.sum(dim=1).flatten(2).mean(dim=2)  # (B, n, C/4, *S) -> (B, C/4)
        return self._softmax(torch.stack([selector(pooled) for selector in self.selectors], dim=1))

    def _softmax(self, logits: torch.Tensor) -> torch.Tensor:
        """Across the branches: (B, n, C/4) -> (B, n, C/4)."""
        return torch.softmax(logits, dim=1)
