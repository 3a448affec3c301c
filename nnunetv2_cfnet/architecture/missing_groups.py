"""Missing modality groups: zeros in the place of what an encoder makes of a group that a sample lacks.

    X_i <- X_i where any of group i's channels is nonzero in the sample, else 0

Otherwise an encoder turns a group of zeros into features of full strength: its biases, and the borders that padding
makes, amplified by instance norm. Not in the paper, whose inputs are complete. It is a selection, since a product with
what is not finite would not be zero. A sample without any group, such as a patch of background, is taken as complete.
"""

from collections.abc import Callable, Iterable, Sequence
from functools import partial

import torch

Fuse = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def fuse_as_given(fusions: Iterable[Fuse], x: torch.Tensor) -> list[Fuse]:
    """The fusions, without a mask: every group is taken as present."""
    return list(fusions)


def fuse_present_groups(
    fusions: Iterable[Fuse], x: torch.Tensor, modality_groups: Sequence[Sequence[int]]
) -> list[Fuse]:
    """Fusions that put zeros in the place of the maps of a group that x lacks.

    They do so themselves, so that zeros are recomputed in backward with what a fusion holds. Of the mask, booleans are
    stored, beside the encoders' maps, which are stored anyway.

    Args:
        fusions: functions of both encoders' maps: two of (B, C_s, *S_s) -> (B, C_f, *S_f).
        x: the network's input, (B, C, *S).
        modality_groups: two sequences of channel indices; a channel in both counts for both. Channels that neither
            names, those of a cascade's previous stage, do not count.
    """
    present_1, present_2 = (_present(x, group) for group in modality_groups)
    none = ~(present_1 | present_2)
    return [partial(_fuse, fuse, present_1 | none, present_2 | none) for fuse in fusions]


def _present(x: torch.Tensor, group: Sequence[int]) -> torch.Tensor:
    """Whether a sample has anything in a group's channels: (B, C, *S) -> (B, 1, *1)."""
    nonzero = torch.stack([x[:, channel].flatten(1).any(dim=1) for channel in group])
    return nonzero.any(dim=0).view(-1, *[1] * (x.ndim - 1))


def _fuse(
    fuse: Fuse, present_1: torch.Tensor, present_2: torch.Tensor, first: torch.Tensor, second: torch.Tensor
) -> torch.Tensor:
    return fuse(torch.where(present_1, first, 0), torch.where(present_2, second, 0))
