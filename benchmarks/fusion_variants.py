"""Other ways for one modality group to act on the other: fusions that benchmarks/ablation.py trains beside CFNet's own.

Each is ConcatenationFusion with something in front of its merge: without what it adds it is the ablation's "without
attention", and it starts with the same weights there. They are no part of the package: docs/ablation.md says what they
earned.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from nnunetv2_cfnet.architecture.fusion import ConcatenationFusion, CrossAttentionFusion, Fusion

MAX_TOKENS_EDGE = 8  # keys and values are pooled to at most 8 x 8 x 8 tokens
STATISTICS_EDGE = 8  # voxels of a block along each axis, over which a group's statistics are taken
INITIAL_SCALE = 0.5


class StrongAttention(CrossAttentionFusion):
    """CFNet's attention with a gain of 1 from the start, in place of 0.1."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        nn.init.ones_(self.gain_1)
        nn.init.ones_(self.gain_2)


class TokenAttention(ConcatenationFusion):
    """Voxels of one group ask those of the other: X_1 + g W softmax(Q_1 K_2^T / sqrt(d)) V_2, and the reverse.

    Keys and values are pooled (as in PVT, arXiv:2102.12122), queries are not. Positions come from a depthwise conv (as
    in CPVT, arXiv:2102.10882), so that maps of any size fit.
    """

    def __init__(self, conv_op: Callable[..., nn.Module], input_channels: int, num_heads: int, **parts: Any) -> None:
        super().__init__(conv_op=conv_op, input_channels=input_channels, **parts)
        self.num_heads = num_heads
        channels, per_channel = input_channels, (input_channels, *self.project.weight.shape[2:])
        self.position_1 = nn.Conv3d(channels, channels, 3, padding=1, groups=channels)
        self.position_2 = nn.Conv3d(channels, channels, 3, padding=1, groups=channels)
        self.query_1, self.query_2 = (conv_op(channels, channels, 1, bias=False) for _ in range(2))
        self.key_value_1, self.key_value_2 = (conv_op(channels, 2 * channels, 1, bias=False) for _ in range(2))
        self.output_1, self.output_2 = (conv_op(channels, channels, 1, bias=False) for _ in range(2))
        self.gain_1, self.gain_2 = (nn.Parameter(torch.ones(per_channel)) for _ in range(2))

    def forward(self, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        placed_1, placed_2 = first + self.position_1(first), second + self.position_2(second)
        attended_1 = self._attend(self.query_1(placed_1), self.key_value_2(_pooled(placed_2)))
        attended_2 = self._attend(self.query_2(placed_2), self.key_value_1(_pooled(placed_1)))
        return super().forward(
            first + self.gain_1 * self.output_1(attended_1), second + self.gain_2 * self.output_2(attended_2)
        )

    def _attend(self, query: torch.Tensor, key_value: torch.Tensor) -> torch.Tensor:
        query_tokens, key, value = (
            maps.flatten(2).unflatten(1, (self.num_heads, -1)).mT for maps in (query, *key_value.chunk(2, dim=1))
        )
        attended = F.scaled_dot_product_attention(query_tokens, key, value)  # (B, h, N, d)
        return attended.mT.flatten(1, 2).reshape(query.shape)


class ChannelSteering(ConcatenationFusion):
    """A gain a channel and block from statistics of the other group: X_1 (1 + s tanh(W [mean, deviation]))."""

    def __init__(self, conv_op: Callable[..., nn.Module], input_channels: int, **parts: Any) -> None:
        super().__init__(conv_op=conv_op, input_channels=input_channels, **parts)
        self.steer_1 = conv_op(2 * input_channels, input_channels, 1)
        self.steer_2 = conv_op(2 * input_channels, input_channels, 1)
        self.scale = nn.Parameter(torch.full((2,), INITIAL_SCALE))

    def forward(self, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        return super().forward(
            first * (1 + self.scale[0] * _steered(self.steer_1, second)),
            second * (1 + self.scale[1] * _steered(self.steer_2, first)),
        )


class VoxelGates(ConcatenationFusion):
    """A gain a channel and voxel from the other group: X_1 (1 + s tanh(N(W X_2)))."""

    def __init__(
        self, conv_op: Callable[..., nn.Module], input_channels: int, norm: Callable[[int], nn.Module], **parts: Any
    ) -> None:
        super().__init__(conv_op=conv_op, input_channels=input_channels, norm=norm, **parts)
        self.gate_1 = nn.Sequential(conv_op(input_channels, input_channels, 1), norm(input_channels))
        self.gate_2 = nn.Sequential(conv_op(input_channels, input_channels, 1), norm(input_channels))
        self.scale = nn.Parameter(torch.full((2,), INITIAL_SCALE))

    def forward(self, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        return super().forward(
            first * (1 + self.scale[0] * torch.tanh(self.gate_1(second))),
            second * (1 + self.scale[1] * torch.tanh(self.gate_2(first))),
        )


class Product(ConcatenationFusion):
    """The groups multiply: A [X_1, X_2] + B N(P X_1 * Q X_2) goes through the merge's norm."""

    def __init__(
        self,
        conv_op: Callable[..., nn.Module],
        input_channels: int,
        output_channels: int,
        norm: Callable[[int], nn.Module],
        **parts: Any,
    ) -> None:
        super().__init__(conv_op, input_channels, output_channels, norm=norm, **parts)
        self.factor_1 = conv_op(input_channels, input_channels, 1, bias=False)
        self.factor_2 = conv_op(input_channels, input_channels, 1, bias=False)
        self.product_norm = norm(input_channels)
        self.project_product = conv_op(input_channels, output_channels, 1, bias=False)

    def forward(self, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        product = self.product_norm(self.factor_1(first) * self.factor_2(second))
        merged = self.project(torch.cat((first, second), dim=1)) + self.project_product(product)
        return self.norm_nonlin(merged)


def _pooled(x: torch.Tensor) -> torch.Tensor:
    return F.adaptive_avg_pool3d(x, [min(edge, MAX_TOKENS_EDGE) for edge in x.shape[2:]])


def _steered(steer: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """tanh of what a conv makes of means and standard deviations of blocks: (B, C, *S) -> (B, C, *S)."""
    edges = [min(edge, STATISTICS_EDGE) for edge in x.shape[2:]]
    mean = F.avg_pool3d(x, edges)
    variance = F.avg_pool3d(x.square(), edges) - mean.square()
    statistics = torch.cat((mean, (variance.clamp(min=0) + 1e-5).sqrt()), dim=1)
    return F.interpolate(torch.tanh(steer(statistics)), x.shape[2:])


# What the argument fusion chooses from, beside the package's own.
VARIANTS: dict[str, type[Fusion]] = {
    "attention of gain 1": StrongAttention,
    "token attention": TokenAttention,
    "channel steering": ChannelSteering,
    "voxel gates": VoxelGates,
    "product": Product,
}
