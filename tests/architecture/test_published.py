"""The published network as a whole."""

import json
import re
from pathlib import Path

import pytest
import timm
import torch
from torch import nn

from nnunetv2_cfnet.architecture.cost import count_parameters, count_saved_bytes
from nnunetv2_cfnet.architecture.published import PublishedCFNet
from nnunetv2_cfnet.architecture.published_weights import load_published_state_dict


def test_reproduces_the_releases_logits(release_state_dict, published_input, published_outputs):
    """network.npz was computed in float32; its logits reach 0.15."""
    network = PublishedCFNet(4, num_classes=4).eval()
    load_published_state_dict(network, release_state_dict)
    t1, t2, t1ce, flair = (published_input((1, 1, 64, 96), k).float() for k in range(4))
    with torch.no_grad():
        logits = network(torch.cat((t1, t1ce, t2, flair), dim=1))
    assert published_outputs["logits"].abs().max() > 0.1
    assert (logits - published_outputs["logits"]).abs().max() < 1e-5


def test_has_the_parameters_that_the_releases_forward_uses_and_no_others(release_entries):
    statistics = ("running_mean", "running_var", "num_batches_tracked")
    used = sum(
        torch.Size(shape).numel()
        for name, (shape, used) in release_entries.items()
        if used and not name.endswith(statistics)
    )
    assert count_parameters(PublishedCFNet(4, num_classes=4)) == used == 51_446_349


@pytest.mark.parametrize(
    ("channels", "groups", "num_classes"), [(4, ((0, 2), (1, 3)), 3), (2, ((0,), (1,)), 1), (1, ((0,), (0,)), 9)]
)
def test_any_number_of_classes_and_equal_groups(channels, groups, num_classes):
    network = PublishedCFNet(channels, num_classes, groups).eval()
    with torch.no_grad():
        assert network(torch.randn(1, channels, 16, 48)).shape == (1, num_classes, 16, 48)


def test_groups_choose_the_encoders_channels(seeded):
    network = PublishedCFNet(4, 2, [[0, 1], [2, 3]]).eval()
    reordered = PublishedCFNet(4, 2).eval()
    reordered.load_state_dict(network.state_dict())
    x = torch.randn(1, 4, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(network(x[:, [0, 2, 1, 3]]), reordered(x))
        assert not torch.allclose(network(x), reordered(x))


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((1, 4, 40, 32), r"an input of \(1, 4, 40, 32\) has a height of 40, which 16 does not divide: .* 32 or 48"),
        ((1, 6, 32, 32), r"an input of \(1, 6, 32, 32\) is not \(B, 4, H, W\)"),
        ((1, 4, 32, 32, 32), r"an input of \(1, 4, 32, 32, 32\) is not \(B, 4, H, W\)"),
        ((1, 4, 32, 8), r"a width of 8, which 16 does not divide: pad or crop it to 16\."),
    ],
)
def test_an_input_of_another_shape_is_refused(shape, message):
    with torch.device("meta"), pytest.raises(ValueError, match=message):
        PublishedCFNet(4, 4)(torch.zeros(shape))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((2, 4), r"modality_groups=\[\[0, 2\], \[1, 3\]\] does not fit an input of 2 channel"),
        ((3, 4, [[0, 1], [2]]), r"modality_groups=\[\[0, 1\], \[2\]\]: .* they need equally many channels"),
        ((4, 4, [[0, 2], [1, 3]], True), "deep_supervision=True: the published network has one output"),
    ],
)
def test_wrong_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        PublishedCFNet(*arguments)


def test_construction_loads_no_weights(monkeypatch):
    def refuse(*arguments, **more):
        pytest.fail("weights were asked for")

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", refuse)
    monkeypatch.setattr(timm.models._builder, "load_pretrained", refuse)
    first, second = PublishedCFNet(4, 4), PublishedCFNet(4, 4)
    assert not torch.equal(first.stem.conv1.weight, second.stem.conv1.weight)


@pytest.mark.slow
def test_training_traces_as_one_graph_and_every_parameter_gets_a_gradient():
    network = PublishedCFNet(4, num_classes=3)
    network.context.dropout.p = 0.0  # so that both draw the same
    compiled = torch.compile(network, fullgraph=True, backend="aot_eager")
    x = torch.randn(2, 4, 32, 48)
    logits = compiled(x)
    torch.testing.assert_close(logits, network(x))
    logits.square().sum().backward()
    assert [name for name, parameter in network.named_parameters() if parameter.grad is None] == []


def test_attention_is_finite_in_half_precision_on_a_whole_slice():
    """The release's K^T V over 240 x 240 pixels is far beyond fp16's 65504."""
    network = PublishedCFNet(4, num_classes=4).eval()
    nn.init.constant_(network.fusion[0].key_value_1.weight, 1.0)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.float16):
        logits = network(100 * torch.randn(1, 4, 240, 240))
    assert torch.isfinite(logits).all()


def test_memory_is_what_the_docs_say():
    """benchmarks.json counts batches of two."""
    docs = Path(__file__).parents[2] / "docs"
    counted = json.loads((docs / "benchmarks.json").read_text())["counts"]["topologies"]["2D-default"]["networks"]
    with torch.device("meta"):
        network = PublishedCFNet(4, num_classes=4)
    mib = {name: counted[name]["saved_bytes"] / 2 / 2**20 for name in ("own", "cfnet")}
    mib["published"] = count_saved_bytes(network, 4, (192, 160), batch_size=2) / 2 / 2**20
    page = (docs / "published.md").read_text()
    row = re.search(r"192 × 160, fp32 \| (\d+) MiB \(the plan's U-Net: (\d+)\) \| (\d+) MiB", page)
    for written, name in zip(row.groups(), ("cfnet", "own", "published"), strict=True):
        assert float(written) == pytest.approx(mib[name], rel=0.02)
    times = f"{mib['published'] / mib['own']:.1f} times"
    assert f"{times} what the plan's 2D U-Net stores" in page
    assert f"A slice stores {times} what nnU-Net plans for" in (docs.parent / "README.md").read_text()
