"""No part of CFNet is inert: on real MRI its weights depend on the input, and the output on them."""

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import SimpleITK
import torch
from torch import nn

from nnunetv2_cfnet.architecture.cfnet import CFNet
from nnunetv2_cfnet.architecture.context import MultiScaleContext
from nnunetv2_cfnet.architecture.decoder import CommunicationGate
from nnunetv2_cfnet.architecture.fusion import ChannelContext

MRI = Path(__file__).parents[1] / "data" / "open_ms"
PATIENTS = ("07", "19", "26")
PARTS = ("attention", "context", "gates")


def weight_modules(network: CFNet) -> dict[str, list[nn.Module]]:
    """The modules whose outputs are weights that depend on the input."""
    modules = list(network.modules())
    return {
        "attention": [module for module in modules if isinstance(module, ChannelContext)],
        "context": [module.select for module in modules if isinstance(module, MultiScaleContext)],
        "gates": [module.attention for module in modules if isinstance(module, CommunicationGate)],
    }


@contextmanager
def hooked(modules: Iterable[nn.Module], hook: Callable) -> Iterator[None]:
    handles = [module.register_forward_hook(hook) for module in modules]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def weights_of(network: CFNet, x: torch.Tensor, part: str) -> dict[nn.Module, torch.Tensor]:
    seen: dict[nn.Module, torch.Tensor] = {}
    with (
        torch.no_grad(),
        hooked(weight_modules(network)[part], lambda module, _, output: seen.update({module: output})),
    ):
        network(x)
    return seen


def logits_with_mean_weights(network: CFNet, x: torch.Tensor, part: str) -> torch.Tensor:
    """What the network says where each weight of a part is its mean over the inputs."""
    weights = weights_of(network, x, part)
    mean = {module: output.mean(dim=0, keepdim=True).expand_as(output) for module, output in weights.items()}
    with torch.no_grad(), hooked(mean, lambda module, _, __: mean[module]):
        return network(x)[0]


@pytest.fixture(scope="module")
def mri() -> tuple[torch.Tensor, torch.Tensor]:
    """A crop of 32^3 voxels of each patient, z-scored, and its lesions."""

    def read(patient: str, name: str) -> np.ndarray:
        volume = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(MRI / f"patient{patient}_{name}.nii.gz")))
        return volume[:32, 4:36, 4:36].astype(np.float32)

    channels = [[read(patient, name) for name in ("t1", "t1ce", "t2", "flair")] for patient in PATIENTS]
    images = torch.from_numpy(np.array(channels))
    images = (images - images.mean(dim=(2, 3, 4), keepdim=True)) / images.std(dim=(2, 3, 4), keepdim=True)
    lesions = np.array([[read(patient, "seg")] for patient in PATIENTS])
    return images, torch.from_numpy(lesions)


@pytest.fixture(scope="module")
def make_network(plan_arguments):
    def make() -> CFNet:
        torch.manual_seed(0)
        as_trained = {"modality_groups": [[0, 1], [2, 3]], "residual_encoders": True}
        network = CFNet(4, num_classes=1, deep_supervision=True, **as_trained, **plan_arguments(3, 4))
        network.apply(network.initialize)
        return network

    return make


@pytest.fixture(scope="module")
def fresh(make_network) -> CFNet:
    return make_network()


@pytest.fixture(scope="module")
def trained(make_network, mri) -> CFNet:
    """After a few steps of nnU-Net's optimizer: that parts are connected. docs/ablation.md has longer trainings."""
    network, (images, lesions) = make_network(), mri
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-2, momentum=0.9, nesterov=True)
    for _ in range(12):
        optimizer.zero_grad()
        nn.functional.binary_cross_entropy_with_logits(network(images)[0], lesions).backward()
        nn.utils.clip_grad_norm_(network.parameters(), 12)
        optimizer.step()
    return network


@pytest.fixture(params=["fresh", "trained"])
def network(request) -> CFNet:
    return request.getfixturevalue(request.param)


def test_attention_is_not_uniform_and_differs_between_inputs(network, mri):
    contexts = weights_of(network, mri[0], "attention")
    assert len(contexts) == 4  # both groups, two scales
    for context in contexts.values():
        entropy = -(context * context.log()).sum(dim=2).mean()
        assert entropy < 0.97 * math.log(context.shape[2])
        assert context.std(dim=0).mean() > 0.1 * context.mean(dim=0).std()


def test_branch_weights_of_the_context_differ_between_inputs(network, mri):
    (weights,) = weights_of(network, mri[0], "context").values()
    assert weights.std(dim=0).mean() > 0.05


def test_gates_start_open_and_differ_between_inputs(fresh, mri):
    for gate in weights_of(fresh, mri[0], "gates").values():
        assert gate.mean() > 0.9
        assert gate.std(dim=0).mean() > 0.02


@pytest.mark.parametrize("part", PARTS)
def test_what_a_part_sees_changes_the_logits_of_a_trained_network(trained, mri, part):
    with torch.no_grad():
        expected = trained(mri[0])[0]
    change = (logits_with_mean_weights(trained, mri[0], part) - expected).square().mean().sqrt()
    assert change > 5e-3 * expected.std()
