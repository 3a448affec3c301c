"""The published CFNet: 2D, two ResNet-50 encoders, as its release computes it.

    x -> split into pairs -> shared 1x1 conv, shared stem -> two ResNet-50 trunks  (1/2, 1/4, 1/8, 1/16)
      -> cross-attention fusion at every level                                    (fusion.py)
      -> multi-scale context on the deepest level                                 (context.py)
      -> D_{l-1} = block(D_l) + comm(fused_{l-1}, D_l), from the deepest level up
      -> head from half to full resolution                                        (published_blocks.py)

Paper: Cheng, Zheng, Wang, Biomedical Signal Processing and Control, 2025, 106876, doi:10.1016/j.bspc.2024.106876. The
network that nnU-Net users want is CFNet (cfnet.py); this one is for comparison, and for checkpoints of the release
(published_weights.py). docs/published.md says what both do about the release's defects.
"""

import warnings
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from nnunetv2_cfnet.architecture.arguments import check_modality_groups
from nnunetv2_cfnet.architecture.published_blocks import (
    NORM,
    RELU,
    FeatureCommunication,
    PublishedContext,
    PublishedFusion,
    PublishedGate,
    PublishedHead,
    UpsamplingBlock,
)

LEVELS = (64, 256, 512, 1024)  # channels at strides 2, 4, 8, 16
TOTAL_STRIDE = 16
HEADS = (1, 2, 4, 8)
RESNET = "resnet50.a1_in1k"  # what "resnet50" means to timm


class PublishedCFNet(nn.Module):
    """The published network, with the parameters that its forward uses and no others.

    Kept as published: both encoders share the first one's stem, K^T V is a sum over the pixels, MCPM's softmax runs
    over all branches' channels, and a ReLU before the sigmoid keeps gates from going below 0.5.
    Departures: none in what it computes. Under autocast attention stays in fp32. 262 of the release's 313 million
    parameters, which its forward does not use, are left out.

    Args:
        input_channels: channels of the input.
        num_classes: output channels; 4 in the release.
        modality_groups: two lists of input channels, of equal length, since the stem is shared. Default: (T1, T2) and
            (T1ce, FLAIR) of the order T1, T1ce, T2, FLAIR.
        deep_supervision: what nnU-Net hands to every network; there is one output, so True is an error.

    Shape:
        (B, input_channels, H, W), H and W divisible by 16 -> logits (B, num_classes, H, W).

    Raises:
        ValueError: groups that do not fit the channels or each other, deep supervision, another height or width.
    """

    def __init__(
        self,
        input_channels: int,
        num_classes: int,
        modality_groups: Sequence[Sequence[int]] = ((0, 2), (1, 3)),
        deep_supervision: bool = False,
    ) -> None:
        super().__init__()
        check_modality_groups(modality_groups, input_channels)
        if len(modality_groups[0]) != len(modality_groups[1]):
            raise ValueError(
                f"modality_groups={[list(group) for group in modality_groups]}: the published network's stem is shared "
                "by both groups, so they need equally many channels. Give groups of one size, or use CFNet."
            )
        if deep_supervision:
            raise ValueError(
                "deep_supervision=True: the published network has one output. Train it with "
                "nnUNetTrainerCFNetPublished, which switches deep supervision off."
            )
        self.input_channels = input_channels
        self.num_classes = num_classes
        self.modality_groups = [list(group) for group in modality_groups]
        self.pair_projection = nn.Conv2d(len(modality_groups[0]), 3, 1)
        first, second = _resnet50(), _resnet50()
        self.stem = nn.Sequential(OrderedDict(conv1=first.conv1, bn1=first.bn1, act1=first.act1))
        self.pool = first.maxpool
        self.first, self.second = (
            nn.Sequential(OrderedDict(layer1=resnet.layer1, layer2=resnet.layer2, layer3=resnet.layer3))
            for resnet in (first, second)
        )
        self.fusion = nn.ModuleList(map(PublishedFusion, LEVELS, HEADS))
        self.context = PublishedContext(LEVELS[-1])
        steps = list(zip(LEVELS[::-1], LEVELS[-2::-1], strict=False))  # (deep, shallow), coarsest first
        self.upsampling = nn.ModuleList(
            UpsamplingBlock(nn.Conv2d, nn.ConvTranspose2d, deep, shallow, norm=NORM, nonlin=RELU)
            for deep, shallow in steps
        )
        self.communication = nn.ModuleList(
            FeatureCommunication(
                nn.Conv2d,
                shallow,
                deep,
                "bilinear",
                gate=PublishedGate(nn.Conv2d, shallow, norm=NORM, nonlin=RELU),
                norm=NORM,
            )
            for deep, shallow in steps
        )
        self.head = PublishedHead(LEVELS[0], num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        _check_input(x, self.input_channels)
        first, second = (
            self._encode(x, group, trunk)
            for group, trunk in zip(self.modality_groups, (self.first, self.second), strict=True)
        )
        *shallow, deepest = (fuse(*maps) for fuse, *maps in zip(self.fusion, first, second, strict=True))
        deep = self.context(deepest)
        for upsample, communicate, fused in zip(self.upsampling, self.communication, shallow[::-1], strict=True):
            deep = upsample(deep) + communicate(fused, deep)
        return self.head(deep)

    def _encode(self, x: torch.Tensor, group: list[int], trunk: nn.Sequential) -> list[torch.Tensor]:
        """The four levels of one modality group, finest first."""
        pair = torch.cat([x[:, channel : channel + 1] for channel in group], dim=1)
        levels = [self.stem(self.pair_projection(pair))]
        features = self.pool(levels[0])
        for layer in trunk:
            features = layer(features)
            levels.append(features)
        return levels


def _resnet50() -> Any:
    """timm's, with random weights. timm is imported here, since it takes seconds that CFNet need not spend."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # what timm uses of torch.jit is nothing a user can mend
        import timm
    return timm.create_model(RESNET, pretrained=False)


def _check_input(x: torch.Tensor, input_channels: int) -> None:
    if x.ndim != 4 or x.shape[1] != input_channels:
        raise ValueError(f"an input of {tuple(x.shape)} is not (B, {input_channels}, H, W), as this network needs it.")
    for axis, size in zip(("height", "width"), x.shape[2:], strict=True):
        if size % TOTAL_STRIDE or not size:
            below = size - size % TOTAL_STRIDE
            nearest = " or ".join(str(n) for n in (below, below + TOTAL_STRIDE) if n)
            raise ValueError(
                f"an input of {tuple(x.shape)} has a {axis} of {size}, which {TOTAL_STRIDE} does not divide: pad or "
                f"crop it to {nearest}."
            )
