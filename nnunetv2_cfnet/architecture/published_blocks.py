"""Blocks that the published network alone needs: CFNet's own in their published form, and its decoder and head."""

from collections.abc import Callable
from functools import partial

import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from nnunetv2_cfnet.architecture.context import MultiScaleContext
from nnunetv2_cfnet.architecture.decoder import CommunicationGate
from nnunetv2_cfnet.architecture.fusion import CrossAttentionFusion, ResidualMerge

DILATIONS = (1, 2, 3, 4)
DROPOUT = 0.5
NORM, RELU = nn.BatchNorm2d, partial(nn.ReLU, inplace=True)


class ChannelLayerNorm(nn.LayerNorm):
    """LayerNorm over the channels of a channels-first map (B, C, *S)."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x.movedim(1, -1)).movedim(-1, 1)


class PublishedFusion(CrossAttentionFusion):
    """MCAFM as published: K^T V is a sum over the pixels, and tokens are normalised over their channels.

    Args:
        channels: of both inputs and of the output.
        num_heads: a divisor of them.

    Shape:
        two of (B, C, H, W) -> (B, C, H, W).
    """

    def __init__(self, channels: int, num_heads: int) -> None:
        merge = partial(ResidualMerge, token_norm=ChannelLayerNorm)
        super().__init__(nn.Conv2d, channels, channels, num_heads, merge=merge, norm=NORM, nonlin=RELU)

    def _over_voxels(self, total: torch.Tensor, voxels: int) -> torch.Tensor:
        return total


class PublishedContext(MultiScaleContext):
    """MCPM as published: one softmax over all branches' channels, and dropout.

    Args:
        channels: of input and output.

    Shape:
        (B, C, H, W) -> (B, C, H, W).
    """

    def __init__(self, channels: int) -> None:
        dilations = [(dilation, dilation) for dilation in DILATIONS]
        super().__init__(nn.Conv2d, channels, kernel_size=(3, 3), dilations=dilations, norm=NORM, nonlin=RELU)
        self.dropout = nn.Dropout(DROPOUT)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.dropout(super().forward(x))

    def _softmax(self, logits: torch.Tensor) -> torch.Tensor:
        return torch.softmax(logits.flatten(1), dim=1).view_as(logits)


class PublishedGate(CommunicationGate):
    """The gate as published: a 3x3 conv, and a ReLU before the sigmoid, so that it can't go below 0.5.

    Args:
        channels: of each input.

    Shape:
        two of (B, C, H, W) -> (B, C, H, W).
    """

    def __init__(self, channels: int) -> None:
        super().__init__(nn.Conv2d, channels, kernel_size=3, norm=NORM, nonlin=RELU)
        self.attention.insert(len(self.attention) - 1, nn.ReLU())


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


class PublishedHead(nn.Module):
    """Logits at full resolution: transposed conv3x3/2, ReLU, conv3x3, ReLU, conv2x2. Source: paper, head.

    Args:
        input_channels: channels of D_1.
        num_classes: output channels.
        hidden_channels: channels between the convs.

    Shape:
        (B, input_channels, H/2, W/2) -> (B, num_classes, H, W).
    """

    def __init__(self, input_channels: int, num_classes: int, hidden_channels: int = 32) -> None:
        super().__init__()
        self.upsample = nn.ConvTranspose2d(input_channels, hidden_channels, 3, stride=2)
        self.conv = nn.Conv2d(hidden_channels, hidden_channels, 3)
        # nnU-Net's -pretrained_weights starts what is so named anew, and asks all else to have the same shape
        self.seg_layers = nn.ModuleList([nn.Conv2d(hidden_channels, num_classes, 2, padding=1)])

    def forward(self, deep: torch.Tensor) -> torch.Tensor:
        return self.seg_layers[0](torch.relu(self.conv(torch.relu(self.upsample(deep)))))
