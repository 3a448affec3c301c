"""The fusions that the ablation tries: each has a gradient everywhere, and is a concatenation without what it adds."""

from pathlib import Path

import pytest
import torch
from torch import nn

from nnunetv2_cfnet.architecture.fusion import ConcatenationFusion

PARTS = {"conv_op": nn.Conv3d, "input_channels": 4, "output_channels": 6, "num_heads": 2}
PARTS |= {"norm": nn.InstanceNorm3d, "nonlin": nn.LeakyReLU}
ADDED = ("gain_1", "gain_2", "scale", "project_product.weight")


@pytest.fixture(params=["attention of gain 1", "token attention", "channel steering", "voxel gates", "product"])
def fusion(request, monkeypatch) -> ConcatenationFusion:
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "benchmarks")
    from fusion_variants import VARIANTS

    torch.manual_seed(0)
    return VARIANTS[request.param](**PARTS)


def test_every_parameter_of_a_variant_acts(fusion):
    maps = [torch.randn(2, 4, 16, 8, 6) for _ in range(2)]
    fused = fusion(*maps)
    assert fused.shape == (2, 6, 16, 8, 6)
    (fused * torch.randn_like(fused)).sum().backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in fusion.parameters())


def test_a_variant_is_a_concatenation_without_what_it_adds(fusion):
    maps = [torch.randn(2, 4, 8, 8, 8) for _ in range(2)]
    plain = ConcatenationFusion(**PARTS)
    plain.load_state_dict(fusion.state_dict(), strict=False)
    assert not torch.allclose(fusion(*maps), plain(*maps), atol=1e-3)
    parameters = dict(fusion.named_parameters())
    with torch.no_grad():
        for name in ADDED:
            if name in parameters:
                parameters[name].zero_()
    torch.testing.assert_close(fusion(*maps), plain(*maps))
