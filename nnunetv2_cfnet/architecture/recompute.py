"""Activation recomputation: spend a second forward of cheap operations to free what they would store for backward."""

from collections.abc import Callable
from functools import partial

import torch
from torch.utils.checkpoint import checkpoint


def runner(recompute: bool) -> Callable[..., torch.Tensor]:
    """A function (block, *inputs) -> output that stores, or recomputes in backward, what the block holds.

    Non-reentrant, so that it compiles with fullgraph=True, works under DDP, and stops the second forward at the last
    tensor that backward asks for: a conv that ends the block runs once. Not for blocks with random numbers, or with
    BatchNorm, whose running statistics a second forward would update twice.
    """
    return partial(checkpoint, use_reentrant=False, preserve_rng_state=False) if recompute else _call


def _call(block: Callable[..., torch.Tensor], *inputs: torch.Tensor) -> torch.Tensor:
    return block(*inputs)
