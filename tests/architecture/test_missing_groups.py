"""A modality group that is missing adds nothing, whatever its encoder would make of it."""

import pytest
import torch
from torch import nn

from nnunetv2_cfnet.architecture.cfnet import CFNet
from nnunetv2_cfnet.architecture.fusion import FUSIONS, ChannelContext
from nnunetv2_cfnet.architecture.missing_groups import fuse_present_groups

GROUPS = [[0, 2], [1, 3]]
ENCODERS = ("first", "second")


def make_network(arguments: dict, input_channels: int = 4, **more) -> CFNet:
    # attention in skips too, of networks of three stages
    own = {"modality_groups": GROUPS, "mask_missing_groups": True, "deep_supervision": True, "fusion_heads": 1}
    network = CFNet(input_channels, num_classes=3, **{**arguments, **own, **more})
    network.apply(network.initialize)
    return network


def make_input(dim: int, missing: int | None, channels: int = 4, batch_size: int = 2) -> torch.Tensor:
    """Two samples; without a group in all of them, or in none."""
    x = torch.randn(batch_size, channels, *[16] * dim)
    if missing is not None:
        x[:, GROUPS[missing]] = 0
    return x


def random_weights(parameter: torch.Tensor) -> None:
    parameter.normal_(std=3)


def huge_weights(parameter: torch.Tensor) -> None:
    parameter.fill_(1e30)


def nan_weights(parameter: torch.Tensor) -> None:
    parameter.fill_(torch.nan)


@pytest.mark.parametrize("autocast", [False, True], ids=["fp32", "bf16"])
@pytest.mark.parametrize("recompute", [False, True], ids=["stored", "recomputed"])
@pytest.mark.parametrize("dim", [2, 3])
@pytest.mark.parametrize("missing", [0, 1])
def test_outputs_do_not_depend_on_the_encoder_of_a_missing_group(plan_arguments, missing, dim, recompute, autocast):
    network = make_network(plan_arguments(dim, 3), recompute=recompute, residual_encoders=True)
    x = make_input(dim, missing)

    def outputs() -> list[torch.Tensor]:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
            return network(x)

    expected = outputs()
    assert all(torch.isfinite(output).all() for output in expected)
    for change in (random_weights, huge_weights, nan_weights):
        with torch.no_grad():
            for parameter in getattr(network.encoder, ENCODERS[missing]).parameters():
                change(parameter)
        assert all(torch.equal(output, before) for output, before in zip(outputs(), expected, strict=True)), change


@pytest.mark.parametrize("fusion", FUSIONS)
@pytest.mark.parametrize("residual", [False, True])
def test_without_the_mask_they_do(plan_arguments, fusion, residual):
    networks = [
        make_network(plan_arguments(2, 3, residual), fusion=fusion, mask_missing_groups=masked)
        for masked in (True, False)
    ]
    x = make_input(2, missing=1)
    for network in networks:
        before = network(x)[0]
        with torch.no_grad():
            for parameter in network.encoder.second.parameters():
                random_weights(parameter)
        assert torch.equal(network(x)[0], before) == network.mask_missing_groups


def test_presence_is_of_each_sample(plan_arguments):
    network = make_network(plan_arguments(2, 3)).double()
    x = make_input(2, missing=None, batch_size=4).double()
    x[1, GROUPS[0]] = 0
    x[2, GROUPS[1]] = 0
    x[3] = 0
    alone = torch.cat([network(sample[None])[0] for sample in x])
    torch.testing.assert_close(network(x)[0], alone, rtol=0, atol=1e-10)


@pytest.mark.parametrize("nothing", [False, True])
def test_complete_and_empty_samples_are_as_without_the_mask(plan_arguments, nothing):
    network = make_network(plan_arguments(2, 3))
    unmasked = make_network(plan_arguments(2, 3), mask_missing_groups=False)
    unmasked.load_state_dict(network.state_dict())
    x = torch.zeros(2, 4, 16, 16) if nothing else make_input(2, missing=None)
    assert all(torch.equal(ours, plain) for ours, plain in zip(network(x), unmasked(x), strict=True))


def test_one_channel_of_a_group_is_enough(plan_arguments):
    network, x = make_network(plan_arguments(2, 3)), make_input(2, missing=None)
    x[:, 0] = 0
    before = network(x)[0]
    x[:, 2] *= 2
    assert not torch.equal(network(x)[0], before)


def presence(x: torch.Tensor, groups: list[list[int]]) -> list[list[bool]]:
    """Of each sample and group, as a fusion of ones sees it."""
    (fuse,) = fuse_present_groups([lambda first, second: torch.cat((first, second), dim=1)], x, groups)
    ones = torch.ones(x.shape[0], 1, *x.shape[2:])
    return fuse(ones, ones).flatten(2).any(dim=2).tolist()


def test_channels_of_a_previous_stage_do_not_count_and_shared_ones_count_for_both():
    x = torch.zeros(4, 6, 3, 3)
    x[:, 4] = 1  # one-hot: neither group names it
    x[0, 0] = x[1, 3, 2, 2] = x[2, 2] = 1
    assert presence(x, GROUPS) == [[True, False], [False, True], [True, False], [True, True]]
    assert presence(x, [[0, 2], [2, 3]])[2] == [True, True]
    assert presence(x, [[0], [0]]) == [[True, True]] * 4


def test_a_value_that_is_no_number_is_there():
    x = torch.zeros(1, 4, 3, 3)
    x[0, 0], x[0, 1, 0, 0] = 1, torch.nan
    assert presence(x, GROUPS) == [[True, True]]


def test_cascades_channels_reach_the_present_encoder_alone(plan_arguments):
    network = make_network(plan_arguments(2, 3), input_channels=6)
    x = make_input(2, missing=0, channels=6)
    before = network(x)[0]
    with torch.no_grad():
        for parameter in network.encoder.first.parameters():
            nan_weights(parameter)
    assert torch.equal(network(x)[0], before)
    x[:, 5] += 1
    assert not torch.equal(network(x)[0], before)


@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("fusion", FUSIONS)
@pytest.mark.parametrize("missing", [None, 0, 1])
def test_every_parameter_gets_a_finite_gradient(plan_arguments, missing, fusion, residual):
    """Of a missing group's encoder they are zeros: without them DDP would fail."""
    network = make_network(plan_arguments(2, 3, residual), fusion=fusion)
    sum(output.square().mean() for output in network(make_input(2, missing))).backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
    for index, encoder in enumerate(ENCODERS):
        seen = any(parameter.grad.any() for parameter in getattr(network.encoder, encoder).parameters())
        assert seen == (index != missing)


@pytest.mark.parametrize("voxels", [100, 6])
@pytest.mark.parametrize("head_width", [1, 2, 3, 5, 7, 12, 24])
def test_context_of_zeros_is_uniform_to_rounding(voxels, head_width):
    context = ChannelContext(nn.Conv2d, 2 * head_width, num_heads=2)(torch.zeros(1, 2 * head_width, voxels))
    assert (context - 1 / head_width).abs().max() <= torch.finfo(context.dtype).eps


@pytest.mark.slow
@pytest.mark.parametrize("recompute", [False, True])
def test_masked_network_compiles_as_one_graph(plan_arguments, recompute):
    network = make_network(plan_arguments(2, 3), recompute=recompute, residual_encoders=recompute)
    x = make_input(2, missing=None)
    x[0, GROUPS[0]] = 0
    outputs = torch.compile(network, fullgraph=True, backend="aot_eager")(x)
    for output, reference in zip(outputs, network(x), strict=True):
        torch.testing.assert_close(output, reference)
    sum(output.square().mean() for output in outputs).backward()
    assert all(parameter.grad is not None for parameter in network.parameters())


def test_the_mask_changes_no_name_of_a_weight(plan_arguments):
    masked, plain = (make_network(plan_arguments(2, 3), mask_missing_groups=masked) for masked in (True, False))
    assert {name: w.shape for name, w in masked.state_dict().items()} == {
        name: w.shape for name, w in plain.state_dict().items()
    }
