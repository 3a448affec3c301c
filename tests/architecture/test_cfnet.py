"""The whole network: plans, switches, gradients, precision, compilation, cost."""

from collections.abc import Callable
from itertools import product

import pytest
import torch
from dynamic_network_architectures.architectures.abstract_arch import test_submodules_loadable as check_submodules
from dynamic_network_architectures.architectures.unet import PlainConvUNet, ResidualEncoderUNet
from dynamic_network_architectures.building_blocks.residual_encoders import ResidualEncoder
from functorch.compile import make_boxed_func, min_cut_rematerialization_partition
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
from torch import nn
from torch._dynamo.backends.common import aot_autograd

from nnunetv2_cfnet.architecture.cfnet import CFNet
from nnunetv2_cfnet.architecture.cost import count_forward_flops, count_parameters, count_saved_bytes
from nnunetv2_cfnet.architecture.decoder import CommunicationGate, OpenGate
from nnunetv2_cfnet.architecture.fusion import (
    FUSIONS,
    ConcatenationFusion,
    CrossAttentionFusion,
    PlainConcatenation,
)

SWITCHES = [
    {},
    {"fusion": "concatenation"},
    {"context": False},
    {"communication": False},
    {"recompute": False},
    {"residual_encoders": True},
    {"mask_missing_groups": True},
    {"fusion": "concatenation", "context": False, "communication": False, "recompute": False},
    {"modality_groups": [[0, 1, 2], [3]]},
    {"norm_op": nn.BatchNorm3d, "norm_op_kwargs": {}},
    {"norm_op": None},
    {"dropout_op": nn.Dropout3d, "dropout_op_kwargs": {"p": 0.1}},
]


def sum_of_outputs(outputs) -> torch.Tensor:
    return sum(output.float().square().mean() for output in outputs)


@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("switches", SWITCHES, ids=str)
def test_every_parameter_gets_a_gradient(plan_arguments, switches, residual):
    arguments = {**plan_arguments(residual=residual), **switches}
    network = CFNet(4, num_classes=3, deep_supervision=True, **arguments)
    sum_of_outputs(network(torch.randn(2, 4, 16, 16, 16))).backward()
    assert [name for name, parameter in network.named_parameters() if parameter.grad is None] == []


def kinds(modules) -> list[type]:
    return [type(module) for module in modules]


def test_switches_exchange_the_parts_they_name(plan_arguments):
    full = CFNet(4, num_classes=3, **plan_arguments())
    assert kinds(full.fusion) == [PlainConcatenation, ConcatenationFusion, *[CrossAttentionFusion] * 2]
    assert kinds(full.decoder.gates) == [CommunicationGate, CommunicationGate, OpenGate]
    bare = CFNet(4, num_classes=3, fusion="concatenation", context=False, communication=False, **plan_arguments())
    assert kinds(bare.fusion) == [PlainConcatenation, *[ConcatenationFusion] * 3]
    assert kinds(bare.decoder.gates) == [OpenGate] * 3
    assert isinstance(bare.context, nn.Identity)


@pytest.mark.parametrize(
    ("heads", "attends"),
    [
        (None, [False, True, True]),
        (1, [True, True, True]),
        ([1, 1, 2, 4], [True, True, True]),
        (0, [False, False, False]),
        ([0, 1, 0, 4], [True, False, True]),
    ],
)
def test_stages_with_heads_attend(plan_arguments, heads, attends):
    network = CFNet(4, num_classes=3, fusion_heads=heads, **plan_arguments())
    kind = {True: CrossAttentionFusion, False: ConcatenationFusion}
    assert kinds(network.fusion) == [PlainConcatenation, *(kind[attended] for attended in attends)]
    assert kinds(network.decoder.gates) == [CommunicationGate, CommunicationGate, OpenGate]
    assert network(torch.randn(1, 4, 16, 16, 16)).shape == (1, 3, 16, 16, 16)


@pytest.mark.parametrize("n_stages", range(3, 9))
@pytest.mark.parametrize("residual", [False, True])
def test_two_dimensional_networks_of_any_depth_give_every_scale(plan_arguments, n_stages, residual):
    network = CFNet(4, num_classes=3, deep_supervision=True, **plan_arguments(2, n_stages, residual))
    size = 2 ** (n_stages - 1) * 2
    outputs = network(torch.randn(1, 4, size, size))
    assert [output.shape for output in outputs] == [(1, 3, size // 2**s, size // 2**s) for s in range(n_stages - 1)]


@pytest.mark.parametrize("n_stages", range(3, 7))
@pytest.mark.parametrize("residual", [False, True])
def test_three_dimensional_networks_of_any_depth_give_every_scale(plan_arguments, n_stages, residual):
    arguments = plan_arguments(3, n_stages, residual, anisotropic=True)
    network = CFNet(4, num_classes=3, deep_supervision=True, **arguments)
    outputs = network(torch.randn(1, 4, 2 ** (n_stages - 2) * 2, 2 ** (n_stages - 1) * 2, 2 ** (n_stages - 1)))
    assert len(outputs) == n_stages - 1
    sum_of_outputs(outputs).backward()
    assert all(parameter.grad is not None for parameter in network.parameters())


def test_two_convs_become_a_residual_block(plan_arguments):
    """nnU-Net's residual encoder without its stem."""
    arguments = plan_arguments() | {"n_conv_per_stage": [2, 2, 4, 2]}
    encoder = CFNet(4, num_classes=3, residual_encoders=True, **arguments).encoder.second
    of_convs = {"n_conv_per_stage", "n_conv_per_stage_decoder", "features_per_stage"}
    theirs = ResidualEncoder(
        2,
        n_blocks_per_stage=[1, 1, 2, 1],
        features_per_stage=encoder.output_channels,
        return_skips=True,
        disable_default_stem=True,
        **{name: value for name, value in arguments.items() if name not in of_convs},
    )
    theirs.load_state_dict(encoder.state_dict())
    x = torch.randn(1, 2, 16, 16, 16)
    assert all(torch.equal(*maps) for maps in zip(encoder(x), theirs(x), strict=True))


@pytest.mark.parametrize(
    "switches", [{}, {"residual_encoders": True}, None], ids=["convs", "blocks", "stem and blocks"]
)
@pytest.mark.parametrize("width", [2, 4])  # with 2 a block's skip has no conv where a group has two channels
@pytest.mark.parametrize("stride", [1, 2])
def test_names_of_the_convs_that_see_the_input(plan_arguments, switches, width, stride):
    arguments = plan_arguments(2, residual=switches is None) | (switches or {})
    arguments["strides"] = [[stride] * 2, *arguments["strides"][1:]]
    arguments["encoder_features_per_stage"] = [width, 8, 16, 16]
    network = CFNet(3, num_classes=3, modality_groups=[[0, 1], [2]], **arguments)
    seen = []
    for name, module in network.encoder.named_modules(remove_duplicate=False):
        if isinstance(module, nn.Conv2d):
            module.register_forward_pre_hook(lambda _, inputs, name=name: seen.append((f"encoder.{name}", *inputs)))
    x = torch.randn(1, 3, 32, 32)
    network(x)
    pooled = nn.functional.avg_pool2d(x, stride)  # what a skip sees
    images = [image[:, group] for image in (x, pooled) for group in ([0, 1], [2])]
    first = {
        name for name, maps in seen if any(maps.shape == image.shape and torch.equal(maps, image) for image in images)
    }
    assert first == set(network.keys_to_in_proj)
    stem = network.get_submodule(network.key_to_stem)
    names = [name for name in network.keys_to_in_proj if name.startswith("encoder.first.")]
    assert all(any(network.get_submodule(name) is module for module in stem.modules()) for name in names)


def test_anisotropic_kernels_and_strides(plan_arguments):
    network = CFNet(4, num_classes=3, deep_supervision=True, **plan_arguments(anisotropic=True))
    outputs = network(torch.randn(1, 4, 8, 32, 16))
    assert [tuple(output.shape[2:]) for output in outputs] == [(8, 32, 16), (8, 16, 8), (4, 8, 4)]


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 5])
def test_any_number_of_channels(plan_arguments, channels):
    network = CFNet(channels, num_classes=2, **plan_arguments(2))
    assert network(torch.randn(1, channels, 16, 16)).shape == (1, 2, 16, 16)


def test_deep_supervision_is_switched_as_nnunet_does(plan_arguments):
    network = CFNet(4, num_classes=3, deep_supervision=True, **plan_arguments(2)).eval()
    x = torch.randn(1, 4, 16, 16)
    finest = network(x)[0]
    network.decoder.deep_supervision = False
    assert torch.equal(network(x), finest)


def test_same_result_for_any_batch_split(plan_arguments):
    network = CFNet(4, num_classes=3, **plan_arguments()).double()
    x = torch.randn(3, 4, 16, 16, 16, dtype=torch.float64)
    split = torch.cat([network(x[:1]), network(x[1:])])
    torch.testing.assert_close(network(x), split, rtol=0, atol=1e-10)


@pytest.mark.parametrize("residual", [False, True])
def test_builds_from_plans_alone(plan_arguments, residual):
    def dotted(value) -> str:
        return f"{value.__module__}.{value.__name__}"

    arguments = plan_arguments(residual=residual)
    imported = [name for name in ("conv_op", "norm_op", "nonlin") if name in arguments]
    as_plans = {name: dotted(value) if name in imported else value for name, value in arguments.items()}
    network = get_network_from_plans(
        "nnunetv2_cfnet.architecture.cfnet.CFNet",
        {**as_plans, "dropout_op": None},
        [*imported, "dropout_op"],
        input_channels=4,
        output_channels=3,
        deep_supervision=True,
    )
    assert isinstance(network, CFNet)
    assert len(network(torch.randn(1, 4, 16, 16, 16))) == 3
    check_submodules(network)


def test_initialisation_makes_residual_blocks_identities(plan_arguments):
    network = CFNet(4, num_classes=3, **plan_arguments(residual=True))
    network.apply(network.initialize)
    block = network.encoder.second.stages[1].blocks[0]
    assert block.conv2.norm.weight.abs().max() == 0


@pytest.mark.parametrize("norm", [{"norm_op": None}, {"norm_op_kwargs": {}}], ids=["no norm", "norm without a weight"])
def test_initialisation_needs_no_weights_of_norms(plan_arguments, norm):
    network = CFNet(4, num_classes=3, residual_encoders=True, **plan_arguments() | norm)
    network.apply(network.initialize)
    assert network(torch.randn(1, 4, 16, 16, 16)).isfinite().all()


@pytest.mark.parametrize("residual", [False, True])
def test_fp16_is_finite_for_an_input_scaled_by_100(plan_arguments, residual):
    network = CFNet(4, num_classes=3, deep_supervision=True, **plan_arguments(residual=residual))
    network.apply(network.initialize)
    with torch.autocast("cpu", dtype=torch.float16):
        outputs = network(100 * torch.randn(1, 4, 16, 16, 16))
    assert all(torch.isfinite(output).all() for output in outputs)
    sum_of_outputs(outputs).backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in network.parameters())


@pytest.mark.slow
@pytest.mark.parametrize("switches", [{"recompute": False}, {"residual_encoders": True}], ids=str)
def test_traces_as_one_graph(plan_arguments, switches):
    network = CFNet(4, num_classes=3, deep_supervision=True, fusion_heads=1, **plan_arguments(2, 3), **switches)
    compiled = torch.compile(network, fullgraph=True, backend="aot_eager")
    x = torch.randn(1, 4, 16, 16)
    expected, outputs = network(x), compiled(x)
    for output, reference in zip(outputs, expected, strict=True):
        torch.testing.assert_close(output, reference)
    sum_of_outputs(outputs).backward()
    assert all(parameter.grad is not None for parameter in network.parameters())


def test_batch_norm_is_never_recomputed(plan_arguments):
    arguments = {**plan_arguments(), "norm_op": nn.BatchNorm3d, "norm_op_kwargs": {}}
    network = CFNet(4, num_classes=3, deep_supervision=True, recompute=True, **arguments)
    sum_of_outputs(network(torch.randn(2, 4, 16, 16, 16))).backward()
    tracked = [module for module in network.modules() if isinstance(module, nn.BatchNorm3d)]
    assert {int(module.num_batches_tracked) for module in tracked} == {1}


def build_on_meta(network_class: type[nn.Module], arguments: dict) -> nn.Module:
    """A network as it trains, without memory."""
    with torch.device("meta"):
        return network_class(4, num_classes=3, deep_supervision=True, **arguments)


@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize(
    ("dim", "features", "size"),
    [(3, [32, 64, 128, 256, 320, 320], (128,) * 3), (2, [32, 64, 128, 256, 512, 512], (192, 160))],
)
def test_cost_is_the_plans_own(plan_arguments, dim, features, size, residual):
    """No more memory and FLOPs than the network that the plan is for."""
    arguments = {**plan_arguments(dim, 6, residual), "features_per_stage": features}
    if residual:
        arguments["n_blocks_per_stage"] = [1, 3, 4, 6, 6, 6]  # ResEnc M
    own = build_on_meta(ResidualEncoderUNet if residual else PlainConvUNet, arguments)
    ours = build_on_meta(CFNet, arguments | {"residual_encoders": dim == 3})  # as planning/plans.py translates the plan
    share = 0.93 if dim == 3 and not residual else 0.9
    assert count_saved_bytes(ours, 4, size, batch_size=2) <= share * count_saved_bytes(own, 4, size, batch_size=2)
    assert count_forward_flops(ours, 4, size) <= count_forward_flops(own, 4, size)
    assert count_parameters(ours) <= 1.2 * count_parameters(own)


def stored_over_estimated(arguments: dict, size: tuple[int, ...]) -> float:
    """Two fp32 values, a conv's output and its activation, for each that compute_conv_feature_map_size counts."""
    features = [min(32 * 2**stage, 320) for stage in range(arguments["n_stages"])]
    network = build_on_meta(CFNet, arguments | {"features_per_stage": features})
    return count_saved_bytes(network, 4, size, batch_size=1) / (8 * network.compute_conv_feature_map_size(size))


@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize(
    ("dim", "n_stages", "anisotropic", "size"),
    [(3, 6, False, (64, 96, 64)), (3, 5, True, (24, 96, 80)), (2, 7, False, (512, 384)), (2, 4, False, (64, 64))],
)
@pytest.mark.parametrize(
    "switches",
    [{}, {"recompute": False}, {"residual_encoders": True}],
    ids=["recomputed", "stored", "residual_encoders"],
)
def test_feature_map_size_tracks_what_is_stored(plan_arguments, switches, dim, n_stages, anisotropic, size, residual):
    arguments = plan_arguments(dim, n_stages, residual, anisotropic) | switches
    assert 1 / 1.15 < stored_over_estimated(arguments, size) < 1.15


@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize(("dim", "size"), [(3, (32, 48, 32)), (2, (96, 64))])
def test_estimate_tracks_what_every_fusion_stores(plan_arguments, dim, size, residual):
    names = ("fusion", "communication", "recompute", "mask_missing_groups")
    for values in product(FUSIONS, *[(True, False)] * 3):
        switches = dict(zip(names, values, strict=True)) | {"fusion_heads": [1, 1, 2, 4, 8]}
        assert 1 / 1.15 < stored_over_estimated(plan_arguments(dim, 5, residual) | switches, size) < 1.15, switches


@pytest.mark.slow
def test_compiled_backward_repeats_no_conv_of_a_block(plan_arguments):
    repeated = []

    def read_backward(graph: torch.fx.GraphModule, inputs: list) -> Callable:
        convs = graph.graph.find_nodes(op="call_function", target=torch.ops.aten.convolution.default)
        repeated.extend(tuple(conv.args[1].meta["val"].shape[2:]) for conv in convs)
        return make_boxed_func(graph.forward)

    backend = aot_autograd(
        fw_compiler=lambda graph, inputs: make_boxed_func(graph.forward),
        bw_compiler=read_backward,
        partition_fn=min_cut_rematerialization_partition,  # as inductor, nnU-Net's default, does
    )
    network = CFNet(4, num_classes=3, deep_supervision=True, fusion_heads=1, **plan_arguments(2, 3))
    sum_of_outputs(torch.compile(network, fullgraph=True, backend=backend)(torch.randn(1, 4, 16, 16))).backward()
    assert set(repeated) == {(2, 2)}  # upsampling; the blocks' kernels are (3, 3), and 1x1 convs matrix products
