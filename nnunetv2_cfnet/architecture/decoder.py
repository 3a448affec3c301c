"""Coarse-to-fine decoder: scales communicate through gates on their way up to full resolution."""

from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
import torch
from dynamic_network_architectures.building_blocks.unet_decoder import UNetDecoder
from torch import nn
from torch.nn.modules.conv import _ConvNd

from nnunetv2_cfnet.architecture.recompute import runner

INITIAL_OPENNESS = 3.0  # sigma(3) = 0.95; after N, gates start at 0.93 +- 0.08 on real MRI


class Skip(NamedTuple):
    """What the decoder takes of one scale: both encoders' maps, and the fusion that is still to join them.

    The decoder calls it inside what it recomputes in backward. A map that is fused before would be stored.
    """

    fuse: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
    first: torch.Tensor
    second: torch.Tensor


class CommunicationGate(nn.Module):
    """The deep map says where the shallow one counts: s * A, A = sigma(N(W phi([s, e])) + b).

    Source: paper, feature communication.
    Departures: b, one a channel, starts at INITIAL_OPENNESS, so that skips start nearly whole and gates learn to close;
    N alone would start them at 0.5 +- 0.2. No ReLU before the sigmoid; the published one keeps A from going below 0.5.
    W is a 1x1 conv; the published 3x3 one, dense in 3D, would cost as much as the decoder stage itself.

    Args:
        conv_op: nn.Conv2d or nn.Conv3d, or a 1x1 one of pointwise.POINTWISE.
        channels: C of each input.
        norm: makes N for a number of channels.
        nonlin: makes phi.

    Attributes:
        stored_per_voxel: how many values a voxel a training step keeps for backward, s and e left out.

    Shape:
        s, e: two of (B, C, *S) -> (B, C, *S).
    """

    def __init__(
        self,
        conv_op: Callable[..., _ConvNd],
        channels: int,
        norm: Callable[[int], nn.Module],
        nonlin: Callable[[], nn.Module],
    ) -> None:
        super().__init__()
        conv = conv_op(2 * channels, channels, 1)
        self.attention = nn.Sequential(nonlin(), conv, norm(channels), OpenSigmoid(channels, dim=conv.weight.ndim - 2))
        self.stored_per_voxel = 4 * channels  # [s, e], what N takes, A

    def forward(self, shallow: torch.Tensor, deep: torch.Tensor) -> torch.Tensor:
        return shallow * self.attention(torch.cat((shallow, deep), dim=1))


class OpenSigmoid(nn.Module):
    """sigma(x + b) with a learned b a channel, which starts at INITIAL_OPENNESS: (B, C, *S) -> (B, C, *S).

    Args:
        channels: C.
        dim: number of spatial axes.
    """

    def __init__(self, channels: int, dim: int) -> None:
        super().__init__()
        self.openness = nn.Parameter(torch.full((channels, *[1] * dim), INITIAL_OPENNESS))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.sigmoid(x + self.openness)


class OpenGate(nn.Module):
    """A = 1: hands the shallow map on. At full resolution, and where communication is switched off."""

    stored_per_voxel = 0

    def forward(self, shallow: torch.Tensor, deep: torch.Tensor) -> torch.Tensor:
        return shallow


class CoarseToFineDecoder(UNetDecoder):
    """nnU-Net's decoder with a communication gate on the skip of each fused scale.

        e' = up(D_l)  (transposed conv);  D_{l-1} = block([e', s * A(s, e')]);  logits_{l-1} = 1x1 conv of D_{l-1}

    Source: paper, D_{l-1} = block(D_l) + comm(s, D_l), comm(s, e) = e' + N(conv(s' * A)).
    Departures: the first conv of nnU-Net's block sees [e', s * A]. A conv of a concatenation is the sum of a conv of
    each part, so that it holds both published summands: conv(e') for block(D_l) + e', and conv(s * A). One
    transposed conv serves as the published block's upsampling and as e' (bilinear there); s' = s, since the fusion
    already ends in a projection and norm. Published heads upsample from half resolution; here nnU-Net's 1x1 heads
    at every scale give deep supervision. With every gate open this is nnU-Net's own decoder.

    Memory: s, e', A and [e', s * A] (a U-Net stores its own concatenation) are recomputed in backward from D_l and the
    encoders' features, which are stored anyway. So the fusion of a skip is called here.

    Args:
        features: what DNA's UNetDecoder reads of an encoder (output_channels, strides, kernel_sizes, conv_op, ..).
        num_classes: output channels of each head.
        n_conv_per_stage: convs of each block, coarsest first.
        deep_supervision: return the logits of every scale, finest first, instead of the finest alone.
        gates: a gate for each skip, finest first.
        nonlin_first: conv, nonlin, norm instead of conv, norm, nonlin.
        recompute: recompute what leads to a block's first conv in backward instead of storing it. Not for fusions and
            gates with BatchNorm, whose running statistics a second forward would update twice.

    Shape:
        deepest map (B, C_s, *S_s) and, finest first, skips whose fusions give (B, C_s, *S_s) ->
        (B, num_classes, *S) or the list of every scale's logits.
    """

    def __init__(
        self,
        features: SimpleNamespace,
        num_classes: int,
        n_conv_per_stage: Sequence[int],
        deep_supervision: bool,
        gates: Sequence[nn.Module],
        nonlin_first: bool,
        recompute: bool,
    ) -> None:
        super().__init__(features, num_classes, n_conv_per_stage, deep_supervision, nonlin_first=nonlin_first)
        self.gates = nn.ModuleList(gates[::-1])  # coarsest first, like the stages
        self.recompute = recompute
        self.run = runner(recompute)

    def forward(self, deepest: torch.Tensor, skips: Sequence[Skip]) -> torch.Tensor | list[torch.Tensor]:
        deep, logits = deepest, []
        for skip, upsample, gate, block, head in zip(
            skips[::-1], self.transpconvs, self.gates, self.stages, self.seg_layers, strict=True
        ):
            deep = self._join(deep, skip, upsample, gate, block.convs[0].conv)
            for layer in (*block.convs[0].all_modules[1:], *block.convs[1:]):
                deep = layer(deep)
            if self.deep_supervision:
                logits.append(head(deep))
        return logits[::-1] if self.deep_supervision else self.seg_layers[-1](deep)

    def _join(
        self, deep: torch.Tensor, skip: Skip, upsample: nn.Module, gate: nn.Module, conv: nn.Module
    ) -> torch.Tensor:
        """The block's first conv of [e', s * A], from D_l, X_1 and X_2."""
        fuse, *pair = skip

        def join(deep: torch.Tensor, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
            deep = upsample(deep)
            return torch.cat((deep, gate(fuse(first, second), deep)), dim=1)

        if torch.compiler.is_compiling():
            # a compiled graph recomputes a region's output too, and would run the conv twice if it were inside
            return conv(self.run(join, deep, *pair))
        # here the conv has to be inside: it stores its input, unless that is recomputed with the rest
        return self.run(lambda *maps: conv(join(*maps)), deep, *pair)

    def compute_conv_feature_map_size(self, input_size: Sequence[int]) -> int:
        """nnU-Net's count of its decoder, where a conv's output stands for two stored maps, with our own skips.

        nnU-Net counts e'. What is stored of a skip is [e', s * A] and what the gate keeps, or nothing.
        """
        sizes = np.asarray(input_size) // np.cumprod(self.encoder.strides[:-1], axis=0)
        values = super().compute_conv_feature_map_size(input_size)
        for size, channels, gate in zip(sizes, self.encoder.output_channels[:-1], self.gates[::-1], strict=True):
            stored = 0 if self.recompute else 2 * channels + gate.stored_per_voxel
            values += (stored / 2 - channels) * np.prod(size)
        return int(values)
