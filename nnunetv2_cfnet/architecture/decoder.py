"""Coarse-to-fine decoder: scales communicate through gates on their way up to full resolution."""

from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import TypeAlias

import numpy as np
import torch
from dynamic_network_architectures.building_blocks.unet_decoder import UNetDecoder
from torch import nn
from torch.nn import functional as F
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from nnunetv2_cfnet.architecture.recompute import runner

Fusion: TypeAlias = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
Skip: TypeAlias = tuple[Fusion, torch.Tensor, torch.Tensor]


class CommunicationGate(nn.Module):
    """The deep map says where the shallow one counts: s * A, A = sigma(N(W phi([s, e]))).

    Source: paper, feature communication.
    Departures: no ReLU before the sigmoid (published, `rectify`), which would keep A from going below 0.5; in CFNet
    W is a 1x1 conv (published 3x3), since a dense 3x3x3 one costs as much as the decoder stage itself.

    Args:
        conv_op: nn.Conv2d or nn.Conv3d.
        channels: C of each input.
        kernel_size: of W, odd.
        norm: makes N for a number of channels.
        nonlin: makes phi.
        rectify: put a ReLU before the sigmoid.

    Shape:
        s, e: two of (B, C, *S) -> (B, C, *S).
    """

    def __init__(
        self,
        conv_op: Callable[..., _ConvNd],
        channels: int,
        kernel_size: int,
        norm: Callable[[int], nn.Module],
        nonlin: Callable[[], nn.Module],
        rectify: bool = False,
    ) -> None:
        super().__init__()
        self.attention = nn.Sequential(
            nonlin(),
            conv_op(2 * channels, channels, kernel_size, padding=kernel_size // 2),
            norm(channels),
            nn.ReLU() if rectify else nn.Identity(),
            nn.Sigmoid(),
        )

    def forward(self, shallow: torch.Tensor, deep: torch.Tensor) -> torch.Tensor:
        return shallow * self.attention(torch.cat((shallow, deep), dim=1))


class OpenGate(nn.Module):
    """A = 1: hands the shallow map on. At full resolution, and where communication is switched off."""

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
        deepest map (B, C_s, *S_s) and, finest first, skips (fusion, first, second) with a fusion of two maps to
        (B, C_s, *S_s) -> (B, num_classes, *S) or the list of every scale's logits.
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
        for (fuse, *pair), upsample, gate, block, head in zip(
            skips[::-1], self.transpconvs, self.gates, self.stages, self.seg_layers, strict=True
        ):
            deep = self._join(fuse, gate, upsample, block.convs[0].conv, deep, *pair)
            for layer in (*block.convs[0].all_modules[1:], *block.convs[1:]):
                deep = layer(deep)
            if self.deep_supervision:
                logits.append(head(deep))
        return logits[::-1] if self.deep_supervision else self.seg_layers[-1](deep)

    def _join(
        self, fuse: Fusion, gate: nn.Module, upsample: nn.Module, conv: nn.Module, *maps: torch.Tensor
    ) -> torch.Tensor:
        """The block's first conv of [e', s * A], from D_l, X_1 and X_2."""

        def join(deep: torch.Tensor, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
            deep = upsample(deep)
            return torch.cat((deep, gate(fuse(first, second), deep)), dim=1)

        if torch.compiler.is_compiling():
            # a compiled graph recomputes a region's output too, and would run the conv twice if it were inside
            return conv(self.run(join, *maps))
        # here the conv has to be inside: it stores its input, unless that is recomputed with the rest
        return self.run(lambda *maps: conv(join(*maps)), *maps)

    def compute_conv_feature_map_size(self, input_size: Sequence[int]) -> int:
        """nnU-Net's count of its decoder less what is recomputed; a conv's output stands for two stored maps.

        Stored where nothing is recomputed: [e', s * A]; at a gate also what fusion (5 maps) and gate (4) hold.
        """
        size, skips = np.asarray(input_size), 0.0
        for stride, channels, gate in zip(
            self.encoder.strides[:-1], self.encoder.output_channels[:-1], self.gates[::-1], strict=True
        ):
            size = size // np.asarray(stride)
            gated = isinstance(gate, CommunicationGate)
            stored = 0 if self.recompute else 2 + 9 * gated
            # e', which nnU-Net counts as one conv's output
            skips += (stored / 2 - 1) * channels * np.prod(size)
        return int(super().compute_conv_feature_map_size(input_size) + skips)


class FeatureCommunication(nn.Module):
    """The published communication block: comm(s, e) = e' + N(conv(s' * A(s', e'))).

        s' = N(1x1 conv s);  e' = up(N(1x1 conv e));  A as CommunicationGate has it

    Source: paper, feature communication.

    Args:
        conv_op: nn.Conv2d or nn.Conv3d.
        shallow_channels: C, channels of s and of the output.
        deep_channels: channels of e.
        upsample_mode: "bilinear" or "trilinear".
        gate: a CommunicationGate of C channels.
        norm: makes N for a number of channels.

    Shape:
        s (B, C, *S), e (B, C_deep, *S_deep) -> (B, C, *S).
    """

    def __init__(
        self,
        conv_op: Callable[..., _ConvNd],
        shallow_channels: int,
        deep_channels: int,
        upsample_mode: str,
        gate: CommunicationGate,
        norm: Callable[[int], nn.Module],
    ) -> None:
        super().__init__()
        self.shallow_projection = nn.Sequential(conv_op(shallow_channels, shallow_channels, 1), norm(shallow_channels))
        self.deep_projection = nn.Sequential(conv_op(deep_channels, shallow_channels, 1), norm(shallow_channels))
        self.upsample_mode = upsample_mode
        self.gate = gate
        self.conv = nn.Sequential(conv_op(shallow_channels, shallow_channels, 3, padding=1), norm(shallow_channels))

    def forward(self, shallow: torch.Tensor, deep: torch.Tensor) -> torch.Tensor:
        shallow = self.shallow_projection(shallow)
        deep = F.interpolate(self.deep_projection(deep), size=shallow.shape[2:], mode=self.upsample_mode)
        return deep + self.conv(self.gate(shallow, deep))


class UpsamplingBlock(nn.Sequential):
    """The published decoder block: 1x1 conv C -> C/4, transposed 3x3 conv of stride 2, 1x1 conv -> C_out.

    Each is followed by norm and non-linearity. Source: paper, decoder.

    Args:
        conv_op: nn.Conv2d or nn.Conv3d.
        transposed_conv_op: the matching transposed conv.
        input_channels: C.
        output_channels: C_out.
        norm: makes a norm for a number of channels.
        nonlin: makes a non-linearity.

    Shape:
        (B, C, *S) -> (B, C_out, *2S).
    """

    def __init__(
        self,
        conv_op: Callable[..., _ConvNd],
        transposed_conv_op: Callable[..., _ConvTransposeNd],
        input_channels: int,
        output_channels: int,
        norm: Callable[[int], nn.Module],
        nonlin: Callable[[], nn.Module],
    ) -> None:
        reduced = input_channels // 4
        super().__init__(
            conv_op(input_channels, reduced, 1),
            norm(reduced),
            nonlin(),
            transposed_conv_op(reduced, reduced, 3, stride=2, padding=1, output_padding=1),
            norm(reduced),
            nonlin(),
            conv_op(reduced, output_channels, 1),
            norm(output_channels),
            nonlin(),
        )
