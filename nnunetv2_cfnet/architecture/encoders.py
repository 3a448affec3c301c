"""The dual encoder: one structurally identical, independent nnU-Net encoder for each modality group."""

from collections.abc import Sequence

import torch
from dynamic_network_architectures.building_blocks.plain_conv_encoder import PlainConvEncoder
from dynamic_network_architectures.building_blocks.residual import BasicBlockD
from dynamic_network_architectures.building_blocks.residual_encoders import ResidualEncoder
from dynamic_network_architectures.building_blocks.simple_conv_blocks import ConvDropoutNormReLU
from torch import nn


class DualEncoder(nn.Module):
    """Split the input channels by modality group and encode each group on its own.

        x -> (x[group 1], x[group 2]) -> (encoder_1(x_1), encoder_2(x_2))

    Source: paper, "structurally identical" residual encoders for (T1, T2) and (T1ce, FLAIR). Each is nnU-Net's own,
    DNA's ResidualEncoder or PlainConvEncoder, unchanged; residual ones in place of plain ones have no stem conv.
    Departures: by default the groups are (T1, T1ce) and (T2, FLAIR), for reasons in planning/modality_groups.py; the
    published 1x1 conv from 2 to 3 channels, made for ImageNet stems, is dropped; the stems are independent, while the
    release runs both groups through encoder one's.

    Args:
        input_channels: channels of the network's input.
        modality_groups: two sequences of channel indices; a channel may be in both. Channels that neither names go
            to both encoders: those that a cascade's previous stage adds.
        encoder_kwargs: arguments of PlainConvEncoder where n_conv_per_stage is among them, else of ResidualEncoder;
            less the input channels.

    Attributes:
        first_block: name, within an encoder, of the block that sees the input.
        input_convs: names of all convs of both that see it. DNA's blocks have each twice, conv and all_modules.0.

    Shape:
        (B, C, *S) -> two lists, finest stage first, of (B, C_s, *S_s).
    """

    def __init__(
        self,
        input_channels: int,
        modality_groups: Sequence[Sequence[int]],
        encoder_kwargs: dict,
    ) -> None:
        super().__init__()
        encoder_class = PlainConvEncoder if "n_conv_per_stage" in encoder_kwargs else ResidualEncoder
        shared = sorted(set(range(input_channels)).difference(*modality_groups))
        self.modality_groups = [[*group, *shared] for group in modality_groups]
        self.first, self.second = (
            encoder_class(len(group), return_skips=True, **encoder_kwargs) for group in self.modality_groups
        )
        self.first_block = _first_block(self.first)
        self.input_convs = [
            f"{name}.{conv}.{alias}"
            for name, encoder in (("first", self.first), ("second", self.second))
            for conv in _input_convs(encoder)
            for alias in ("conv", "all_modules.0")
        ]

    def forward(self, x: torch.Tensor) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        first, second = (
            torch.cat([x[:, channel : channel + 1] for channel in group], dim=1) for group in self.modality_groups
        )
        return self.first(first), self.second(second)

    def compute_conv_feature_map_size(self, input_size: Sequence[int]) -> int:
        """Values in the feature maps of both encoders for one sample, counted as nnU-Net does."""
        return sum(encoder.compute_conv_feature_map_size(input_size) for encoder in (self.first, self.second))


def _first_block(encoder: PlainConvEncoder | ResidualEncoder) -> str:
    if isinstance(encoder, PlainConvEncoder):
        return "stages.0.0.convs.0"
    return "stages.0.blocks.0" if encoder.stem is None else "stem.convs.0"


def _input_convs(encoder: PlainConvEncoder | ResidualEncoder) -> list[str]:
    """A block without a stem before it sees the input by its skip too, if that has a conv."""
    first = _first_block(encoder)
    block = encoder.get_submodule(first)
    if not isinstance(block, BasicBlockD):
        return [first]
    skip = list(block.skip) if isinstance(block.skip, nn.Sequential) else []
    convs = [f"skip.{i}" for i, part in enumerate(skip) if isinstance(part, ConvDropoutNormReLU)]
    return [f"{first}.{conv}" for conv in ("conv1", *convs)]
