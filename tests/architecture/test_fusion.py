"""Modality-cross attention against token-wise restatements of its equations."""

from functools import partial

import pytest
import torch
from torch import nn

from nnunetv2_cfnet.architecture.cost import count_saved_bytes
from nnunetv2_cfnet.architecture.fusion import (
    FUSIONS,
    VARIANCE_FLOOR,
    ConcatenationFusion,
    CrossAttentionFusion,
    PlainConcatenation,
    block_edges,
)
from nnunetv2_cfnet.architecture.pointwise import PointwiseConv3d

NONLIN = partial(nn.LeakyReLU, inplace=True)
SIZES = [(6, 5), (3, 5, 4), (3, 2), (1, 3, 2)]  # more voxels than the 8 channels, then fewer


def make_fusion(dim: int, channels: int = 8, output_channels: int = 12) -> CrossAttentionFusion:
    return CrossAttentionFusion(
        {2: nn.Conv2d, 3: nn.Conv3d}[dim],
        channels,
        output_channels,
        num_heads=2,
        norm=partial({2: nn.InstanceNorm2d, 3: nn.InstanceNorm3d}[dim], affine=True),
        nonlin=NONLIN,
    )


def tokens(x: torch.Tensor) -> torch.Tensor:
    return x.flatten(2).transpose(1, 2)  # (B, C, *S) -> (B, N, C)


def linear(x: torch.Tensor, conv: nn.Module) -> torch.Tensor:
    y = x @ conv.weight.flatten(1).T
    return y if conv.bias is None else y + conv.bias


def deviation(centred: torch.Tensor, all_channels: torch.Tensor) -> torch.Tensor:
    return (centred.square().mean() + VARIANCE_FLOOR * all_channels.square().mean()).sqrt()


def naive_fusion(fusion: CrossAttentionFusion, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Keys, values, correlations and heads formed one by one."""
    x = [tokens(first), tokens(second)]
    batch, _, c = x[0].shape
    d = c // 2
    u, g = [], []
    parts = ((fusion.embed_1, fusion.context_1), (fusion.embed_2, fusion.context_2))
    for features, (embed, context) in zip(x, parts, strict=True):
        u.append(nn.functional.leaky_relu(linear(features, embed[0])))
        key, value = linear(u[-1], context.key_value).split(c, dim=2)
        softmax = torch.zeros(batch, 2, d, d, dtype=torch.float64)
        for b in range(batch):
            for h in range(2):
                scores = torch.zeros(d, d, dtype=torch.float64)
                for i in range(d):
                    for j in range(d):
                        k, v = key[b, :, h * d + i], value[b, :, h * d + j]
                        k, v = k - k.mean(), v - v.mean()
                        scores[i, j] = (k * v).mean() / deviation(k, key[b]) / deviation(v, value[b])
                softmax[b, h] = (context.log_temperature[h].exp() * scores).softmax(dim=0)
        g.append(softmax)
    y = []
    for i, gain in enumerate((fusion.gain_1, fusion.gain_2)):
        heads = [u[i][..., h * d : (h + 1) * d] @ (g[1 - i][:, h] - 1 / d) for h in range(2)]
        y.append(x[i] + gain.flatten() * torch.cat(heads, dim=2))
    fused = linear(torch.cat(y, dim=2), fusion.project)
    return fusion.norm_nonlin(fused.transpose(1, 2).reshape(batch, -1, *first.shape[2:]))


@pytest.mark.parametrize("size", SIZES)
def test_attention_matches_float64_reference(size):
    fusion = make_fusion(len(size)).double()
    for gain in (fusion.gain_1, fusion.gain_2):
        nn.init.normal_(gain)
    first, second = torch.randn(2, 2, 8, *size, dtype=torch.float64)
    torch.testing.assert_close(fusion(first, second), naive_fusion(fusion, first, second), rtol=0, atol=1e-10)


@pytest.mark.parametrize("size", SIZES)
def test_without_gain_attention_is_the_concatenation(size):
    fusion = make_fusion(len(size)).double()
    nn.init.zeros_(fusion.gain_1)
    nn.init.zeros_(fusion.gain_2)
    first, second = torch.randn(2, 2, 8, *size, dtype=torch.float64)
    plain = ConcatenationFusion.forward(fusion, first, second)
    torch.testing.assert_close(fusion(first, second), plain, rtol=0, atol=1e-10)


def test_attention_swaps_the_contexts():
    """The second input changes what is added to the first, not only what stands beside it."""
    fusion = make_fusion(2, output_channels=16)
    nn.init.zeros_(fusion.gain_2)
    with torch.no_grad():  # the first input's half of the projection alone
        fusion.project.weight.zero_()[:8, :8, 0, 0] = torch.eye(8)
    fusion.norm_nonlin = nn.Identity()
    first, second = torch.randn(2, 1, 8, 6, 5)
    other = torch.randn(1, 8, 6, 5)
    assert not torch.allclose(fusion(first, second)[:, :8], fusion(first, other)[:, :8])


@pytest.mark.parametrize("name", FUSIONS)
def test_every_fusion_gives_its_channels_and_each_parameter_a_gradient(name):
    parts = {"norm": partial(nn.InstanceNorm3d, affine=True), "nonlin": NONLIN}
    fusion = FUSIONS[name](conv_op=nn.Conv3d, input_channels=8, output_channels=12, num_heads=2, **parts)
    fused = fusion(*torch.randn(2, 1, 8, 3, 5, 4))
    assert fused.shape == (1, 12, 3, 5, 4)
    fused.square().sum().backward()
    assert [name for name, parameter in fusion.named_parameters() if parameter.grad is None] == []


@pytest.mark.host
def test_fusion_is_finite_in_fp16_over_two_million_voxels():
    fusion = make_fusion(3, channels=4, output_channels=4)
    inputs = [(10 * torch.randn(1, 4, 128, 128, 128)).requires_grad_() for _ in range(2)]
    with torch.autocast("cpu", dtype=torch.float16):
        output = fusion(*inputs)
    output.float().mean().backward()
    assert output.dtype == torch.float16
    assert torch.isfinite(output).all()
    for tensor in (*inputs, *fusion.parameters()):
        assert torch.isfinite(tensor.grad).all()


@pytest.mark.parametrize(("size", "block"), [((32, 12), (16, 12)), ((16, 5, 8), (8, 5, 8))])
def test_each_block_is_attended_with_its_own_context(size, block):
    fusion = make_fusion(len(size)).double()
    fusion.norm_nonlin = nn.Identity()  # a norm is of the whole map
    first, second = torch.randn(2, 2, 8, *size, dtype=torch.float64)
    whole = fusion(first, second)
    for start in range(0, size[0], block[0]):
        part = slice(start, start + block[0])
        expected = fusion(first[:, :, part], second[:, :, part])
        torch.testing.assert_close(whole[:, :, part], expected, rtol=0, atol=1e-10)


def test_blocks_divide_the_map_and_are_about_as_large_as_wanted():
    sizes = [80, 40, 20, 10, 5, 56, 28, 7, 88, 22, 11, 1]
    assert [block_edges((size,) * 3)[0] for size in sizes] == [8, 8, 10, 10, 5, 8, 7, 7, 8, 11, 11, 1]
    assert block_edges((96, 80)) == [16, 16]


@pytest.mark.parametrize("voxels", [30, 6])
def test_context_depends_on_neither_the_number_of_voxels_nor_the_scale(voxels):
    context = make_fusion(2).context_1.double()
    tokens = torch.randn(2, 8, voxels, dtype=torch.float64)
    for other in (tokens.repeat(1, 1, 16), 1e-4 * tokens, 1e4 * tokens):
        torch.testing.assert_close(context(other), context(tokens), rtol=0, atol=1e-9)


@pytest.mark.parametrize("voxels", [30, 6])
@pytest.mark.parametrize("value", [0.0, 1.0])
def test_context_of_a_constant_map_is_uniform_and_its_gradient_finite(value, voxels):
    """The maps of a modality group that is not there: nothing goes together with anything."""
    constant = (value * torch.randn(1, 8, 1)).repeat(1, 1, voxels).requires_grad_()
    context = make_fusion(2).context_1(constant)
    torch.testing.assert_close(context, torch.full((1, 2, 4, 4), 1 / 4), rtol=0, atol=1e-2)
    context.square().sum().backward()
    assert torch.isfinite(constant.grad).all()


def test_concatenation_fusion_is_a_linear_map_of_both():
    norm = partial(nn.InstanceNorm2d, affine=True)
    fusion = ConcatenationFusion(nn.Conv2d, 8, 12, norm=norm, nonlin=NONLIN).double()
    first, second = torch.randn(2, 2, 8, 6, 5, dtype=torch.float64)
    merged = linear(torch.cat((tokens(first), tokens(second)), dim=2), fusion.project)
    expected = fusion.norm_nonlin(merged.transpose(1, 2).reshape(2, 12, 6, 5))
    torch.testing.assert_close(fusion(first, second), expected, rtol=0, atol=1e-10)
    assert torch.equal(PlainConcatenation()(first, second), torch.cat((first, second), dim=1))


@pytest.mark.parametrize("name", FUSIONS)
def test_what_is_stored_of_a_fusion(name):
    """But for the contexts, which are small where blocks have many more voxels than channels."""

    class OfBoth(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            norm = partial(nn.InstanceNorm3d, affine=True)
            self.fuse = FUSIONS[name](
                conv_op=PointwiseConv3d, input_channels=8, output_channels=12, num_heads=2, norm=norm, nonlin=NONLIN
            )

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.fuse(*x.chunk(2, dim=1))

    network = OfBoth().to("meta")
    stored = count_saved_bytes(network, 16, (32, 32, 32), batch_size=1) / (4 * 32**3)
    expected = network.fuse.stored_per_voxel + network.fuse.stored_inputs_per_voxel
    assert expected <= stored < 1.05 * expected


def test_heads_that_do_not_divide_the_channels_are_named():
    with pytest.raises(ValueError, match=r"num_heads=3 does not divide input_channels=8"):
        CrossAttentionFusion(nn.Conv2d, 8, 8, num_heads=3, norm=nn.Identity, nonlin=nn.ReLU)
