"""The four modules in their published form give the published network's own outputs."""

from torch import nn

from nnunetv2_cfnet.architecture.published_blocks import (
    FeatureCommunication,
    PublishedContext,
    PublishedFusion,
    PublishedGate,
    UpsamplingBlock,
)

MAX_ERROR = 1e-5


def test_fusion_reproduces_published_mcafm(fill_published, published_input, published_outputs):
    fusion = PublishedFusion(64, num_heads=4)
    fill_published(
        fusion,
        {
            "projection_1.0": "cross.channel_proj1",
            "projection_2.0": "cross.channel_proj2",
            "key_value_1": "cross.cross_attn.kv1",
            "key_value_2": "cross.cross_attn.kv2",
            "merge.project.0": "cross.end_proj",
            "merge.project.1": "cross.norm",
            "merge.residual": "channel_emb.residual",
            "merge.embed.0": "channel_emb.channel_embed.0",
            "merge.embed.2": "channel_emb.channel_embed.2",
            "merge.norm": "channel_emb.norm",
        },
    )
    output = fusion(published_input((2, 64, 6, 5), 0), published_input((2, 64, 6, 5), 1))
    assert (output - published_outputs["mcafm"]).abs().max() < MAX_ERROR


def test_context_reproduces_published_mcpm(fill_published, published_input, published_outputs):
    context = PublishedContext(1024)
    names = {"squeeze": "conv1", "expand.1": "conv2"}
    names |= {f"branches.{k}": f"context{k + 1}" for k in range(4)}
    names |= {f"selectors.{k}": f"fc{k + 1}" for k in range(4)}
    fill_published(context, names)
    x = published_input((1, 1024, 6, 5), 0)
    assert (context(x) - x - published_outputs["mcpm_minus_input"]).abs().max() < MAX_ERROR


def test_communication_reproduces_published_block(fill_published, published_input, published_outputs):
    gate = PublishedGate(nn.Conv2d, 64, norm=nn.BatchNorm2d, nonlin=nn.ReLU)
    communication = FeatureCommunication(nn.Conv2d, 64, 256, "bilinear", gate=gate, norm=nn.BatchNorm2d)
    fill_published(
        communication,
        {
            "shallow_projection": "shallow_fusion_conv",
            "deep_projection": "deep_fusion_conv",
            "gate.attention.1": "attention_conv_bn_relu.0",
            "gate.attention.2": "attention_conv_bn_relu.1",
            "conv": "fusion_conv",
        },
    )
    output = communication(published_input((1, 64, 12, 10), 0), published_input((1, 256, 6, 5), 1))
    assert (output - published_outputs["communication"]).abs().max() < MAX_ERROR


def test_upsampling_reproduces_published_decoder_block(fill_published, published_input, published_outputs):
    block = UpsamplingBlock(nn.Conv2d, nn.ConvTranspose2d, 256, 64, norm=nn.BatchNorm2d, nonlin=nn.ReLU)
    names = {"0": "conv1", "1": "norm1", "3": "deconv2", "4": "norm2", "6": "conv3", "7": "norm3"}
    fill_published(block, {f"{ours}.": f"{theirs}." for ours, theirs in names.items()})
    output = block(published_input((1, 256, 6, 5), 0))
    assert output.shape == (1, 64, 12, 10)
    assert (output - published_outputs["decoder_block"]).abs().max() < MAX_ERROR
