"""The published loss: 0.6 Dice + 0.4 focal."""

import torch
from monai.losses import DiceLoss
from torch import nn
from torch.nn import functional as F

DICE_WEIGHT, FOCAL_WEIGHT = 0.6, 0.4
ALPHA, GAMMA = 0.25, 2
SMOOTH = 1e-5


class DiceFocalLoss(nn.Module):
    """Soft Dice of every class, background included, and focal loss.

        Dice  = mean over classes of 1 - (2 sum p y + smooth) / (sum p^2 + sum y^2 + smooth)
        focal = mean over pixels of -alpha (1 - p_t)^gamma log p_t
        loss  = 0.6 Dice + 0.4 focal;  smooth 1e-5, alpha 0.25, gamma 2

    p is the softmax of the logits, y the one-hot target, p_t the p of the true class; sums are over the batch's pixels.

    Source: the release's training script; focal loss: Lin et al., 2017, doi:10.1109/ICCV.2017.324.
    Departures: the script's focal term is -(1 - p_t)^gamma log p of all classes, the true one weighed by alpha and the
    others by 1 - alpha: it draws probability to wrong classes. Here it is the focal loss. With regions, which the
    release does not have, p is a sigmoid and each region has a p_t of its own. Pixels of an ignore label are left out.
    Under DDP the Dice is that of each GPU's share of the batch.

    Args:
        has_regions: the target is one-hot regions instead of labels.
        ignore_label: of pixels to leave out; with regions they are set in the target's last channel. None for none.

    Shape:
        logits (B, C, *S), target (B, 1, *S), or of regions (B, C, *S) and one more channel to ignore -> scalar.
    """

    def __init__(self, has_regions: bool, ignore_label: int | None = None) -> None:
        super().__init__()
        self.has_regions = has_regions
        self.ignore_label = ignore_label
        # MONAI's with these settings is the published formula
        self.dice = DiceLoss(squared_pred=True, batch=True, smooth_nr=SMOOTH, smooth_dr=SMOOTH)

    def forward(self, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        logits = logits.float()  # sums over a batch's pixels overflow in fp16
        counted = self._counted(target)
        if self.has_regions:
            truth = target[:, : logits.shape[1]].float()
            probability = torch.sigmoid(logits)
            surprise = F.binary_cross_entropy_with_logits(logits, truth, reduction="none")  # -log p_t: (B, C, *S)
        else:
            labels = torch.where(counted, target, 0)[:, 0].long()
            truth = F.one_hot(labels, logits.shape[1]).movedim(-1, 1).float()
            probability = torch.softmax(logits, dim=1)
            surprise = F.cross_entropy(logits, labels, reduction="none")[:, None]  # -log p_t: (B, 1, *S)
        focal = ALPHA * (1 - torch.exp(-surprise)) ** GAMMA * surprise * counted
        focal = focal.sum() / (counted.sum() * focal.shape[1]).clamp(min=1)
        return DICE_WEIGHT * self.dice(probability * counted, truth * counted) + FOCAL_WEIGHT * focal

    def _counted(self, target: torch.Tensor) -> torch.Tensor:
        """Which pixels count: (B, 1, *S), bool."""
        if self.ignore_label is None:
            return torch.ones_like(target[:, :1], dtype=torch.bool)
        return ~target[:, -1:].bool() if self.has_regions else target != self.ignore_label
