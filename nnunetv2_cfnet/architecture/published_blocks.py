"""Blocks that the published network alone needs: CFNet's own in their published form, and its decoder and head."""

from collections.abc import Callable
from functools import partial

import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from nnunetv2_cfnet.architecture.context import context_branches
from nnunetv2_cfnet.architecture.fusion import attend, without_autocast

DILATIONS = (1, 2, 3, 4)
DROPOUT = 0.5
NORM, RELU = nn.BatchNorm2d, partial(nn.ReLU, inplace=True)


class ChannelLayerNorm(nn.LayerNorm):
    """LayerNorm over the channels of a channels-first map (B, C, *S)."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x.movedim(1, -1)).movedim(-1, 1)


class PublishedFusion(nn.Module):
    """MCAFM as published: each modality group is attended with the other group's context, then both are merged.

        U_i = ReLU(X_i P_i + b_i);  [K_i, V_i] = U_i W_i                  (X_i: tokens x channels)
        G_i = softmax over key channels of K_i^T V_i / sqrt(d)            (a sum over the pixels)
        Y_1 = X_1 + U_1 G_2,  Y_2 = X_2 + U_2 G_1;  fused = ResidualMerge(Y_1, Y_2)

    Source: paper. K^T V = W_k^T (U^T U) W_v.

    Args:
        channels: C, of both inputs and of the output.
        num_heads: h, a divisor of C; d = C / h.

    Shape:
        two of (B, C, H, W) -> (B, C, H, W).
    """

    def __init__(self, channels: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.projection_1 = nn.Sequential(nn.Conv2d(channels, channels, 1), RELU())
        self.projection_2 = nn.Sequential(nn.Conv2d(channels, channels, 1), RELU())
        self.key_value_1 = nn.Conv2d(channels, 2 * channels, 1, bias=False)
        self.key_value_2 = nn.Conv2d(channels, 2 * channels, 1, bias=False)
        self.merge = ResidualMerge(nn.Conv2d, channels, norm=NORM, nonlin=RELU, token_norm=ChannelLayerNorm)

    def forward(self, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        embedding_1, embedding_2 = self.projection_1(first).flatten(2), self.projection_2(second).flatten(2)
        context_1 = self._context(embedding_1, self.key_value_1)
        context_2 = self._context(embedding_2, self.key_value_2)
        attended_1, attended_2 = attend(embedding_1, context_2), attend(embedding_2, context_1)
        return self.merge(first + attended_1.view_as(first), second + attended_2.view_as(second))

    def _context(self, tokens: torch.Tensor, key_value: nn.Conv2d) -> torch.Tensor:
        """G of one modality group: (B, C, N) -> (B, h, d, d), rows are key channels."""
        with without_autocast(tokens.device.type):
            tokens = tokens.to(torch.promote_types(tokens.dtype, torch.float32))
            key, value = key_value.weight.flatten(1).to(tokens.dtype).chunk(2)  # each (C, C), head after head
            heads = (self.num_heads, -1)
            if tokens.shape[2] < tokens.shape[1]:  # K and V are smaller than the C x C matrices that avoid them
                scores = (key @ tokens).unflatten(1, heads) @ (value @ tokens).unflatten(1, heads).mT
            else:
                scores = key.unflatten(0, heads) @ (tokens @ tokens.mT @ value.T).unflatten(2, heads).transpose(1, 2)
            return torch.softmax(scores / scores.shape[2] ** 0.5, dim=2)


class ResidualMerge(nn.Module):
    """What ends the published MCAFM: a projection and norm shared by both groups, and a channel embedding.

        Z_i = N_z(Y_i W + b);  M = [Z_1, Z_2];  fused = N(R M + N(phi(E M + b_E)))

    Source: paper, MCAFM; published, N_z is LayerNorm over channels, N is BatchNorm, phi is ReLU.

    Args:
        conv_op: nn.Conv2d or nn.Conv3d.
        channels: C, of both inputs and of the output.
        norm: makes N for a number of channels.
        nonlin: makes phi.
        token_norm: makes N_z.

    Shape:
        two of (B, C, *S) -> (B, C, *S).
    """

    def __init__(
        self,
        conv_op: Callable[..., _ConvNd],
        channels: int,
        norm: Callable[[int], nn.Module],
        nonlin: Callable[[], nn.Module],
        token_norm: Callable[[int], nn.Module],
    ) -> None:
        super().__init__()
        self.project = nn.Sequential(conv_op(channels, channels, 1), token_norm(channels))
        self.residual = conv_op(2 * channels, channels, 1, bias=False)
        self.embed = nn.Sequential(conv_op(2 * channels, channels, 1), nonlin(), norm(channels))
        self.norm = norm(channels)

    def forward(self, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        merged = torch.cat((self.project(first), self.project(second)), dim=1)
        return self.norm(self.residual(merged) + self.embed(merged))


class PublishedContext(nn.Module):
    """MCPM as published: branch weights from averages over the pixels, one softmax over all of them, and dropout.

        y = S x;  F_k(y) as MultiScaleContext has them;  g = GAP(sum_k F_k);  a = softmax([L_1 g, .., L_4 g])
        out = Dropout(x + E ReLU(sum_k a_k F_k))

    Source: paper.

    Args:
        channels: C, of input and output.

    Shape:
        (B, C, H, W) -> (B, C, H, W).
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        reduced, dilations = channels // 4, [(dilation, dilation) for dilation in DILATIONS]
        self.squeeze = nn.Conv2d(channels, reduced, 1)
        self.branches = context_branches(nn.Conv2d, reduced, (3, 3), dilations=dilations, norm=NORM, nonlin=RELU)
        self.selectors = nn.ModuleList(nn.Linear(reduced, reduced) for _ in dilations)
        self.expand = nn.Sequential(RELU(), nn.Conv2d(reduced, channels, 1))
        self.dropout = nn.Dropout(DROPOUT)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        squeezed = self.squeeze(x)
        branches = torch.stack([branch(squeezed) for branch in self.branches], dim=1)  # (B, 4, C/4, H, W)
        pooled = branches.sum(dim=1).flatten(2).mean(dim=2)  # (B, C/4)
        logits = torch.cat([selector(pooled) for selector in self.selectors], dim=1)  # (B, 4 * C/4)
        weights = torch.softmax(logits, dim=1).view(*branches.shape[:3], 1, 1)
        return self.dropout(x + self.expand((branches * weights).sum(dim=1)))


class PublishedGate(nn.Module):
    """The gate as published: s * A, A = sigma(ReLU(N(conv3x3(phi([s, e]))))), which can't go below 0.5.

    Source: paper, feature communication; published, N is BatchNorm and phi is ReLU.

    Args:
        conv_op: nn.Conv2d or nn.Conv3d.
        channels: C of each input.
        norm: makes N for a number of channels.
        nonlin: makes phi.

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
        conv = conv_op(2 * channels, channels, 3, padding=1)
        self.attention = nn.Sequential(nonlin(), conv, norm(channels), nn.ReLU(), nn.Sigmoid())

    def forward(self, shallow: torch.Tensor, deep: torch.Tensor) -> torch.Tensor:
        return shallow * self.attention(torch.cat((shallow, deep), dim=1))


class FeatureCommunication(nn.Module):
    """The published communication block: comm(s, e) = e' + N(conv(s' * A(s', e'))).

        s' = N(1x1 conv s);  e' = up(N(1x1 conv e));  A as CommunicationGate has it

    Source: paper, feature communication.

    Args:
        conv_op: nn.Conv2d or nn.Conv3d.
        shallow_channels: C, channels of s and of the output.
        deep_channels: channels of e.
        upsample_mode: "bilinear" or "trilinear".
        gate: a PublishedGate of C channels.
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
        gate: nn.Module,
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
