"""CFNet's arguments: checked and filled with defaults, here alone. CFNet and planning both call complete_arguments."""

import math
from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
from dynamic_network_architectures.building_blocks.helper import convert_conv_op_to_dim, maybe_convert_scalar_to_list

from nnunetv2_cfnet.architecture.fusion import FUSIONS
from nnunetv2_cfnet.architecture.pointwise import POINTWISE

# Raised whenever a plans file of the version before would build a network that its checkpoints do not fit. That is for
# plans that spell out every argument, as trainer and planners write them: defaults may change.
ARCHITECTURE_VERSION = 2
MAX_HEADS = 8  # the published heads are 1, 2, 4, 8 from the finest fused scale on
DILATIONS = (1, 2, 3, 4)  # of the published context module's branches
# Width of each of the two encoders, as a share of the plan's: two halves have its activations and half its parameters.
FINE_WIDTH = 1 / 2
COARSE_WIDTH = 3 / 4
# A stage is coarse where its activations (voxels x features) are at most this share of the finest stage's.
COARSE_STAGE_SHARE = 1 / 32
SWITCHES = ("residual_encoders", "context", "communication", "recompute", "mask_missing_groups")


def complete_arguments(given: Mapping[str, Any], patch_size: Sequence[int] | None = None) -> SimpleNamespace:
    """Check CFNet's arguments; spell them out for each stage and axis, and fill in what is None.

    Args:
        given: all arguments of CFNet by name. Others are handed on.
        patch_size: in voxels, where it is known: dilations are clipped to what the bottleneck's map can hold.

    Raises:
        ValueError: arguments that do not fit each other, or another architecture version; names the argument.
    """
    _check_choices(given)
    conv_op, n_stages = given["conv_op"], given["n_stages"]

    def spelled_out(name: str, default: Any = None, length: int = n_stages) -> list:
        value = default if given[name] is None else given[name]
        if value is None:
            raise ValueError(f"{name} is None: give a value for each of n_stages={n_stages} stages.")
        if not isinstance(value, (int, Sequence)) or isinstance(value, str):
            raise ValueError(f"{name}={value!r} is neither a whole number nor a list.")
        values = [value] * length if isinstance(value, int) else list(value)
        if len(values) != length:
            raise ValueError(f"{name}={values} has {len(values)} entries; n_stages={n_stages} asks for {length}.")
        return values

    def per_stage(name: str, default: Any = None, length: int = n_stages, least: int = 1) -> list[int]:
        values = spelled_out(name, default, length)
        return _at_least(least, name, values, values)

    def per_axis(name: str, values: Sequence) -> list[list[int]]:
        expanded = [list(maybe_convert_scalar_to_list(conv_op, value)) for value in values]
        if not expanded or any(len(value) != dim for value in expanded):
            raise ValueError(f"{name}={expanded} does not have a value an axis of {conv_op.__name__}.")
        return _at_least(1, name, expanded, [number for value in expanded for number in value])

    dim = convert_conv_op_to_dim(conv_op)
    features = per_stage("features_per_stage")
    kernel_sizes = per_axis("kernel_sizes", spelled_out("kernel_sizes"))
    strides = per_axis("strides", spelled_out("strides"))
    by_convs = given["n_conv_per_stage"] is not None
    n_conv = per_stage("n_conv_per_stage") if by_convs else None
    n_blocks = None if by_convs else per_stage("n_blocks_per_stage")
    if n_conv is not None and given["residual_encoders"] and not can_be_residual(n_conv, given["nonlin_first"]):
        raise ValueError(
            f"residual_encoders=True: residual blocks have two convs each and no nonlin_first, but n_conv_per_stage="
            f"{n_conv} and nonlin_first={given['nonlin_first']}. Set residual_encoders to False."
        )
    _check_odd(kernel_sizes, strides, lone_bottleneck=n_conv is not None and n_conv[-1] == 1 and not given["context"])
    widths = per_stage("encoder_features_per_stage", default_encoder_features(features, strides))
    heads = per_stage("fusion_heads", default_fusion_heads(widths, strides), least=0)
    for stage, below in enumerate(below_full_resolution(strides)):
        if below and heads[stage] and widths[stage] % heads[stage]:
            raise ValueError(
                f"fusion_heads={heads}: {heads[stage]} does not divide the {widths[stage]} encoder features of stage "
                f"{stage}."
            )
    groups = given["modality_groups"]
    if groups is None:
        groups = default_modality_groups(given["input_channels"])
    check_modality_groups(groups, given["input_channels"])
    dilations = given["context_dilations"]
    if dilations is None:
        dilations = default_dilations(strides, patch_size)
    completed = dict(
        features_per_stage=features,
        kernel_sizes=kernel_sizes,
        strides=strides,
        n_conv_per_stage=n_conv,
        n_blocks_per_stage=n_blocks,
        n_conv_per_stage_decoder=per_stage("n_conv_per_stage_decoder", length=n_stages - 1),
        modality_groups=[list(group) for group in groups],
        encoder_features_per_stage=widths,
        fusion_heads=heads,
        context_dilations=per_axis("context_dilations", dilations),
    )
    return SimpleNamespace(**{**given, **completed})


def can_be_residual(n_conv_per_stage: int | Sequence[int], nonlin_first: bool) -> bool:
    """Whether the convs of a plain encoder are whole residual blocks: two each, conv, norm, nonlin."""
    counts = [n_conv_per_stage] if isinstance(n_conv_per_stage, int) else n_conv_per_stage
    return not nonlin_first and all(isinstance(n_conv, int) and n_conv % 2 == 0 for n_conv in counts)


def below_full_resolution(strides: Sequence[Sequence[int]]) -> list[bool]:
    """Whether a stage lies there: where fusion, fusion_heads and communication count, as published."""
    return [bool(stride > 1) for stride in np.cumprod(strides, axis=0).max(axis=1)]


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


def default_fusion_heads(widths: Sequence[int], strides: Sequence[Sequence[int]]) -> list[int]:
    """2, 4, 8, 8, .. from the second stage below full resolution on, each lowered to a divisor of its width; 0 before.

    Attention at the first of them took about half of the time of all, and earned nothing on a phantom
    (docs/ablation.md). A network of two stages has none.
    """
    levels = np.cumsum(below_full_resolution(strides)) - 1
    return [
        math.gcd(min(2 ** int(level), MAX_HEADS), width) if level > 0 else 0
        for level, width in zip(levels, widths, strict=True)
    ]


def default_dilations(strides: Sequence[Sequence[int]], patch_size: Sequence[int] | None) -> list[list[int]]:
    """1 to 4 on each axis, clipped to the bottleneck's map where the patch is known.

    A tap that is further away than the map is wide would only ever see padding.
    """
    total = np.prod(strides, axis=0)
    room = [max(DILATIONS)] * len(total)
    if patch_size is not None:
        room = [max(1, int(size // stride) - 1) for size, stride in zip(patch_size, total, strict=True)]
    return [[min(dilation, most) for most in room] for dilation in DILATIONS]


def default_modality_groups(input_channels: int) -> list[list[int]]:
    """Channel indices of the two groups: first half (rounded up) and second half; a single channel goes to both."""
    if input_channels == 1:
        return [[0], [0]]
    half = (input_channels + 1) // 2
    return [list(range(half)), list(range(half, input_channels))]


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


def _check_choices(given: Mapping[str, Any]) -> None:
    if given["architecture_version"] != ARCHITECTURE_VERSION:
        raise ValueError(
            f"architecture_version={given['architecture_version']!r}: these plans were made for another CFNet; this "
            f"nnunetv2_cfnet builds version {ARCHITECTURE_VERSION}. Install the nnunetv2_cfnet release that made "
            "them, or train anew from the dataset's own plans."
        )
    if (given["n_conv_per_stage"] is None) == (given["n_blocks_per_stage"] is None):
        raise ValueError(
            f"n_conv_per_stage={given['n_conv_per_stage']} and n_blocks_per_stage={given['n_blocks_per_stage']}: give "
            "exactly one, convs or residual blocks."
        )
    if not isinstance(given["n_stages"], int) or given["n_stages"] < 2:
        raise ValueError(f"n_stages={given['n_stages']!r}: a number of scales is needed, at least 2 for the decoder.")
    if given["conv_op"] not in POINTWISE:
        raise ValueError(f"conv_op={given['conv_op']!r} is none of {[conv.__name__ for conv in POINTWISE]}.")
    if given["fusion"] not in tuple(FUSIONS):
        raise ValueError(f"fusion={given['fusion']!r} is unknown; choose one of {tuple(FUSIONS)}.")
    for name in SWITCHES:
        if not isinstance(given[name], bool):
            raise ValueError(f"{name}={given[name]!r} is neither true nor false.")


def _at_least(least: int, name: str, values: list, numbers: list) -> list:
    if not all(type(number) is int and number >= least for number in numbers):  # True is no number
        raise ValueError(f"{name}={values} has entries that are not whole numbers of at least {least}.")
    return values


def _check_odd(kernel_sizes: Sequence[Sequence[int]], strides: Sequence[Sequence[int]], lone_bottleneck: bool) -> None:
    """nnU-Net pads (k - 1) // 2: a conv of stride 1 with an even kernel loses a voxel, and maps would not meet.

    Args:
        kernel_sizes: for each stage and axis.
        strides: for each stage and axis.
        lone_bottleneck: the deepest stage is a single strided conv, which may be even.
    """
    for stage, (kernel, stride) in enumerate(zip(kernel_sizes, strides, strict=True)):
        strided = lone_bottleneck and stage == len(strides) - 1
        if any(size % 2 == 0 and not (strided and step > 1) for size, step in zip(kernel, stride, strict=True)):
            raise ValueError(
                f"kernel_sizes={list(kernel_sizes)}: the even kernel {kernel} of stage {stage} does not keep the size "
                "of a map. Give odd kernels."
            )
