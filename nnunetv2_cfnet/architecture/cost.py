"""What a network costs, counted on the meta device: it takes no memory and is the same on every machine."""

from collections.abc import Sequence

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode


def count_parameters(network: nn.Module) -> int:
    """Numbers in all of a network's parameters."""
    return sum(parameter.numel() for parameter in network.parameters())


def count_forward_flops(network: nn.Module, input_channels: int, input_size: Sequence[int]) -> int:
    """FLOPs of the forward pass of one sample, two for each multiply-add (torch's FlopCounterMode).

    Args:
        network: on the meta device.
        input_channels: channels of its input.
        input_size: spatial size, without batch and channels.
    """
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network.eval()(torch.empty(1, input_channels, *input_size, device="meta"))
    return counter.get_total_flops()


def count_saved_bytes(network: nn.Module, input_channels: int, input_size: Sequence[int], batch_size: int) -> int:
    """Bytes of fp32 that a training step's forward pass keeps for backward, its parameters left out.

    Each storage that autograd saves is counted once. A step's peak adds parameters, gradients, the optimizer's state
    and what lives for a moment.

    Args:
        network: on the meta device.
        input_channels: channels of its input.
        input_size: spatial size, without batch and channels.
        batch_size: samples.
    """
    parameters = {parameter.untyped_storage()._cdata for parameter in network.parameters()}
    storages = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in parameters:
            storages[storage._cdata] = storage  # held, so that its address is not used again
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        network.train()(torch.empty(batch_size, input_channels, *input_size, device="meta"))
    return sum(storage.nbytes() for storage in storages.values())
