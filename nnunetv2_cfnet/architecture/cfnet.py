"""CFNet for nnU-Net: the whole network's path, 2D and 3D, on any nnU-Net plan.

    x -> split by modality group -> encoder 1, encoder 2        (encoders.py)
      -> cross-attention fusion at every scale                  (fusion.py)
      -> multi-scale context on the deepest scale               (context.py)
      -> coarse-to-fine decoder with communication gates, heads (decoder.py)

Paper: Cheng, Zheng, Wang: "CFNet: Automatic multi-modal brain tumor segmentation through hierarchical
coarse-to-fine fusion and feature communication", Biomedical Signal Processing and Control, 2025, 106876,
doi:10.1016/j.bspc.2024.106876.

Departures from the paper, beside those that each part's docstring names:
- The encoders are the plan's (plain or residual), not ImageNet ResNet-50s, and start at full resolution. Fusion by
  attention starts, as published, at the finest scale of stride 2; at full resolution, which the published network
  does not have, the two encoders' features are concatenated and no gate is used.
- Norms, non-linearities, kernels and strides are the plan's. Two encoders of the plan's width would need 3 to 4.5
  times its activation memory, so fine stages have half the width (encoders.default_encoder_features).
"""

from collections.abc import Sequence
from functools import partial
from types import SimpleNamespace

import numpy as np
import torch
from dynamic_network_architectures.architectures.abstract_arch import AbstractDynamicNetworkArchitectures
from dynamic_network_architectures.building_blocks.helper import convert_conv_op_to_dim, maybe_convert_scalar_to_list
from dynamic_network_architectures.building_blocks.plain_conv_encoder import PlainConvEncoder
from dynamic_network_architectures.building_blocks.residual_encoders import ResidualEncoder
from dynamic_network_architectures.initialization.weight_init import InitWeights_He, init_last_bn_before_add_to_0
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.dropout import _DropoutNd

from nnunetv2_cfnet.architecture.context import MultiScaleContext
from nnunetv2_cfnet.architecture.decoder import CoarseToFineDecoder, CommunicationGate, OpenGate
from nnunetv2_cfnet.architecture.encoders import DualEncoder, default_encoder_features, default_modality_groups
from nnunetv2_cfnet.architecture.fusion import (
    ConcatenationFusion,
    CrossAttentionFusion,
    LinearMerge,
    PlainConcatenation,
    ResidualMerge,
)
from nnunetv2_cfnet.architecture.pointwise import POINTWISE
from nnunetv2_cfnet.architecture.recompute import runner

# Raised whenever a plans file of the version before would build a network that its checkpoints do not fit. That is for
# plans that spell out every argument, as trainer and planners write them: defaults may change.
ARCHITECTURE_VERSION = 1
MAX_HEADS = 8  # the published heads are 1, 2, 4, 8 from the finest fused scale on
DILATIONS = (1, 2, 3, 4)  # of the published context module's branches
FUSIONS = ("cross_attention", "concatenation")
MERGES = ("linear", "residual")


class CFNet(AbstractDynamicNetworkArchitectures):
    """Dual-encoder fusion network with the constructor of nnU-Net's U-Nets.

    Every argument can be carried by a plans file, so that nnU-Net's get_network_from_plans builds it. The last ones
    are CFNet's own and have defaults. Lists are finest stage first, those of the decoder coarsest first.

    Args:
        input_channels: channels of the input, those of a cascade's previous stage included.
        n_stages: number of scales, at least 2.
        features_per_stage: the plan's widths: of the fused maps and the decoder.
        conv_op: nn.Conv2d or nn.Conv3d.
        kernel_sizes: one for each stage.
        strides: one for each stage.
        num_classes: output channels.
        n_conv_per_stage_decoder: convs of each decoder block.
        n_conv_per_stage: convs of each encoder stage: makes plain encoders.
        n_blocks_per_stage: residual blocks of each encoder stage: makes residual encoders.
        conv_bias: biases in nnU-Net's convs.
        norm_op: norm of every part; None for none.
        norm_op_kwargs: its arguments.
        dropout_op: dropout of nnU-Net's convs; None for none.
        dropout_op_kwargs: its arguments.
        nonlin: non-linearity of every part; None for none.
        nonlin_kwargs: its arguments.
        deep_supervision: return the logits of every scale.
        nonlin_first: conv, nonlin, norm in plain encoders and the decoder.
        architecture_version: version that a plans file was written for.
        modality_groups: two lists of input channels; None: see encoders.default_modality_groups.
        encoder_features_per_stage: widths of each encoder; None: see encoders.default_encoder_features.
        fusion: "cross_attention", or "concatenation" followed by a 1x1 conv.
        fusion_merge: how attention's results are joined, "linear" or as published, "residual".
        fusion_heads: attention heads for each stage (of no effect where features are concatenated); None: as
            published, 1, 2, 4, 8 from the finest fused scale on, lowered to divide the encoder's width.
        context: multi-scale context module on the deepest scale.
        context_dilations: of its branches, a value an axis; None: 1 to 4 on each axis.
        communication: gates on the skips of the fused scales.
        recompute: recompute fusion, gates and upsampling in backward instead of storing what they hold. Networks with
            BatchNorm never recompute: their running statistics would be updated twice.

    Shape:
        (B, input_channels, *S), S divisible by the product of the strides -> (B, num_classes, *S / strides[0]), which
        nnU-Net plans as 1, or with deep_supervision the list of n_stages - 1 scales, finest first.

    Raises:
        ValueError: arguments that do not fit each other, or another architecture version; names the argument.
    """

    def __init__(
        self,
        input_channels: int,
        n_stages: int,
        features_per_stage: int | Sequence[int],
        conv_op: type[_ConvNd],
        kernel_sizes: int | Sequence,
        strides: int | Sequence,
        num_classes: int,
        n_conv_per_stage_decoder: int | Sequence[int],
        n_conv_per_stage: int | Sequence[int] | None = None,
        n_blocks_per_stage: int | Sequence[int] | None = None,
        conv_bias: bool = False,
        norm_op: type[nn.Module] | None = None,
        norm_op_kwargs: dict | None = None,
        dropout_op: type[_DropoutNd] | None = None,
        dropout_op_kwargs: dict | None = None,
        nonlin: type[nn.Module] | None = None,
        nonlin_kwargs: dict | None = None,
        deep_supervision: bool = False,
        nonlin_first: bool = False,
        architecture_version: int = ARCHITECTURE_VERSION,
        modality_groups: Sequence[Sequence[int]] | None = None,
        encoder_features_per_stage: Sequence[int] | None = None,
        fusion: str = "cross_attention",
        fusion_merge: str = "linear",
        fusion_heads: Sequence[int] | None = None,
        context: bool = True,
        context_dilations: Sequence[Sequence[int]] | None = None,
        communication: bool = True,
        recompute: bool = True,
    ) -> None:
        super().__init__()
        check_choices(
            architecture_version=architecture_version,
            n_stages=n_stages,
            n_conv_per_stage=n_conv_per_stage,
            n_blocks_per_stage=n_blocks_per_stage,
            fusion=fusion,
            fusion_merge=fusion_merge,
            switches={"context": context, "communication": communication, "recompute": recompute},
        )

        if conv_op not in POINTWISE:
            raise ValueError(f"conv_op={conv_op!r} is none of {[conv.__name__ for conv in POINTWISE]}.")

        def per_stage(name: str, value: int | Sequence, length: int = n_stages) -> list:
            values = [value] * length if isinstance(value, int) else list(value)
            if len(values) != length:
                raise ValueError(f"{name}={values} has {len(values)} entries; n_stages={n_stages} asks for {length}.")
            return positive(name, values)

        def per_axis(name: str, values: Sequence) -> list[list[int]]:
            expanded = [list(maybe_convert_scalar_to_list(conv_op, value)) for value in values]
            if not expanded or any(len(value) != convert_conv_op_to_dim(conv_op) for value in expanded):
                raise ValueError(f"{name}={expanded} does not have a value an axis of {conv_op.__name__}.")
            return positive(name, expanded)

        def positive(name: str, values: list) -> list:
            flat = [number for value in values for number in (value if isinstance(value, Sequence) else [value])]
            if not all(isinstance(number, int) and number > 0 for number in flat):
                raise ValueError(f"{name}={values} has entries that are not positive whole numbers.")
            return values

        features = per_stage("features_per_stage", features_per_stage)
        kernel_sizes = per_axis("kernel_sizes", per_stage("kernel_sizes", kernel_sizes))
        strides = per_axis("strides", per_stage("strides", strides))
        if encoder_features_per_stage is None:
            encoder_features_per_stage = default_encoder_features(features, strides)
        widths = per_stage("encoder_features_per_stage", encoder_features_per_stage)
        attended = attended_stages(strides)
        if fusion_heads is None:
            fusion_heads = default_fusion_heads(widths, strides)
        heads = per_stage("fusion_heads", fusion_heads)
        for stage, (count, width) in enumerate(zip(heads, widths, strict=True)):
            if attended[stage] and width % count:
                raise ValueError(
                    f"fusion_heads={heads}: {count} does not divide the {width} encoder features of stage {stage}."
                )
        dilations = per_axis("context_dilations", DILATIONS if context_dilations is None else context_dilations)
        recompute = recompute and not (norm_op is not None and issubclass(norm_op, _BatchNorm))

        pointwise = POINTWISE[conv_op]
        norm = nn.Identity if norm_op is None else partial(norm_op, **(norm_op_kwargs or {}))
        activation = nn.Identity if nonlin is None else partial(nonlin, **(nonlin_kwargs or {}))
        blocks = {
            "conv_bias": conv_bias,
            "norm_op": norm_op,
            "norm_op_kwargs": norm_op_kwargs,
            "dropout_op": dropout_op,
            "dropout_op_kwargs": dropout_op_kwargs,
            "nonlin": nonlin,
            "nonlin_kwargs": nonlin_kwargs,
        }
        encoder_kwargs = {
            "n_stages": n_stages,
            "features_per_stage": widths,
            "conv_op": conv_op,
            "kernel_sizes": kernel_sizes,
            "strides": strides,
            **blocks,
        }
        if n_conv_per_stage is not None:
            encoder_class, stem = PlainConvEncoder, "stages.0.0.convs.0"
            encoder_kwargs["n_conv_per_stage"] = per_stage("n_conv_per_stage", n_conv_per_stage)
            encoder_kwargs["nonlin_first"] = nonlin_first
        else:
            assert n_blocks_per_stage is not None  # exactly one is given
            encoder_class, stem = ResidualEncoder, "stem.convs.0"
            encoder_kwargs["n_blocks_per_stage"] = per_stage("n_blocks_per_stage", n_blocks_per_stage)

        def make_fusion(stage: int) -> nn.Module:
            width, channels = widths[stage], features[stage]
            if not attended[stage] and 2 * width == channels:
                return PlainConcatenation()
            if not attended[stage] or fusion == "concatenation":
                return ConcatenationFusion(pointwise, width, channels, norm=norm, nonlin=activation)
            if fusion_merge == "linear":
                merge: nn.Module = LinearMerge(pointwise, width, channels, norm=norm, nonlin=activation)
            else:
                merge = ResidualMerge(pointwise, width, channels, token_norm=norm, norm=norm, nonlin=activation)
            return CrossAttentionFusion(pointwise, width, heads[stage], merge=merge, nonlin=activation)

        def make_gate(stage: int) -> nn.Module:
            if communication and attended[stage]:
                return CommunicationGate(pointwise, features[stage], kernel_size=1, norm=norm, nonlin=activation)
            return OpenGate()

        if modality_groups is None:
            modality_groups = default_modality_groups(input_channels)
        self.encoder = DualEncoder(input_channels, modality_groups, encoder_class, encoder_kwargs)
        self.fusion = nn.ModuleList(make_fusion(stage) for stage in range(n_stages))
        self.context = (
            MultiScaleContext(
                conv_op, features[-1], kernel_size=kernel_sizes[-1], dilations=dilations, norm=norm, nonlin=activation
            )
            if context
            else nn.Identity()
        )
        self.decoder = CoarseToFineDecoder(
            SimpleNamespace(
                output_channels=features, conv_op=conv_op, kernel_sizes=kernel_sizes, strides=strides, **blocks
            ),
            num_classes,
            per_stage("n_conv_per_stage_decoder", n_conv_per_stage_decoder, n_stages - 1),
            deep_supervision,
            gates=[make_gate(stage) for stage in range(n_stages - 1)],
            nonlin_first=nonlin_first,
            recompute=recompute,
        )
        self.run = runner(recompute)

        # where DNA looks for the encoder, its stem and the convs that see the input
        self.key_to_encoder = "encoder"
        self.key_to_stem = f"encoder.first.{stem}"
        self.keys_to_in_proj = tuple(
            f"encoder.{group}.{stem}.{conv}" for group in ("first", "second") for conv in ("conv", "all_modules.0")
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor | list[torch.Tensor]:
        first, second = self.encoder(x)
        # a scale's fusion and its two maps: the decoder fuses skips where it needs them, and stores none
        *skips, deepest = zip(self.fusion, first, second, strict=True)
        return self.decoder(self.context(self.run(*deepest)), skips)

    def compute_conv_feature_map_size(self, input_size: Sequence[int]) -> int:
        """Half the values that a training step stores for one sample, which is what nnU-Net's own count comes to.

        nnU-Net counts the output of each conv; a training step stores that and its activation. The deepest scale's
        fusion and context are left out: they are small.

        Args:
            input_size: the spatial size, without batch and channels.
        """
        return self.encoder.compute_conv_feature_map_size(input_size) + self.decoder.compute_conv_feature_map_size(
            input_size
        )

    @staticmethod
    def initialize(module: nn.Module) -> None:
        """nnU-Net's initialisation: He, and residual blocks start as identities."""
        InitWeights_He(1e-2)(module)
        init_last_bn_before_add_to_0(module)


def check_choices(
    *,
    architecture_version: int,
    n_stages: int,
    n_conv_per_stage: int | Sequence[int] | None,
    n_blocks_per_stage: int | Sequence[int] | None,
    fusion: str,
    fusion_merge: str,
    switches: dict[str, bool],
) -> None:
    """Raise ValueError, naming the argument and the way out, for what CFNet does not build."""
    if architecture_version != ARCHITECTURE_VERSION:
        raise ValueError(
            f"architecture_version={architecture_version!r}: these plans were made for another CFNet; this "
            f"nnunetv2_cfnet builds version {ARCHITECTURE_VERSION}. Install the nnunetv2_cfnet release that made "
            "them, or train anew from the dataset's own plans."
        )
    if (n_conv_per_stage is None) == (n_blocks_per_stage is None):
        raise ValueError(
            f"n_conv_per_stage={n_conv_per_stage} and n_blocks_per_stage={n_blocks_per_stage}: give exactly one, "
            "the first for plain encoders, the second for residual ones."
        )
    if not isinstance(n_stages, int) or n_stages < 2:
        raise ValueError(f"n_stages={n_stages!r}: a number of scales is needed, at least 2 for the decoder.")
    if fusion not in FUSIONS:
        raise ValueError(f"fusion={fusion!r} is unknown; choose one of {FUSIONS}.")
    if fusion_merge not in MERGES:
        raise ValueError(f"fusion_merge={fusion_merge!r} is unknown; choose one of {MERGES}.")
    for name, switch in switches.items():
        if not isinstance(switch, bool):
            raise ValueError(f"{name}={switch!r} is neither true nor false.")


def attended_stages(strides: Sequence[Sequence[int]]) -> list[bool]:
    """Whether a stage is fused by attention: below full resolution, as published."""
    return [bool(stride > 1) for stride in np.cumprod(strides, axis=0).max(axis=1)]


def default_fusion_heads(widths: Sequence[int], strides: Sequence[Sequence[int]]) -> list[int]:
    """1, 2, 4, 8, 8, .. from the finest fused stage on, each lowered to a divisor of the encoder's width."""
    levels = np.cumsum(attended_stages(strides)) - 1
    return [
        int(np.gcd(min(2 ** max(0, int(level)), MAX_HEADS), width)) for level, width in zip(levels, widths, strict=True)
    ]
