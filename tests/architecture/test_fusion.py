"""Modality-cross attention against token-wise restatements of its equations."""

from functools import partial

import pytest
import torch
from torch import nn

from nnunetv2_cfnet.architecture.fusion import (
    FUSIONS,
    MERGES,
    ConcatenationFusion,
    CrossAttentionFusion,
    PlainConcatenation,
)

NONLIN = partial(nn.LeakyReLU, inplace=True)
SIZES = [(6, 5), (3, 5, 4), (3, 2), (1, 3, 2)]  # more voxels than the 8 channels, then fewer


def make_fusion(dim: int, merge: str, channels: int = 8, output_channels: int = 12) -> CrossAttentionFusion:
    return CrossAttentionFusion(
        {2: nn.Conv2d, 3: nn.Conv3d}[dim],
        channels,
        output_channels,
        num_heads=2,
        merge=MERGES[merge],
        norm=partial({2: nn.InstanceNorm2d, 3: nn.InstanceNorm3d}[dim], affine=True),
        nonlin=NONLIN,
    )


def tokens(x: torch.Tensor) -> torch.Tensor:
    return x.flatten(2).transpose(1, 2)  # (B, C, *S) -> (B, N, C)


def linear(x: torch.Tensor, conv: nn.Module) -> torch.Tensor:
    y = x @ conv.weight.flatten(1).T
    return y if conv.bias is None else y + conv.bias


def naive_attention(fusion: CrossAttentionFusion, first: torch.Tensor, second: torch.Tensor):
    """X_i, U_i and U_i G_other as (B, N, C), with K, V and every head formed one by one."""
    x = [tokens(first), tokens(second)]
    n, c = x[0].shape[1:]
    d = c // fusion.num_heads
    u, g = [], []
    projections, key_values = (fusion.projection_1, fusion.projection_2), (fusion.key_value_1, fusion.key_value_2)
    for features, projection, key_value in zip(x, projections, key_values, strict=True):
        u.append(nn.functional.leaky_relu(linear(features, projection[0])))
        key, value = linear(u[-1], key_value).split(c, dim=2)
        heads = []
        for h in range(fusion.num_heads):
            channels = slice(h * d, (h + 1) * d)
            scores = key[..., channels].transpose(1, 2) @ value[..., channels] / n / d**0.5
            heads.append(scores.softmax(dim=1))
        g.append(heads)
    swapped = [
        torch.cat([u[i][..., h * d : (h + 1) * d] @ g[1 - i][h] for h in range(fusion.num_heads)], dim=2)
        for i in range(2)
    ]
    return x, u, swapped


@pytest.mark.parametrize("size", SIZES)
def test_linear_merge_matches_float64_reference(size):
    fusion = make_fusion(len(size), "linear").double()
    first, second = torch.randn(2, 2, 8, *size, dtype=torch.float64)
    x, _, attended = naive_attention(fusion, first, second)
    merge = fusion.merge
    merged = linear(x[0], merge.skip_1) + linear(x[1], merge.skip_2)
    merged = merged + linear(attended[0], merge.attended_1) + linear(attended[1], merge.attended_2)
    expected = merge.norm_nonlin(merged.transpose(1, 2).reshape(2, 12, *size))
    torch.testing.assert_close(fusion(first, second), expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("size", SIZES)
def test_residual_merge_matches_float64_reference(size):
    fusion = make_fusion(len(size), "residual").double()
    first, second = torch.randn(2, 2, 8, *size, dtype=torch.float64)
    x, _, attended = naive_attention(fusion, first, second)
    projection, token_norm = fusion.merge.project
    z = [token_norm(linear(x[i] + attended[i], projection).transpose(1, 2).reshape(2, 8, *size)) for i in range(2)]
    m = torch.cat(z, dim=1)
    embed_conv, _, embed_norm = fusion.merge.embed
    embedded = embed_norm(nn.functional.leaky_relu(embed_conv(m)))
    expected = fusion.merge.norm(fusion.merge.residual(m) + embedded)
    torch.testing.assert_close(fusion(first, second), expected, rtol=0, atol=1e-10)


def test_attention_swaps_the_contexts():
    """The second input changes what the first is attended with, not only what is merged beside it."""
    fusion = make_fusion(2, "linear")
    first, second = torch.randn(2, 1, 8, 6, 5)
    contexts = []
    fusion.merge.register_forward_pre_hook(lambda _, inputs: contexts.append(inputs[2]))
    fusion(first, second)
    fusion(first, 10 * second)
    assert not torch.allclose(contexts[0], contexts[1])


@pytest.mark.parametrize("merge", MERGES)
@pytest.mark.parametrize("name", FUSIONS)
def test_every_fusion_gives_its_channels_and_each_parameter_a_gradient(name, merge):
    parts = {"norm": partial(nn.InstanceNorm3d, affine=True), "nonlin": NONLIN}
    fusion = FUSIONS[name](
        conv_op=nn.Conv3d, input_channels=8, output_channels=12, num_heads=2, merge=MERGES[merge], **parts
    )
    fused = fusion(*torch.randn(2, 1, 8, 3, 5, 4))
    assert fused.shape == (1, 12, 3, 5, 4)
    fused.square().sum().backward()
    assert [name for name, parameter in fusion.named_parameters() if parameter.grad is None] == []


@pytest.mark.host
@pytest.mark.parametrize("merge", MERGES)
def test_fusion_is_finite_in_fp16_over_two_million_voxels(merge):
    fusion = make_fusion(3, merge, channels=4, output_channels=4)
    inputs = [(10 * torch.randn(1, 4, 128, 128, 128)).requires_grad_() for _ in range(2)]
    with torch.autocast("cpu", dtype=torch.float16):
        output = fusion(*inputs)
    output.float().mean().backward()
    assert output.dtype == torch.float16
    assert torch.isfinite(output).all()
    for tensor in (*inputs, *fusion.parameters()):
        assert torch.isfinite(tensor.grad).all()


def test_mean_scaled_context_does_not_depend_on_the_patch():
    fusion = make_fusion(2, "linear")
    contexts = []
    fusion.merge.register_forward_pre_hook(lambda _, inputs: contexts.append(inputs[2]))
    first, second = torch.randn(2, 1, 8, 6, 5)
    fusion(first, second)
    fusion(first.repeat(1, 1, 4, 4), second.repeat(1, 1, 4, 4))
    torch.testing.assert_close(contexts[0], contexts[1])


def test_concatenation_fusion_is_a_linear_map_of_both():
    norm = partial(nn.InstanceNorm2d, affine=True)
    fusion = ConcatenationFusion(nn.Conv2d, 8, 12, norm=norm, nonlin=NONLIN).double()
    first, second = torch.randn(2, 2, 8, 6, 5, dtype=torch.float64)
    conv, norm, nonlin = fusion.merge
    merged = linear(torch.cat((tokens(first), tokens(second)), dim=2), conv)
    expected = nonlin(norm(merged.transpose(1, 2).reshape(2, 12, 6, 5)))
    torch.testing.assert_close(fusion(first, second), expected, rtol=0, atol=1e-10)
    assert torch.equal(PlainConcatenation()(first, second), torch.cat((first, second), dim=1))


def test_heads_that_do_not_divide_the_channels_are_named():
    with pytest.raises(ValueError, match=r"num_heads=3 does not divide input_channels=8"):
        CrossAttentionFusion(nn.Conv2d, 8, 8, num_heads=3, merge=nn.Identity, norm=nn.Identity, nonlin=nn.ReLU)
