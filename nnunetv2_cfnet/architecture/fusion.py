"""Modality-Cross Attention Fusion Module (MCAFM): joins the features of the two encoders at one scale."""

import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import nn
from torch.nn.modules.conv import _ConvNd


class Fusion(nn.Module):
    """What joins the two encoders' maps of one scale. CONTRIBUTING.md says how to add one.

    CFNet builds every fusion with the same keyword arguments; one that does not need some of them takes them as `**_`.

    Args:
        conv_op: makes a 1x1 conv, as in conv_op(input_channels, output_channels, 1).
        input_channels: C, channels of each of the two inputs.
        output_channels: channels of the fused map.
        num_heads: heads of attention, a divisor of C.
        merge: makes LinearMerge or ResidualMerge.
        norm: makes a norm for a number of channels.
        nonlin: makes a non-linearity.

    Attributes:
        stored_per_voxel: how many values a voxel of the scale a training step keeps for backward, the inputs left out.
            The estimate of memory counts them where nothing is recomputed.

    Shape:
        two of (B, C, *S) -> (B, output_channels, *S).
    """

    stored_per_voxel: int


class Merge(nn.Module):
    """What ends CrossAttentionFusion: joins both groups, X_i, with their attended embeddings, U_i G_j.

    Args:
        conv_op: makes a 1x1 conv.
        input_channels: C, channels of each input.
        output_channels: channels of the fused map.
        norm: makes N for a number of channels.
        nonlin: makes phi.

    Attributes:
        stored_per_voxel: see Fusion.

    Shape:
        X_i, U_i (B, C, *S) and G_i (B, h, d, d) -> (B, output_channels, *S).
    """

    stored_per_voxel: int


class CrossAttentionFusion(Fusion):
    """Each modality group is attended with the other group's context, then both are merged.

        U_i = phi(X_i P_i + b_i);  [K_i, V_i] = U_i W_i       (X_i: tokens x channels)
        G_i = softmax over key channels of K_i^T V_i / (N sqrt(d)), one d x d matrix a head
        fused = merge(X_1, U_1, G_2;  X_2, U_2, G_1)         (the contexts are swapped)

    Source: paper, MCAFM. K and V of many voxels are never formed: K^T V = W_k^T (U^T U) W_v, so that only the C x C
    Gram matrix U^T U is a pass over the voxels. It is computed in fp32 under autocast.
    Departures: the mean over the N voxels, where the paper sums, so that the logits do not grow with the patch and
    fp16 cannot overflow. phi is the plan's non-linearity; published, ReLU.

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
        merge: Callable[..., Merge],
        norm: Callable[[int], nn.Module],
        nonlin: Callable[[], nn.Module],
    ) -> None:
        super().__init__()
        if num_heads < 1 or input_channels % num_heads:
            raise ValueError(f"num_heads={num_heads} does not divide input_channels={input_channels}.")
        self.num_heads = num_heads
        self.projection_1 = nn.Sequential(conv_op(input_channels, input_channels, 1), nonlin())
        self.projection_2 = nn.Sequential(conv_op(input_channels, input_channels, 1), nonlin())
        self.key_value_1 = conv_op(input_channels, 2 * input_channels, 1, bias=False)
        self.key_value_2 = conv_op(input_channels, 2 * input_channels, 1, bias=False)
        self.merge = merge(conv_op, input_channels, output_channels, norm=norm, nonlin=nonlin)
        self.stored_per_voxel = 2 * input_channels + self.merge.stored_per_voxel  # U_1, U_2

    def forward(self, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        embedding_1, embedding_2 = self.projection_1(first), self.projection_2(second)
        context_1 = self._context(embedding_1, self.key_value_1)
        context_2 = self._context(embedding_2, self.key_value_2)
        return self.merge(first, embedding_1, context_2, second, embedding_2, context_1)

    def _context(self, embedding: torch.Tensor, key_value: _ConvNd) -> torch.Tensor:
        """G of one modality group: (B, C, *S) -> (B, h, d, d), rows are key channels."""
        with _without_autocast(embedding.device.type):
            tokens = embedding.flatten(2)  # (B, C, *S) -> (B, C, N)
            tokens = tokens.to(torch.promote_types(tokens.dtype, torch.float32))
            key, value = key_value.weight.flatten(1).to(tokens.dtype).chunk(2)  # each (C, C), heads one after another
            heads = (self.num_heads, -1)
            if few_voxels(embedding):
                keys, values = ((tokens.mT @ weight.T).unflatten(2, heads).transpose(1, 2) for weight in (key, value))
                scores = keys.mT @ values  # (B, h, N, d) twice -> (B, h, d, d)
            else:
                gram = tokens @ tokens.mT  # (B, C, C)
                scores = key.unflatten(0, heads) @ (gram @ value.T).unflatten(2, heads).transpose(1, 2)
            scores = self._over_voxels(scores, voxels=tokens.shape[2])
            return torch.softmax(scores / scores.shape[2] ** 0.5, dim=2)

    def _over_voxels(self, total: torch.Tensor, voxels: int) -> torch.Tensor:
        """What stands for K^T V: its mean over the voxels."""
        return total / voxels


def _without_autocast(device_type: str) -> AbstractContextManager:
    # the meta device, on which FLOPs and memory are counted, knows no autocast
    return nullcontext() if device_type == "meta" else torch.autocast(device_type, enabled=False)


def few_voxels(features: torch.Tensor) -> bool:
    """Whether a map has fewer voxels than channels: then maps are smaller than the C x C matrices that avoid them."""
    return math.prod(features.shape[2:]) < features.shape[1]


def attend(embedding: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
    """U G with the heads side by side: (B, C, *S), (B, h, d, d) -> (B, C, *S)."""
    tokens = embedding.flatten(2).unflatten(1, context.shape[1:3])  # (B, h, d, N)
    return (context.mT.to(tokens.dtype) @ tokens).view_as(embedding)


def fold(weight: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
    """The weight of "apply G, then project" as one 1x1 conv a sample: (C_out, C), (B, h, d, d) -> (B, C_out, C)."""
    heads = weight.unflatten(1, context.shape[1:3])  # (C_out, h, d)
    return torch.einsum("ohe,bhde->bohd", heads, context.to(weight.dtype)).flatten(2)


class LinearMerge(Merge):
    """One linear map of both groups and their attended embeddings, then norm and activation.

        fused = phi(N(A X_1 + B X_2 + C (U_1 G_2) + D (U_2 G_1)))

    Since G is one small matrix a sample, C (U_1 G_2) is a per-sample 1x1 conv of U_1, and the whole sum is one matrix
    product of [X_1, X_2, U_1, U_2]. No attended map of many voxels is formed.
    Departure: replaces the published merge (ResidualMerge), which learned slower on glioma data in two seeds.

    Args and Shape: see Merge.
    """

    def __init__(
        self,
        conv_op: Callable[..., _ConvNd],
        input_channels: int,
        output_channels: int,
        norm: Callable[[int], nn.Module],
        nonlin: Callable[[], nn.Module],
    ) -> None:
        super().__init__()
        self.skip_1 = conv_op(input_channels, output_channels, 1)
        self.skip_2 = conv_op(input_channels, output_channels, 1, bias=False)
        self.attended_1 = conv_op(input_channels, output_channels, 1, bias=False)
        self.attended_2 = conv_op(input_channels, output_channels, 1, bias=False)
        self.norm_nonlin = nn.Sequential(norm(output_channels), nonlin())
        self.stored_per_voxel = 4 * input_channels + 2 * output_channels  # the four maps; what N takes, phi's output

    def forward(
        self,
        first: torch.Tensor,
        embedding_1: torch.Tensor,
        context_2: torch.Tensor,
        second: torch.Tensor,
        embedding_2: torch.Tensor,
        context_1: torch.Tensor,
    ) -> torch.Tensor:
        if few_voxels(first):
            attended_1, attended_2 = attend(embedding_1, context_2), attend(embedding_2, context_1)
            attended = self.attended_1(attended_1) + self.attended_2(attended_2)
            return self.norm_nonlin(self.skip_1(first) + self.skip_2(second) + attended)
        skip_1, skip_2, weight_1, weight_2 = (
            conv.weight.flatten(1) for conv in (self.skip_1, self.skip_2, self.attended_1, self.attended_2)
        )
        weights = (skip_1, skip_2, fold(weight_1, context_2), fold(weight_2, context_1))
        weight = torch.cat([w.expand(len(first), -1, -1) for w in weights], dim=2)  # (B, C_out, 4C)
        maps = (first, second, embedding_1, embedding_2)
        assert self.skip_1.bias is not None  # the bias of all four
        merged = torch.baddbmm(self.skip_1.bias[:, None], weight, torch.cat(maps, dim=1).flatten(2))  # (B, C_out, N)
        return self.norm_nonlin(merged.unflatten(2, first.shape[2:]))


class ResidualMerge(Merge):
    """The published merge: residual attention, a projection and norm shared by both groups, a channel embedding.

        Y_1 = X_1 + U_1 G_2,  Y_2 = X_2 + U_2 G_1;  Z_i = N_z(Y_i W + b);  M = [Z_1, Z_2]
        fused = N(R M + N(phi(E M + b_E)))

    Source: paper, MCAFM; published, N_z is LayerNorm over channels and N is BatchNorm.

    Args and Shape: see Merge. token_norm makes N_z, where it is not N.
    """

    def __init__(
        self,
        conv_op: Callable[..., _ConvNd],
        input_channels: int,
        output_channels: int,
        norm: Callable[[int], nn.Module],
        nonlin: Callable[[], nn.Module],
        token_norm: Callable[[int], nn.Module] | None = None,
    ) -> None:
        super().__init__()
        self.project = nn.Sequential(conv_op(input_channels, input_channels, 1), (token_norm or norm)(input_channels))
        self.residual = conv_op(2 * input_channels, output_channels, 1, bias=False)
        self.embed = nn.Sequential(conv_op(2 * input_channels, output_channels, 1), nonlin(), norm(output_channels))
        self.norm = norm(output_channels)
        # Y_i, W Y_i and M; phi's output, the sum and its norm
        self.stored_per_voxel = 6 * input_channels + 3 * output_channels

    def forward(
        self,
        first: torch.Tensor,
        embedding_1: torch.Tensor,
        context_2: torch.Tensor,
        second: torch.Tensor,
        embedding_2: torch.Tensor,
        context_1: torch.Tensor,
    ) -> torch.Tensor:
        merged = torch.cat(
            (
                self.project(first + attend(embedding_1, context_2)),
                self.project(second + attend(embedding_2, context_1)),
            ),
            dim=1,
        )
        return self.norm(self.residual(merged) + self.embed(merged))


class ConcatenationFusion(Fusion):
    """Fusion without attention: fused = phi(N(A X_1 + B X_2)). The ablation of CrossAttentionFusion.

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
        self.merge = nn.Sequential(conv_op(2 * input_channels, output_channels, 1), norm(output_channels), nonlin())
        self.stored_per_voxel = 2 * input_channels + 2 * output_channels  # [X_1, X_2]; what N takes, phi's output

    def forward(self, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        return self.merge(torch.cat((first, second), dim=1))


class PlainConcatenation(Fusion):
    """fused = [X_1, X_2], with no parameters: two of (B, C, *S) -> (B, 2C, *S). Used at full resolution."""

    stored_per_voxel = 0  # the decoder copies it into a concatenation of its own

    def __init__(self, **_: Any) -> None:
        super().__init__()

    def forward(self, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        return torch.cat((first, second), dim=1)


# What the arguments fusion and fusion_merge choose from, in plans files too.
FUSIONS: dict[str, type[Fusion]] = {
    "cross_attention": CrossAttentionFusion,
    "concatenation": ConcatenationFusion,
}
MERGES: dict[str, type[Merge]] = {"linear": LinearMerge, "residual": ResidualMerge}
