"""The deterministic inputs of the parity data, and the plans that the network tests build."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn


@pytest.fixture(scope="session")
def published_outputs(parity_folder) -> dict[str, torch.Tensor]:
    """Of the four modules, and `logits` of the network."""
    outputs = {}
    for file in ("modules.npz", "network.npz"):
        with np.load(parity_folder / file) as arrays:
            outputs |= {name: torch.from_numpy(arrays[name]) for name in arrays}
    return outputs


@pytest.fixture(scope="session")
def published_input() -> Callable[[tuple[int, ...], int], torch.Tensor]:
    def make(shape: tuple[int, ...], k: int) -> torch.Tensor:
        i = np.arange(np.prod(shape), dtype=np.float64)
        values = np.sin(0.7 * i + k) + 0.5 * np.cos(0.013 * i * (k + 1))
        return torch.from_numpy(values.astype(np.float32).reshape(shape)).double()

    return make


@pytest.fixture(scope="session")
def fill_published(published_values) -> Callable[[nn.Module, dict[str, str]], nn.Module]:
    """Fill a module by the published rule; `names` maps our prefixes to the release's, longest prefix first."""

    def fill(module: nn.Module, names: dict[str, str]) -> nn.Module:
        state = {}
        for ours, value in module.double().state_dict().items():
            if not value.is_floating_point():
                continue
            prefix = next(prefix for prefix in sorted(names, key=len, reverse=True) if ours.startswith(prefix))
            state[ours] = published_values(names[prefix] + ours[len(prefix) :], tuple(value.shape))
        module.load_state_dict(state, strict=False)
        return module.eval()

    return fill


@pytest.fixture(scope="session")
def plan_arguments() -> Callable[..., dict]:
    """Constructor arguments as a plan has them, small: topology(dim, n_stages, residual, anisotropic)."""

    def topology(dim: int = 3, n_stages: int = 4, residual: bool = False, anisotropic: bool = False) -> dict:
        kernels = [[3] * dim for _ in range(n_stages)]
        strides = [[1] * dim] + [[2] * dim for _ in range(n_stages - 1)]
        if anisotropic:
            kernels[0][0] = kernels[1][0] = strides[1][0] = 1
        blocks = (
            {"n_blocks_per_stage": [1, 2] + [2] * (n_stages - 2), "n_conv_per_stage_decoder": [1] * (n_stages - 1)}
            if residual
            else {"n_conv_per_stage": [2] * n_stages, "n_conv_per_stage_decoder": [2] * (n_stages - 1)}
        )
        return {
            "n_stages": n_stages,
            "features_per_stage": [min(8 * 2**stage, 32) for stage in range(n_stages)],
            "conv_op": {2: nn.Conv2d, 3: nn.Conv3d}[dim],
            "kernel_sizes": kernels,
            "strides": strides,
            "conv_bias": True,
            "norm_op": {2: nn.InstanceNorm2d, 3: nn.InstanceNorm3d}[dim],
            "norm_op_kwargs": {"eps": 1e-5, "affine": True},
            "nonlin": nn.LeakyReLU,
            "nonlin_kwargs": {"inplace": True},
            **blocks,
        }

    return topology


@pytest.fixture
def anisotropic_3d() -> tuple[int, ...]:
    """A spatial size that is different on every axis."""
    return (3, 5, 4)


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)
