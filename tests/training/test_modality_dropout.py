"""Modality dropout: which channels of a sample stay, through nnU-Net's own augmentation."""

import pickle
from collections import Counter

import numpy as np
import pytest
import torch
from batchgenerators.dataloading.nondet_multi_threaded_augmenter import NonDetMultiThreadedAugmenter
from batchgeneratorsv2.transforms.utils.compose import ComposeTransforms
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from scipy.stats import chisquare

from nnunetv2_cfnet.training.modality_dropout import ModalityDropout, draw_subset

NOTHING_DONE = ComposeTransforms([])


@pytest.fixture(autouse=True)
def seeded() -> None:
    np.random.seed(0)
    torch.manual_seed(0)


def kept(image: torch.Tensor) -> tuple[int, ...]:
    return tuple(index for index, channel in enumerate(image) if channel.any())


def full_augmentation(shape: tuple[int, ...], cascade_labels: int = 0) -> ComposeTransforms:
    """nnU-Net's, of a patch that is cut out of a sample of this shape."""
    return nnUNetTrainer.get_training_transforms(
        patch_size=shape,
        rotation_for_DA=(-0.5, 0.5),
        deep_supervision_scales=None,
        mirror_axes=tuple(range(len(shape))),
        do_dummy_2d_data_aug=False,
        is_cascaded=cascade_labels > 0,
        foreground_labels=list(range(1, cascade_labels + 1)) if cascade_labels else None,
    )


def make_sample(shape: tuple[int, ...], absent: tuple[int, ...] = (), seg_channels: int = 1) -> dict[str, torch.Tensor]:
    image = torch.randn(4, *shape)
    image[list(absent)] = 0
    return {"image": image, "segmentation": torch.ones(seg_channels, *shape, dtype=torch.int16)}


@pytest.mark.parametrize("absent", [(), (0,), (0, 2), (0, 1, 3)])
def test_subsets_are_uniform_over_the_non_empty_ones_of_what_is_there(absent):
    present = torch.tensor([channel not in absent for channel in range(4)])
    counts = Counter(tuple(torch.where(draw_subset(present))[0].tolist()) for _ in range(6000))
    assert () not in counts
    assert not any(set(subset) & set(absent) for subset in counts)
    assert len(counts) == 2 ** (4 - len(absent)) - 1
    assert len(counts) == 1 or chisquare(list(counts.values())).pvalue > 1e-3


def test_each_sample_has_a_subset_of_its_own():
    dropout = ModalityDropout(NOTHING_DONE, num_channels=4)
    subsets = {kept(dropout(**make_sample((4, 4)))["image"]) for _ in range(200)}
    assert len(subsets) == 15


def test_what_stays_is_unchanged_and_the_rest_is_zero():
    sample = make_sample((4, 4))
    image = sample["image"].clone()
    dropped = ModalityDropout(NOTHING_DONE, num_channels=4)(**sample)["image"]
    for before, after in zip(image, dropped, strict=True):
        assert torch.equal(after, before) or not after.any()


@pytest.mark.parametrize("shape", [(20, 24), (12, 16, 14)])
def test_absent_channels_stay_absent_through_nnunets_augmentation(shape):
    augmentation = full_augmentation(shape)
    dropout = ModalityDropout(augmentation, num_channels=4)
    refilled = 0
    for _ in range(60):
        refilled += 1 in kept(augmentation(**make_sample(shape, absent=(1,)))["image"])
        subset = kept(dropout(**make_sample(shape, absent=(1,)))["image"])
        assert subset
        assert 1 not in subset
    assert refilled  # or this test shows nothing


def test_channels_of_a_cascades_previous_stage_are_left_alone():
    shape = (12, 16, 14)
    dropout = ModalityDropout(full_augmentation(shape, cascade_labels=3), num_channels=4)
    sizes = set()
    for _ in range(40):
        image = dropout(**make_sample(shape, seg_channels=2))["image"]
        assert image.shape == (7, *shape)
        assert image[4:].any()
        sizes.add(len(kept(image[:4])))
    assert sizes == {1, 2, 3, 4}


def test_a_sample_with_nothing_stays_as_it_is_augmented():
    sample = make_sample((4, 4), absent=(0, 1, 2, 3))
    assert not ModalityDropout(NOTHING_DONE, num_channels=4)(**sample)["image"].any()


def test_the_segmentation_is_left_alone():
    sample = make_sample((4, 4))
    segmentation = sample["segmentation"].clone()
    assert torch.equal(ModalityDropout(NOTHING_DONE, num_channels=4)(**sample)["segmentation"], segmentation)


def test_the_transform_is_pickled():
    dropout = pickle.loads(pickle.dumps(ModalityDropout(full_augmentation((20, 24)), num_channels=4)))
    assert kept(dropout(**make_sample((20, 24)))["image"])


class Subsets:
    """A loader of nnU-Net's augmenter: what each worker draws."""

    def __init__(self) -> None:
        self.dropout = ModalityDropout(NOTHING_DONE, num_channels=4)

    def set_thread_id(self, thread_id: int) -> None:
        self.thread_id = thread_id

    def __next__(self) -> dict:
        subsets = [kept(self.dropout(**make_sample((4, 4)))["image"]) for _ in range(20)]
        return {"thread": self.thread_id, "subsets": subsets}


@pytest.mark.host
def test_workers_draw_different_subsets():
    augmenter = NonDetMultiThreadedAugmenter(Subsets(), None, num_processes=2, num_cached=2, seeds=None)
    first_of: dict[int, list] = {}
    try:
        while len(first_of) < 2:
            batch = next(augmenter)
            first_of.setdefault(batch["thread"], batch["subsets"])
    finally:
        augmenter._finish()
    assert first_of[0] != first_of[1]
