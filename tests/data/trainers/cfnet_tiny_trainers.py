"""Trainers of two short epochs, found through nnUNet_extTrainer as a user's own are."""

import multiprocessing
import sys
from pathlib import Path

import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.training.nnUNetTrainer.variants.data_augmentation.nnUNetTrainerDA5 import nnUNetTrainerDA5
from nnunetv2.training.nnUNetTrainer.variants.network_architecture.nnUNetTrainerBN import nnUNetTrainerBN

from nnunetv2_cfnet.training.trainers import (
    nnUNetTrainerCFNet,
    nnUNetTrainerCFNetModalityDropout,
    nnUNetTrainerCFNetPublished,
    nnUNetTrainerCFNetPublishedImageNet,
    nnUNetTrainerModalityDropout,
)

# In nnU-Net's commands alone, which have a process of their own. They take a thread for each core, though pytest's
# workers share these, and spawn helpers that import torch anew, for longer than the training here lasts: fork them. The
# tests of the demo and of the installation have them spawned.
if Path(sys.argv[0]).name.startswith("nnUNetv2_"):
    torch.set_num_threads(1)
    get_context = multiprocessing.get_context
    multiprocessing.get_context = lambda method=None: get_context("fork" if method == "spawn" else method)


class _Tiny:
    def __init__(self, plans, configuration, fold, dataset_json, device=torch.device("cuda")):  # noqa: B008
        super().__init__(plans, configuration, fold, dataset_json, device)
        self.num_epochs = 2
        self.num_iterations_per_epoch = 2
        self.num_val_iterations_per_epoch = 1


class nnUNetTrainerCFNetTiny(_Tiny, nnUNetTrainerCFNet):
    pass


class nnUNetTrainerCFNetModalityDropoutTiny(_Tiny, nnUNetTrainerCFNetModalityDropout):
    pass


class nnUNetTrainerModalityDropoutTiny(_Tiny, nnUNetTrainerModalityDropout):
    pass


class nnUNetTrainerCFNetPublishedTiny(_Tiny, nnUNetTrainerCFNetPublished):
    pass


class nnUNetTrainerCFNetPublishedImageNetTiny(_Tiny, nnUNetTrainerCFNetPublishedImageNet):
    pass


class nnUNetTrainerTiny(_Tiny, nnUNetTrainer):
    pass


class nnUNetTrainerDA5Tiny(_Tiny, nnUNetTrainerDA5):
    pass


class nnUNetTrainerBNTiny(_Tiny, nnUNetTrainerBN):
    pass
