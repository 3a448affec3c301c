"""Gates and decoder against restatements of their equations."""

from functools import partial
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from nnunetv2_cfnet.architecture.decoder import CoarseToFineDecoder, CommunicationGate, OpenGate, Skip
from nnunetv2_cfnet.architecture.fusion import PlainConcatenation

NONLIN = partial(nn.LeakyReLU, inplace=True)
CONVS = {2: nn.Conv2d, 3: nn.Conv3d}
NORMS = {2: nn.InstanceNorm2d, 3: nn.InstanceNorm3d}


def make_gate(dim: int) -> CommunicationGate:
    return CommunicationGate(CONVS[dim], 8, norm=partial(NORMS[dim], affine=True), nonlin=NONLIN)


def naive_gate(gate: CommunicationGate, shallow: torch.Tensor, deep: torch.Tensor) -> torch.Tensor:
    _, conv, norm, sigmoid = gate.attention
    apply = {4: F.conv2d, 5: F.conv3d}[shallow.ndim]
    logits = sum(  # the conv of a concatenation as a sum
        apply(F.leaky_relu(part), weight)
        for part, weight in zip((shallow, deep), conv.weight.chunk(2, dim=1), strict=True)
    )
    logits = norm(logits + conv.bias.view(1, -1, *[1] * (shallow.ndim - 2)))
    return shallow / (1 + torch.exp(-logits - sigmoid.openness))


@pytest.mark.parametrize("size", [(6, 5), (3, 5, 4)])
def test_gate_matches_float64_reference(size):
    gate = make_gate(len(size)).double()
    shallow, deep = torch.randn(2, 2, 8, *size, dtype=torch.float64)
    expected = naive_gate(gate, shallow, deep)
    torch.testing.assert_close(gate(shallow, deep), expected, rtol=0, atol=1e-10)


def test_gate_starts_open_and_can_close():
    """The published one can't go below 0.5."""
    gate, deep = make_gate(2), torch.randn(1, 8, 6, 5)
    start = gate(torch.ones(1, 8, 6, 5), deep)
    assert start.mean() > 0.9
    assert start.min() > 0.5
    nn.init.constant_(gate.attention[-1].openness, -3)
    assert gate(torch.ones(1, 8, 6, 5), deep).mean() < 0.1


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
    return decoder(deepest, [Skip(PlainConcatenation(), *skip.chunk(2, dim=1)) for skip in skips])


def test_decoder_matches_float64_reference():
    decoder = make_decoder([OpenGate(), make_gate(3)]).double()
    fine, middle, deep = fused_maps()
    up_1, up_0 = decoder.transpconvs
    block_1, block_0 = decoder.stages
    e = F.conv_transpose3d(deep, up_1.weight, up_1.bias, stride=(2, 2, 2))
    d_1 = block_1(torch.cat((e, naive_gate(decoder.gates[0], middle, e)), dim=1))
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
    joined = finest + middle + (4 / 2 * middle if isinstance(gate, CommunicationGate) else 0)
    assert stored.compute_conv_feature_map_size((4, 8, 8)) == 2 * (finest + middle) + heads + joined
