"""The published loss, against values worked out by hand."""

import math

import pytest
import torch
from torch.nn import functional as F

from nnunetv2_cfnet.training.losses import DiceFocalLoss

NEAR = {"abs": 1e-5}
LN2, LN3, LN4 = math.log(2), math.log(3), math.log(4)


def of_pixels(*values: list[float]) -> torch.Tensor:
    """Values of each channel -> (1, C, 1, pixels)."""
    return torch.tensor(values)[None, :, None]


def test_even_odds():
    """p is 1/2 everywhere: each class has Dice 2 * 0.5 / (2 * 0.25 + 1) = 2/3; focal is 0.25 * 0.25 * ln 2."""
    loss = DiceFocalLoss(has_regions=False)
    value = loss(of_pixels([0.0, 0.0], [0.0, 0.0]), of_pixels([0, 1]))
    assert value.item() == pytest.approx(0.6 / 3 + 0.4 * 0.0625 * LN2, **NEAR)


def test_three_pixels_of_two_classes():
    """p of class 0 is 3/4 everywhere, the labels are 0, 0, 1.

    Dice of class 0: 2 * 1.5 / (3 * 9/16 + 2) = 48/59; of class 1: 2 * 1/4 / (3 * 1/16 + 1) = 8/19. Focal: two pixels of
    1/4 (1/4)^2 ln(4/3), one of 1/4 (3/4)^2 ln 4.
    """
    dice = 1 - (48 / 59 + 8 / 19) / 2
    focal = (2 / 64 * (LN4 - LN3) + 9 / 64 * LN4) / 3
    value = DiceFocalLoss(has_regions=False)(of_pixels([LN3] * 3, [0.0] * 3), of_pixels([0, 0, 1]))
    assert value.item() == pytest.approx(0.6 * dice + 0.4 * focal, **NEAR)


def test_overlapping_regions():
    """p is 3/4 and 1/2 on two pixels; region 1 is on both, region 2 on the first.

    Dice of region 1: 2 * 3/2 / (2 * 9/16 + 2) = 24/25; of region 2: 2 * 1/2 / (2 * 1/4 + 1) = 2/3. Focal: 1/64 ln(4/3)
    twice and 1/16 ln 2 twice, over two pixels of two regions.
    """
    dice = 1 - (24 / 25 + 2 / 3) / 2
    focal = (2 / 64 * (LN4 - LN3) + 2 / 16 * LN2) / 4
    value = DiceFocalLoss(has_regions=True)(of_pixels([LN3, LN3], [0.0, 0.0]), of_pixels([1, 1], [1, 0]))
    assert value.item() == pytest.approx(0.6 * dice + 0.4 * focal, **NEAR)


def test_sums_are_over_the_batch():
    """The same pixels in one sample or in three."""
    logits, labels = torch.randn(1, 3, 1, 6), torch.randint(3, (1, 1, 1, 6))
    loss = DiceFocalLoss(has_regions=False)
    apart = [torch.cat(x.split(2, dim=3)) for x in (logits, labels)]
    torch.testing.assert_close(loss(*apart), loss(logits, labels))


def test_a_class_that_is_absent_and_not_predicted_costs_nothing():
    logits = of_pixels([50.0, 50.0], [-50.0, -50.0], [-50.0, -50.0])
    assert DiceFocalLoss(has_regions=False)(logits, of_pixels([0, 0])).item() == pytest.approx(0, **NEAR)


@pytest.mark.parametrize("has_regions", [False, True])
def test_ignored_pixels_do_not_count(has_regions):
    logits, labels = torch.randn(2, 3, 4, 4), torch.randint(3, (2, 1, 4, 4))
    target = F.one_hot(labels[:, 0], 3).movedim(-1, 1) if has_regions else labels
    expected = DiceFocalLoss(has_regions)(logits, target)
    with_border = F.pad(logits, (0, 2), value=9.0).requires_grad_()
    if has_regions:
        border = torch.cat(
            (F.pad(target, (0, 2)), F.pad(torch.zeros(2, 1, 4, 4, dtype=torch.long), (0, 2), value=1)), 1
        )
    else:
        border = F.pad(target, (0, 2), value=3)
    value = DiceFocalLoss(has_regions, ignore_label=3)(with_border, border)
    torch.testing.assert_close(value, expected)
    value.backward()
    assert with_border.grad[..., 4:].abs().max() == 0
    assert with_border.grad[..., :4].abs().max() > 0


def test_a_batch_of_ignored_pixels_alone_is_finite():
    value = DiceFocalLoss(False, ignore_label=2)(torch.randn(1, 2, 4, 4), torch.full((1, 1, 4, 4), 2))
    assert torch.isfinite(value)


def test_half_precision_logits_do_not_overflow():
    """40 slices of 240 x 240 have more pixels than fp16 has numbers to count them."""
    logits = torch.zeros(40, 1, 240, 240, dtype=torch.float16)
    value = DiceFocalLoss(has_regions=True)(logits, torch.ones(40, 1, 240, 240))
    assert value.item() == pytest.approx(0.6 * (1 - 0.8) + 0.4 * 0.0625 * LN2, **NEAR)
