"""CFNet for nnU-Net: the whole network's path, 2D and 3D, on any nnU-Net plan.

    x -> split by modality group -> encoder 1, encoder 2        (encoders.py)
      -> zeros for a group that is missing, if so asked         (missing_groups.py)
      -> fusion at every scale, cross attention from the third  (fusion.py)
      -> multi-scale context on the deepest scale               (context.py)
      -> coarse-to-fine decoder with communication gates, heads (decoder.py)

Paper: Cheng, Zheng, Wang: "CFNet: Automatic multi-modal brain tumor segmentation through hierarchical
coarse-to-fine fusion and feature communication", Biomedical Signal Processing and Control, 2025, 106876,
doi:10.1016/j.bspc.2024.106876.

Departures from the paper, beside those that each part's docstring names:
- The encoders are nnU-Net's, not ImageNet ResNet-50s, and start at full resolution. On 3D plans of plain encoders,
  planning makes residual blocks of their convs, which learned better on a phantom (docs/ablation.md).
- Gates start, as published, at the finest scale of stride 2; at full resolution, which the published network does not
  have, there is none, and the two encoders' features are concatenated. Attention starts a scale later, at stride 4: at
  stride 2 it costs most, and earned nothing on a phantom (docs/ablation.md).
- Norms, non-linearities, kernels and strides are the plan's. Two encoders of the plan's width would need 3 to 4.5
  times its activation memory, so fine stages have half the width (arguments.default_encoder_features).
"""

from collections.abc import Callable, Sequence
from functools import partial
from types import SimpleNamespace

import numpy as np
import torch
from dynamic_network_architectures.architectures.abstract_arch import AbstractDynamicNetworkArchitectures
from dynamic_network_architectures.building_blocks.residual import BasicBlockD
from dynamic_network_architectures.initialization.weight_init import InitWeights_He, init_last_bn_before_add_to_0
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.dropout import _DropoutNd

from nnunetv2_cfnet.architecture.arguments import ARCHITECTURE_VERSION, below_full_resolution, complete_arguments
from nnunetv2_cfnet.architecture.context import MultiScaleContext
from nnunetv2_cfnet.architecture.decoder import CoarseToFineDecoder, CommunicationGate, OpenGate, Skip
from nnunetv2_cfnet.architecture.encoders import DualEncoder
from nnunetv2_cfnet.architecture.fusion import FUSIONS, ConcatenationFusion, Fusion, PlainConcatenation
from nnunetv2_cfnet.architecture.missing_groups import fuse_as_given, fuse_present_groups
from nnunetv2_cfnet.architecture.pointwise import POINTWISE
from nnunetv2_cfnet.architecture.recompute import runner

# what nnU-Net's encoders and decoder are built from alike
BLOCK_ARGUMENTS = (
    "conv_op",
    "kernel_sizes",
    "strides",
    "conv_bias",
    "norm_op",
    "norm_op_kwargs",
    "dropout_op",
    "dropout_op_kwargs",
    "nonlin",
    "nonlin_kwargs",
)


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
        n_conv_per_stage: convs of each encoder stage: makes plain encoders, or residual ones, see residual_encoders.
        n_blocks_per_stage: residual blocks of each encoder stage in place of convs: makes residual encoders.
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
        modality_groups: two lists of input channels; None: see arguments.default_modality_groups.
        residual_encoders: a residual block for each two convs of n_conv_per_stage, without the stem conv that
            n_blocks_per_stage has. Of no effect on n_blocks_per_stage.
        encoder_features_per_stage: widths of each encoder; None: see arguments.default_encoder_features.
        fusion: a name in fusion.FUSIONS, used where fusion_heads is not 0: "cross_attention", or "concatenation"
            followed by a 1x1 conv.
        fusion_heads: attention heads for each stage, 0 for "concatenation" there (of no effect at full resolution);
            None: 2, 4, 8, 8, .. as published from the second stage below full resolution on, lowered to divide the
            encoder's width; 0 before, where the published network has 1.
        context: multi-scale context module on the deepest scale.
        context_dilations: of its branches, a value an axis; None: 1 to 4 on each axis.
        communication: gates on the skips of the fused scales.
        recompute: recompute fusion, gates and upsampling in backward instead of storing what they hold. Networks with
            BatchNorm never recompute: their running statistics would be updated twice.
        mask_missing_groups: a modality group whose channels are all zero in a sample adds nothing to it, whatever its
            encoder would make of zeros. For training with missing sequences.

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
        residual_encoders: bool = False,
        encoder_features_per_stage: int | Sequence[int] | None = None,
        fusion: str = "cross_attention",
        fusion_heads: int | Sequence[int] | None = None,
        context: bool = True,
        context_dilations: Sequence[Sequence[int]] | None = None,
        communication: bool = True,
        recompute: bool = True,
        mask_missing_groups: bool = False,
    ) -> None:
        given = dict(locals())
        del given["self"], given["__class__"]  # the arguments are left
        super().__init__()
        args = complete_arguments(given)
        self.recompute = recompute and not (norm_op is not None and issubclass(norm_op, _BatchNorm))
        self.run = runner(self.recompute)
        self.encoder = DualEncoder(input_channels, args.modality_groups, _encoder_kwargs(args))
        self.mask_missing_groups = mask_missing_groups
        self.masked = (
            partial(fuse_present_groups, modality_groups=args.modality_groups) if mask_missing_groups else fuse_as_given
        )
        self.fusion = nn.ModuleList(_fusion(args, stage) for stage in range(n_stages))
        self.context = _context(args)
        self.decoder = CoarseToFineDecoder(
            SimpleNamespace(output_channels=args.features_per_stage, **_blocks(args)),
            num_classes,
            args.n_conv_per_stage_decoder,
            deep_supervision,
            gates=[_gate(args, stage) for stage in range(n_stages - 1)],
            nonlin_first=nonlin_first,
            recompute=self.recompute,
        )
        # Where DNA looks for the encoder, its stem and the convs that see the input: all of them, though DNA's own test
        # wants one shape. Groups of unlike sizes and blocks without a stem have several.
        self.key_to_encoder, self.key_to_stem = "encoder", f"encoder.first.{self.encoder.first_block}"
        self.keys_to_in_proj = tuple(f"encoder.{conv}" for conv in self.encoder.input_convs)

    def forward(self, x: torch.Tensor) -> torch.Tensor | list[torch.Tensor]:
        first, second = self.encoder(x)
        fusions = self.masked(self.fusion, x)
        *skips, deepest = (Skip(*scale) for scale in zip(fusions, first, second, strict=True))
        deep = self.context(self.run(*deepest))
        return self.decoder(deep, skips)

    def compute_conv_feature_map_size(self, input_size: Sequence[int]) -> int:
        """Half the values that a training step stores for one sample, which is what nnU-Net's own count comes to.

        nnU-Net counts the output of each conv; a training step stores that and its activation. The context is left
        out: it is small.

        Args:
            input_size: the spatial size, without batch and channels.
        """
        values = sum(part.compute_conv_feature_map_size(input_size) for part in (self.encoder, self.decoder))
        if self.recompute:
            return values
        sizes = np.asarray(input_size) // np.cumprod(self.decoder.encoder.strides, axis=0)
        kept = ("stored_per_voxel", "stored_inputs_per_voxel") if self.mask_missing_groups else ("stored_per_voxel",)
        fusions = zip(self.fusion, sizes, strict=True)
        stored = sum(getattr(fuse, name) * np.prod(size) for fuse, size in fusions for name in kept)
        return int(values + stored / 2)

    @staticmethod
    def initialize(module: nn.Module) -> None:
        """nnU-Net's initialisation: He, and residual blocks start as identities where their last norm has a weight."""
        InitWeights_He(1e-2)(module)
        if isinstance(module, BasicBlockD) and getattr(getattr(module.conv2, "norm", None), "weight", None) is None:
            return  # nnU-Net's would look for it
        init_last_bn_before_add_to_0(module)


# The parts, from CFNet's arguments as complete_arguments gives them.


def _blocks(args: SimpleNamespace) -> dict:
    return {name: getattr(args, name) for name in BLOCK_ARGUMENTS}


def _encoder_kwargs(args: SimpleNamespace) -> dict:
    if args.n_conv_per_stage is None:
        depth = {"n_blocks_per_stage": args.n_blocks_per_stage}
    elif args.residual_encoders:
        depth = {"n_blocks_per_stage": [n_conv // 2 for n_conv in args.n_conv_per_stage], "disable_default_stem": True}
    else:
        depth = {"n_conv_per_stage": args.n_conv_per_stage, "nonlin_first": args.nonlin_first}
    return {"n_stages": args.n_stages, "features_per_stage": args.encoder_features_per_stage, **depth, **_blocks(args)}


def _norm_and_nonlin(args: SimpleNamespace) -> dict[str, Callable[..., nn.Module]]:
    """What makes the norms and non-linearities of fusions, gates and context."""
    return {
        "norm": nn.Identity if args.norm_op is None else partial(args.norm_op, **(args.norm_op_kwargs or {})),
        "nonlin": nn.Identity if args.nonlin is None else partial(args.nonlin, **(args.nonlin_kwargs or {})),
    }


def _fusion(args: SimpleNamespace, stage: int) -> Fusion:
    width, channels = args.encoder_features_per_stage[stage], args.features_per_stage[stage]
    fusion_class: type[Fusion] = ConcatenationFusion
    if below_full_resolution(args.strides)[stage]:
        if args.fusion_heads[stage]:
            fusion_class = FUSIONS[args.fusion]
    elif 2 * width == channels:
        fusion_class = PlainConcatenation
    return fusion_class(
        conv_op=POINTWISE[args.conv_op],
        input_channels=width,
        output_channels=channels,
        num_heads=args.fusion_heads[stage],
        **_norm_and_nonlin(args),
    )


def _context(args: SimpleNamespace) -> nn.Module:
    if not args.context:
        return nn.Identity()
    return MultiScaleContext(
        args.conv_op,
        args.features_per_stage[-1],
        kernel_size=args.kernel_sizes[-1],
        dilations=args.context_dilations,
        **_norm_and_nonlin(args),
    )


def _gate(args: SimpleNamespace, stage: int) -> nn.Module:
    if not args.communication or not below_full_resolution(args.strides)[stage]:
        return OpenGate()
    return CommunicationGate(POINTWISE[args.conv_op], args.features_per_stage[stage], **_norm_and_nonlin(args))
