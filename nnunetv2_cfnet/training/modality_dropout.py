"""Modality dropout: in training, each sample keeps a random subset of the sequences that it has."""

from collections.abc import Callable

import numpy as np
import torch


class ModalityDropout:
    """An augmentation, after which all channels but a random subset of those that the sample has are zero.

    The subset is uniform over the non-empty subsets of the channels that are not all zero in the sample, as RFNet,
    mmFormer and others draw it. A channel that the sample lacks stays without values: what is there is seen before
    the augmentation, whose noise fills zeros. A sample with nothing, a patch of background, stays as it is augmented.

    Drawn by NumPy, which batchgenerators seeds anew in each of its worker processes. Forked workers share the state of
    torch's generator, as far as nnU-Net's own augmentations go, and would all draw the same subsets from it.

    Args:
        augmentation: a transform, such as nnU-Net's whole augmentation, which the data loader calls with a sample.
        num_channels: of the dataset. Further channels, those of a cascade's previous stage, are left alone.

    Shape:
        image (C, *S) -> (C', *S'), C and C' at least num_channels.
    """

    def __init__(self, augmentation: Callable[..., dict], num_channels: int) -> None:
        self.augmentation = augmentation
        self.num_channels = num_channels

    def __call__(self, **sample: torch.Tensor) -> dict:
        """Look, augment, drop."""
        present = sample["image"][: self.num_channels].flatten(1).any(dim=1)
        augmented = self.augmentation(**sample)
        if present.any():
            augmented["image"][: self.num_channels][~draw_subset(present)] = 0
        return augmented


def draw_subset(present: torch.Tensor) -> torch.Tensor:
    """One of the non-empty subsets of what is present, which is not nothing: (C,) -> (C,), of booleans."""
    kept = np.zeros(int(present.sum()), dtype=bool)
    while not kept.any():  # all subsets are as likely, and the empty one is drawn again
        kept = np.random.random(len(kept)) < 0.5
    subset = present.clone()
    subset[present] = torch.from_numpy(kept)
    return subset
