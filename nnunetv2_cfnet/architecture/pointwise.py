"""1x1 convs as matrix products, which fusions and gates consist of.

In 2D, with two threads of an AMD EPYC, oneDNN's convs took three to six times as long; with one thread of an Intel Xeon
a training step takes equally long with either. CUDA was not measured: the product runs there as well, so that tests see
what users run. In weights, state dict and initialisation they are convs like any other.
"""

import torch
from torch import nn
from torch.nn.modules.conv import _ConvNd


class _Pointwise(_ConvNd):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weight = self.weight.flatten(1).expand(x.shape[0], -1, -1)  # (B, C_out, C)
        tokens = x.flatten(2)  # (B, C, *S) -> (B, C, N)
        product = weight @ tokens if self.bias is None else torch.baddbmm(self.bias[:, None], weight, tokens)
        return product.unflatten(2, x.shape[2:])


class PointwiseConv2d(_Pointwise, nn.Conv2d):
    """nn.Conv2d with a kernel of 1, stride 1 and no padding."""


class PointwiseConv3d(_Pointwise, nn.Conv3d):
    """nn.Conv3d with a kernel of 1, stride 1 and no padding."""


POINTWISE: dict[type[_ConvNd], type[_ConvNd]] = {nn.Conv2d: PointwiseConv2d, nn.Conv3d: PointwiseConv3d}
