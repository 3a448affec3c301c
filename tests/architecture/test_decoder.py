"""Gates and decoder against restatements of their equations."""

from functools import partial
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from nnunetv2_cfnet.architecture.decoder import (
    CoarseToFineDecoder,
    CommunicationGate,
    FeatureCommunication,
    OpenGate,
    UpsamplingBlock,
)
from nnunetv2_cfnet.architecture.fusion import PlainConcatenation

NONLIN = partial(nn.LeakyReLU, inplace=True)
CONVS = {2: nn.Conv2d, 3: nn.Conv3d}
NORMS = {2: nn.InstanceNorm2d, 3: nn.InstanceNorm3d}


def make_gate(dim: int, kernel_size: int = 1, **options) -> CommunicationGate:
    norm = partial(NORMS[dim], affine=True)
    return CommunicationGate(CONVS[dim], 8, kernel_size=kernel_size, norm=norm, nonlin=NONLIN, **options)


def naive_gate(gate: CommunicationGate, shallow: torch.Tensor, deep: torch.Tensor, rectify: bool) -> torch.Tensor:
    _, conv, norm, *_ = gate.attention
    apply = {4: F.conv2d, 5: F.conv3d}[shallow.ndim]
    padding = conv.weight.shape[2] // 2
    logits = sum(  # the conv of a concatenation as a sum
        apply(F.leaky_relu(part), weight, padding=padding)
        for part, weight in zip((shallow, deep), conv.weight.chunk(2, dim=1), strict=True)
    )
    logits = norm(logits + conv.bias.view(1, -1, *[1] * (shallow.ndim - 2)))
    return shallow / (1 + torch.exp(-(logits.clamp(min=0) if rectify else logits)))


@pytest.mark.parametrize("rectify", [False, True])
@pytest.mark.parametrize(("size", "kernel_size"), [((6, 5), 3), ((3, 5, 4), 1)])
def test_gate_matches_float64_reference(size, kernel_size, rectify):
    gate = make_gate(len(size), kernel_size, rectify=rectify).double()
    shallow, deep = torch.randn(2, 2, 8, *size, dtype=torch.float64)
    expected = naive_gate(gate, shallow, deep, rectify)
    torch.testing.assert_close(gate(shallow, deep), expected, rtol=0, atol=1e-10)


def test_gate_can_close():
    """Without the published ReLU the gate reaches below 0.5; with it, it can't."""
    shallow, deep = torch.ones(1, 8, 6, 5), torch.randn(1, 8, 6, 5)
    assert make_gate(2)(shallow, deep).min() < 0.5
    assert make_gate(2, rectify=True)(shallow, deep).min() >= 0.5


def make_decoder(gates, recompute=False) -> CoarseToFineDecoder:
    features = SimpleNamespace(
        output_channels=[8, 8, 16],
        conv_op=nn.Conv3d,
        kernel_sizes=[[1, 3, 3], [3, 3, 3], [3, 3, 3]],
        strides=[[1, 1, 1], [1, 2, 2], [2, 2, 2]],
        conv_bias=True,
        norm_op=nn.InstanceNorm3d,
        norm_op_kwargs={"affine": True},
        dropout_op=None,
        dropout_op_kwargs=None,
        nonlin=nn.LeakyReLU,
        nonlin_kwargs={"inplace": True},
    )
    return CoarseToFineDecoder(
        features, 3, [2, 2], deep_supervision=True, gates=gates, nonlin_first=False, recompute=recompute
    )


def fused_maps(dtype=torch.float64) -> list[torch.Tensor]:
    return [torch.randn(2, c, *size, dtype=dtype) for c, size in ((8, (4, 8, 8)), (8, (4, 4, 4)), (16, (2, 2, 2)))]


def decode(decoder: CoarseToFineDecoder, *maps: torch.Tensor) -> torch.Tensor | list[torch.Tensor]:
    """Run the decoder on fused maps, finest first: each skip is fused from the halves of its channels."""
    *skips, deepest = maps
    return decoder(deepest, [(PlainConcatenation(), *skip.chunk(2, dim=1)) for skip in skips])


def test_decoder_matches_float64_reference():
    decoder = make_decoder([OpenGate(), make_gate(3)]).double()
    fine, middle, deep = fused_maps()
    up_1, up_0 = decoder.transpconvs
    block_1, block_0 = decoder.stages
    e = F.conv_transpose3d(deep, up_1.weight, up_1.bias, stride=(2, 2, 2))
    d_1 = block_1(torch.cat((e, naive_gate(decoder.gates[0], middle, e, rectify=False)), dim=1))
    e = F.conv_transpose3d(d_1, up_0.weight, up_0.bias, stride=(1, 2, 2))
    d_0 = block_0(torch.cat((e, fine), dim=1))
    logits = decode(decoder, fine, middle, deep)
    torch.testing.assert_close(logits[0], decoder.seg_layers[1](d_0), rtol=0, atol=1e-10)
    torch.testing.assert_close(logits[1], decoder.seg_layers[0](d_1), rtol=0, atol=1e-10)
    decoder.deep_supervision = False
    assert torch.equal(decode(decoder, fine, middle, deep), logits[0])


def test_decoder_with_open_gates_is_nnunets_own():
    from dynamic_network_architectures.building_blocks.unet_decoder import UNetDecoder

    decoder = make_decoder([OpenGate(), OpenGate()]).double()
    maps = fused_maps()
    for ours, stock in zip(decode(decoder, *maps), UNetDecoder.forward(decoder, maps), strict=True):
        assert torch.equal(ours, stock)


def test_every_decoder_parameter_gets_a_gradient():
    decoder = make_decoder([make_gate(3), make_gate(3)])
    sum(logits.square().sum() for logits in decode(decoder, *fused_maps(torch.float32))).backward()
    assert [name for name, parameter in decoder.named_parameters() if parameter.grad is None] == []


def test_recomputed_gradients_equal_those_of_stored_maps():
    stored = make_decoder([OpenGate(), make_gate(3)]).double()
    recomputed = make_decoder([OpenGate(), make_gate(3)], recompute=True).double()
    recomputed.load_state_dict(stored.state_dict())
    maps = fused_maps()
    gradients = []
    for decoder in (stored, recomputed):
        inputs = [fused.clone().requires_grad_() for fused in maps]
        sum(logits.square().sum() for logits in decode(decoder, *inputs)).backward()
        gradients.append([tensor.grad for tensor in (*inputs, *decoder.parameters())])
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other)


class ConvKernels(TorchDispatchMode):
    """Notes the kernel size of every conv that runs."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: list[tuple[int, ...]] = []

    def __torch_dispatch__(self, operation, types, arguments=(), options=None):
        if operation is torch.ops.aten.convolution.default:
            self.sizes.append(tuple(arguments[1].shape[2:]))
        return operation(*arguments, **(options or {}))


def test_backward_repeats_upsampling_and_gates_but_no_conv_of_a_block():
    decoder = make_decoder([OpenGate(), make_gate(3)], recompute=True)
    loss = sum(logits.square().sum() for logits in decode(decoder, *fused_maps(torch.float32)))
    with ConvKernels() as repeated:
        loss.backward()
    assert sorted(repeated.sizes) == [(1, 1, 1), (1, 2, 2), (2, 2, 2)]  # the gate and the two transposed convs


@pytest.mark.parametrize("gate", [OpenGate(), make_gate(3)], ids=["open", "closed"])
def test_feature_map_count_is_half_of_what_is_stored(gate):
    """A conv's output and its activation count once; with recomputation nothing else is stored."""
    finest, middle = 8 * 4 * 8 * 8, 8 * 4 * 4 * 4
    heads = 3 * (4 * 8 * 8 + 4 * 4 * 4)
    recomputed = make_decoder([OpenGate(), gate], recompute=True)
    assert recomputed.compute_conv_feature_map_size((4, 8, 8)) == 2 * (finest + middle) + heads
    stored = make_decoder([OpenGate(), gate])
    joined = finest + middle + (9 / 2 * middle if isinstance(gate, CommunicationGate) else 0)
    assert stored.compute_conv_feature_map_size((4, 8, 8)) == 2 * (finest + middle) + heads + joined


def test_communication_matches_float64_reference():
    communication = FeatureCommunication(
        nn.Conv3d, 8, 16, upsample_mode="trilinear", gate=make_gate(3), norm=nn.InstanceNorm3d
    ).double()
    shallow, deep = torch.randn(1, 8, 4, 6, 8).double(), torch.randn(1, 16, 2, 3, 4).double()
    s = communication.shallow_projection[1](communication.shallow_projection[0](shallow))
    e = communication.deep_projection[1](communication.deep_projection[0](deep))
    e = F.interpolate(e, scale_factor=2, mode="trilinear", align_corners=False)
    gated = naive_gate(communication.gate, s, e, rectify=False)
    expected = e + communication.conv[1](
        F.conv3d(gated, communication.conv[0].weight, communication.conv[0].bias, padding=1)
    )
    torch.testing.assert_close(communication(shallow, deep), expected, rtol=0, atol=1e-10)


def test_upsampling_block_matches_float64_reference():
    block = UpsamplingBlock(
        nn.Conv3d, nn.ConvTranspose3d, 16, 8, norm=partial(nn.InstanceNorm3d, affine=True), nonlin=nn.ReLU
    ).double()
    x = torch.randn(1, 16, 3, 5, 4, dtype=torch.float64)
    reduce, norm_1, _, up, norm_2, _, expand, norm_3, _ = block
    # a transposed conv of stride 2 is a conv, flipped, of the input with zeros between its values
    spread = torch.zeros(1, 4, 6, 10, 8, dtype=torch.float64)
    spread[:, :, ::2, ::2, ::2] = F.relu(norm_1(F.conv3d(x, reduce.weight, reduce.bias)))
    upsampled = F.conv3d(spread, up.weight.transpose(0, 1).flip(2, 3, 4), up.bias, padding=1)
    expected = F.relu(norm_3(F.conv3d(F.relu(norm_2(upsampled)), expand.weight, expand.bias)))
    output = block(x)
    torch.testing.assert_close(output, expected, rtol=0, atol=1e-10)
    output.square().sum().backward()
    assert [name for name, parameter in block.named_parameters() if parameter.grad is None] == []
