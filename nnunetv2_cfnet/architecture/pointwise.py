"""1x1 convs that run as matrix products on a CPU, where oneDNN's 2D convs take three to six times as long.

Fusions and gates consist of little else. In weights, state dict and initialisation they are convs like any other.
"""

import torch
from torch import nn
from torch.nn.modules.conv import _ConvNd


class _Pointwise(_ConvNd):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.device.type != "cpu":
            return super().forward(x)
        weight = self.weight.flatten(1).expand(x.shape[0], -1, -1)  # (B, C_out, C)
        tokens = x.flatten(2)
        product = weight @ tokens if self.bias is None else torch.baddbmm(self.bias[:, None], weight, tokens)
        return product.unflatten(2, x.shape[2:])


class PointwiseConv2d(_Pointwise, nn.Conv2d):
    """nn.Conv2d with a kernel of 1, stride 1 and no padding."""


class PointwiseConv3d(_Pointwise, nn.Conv3d):
    """nn.Conv3d with a kernel of 1, stride 1 and no padding."""


POINTWISE: dict[type[_ConvNd], type[_ConvNd]] = {nn.Conv2d: PointwiseConv2d, nn.Conv3d: PointwiseConv3d}
