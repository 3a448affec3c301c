"""Modality-Cross Attention Fusion Module (MCAFM): joins the features of the two encoders at one scale."""

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import nn
from torch.nn.modules.conv import _ConvNd

# Where the temperature of the correlations starts: one of 1 then weighs e^5 times one of 0. And where the gain of what
# attention adds does; benchmarks/fusion_variants.py tries 1.
INITIAL_TEMPERATURE = 5.0
INITIAL_GAIN = 0.1
BLOCK_EDGE = {2: 16, 3: 8}  # voxels of a block along each axis, in 2D and in 3D, where it divides the map
VARIANCE_FLOOR = 1e-4  # of the keys' (values') mean square: a variance below it is rounding, not signal


class Fusion(nn.Module):
    """What joins the two encoders' maps of one scale. CONTRIBUTING.md says how to add one.

    CFNet builds every fusion with the same keyword arguments; one that does not need some of them takes them as `**_`.

    Args:
        conv_op: makes a 1x1 conv, as in conv_op(input_channels, output_channels, 1).
        input_channels: C, channels of each of the two inputs.
        output_channels: channels of the fused map.
        num_heads: heads of attention, a divisor of C; 0 for ConcatenationFusion where there is none.
        norm: makes a norm for a number of channels.
        nonlin: makes a non-linearity.

    Attributes:
        stored_per_voxel: how many values a voxel of the scale a training step keeps for backward, the inputs left out.
            The estimate of memory counts them where nothing is recomputed.
        stored_inputs_per_voxel: how many values of the inputs it keeps. They count where missing groups are masked: the
            inputs are then not the encoders' maps, which are stored anyway.

    Shape:
        two of (B, C, *S) -> (B, output_channels, *S).
    """

    stored_per_voxel: int
    stored_inputs_per_voxel: int = 0


class PlainConcatenation(Fusion):
    """fused = [X_1, X_2], with no parameters: two of (B, C, *S) -> (B, 2C, *S). Used at full resolution."""

    stored_per_voxel = 0  # the decoder copies it into a concatenation of its own

    def __init__(self, **_: Any) -> None:
        super().__init__()

    def forward(self, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        return torch.cat((first, second), dim=1)


class ConcatenationFusion(Fusion):
    """Fusion without attention: fused = phi(N(A [X_1, X_2])).

    Used for fusion = "concatenation", where fusion_heads is 0, and at full resolution where 2C is not the fused width.

    Args and Shape: see Fusion.
    """

    def __init__(
        self,
        conv_op: Callable[..., _ConvNd],
        input_channels: int,
        output_channels: int,
        norm: Callable[[int], nn.Module],
        nonlin: Callable[[], nn.Module],
        **_: Any,
    ) -> None:
        super().__init__()
        self.project = conv_op(2 * input_channels, output_channels, 1)
        self.norm_nonlin = nn.Sequential(norm(output_channels), nonlin())
        self.stored_per_voxel = 2 * input_channels + 2 * output_channels  # [X_1, X_2]; what N takes, phi's output

    def forward(self, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        return self.norm_nonlin(self.project(torch.cat((first, second), dim=1)))


class CrossAttentionFusion(ConcatenationFusion):
    """Each modality group is attended with the other group's context, then both are joined as without attention.

        U_i = phi(X_i P_i)                                                        (X_i: tokens x channels)
        G_i = context of U_i, one d x d matrix a head and block of the map        (see ChannelContext)
        Y_1 = X_1 + g_1 * U_1 (G_2 - 1/d),  Y_2 = X_2 + g_2 * U_2 (G_1 - 1/d)     (the contexts are swapped)
        fused = phi(N(A [Y_1, Y_2]))

    Source: paper, MCAFM, Y_1 = X_1 + U_1 G_2.
    Departures:
    - G is of a block of about 8 x 8 x 8 voxels (16 x 16 in 2D), where the published one is of the whole map: over a
      whole patch channels go together in nearly the same way in every brain, and at fine scales G hardly saw its input.
    - What attention adds has a gain g a channel that starts small, so that a fusion starts as about the plain
      concatenation. A uniform G, which would add one and the same map to all channels of a head, adds nothing.
    - The published merge of Y_1 and Y_2, a shared projection and a channel embedding (published_blocks.ResidualMerge),
      learned slower in two seeds of a small training, by hand.
    - U_i has no bias b_i: of a modality group that is missing (missing_groups.py), attention makes nothing.
    - phi is the plan's non-linearity; published, ReLU.

    Args and Shape: see Fusion.

    Raises:
        ValueError: heads that do not divide the channels.
    """

    def __init__(
        self,
        conv_op: Callable[..., _ConvNd],
        input_channels: int,
        output_channels: int,
        num_heads: int,
        norm: Callable[[int], nn.Module],
        nonlin: Callable[[], nn.Module],
    ) -> None:
        super().__init__(conv_op, input_channels, output_channels, norm=norm, nonlin=nonlin)
        if num_heads < 1 or input_channels % num_heads:
            raise ValueError(f"num_heads={num_heads} does not divide input_channels={input_channels}.")
        self.embed_1 = nn.Sequential(conv_op(input_channels, input_channels, 1, bias=False), nonlin())
        self.embed_2 = nn.Sequential(conv_op(input_channels, input_channels, 1, bias=False), nonlin())
        self.context_1 = ChannelContext(conv_op, input_channels, num_heads)
        self.context_2 = ChannelContext(conv_op, input_channels, num_heads)
        per_channel = (input_channels, *self.project.weight.shape[2:])
        self.gain_1 = nn.Parameter(torch.full(per_channel, INITIAL_GAIN))
        self.gain_2 = nn.Parameter(torch.full(per_channel, INITIAL_GAIN))
        # U_1, U_2 and their blocks; [Y_1, Y_2]; what N takes, phi's output
        self.stored_per_voxel = 6 * input_channels + 2 * output_channels
        self.stored_inputs_per_voxel = 2 * input_channels  # what is embedded

    def forward(self, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        blocks_1, blocks_2 = to_blocks(self.embed_1(first)), to_blocks(self.embed_2(second))
        attended_1 = attend(blocks_1, _gained(self.context_2(blocks_2), self.gain_1))
        attended_2 = attend(blocks_2, _gained(self.context_1(blocks_1), self.gain_2))
        return super().forward(
            first + from_blocks(attended_1, first.shape), second + from_blocks(attended_2, second.shape)
        )


def _gained(context: torch.Tensor, gain: torch.Tensor) -> torch.Tensor:
    """(G - 1/d) g: each column of G with its channel's gain, which is less than a gain on each voxel of U G."""
    heads, width = context.shape[1:3]
    return (context - 1 / width) * gain.view(heads, 1, width)


class ChannelContext(nn.Module):
    """How the channels of a modality group go together: what the other group is attended with.

        [K, V] = U W;  R = corr(K, V) over the voxels, one d x d matrix a head;  G = softmax over key channels of t R

    Source: paper, MCAFM, G = softmax of K^T V / sqrt(d). K and V of many voxels are never formed: their covariance is
    W_k^T cov(U) W_v, so that only the C x C Gram matrix U^T U is a pass over the voxels. It is computed in fp32 under
    autocast.
    Departures: correlations, which have no scale, in place of sums over the voxels: published logits grow with the
    patch until the softmax is one-hot, and divided by the number of voxels they are so small that it is uniform. They
    keep what an instance norm erases from means: how channels vary together. The temperature t is learned, one a head,
    as in cross-covariance attention (XCiT, arXiv:2106.09681) and Restormer (arXiv:2111.09881), whose channels are
    normalised to unit length, but not centred.

    Args:
        conv_op: makes a 1x1 conv.
        channels: C.
        num_heads: h, a divisor of C.

    Shape:
        (B, C, N) -> (B, h, d, d) with d = C / h; rows are key channels, and each column sums to 1.
    """

    def __init__(self, conv_op: Callable[..., _ConvNd], channels: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.key_value = conv_op(channels, 2 * channels, 1, bias=False)
        self.log_temperature = nn.Parameter(torch.full((num_heads,), math.log(INITIAL_TEMPERATURE)))

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        with without_autocast(tokens.device.type):
            tokens = tokens.to(torch.promote_types(tokens.dtype, torch.float32))
            weight = self.key_value.weight.flatten(1).to(tokens.dtype)  # (2C, C): keys, values, each head after head
            channels, voxels = tokens.shape[1:]
            both, heads = (2, channels), (self.num_heads, channels // self.num_heads)
            if voxels < channels:  # K and V are smaller than the C x C matrices that avoid them
                maps = _standardised((weight @ tokens).unflatten(1, both))  # (B, 2, C, N)
                keys, values = maps.unflatten(2, heads).unbind(1)
                scores = keys @ values.mT / voxels  # (B, h, d, d)
            else:
                mean = tokens.mean(dim=2, keepdim=True)
                covariance = weight @ (tokens @ tokens.mT / voxels - mean @ mean.mT)  # with the channels: (B, 2C, C)
                variance = (covariance * weight).sum(dim=2, keepdim=True)
                square = variance + (weight @ mean).square()
                deviation = _deviation(variance.unflatten(1, both), square.unflatten(1, both))  # (B, 2, C, 1)
                of_keys, of_values = deviation.unflatten(2, heads).unbind(1)
                with_values = covariance[:, channels:].unflatten(1, heads)
                scores = weight[:channels].unflatten(0, heads) @ with_values.mT / (of_keys @ of_values.mT)
            return torch.softmax(self.log_temperature.exp()[:, None, None] * scores, dim=2)


def _standardised(maps: torch.Tensor) -> torch.Tensor:
    """Mean 0 and, but for VARIANCE_FLOOR, variance 1 over the voxels: (.., C, N) -> (.., C, N)."""
    mean = maps.mean(dim=-1, keepdim=True)
    centred = maps - mean
    # torch.var_mean takes up to twice as long (one core of an AMD EPYC, torch 2.14.1, by hand)
    variance = centred.square().mean(dim=-1, keepdim=True)
    return centred / _deviation(variance, mean.square() + variance)


def _deviation(variance: torch.Tensor, square: torch.Tensor) -> torch.Tensor:
    """What keys (values) are divided by, from their variances and mean squares: two of (.., C, 1) -> (.., C, 1)."""
    tiny = torch.finfo(variance.dtype).tiny ** 0.5
    return (variance.clamp(min=0) + VARIANCE_FLOOR * square.mean(dim=-2, keepdim=True) + tiny).sqrt()


def without_autocast(device_type: str) -> AbstractContextManager:
    """In which sums over voxels are formed in fp32."""
    # the meta device, on which FLOPs and memory are counted, knows no autocast
    return nullcontext() if device_type == "meta" else torch.autocast(device_type, enabled=False)


def to_blocks(x: torch.Tensor) -> torch.Tensor:
    """A map cut into blocks: (B, C, *S) -> (B * blocks, C, voxels of a block)."""
    edges = block_edges(x.shape[2:])
    dim = len(edges)
    grid = [number for size, edge in zip(x.shape[2:], edges, strict=True) for number in (size // edge, edge)]
    cut = x.reshape(*x.shape[:2], *grid)  # (B, C, n, e, n, e, ..)
    apart = cut.permute(0, *range(2, 2 + 2 * dim, 2), 1, *range(3, 3 + 2 * dim, 2))  # (B, n, n, .., C, e, e, ..)
    return apart.reshape(-1, x.shape[1], math.prod(edges))


def from_blocks(blocks: torch.Tensor, shape: torch.Size) -> torch.Tensor:
    """What to_blocks cut, put together: (B * blocks, C, voxels of a block) -> shape, (B, C, *S)."""
    edges = block_edges(shape[2:])
    dim = len(edges)
    counts = [size // edge for size, edge in zip(shape[2:], edges, strict=True)]
    apart = blocks.reshape(shape[0], *counts, shape[1], *edges)  # (B, n, n, .., C, e, e, ..)
    axes = [axis for i in range(dim) for axis in (1 + i, 2 + dim + i)]
    return apart.permute(0, 1 + dim, *axes).reshape(shape)


def block_edges(size: Sequence[int]) -> list[int]:
    """Of each axis of a map, the divisor that is nearest to BLOCK_EDGE in ratio: blocks are all of one size."""
    return [_nearest_divisor(voxels, BLOCK_EDGE[len(size)]) for voxels in size]


def _nearest_divisor(number: int, wanted: int) -> int:
    nearest = 1
    for divisor in range(2, number + 1):
        if number % divisor == 0 and max(divisor / wanted, wanted / divisor) < max(nearest / wanted, wanted / nearest):
            nearest = divisor
    return nearest


def attend(tokens: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
    """U G with the heads side by side: (B, C, N), (B, h, d, d) -> (B, C, N)."""
    heads = tokens.unflatten(1, context.shape[1:3])  # (B, h, d, N)
    return (context.mT.to(tokens.dtype) @ heads).flatten(1, 2)


# What the argument fusion chooses from, in plans files too.
FUSIONS: dict[str, type[Fusion]] = {
    "cross_attention": CrossAttentionFusion,
    "concatenation": ConcatenationFusion,
}
