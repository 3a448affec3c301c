"""The dual encoder: one structurally identical, independent nnU-Net encoder for each modality group."""

import math
from collections.abc import Sequence

import numpy as np
import torch
from dynamic_network_architectures.building_blocks.plain_conv_encoder import PlainConvEncoder
from dynamic_network_architectures.building_blocks.residual_encoders import ResidualEncoder
from torch import nn

# Width of each of the two encoders, as a share of the plan's: two halves have its activations and half its parameters.
FINE_WIDTH = 1 / 2
COARSE_WIDTH = 3 / 4
# A stage is coarse where its activations (voxels x features) are at most this share of the finest stage's.
COARSE_STAGE_SHARE = 1 / 32


def default_modality_groups(input_channels: int) -> list[list[int]]:
    """Channel indices of the two groups: first half (rounded up) and second half; a single channel goes to both."""
    if input_channels == 1:
        return [[0], [0]]
    half = (input_channels + 1) // 2
    return [list(range(half)), list(range(half, input_channels))]


def default_encoder_features(features_per_stage: Sequence[int], strides: Sequence[Sequence[int]]) -> list[int]:
    """Widths of one of the two encoders that keep the pair at the cost of the plan's single encoder.

    Memory is spent at fine stages and parameters at coarse ones, so stages whose activations hardly count are wider.
    At 3/4 of the plan's width two encoders have 9/8 of its parameters; a step holds each of them with its gradient
    and momentum, so that full widths would undo what fine stages save where batches or patches are small.

    Args:
        features_per_stage: the plan's widths, finest stage first.
        strides: the plan's strides, one sequence per stage.
    """
    voxel_share = 1 / np.cumprod([np.prod(stride) for stride in strides])
    activation_share = voxel_share * np.asarray(features_per_stage) / (voxel_share[0] * features_per_stage[0])
    return [
        math.ceil(features * (COARSE_WIDTH if share <= COARSE_STAGE_SHARE else FINE_WIDTH))
        for features, share in zip(features_per_stage, activation_share, strict=True)
    ]


class DualEncoder(nn.Module):
    """Split the input channels by modality group and encode each group on its own.

        x -> (x[group 1], x[group 2]) -> (encoder_1(x_1), encoder_2(x_2))

    Source: paper, "structurally identical" encoders for (T1, T2) and (T1ce, FLAIR). Each is nnU-Net's own, DNA's
    PlainConvEncoder or ResidualEncoder, unchanged.
    Departures: the published 1x1 conv from 2 to 3 channels, made for ImageNet stems, is dropped; the stems are
    independent, while the release runs both groups through encoder one's.

    Args:
        input_channels: channels of the network's input.
        modality_groups: two sequences of channel indices; a channel may be in both. Channels that neither names go
            to both encoders: those that a cascade's previous stage adds.
        encoder_class: PlainConvEncoder or ResidualEncoder.
        encoder_kwargs: its arguments, less the input channels.

    Shape:
        (B, C, *S) -> two lists, finest stage first, of (B, C_s, *S_s).

    Raises:
        ValueError: the groups do not fit the input channels.
    """

    def __init__(
        self,
        input_channels: int,
        modality_groups: Sequence[Sequence[int]],
        encoder_class: type[PlainConvEncoder] | type[ResidualEncoder],
        encoder_kwargs: dict,
    ) -> None:
        super().__init__()
        check_modality_groups(modality_groups, input_channels)
        shared = sorted(set(range(input_channels)).difference(*modality_groups))
        self.modality_groups = [[*group, *shared] for group in modality_groups]
        self.first, self.second = (
            encoder_class(len(group), return_skips=True, **encoder_kwargs) for group in self.modality_groups
        )

    def forward(self, x: torch.Tensor) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        first, second = (
            torch.cat([x[:, channel : channel + 1] for channel in group], dim=1) for group in self.modality_groups
        )
        return self.first(first), self.second(second)

    def compute_conv_feature_map_size(self, input_size: Sequence[int]) -> int:
        """Values in the feature maps of both encoders for one sample, counted as nnU-Net does."""
        return sum(encoder.compute_conv_feature_map_size(input_size) for encoder in (self.first, self.second))


def check_modality_groups(modality_groups: Sequence[Sequence[int]], input_channels: int) -> None:
    """Raise ValueError unless there are two non-empty groups of channel indices below input_channels."""
    problem = None
    if len(modality_groups) != 2 or not all(len(group) for group in modality_groups):
        problem = "two non-empty groups are needed"
    elif any(len(set(group)) != len(group) for group in modality_groups):
        problem = "a group names a channel twice"
    elif not all(0 <= channel < input_channels for group in modality_groups for channel in group):
        problem = f"there are only the channels 0 to {input_channels - 1}"
    if problem:
        raise ValueError(
            f"modality_groups={[list(group) for group in modality_groups]} does not fit an input of {input_channels} "
            f"channel(s): {problem}. Give two lists of channel indices, as in [[0, 2], [1, 3]]."
        )
