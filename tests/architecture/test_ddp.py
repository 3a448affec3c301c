"""Distributed data parallel as nnU-Net uses it: without find_unused_parameters."""

import os

import pytest
import torch
from torch import distributed, multiprocessing
from torch.nn.parallel import DistributedDataParallel

from nnunetv2_cfnet.architecture.cfnet import CFNet


def train_two_steps(rank: int, rendezvous: str, arguments: dict, compiled: bool) -> None:
    """DDP fails in the second step if a parameter took no part in the first. nnU-Net compiles what it then wraps."""
    distributed.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=2)
    torch.set_num_threads(1)
    torch.manual_seed(rank)
    network: torch.nn.Module = CFNet(4, num_classes=3, deep_supervision=True, **arguments)
    if compiled:
        network = torch.compile(network, backend="aot_eager")
    network = DistributedDataParallel(network, bucket_cap_mb=1)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01)
    for _ in range(2):
        optimizer.zero_grad()
        loss = sum(output.square().mean() for output in network(torch.randn(2, 4, 16, 16)))
        loss.backward()
        optimizer.step()
    for parameter in network.parameters():
        of_first = parameter.detach().clone()
        distributed.broadcast(of_first, src=0)
        assert torch.equal(of_first, parameter)
    distributed.barrier()
    os._exit(0)  # all is checked; gloo's threads now and then abort an orderly exit of the interpreter


@pytest.mark.parametrize(
    ("switches", "compiled"),
    [
        ({}, False),
        # large enough for several of DDP's buckets, at which it splits compiled graphs
        pytest.param({"features_per_stage": [32, 64, 128]}, True, marks=pytest.mark.slow),
        pytest.param(
            {"fusion": "concatenation", "context": False, "communication": False}, False, marks=pytest.mark.slow
        ),
    ],
)
def test_two_processes_train_the_wrapped_network(plan_arguments, tmp_path, switches, compiled):
    arguments = {**plan_arguments(2, 3), "fusion_heads": 1, **switches}
    multiprocessing.spawn(train_two_steps, args=(str(tmp_path / "rendezvous"), arguments, compiled), nprocs=2)
