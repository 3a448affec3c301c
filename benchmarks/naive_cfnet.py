"""The published recipe at the plan's full width, as a baseline for cost only: nobody should train with it."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from dynamic_network_architectures.building_blocks.helper import get_matching_convtransp
from torch import nn
from torch.nn.modules.conv import _ConvNd

from nnunetv2_cfnet.architecture.arguments import DILATIONS, MAX_HEADS, default_modality_groups
from nnunetv2_cfnet.architecture.context import MultiScaleContext
from nnunetv2_cfnet.architecture.encoders import DualEncoder
from nnunetv2_cfnet.architecture.fusion import attend
from nnunetv2_cfnet.architecture.published_blocks import (
    FeatureCommunication,
    PublishedGate,
    ResidualMerge,
    UpsamplingBlock,
)


class NaiveCFNet(nn.Module):
    """Two encoders of the plan's width; everything else as published, at every scale from the finest on.

    K and V are formed, both groups are merged as published, gates are dense 3x3(x3) convs and nothing is recomputed.
    Norm and non-linearity are the plan's, and each scale has a head for deep supervision, as everywhere in nnU-Net.

    Args:
        input_channels: channels of the input.
        num_classes: output channels.
        deep_supervision: return the logits of every scale.
        arguments: what else a plan gives its network; lists have an entry a stage, strides are 1 and then 2.

    Shape:
        (B, input_channels, *S) -> (B, num_classes, *S), or the list of n_stages - 1 scales, finest first.
    """

    def __init__(self, input_channels: int, num_classes: int, deep_supervision: bool, **arguments: Any) -> None:
        super().__init__()
        conv_op, features = arguments["conv_op"], arguments["features_per_stage"]
        norm = partial(arguments["norm_op"], **arguments["norm_op_kwargs"])
        nonlin = partial(arguments["nonlin"], **arguments["nonlin_kwargs"])
        parts: dict[str, Any] = {"norm": norm, "nonlin": nonlin}
        encoder_kwargs = {name: value for name, value in arguments.items() if name != "n_conv_per_stage_decoder"}
        self.deep_supervision = deep_supervision
        self.encoder = DualEncoder(input_channels, default_modality_groups(input_channels), encoder_kwargs)
        self.fusion = nn.ModuleList(
            NaiveFusion(conv_op, width, min(2**stage, MAX_HEADS), **parts) for stage, width in enumerate(features)
        )
        dim = len(arguments["kernel_sizes"][-1])
        dilations = [[dilation] * dim for dilation in DILATIONS]
        self.context = MultiScaleContext(
            conv_op, features[-1], kernel_size=arguments["kernel_sizes"][-1], dilations=dilations, **parts
        )
        self.blocks, self.communications, self.heads = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        mode = {2: "bilinear", 3: "trilinear"}[dim]
        for width, deep in zip(features[-2::-1], features[:0:-1], strict=True):  # coarsest first
            gate = PublishedGate(conv_op, width, **parts)
            self.blocks.append(UpsamplingBlock(conv_op, get_matching_convtransp(conv_op), deep, width, **parts))
            self.communications.append(FeatureCommunication(conv_op, width, deep, mode, gate, norm))
            self.heads.append(conv_op(width, num_classes, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor | list[torch.Tensor]:
        fused = [fuse(*pair) for fuse, *pair in zip(self.fusion, *self.encoder(x), strict=True)]
        deep, maps = self.context(fused[-1]), []
        for shallow, block, communicate in zip(fused[-2::-1], self.blocks, self.communications, strict=True):
            deep = block(deep) + communicate(shallow, deep)
            maps.append(deep)
        if not self.deep_supervision:
            return self.heads[-1](deep)
        return [head(deep) for head, deep in zip(self.heads, maps, strict=True)][::-1]


class NaiveFusion(nn.Module):
    """Published attention with the keys and values of every voxel."""

    def __init__(
        self,
        conv_op: Callable[..., _ConvNd],
        channels: int,
        num_heads: int,
        norm: Callable[[int], nn.Module],
        nonlin: Callable[[], nn.Module],
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.projections = nn.ModuleList(nn.Sequential(conv_op(channels, channels, 1), nonlin()) for _ in range(2))
        self.key_values = nn.ModuleList(conv_op(channels, 2 * channels, 1, bias=False) for _ in range(2))
        self.merge = ResidualMerge(conv_op, channels, norm=norm, nonlin=nonlin, token_norm=norm)

    def forward(self, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        embeddings = [project(x) for project, x in zip(self.projections, (first, second), strict=True)]
        contexts = []
        for embedding, key_value in zip(embeddings, self.key_values, strict=True):
            tokens = key_value(embedding).flatten(2)  # (B, 2C, *S) -> (B, 2C, N)
            # the square root on each factor, so that their product is the mean over the voxels and fits fp16
            tokens = tokens / tokens.shape[2] ** 0.5
            key, value = tokens.unflatten(1, (2, self.num_heads, -1)).unbind(1)  # each (B, h, d, N)
            contexts.append(torch.softmax(key @ value.transpose(2, 3) / key.shape[2] ** 0.5, dim=2))
        attended = (attend(u.flatten(2), g).view_as(u) for u, g in zip(embeddings, contexts[::-1], strict=True))
        return self.merge(*(x + y for x, y in zip((first, second), attended, strict=True)))
