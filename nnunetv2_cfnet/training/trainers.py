"""nnU-Net trainers for CFNet: `nnUNetv2_train DATASET CONFIGURATION FOLD -tr nnUNetTrainerCFNet`.

The network is named, with every argument, by the plans that nnUNetTrainerCFNet hands to nnU-Net, so that it overrides
nothing of the training itself, and stock nnUNetTrainer predicts from the model folder too. nnUNetTrainerCFNetPublished
trains the published network with the published recipe. nnUNetTrainerCFNetModalityDropout trains CFNet for cases that
lack sequences, nnUNetTrainerModalityDropout the plan's own network.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from nnunetv2.paths import nnUNet_results
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.file_path_utilities import get_output_folder

from nnunetv2_cfnet.architecture.published_weights import load_imagenet_weights
from nnunetv2_cfnet.planning.modality_groups import channel_names_of
from nnunetv2_cfnet.planning.plans import CFNetPlans, cfnet_plans, masked_plans, published_plans
from nnunetv2_cfnet.planning.trained_plans import keep_trained_plans
from nnunetv2_cfnet.training.modality_dropout import ModalityDropout

# nnU-Net's own list (nnunetv2/training/nnUNetTrainer/variants/training_length/nnUNetTrainer_Xepochs.py)
EPOCH_VARIANTS = (1, 5, 10, 20, 50, 100, 250, 500, 750, 2000, 4000, 8000)
DEMO_EPOCHS = 8
PUBLISHED_EPOCHS = 200


class nnUNetTrainerCFNet(nnUNetTrainer):
    """Trains CFNet on any nnU-Net plan of PlainConvUNet or ResidualEncoderUNet, with nnU-Net's own schedule.

    Args:
        plans: nnU-Net's plans; their architecture is turned into CFNet's, or taken as it is where it names CFNet.
        configuration: "2d", "3d_fullres", ..
        fold: 0 to 4, or "all".
        dataset_json: nnU-Net's dataset.json.
        device: where to train.

    Raises:
        ValueError: plans or modality groups that CFNet can't use, or that differ from those that the model folder
            was trained with. Nothing is written then.
    """

    #: epochs of the variants; None leaves nnU-Net's default
    epochs: int | None = None
    #: puts the network into the plans
    translate: Callable[[dict, dict, str], CFNetPlans] = staticmethod(cfnet_plans)

    def __init__(
        self,
        plans: dict,
        configuration: str,
        fold: int,
        dataset_json: dict,
        device: torch.device = torch.device("cuda"),  # noqa: B008 - nnU-Net's signature
    ) -> None:
        ours = self.translate(plans, dataset_json, configuration)
        if nnUNet_results.is_set():
            folder = get_output_folder(plans["dataset_name"], type(self).__name__, plans["plans_name"], configuration)
            ours = keep_trained_plans(ours, plans, dataset_json, configuration, Path(folder, "plans.json"))
        super().__init__(ours.plans, configuration, fold, dataset_json, device)
        if self.epochs is not None:
            self.num_epochs = self.epochs
        for note in ours.notes:
            self.print_to_log_file(note)

    def on_train_start(self) -> None:
        """Rename plans.json, dataset.json and fingerprint into the model folder, where nnU-Net writes them in place.

        Every fold's start does so: a kill or a full disk would leave half a file, and no fold could be predicted.
        """
        model_folder = Path(self.output_folder).parent
        unfinished = Path(self.output_folder, f".start_{self.local_rank}")
        unfinished.mkdir(exist_ok=True)
        self.output_folder_base = str(unfinished)
        try:
            super().on_train_start()
        finally:
            self.output_folder_base = str(model_folder)
        for file in unfinished.iterdir():
            file.replace(model_folder / file.name)
        unfinished.rmdir()

    def _save_debug_information(self) -> None:
        """nnU-Net's list of all attributes, debug.json: the last that its on_train_start does, with the files made."""
        self.output_folder_base = str(Path(self.output_folder).parent)
        super()._save_debug_information()


class nnUNetTrainerCFNetDemoBaseline(nnUNetTrainer):
    """nnUNetTrainer with the plan's own network, for a few minutes: what `nnunetv2_cfnet demo` compares CFNet with."""

    epochs: int | None = DEMO_EPOCHS

    def __init__(
        self,
        plans: dict,
        configuration: str,
        fold: int,
        dataset_json: dict,
        device: torch.device = torch.device("cuda"),  # noqa: B008 - nnU-Net's signature
    ) -> None:
        super().__init__(plans, configuration, fold, dataset_json, device)
        self.num_epochs = DEMO_EPOCHS
        self.num_iterations_per_epoch = 10
        self.num_val_iterations_per_epoch = 2
        self.save_every = 1
        self.initial_lr = 3e-2

    def configure_optimizers(self) -> tuple[torch.optim.Optimizer, object]:
        """Less momentum than nnU-Net's 0.99, which averages over about as many steps as this training has."""
        optimizer, scheduler = super().configure_optimizers()
        for group in optimizer.param_groups:
            group["momentum"] = 0.9
        return optimizer, scheduler


class nnUNetTrainerCFNetDemo(nnUNetTrainerCFNetDemoBaseline, nnUNetTrainerCFNet):
    """nnUNetTrainerCFNet for a few minutes, on the phantom of `nnunetv2_cfnet demo`; of no use for real data."""


class nnUNetTrainerModalityDropout(nnUNetTrainer):
    """nnUNetTrainer with modality dropout: trains the plan's own network for cases that lack any of their sequences.

    In training, each sample keeps a random subset of the sequences that it has (modality_dropout.py). Validation sees
    what is there.

    Raises:
        ValueError: a dataset of one channel. Nothing is written then.
    """

    #: epochs of the variants; None leaves nnU-Net's default
    epochs: int | None = None

    def __init__(
        self,
        plans: dict,
        configuration: str,
        fold: int,
        dataset_json: dict,
        device: torch.device = torch.device("cuda"),  # noqa: B008 - nnU-Net's signature
    ) -> None:
        names = channel_names_of(dataset_json)
        if len(names) < 2:
            raise ValueError(
                f"{plans['dataset_name']} has one channel, {names[0]!r}: there is no other to do without. Train "
                "nnUNetTrainerCFNet or nnUNetTrainer, or a dataset of several channels."
            )
        super().__init__(plans, configuration, fold, dataset_json, device)
        if self.epochs is not None:
            self.num_epochs = self.epochs

    def get_training_transforms(self, *args: Any, **kwargs: Any) -> Callable[..., dict]:
        """nnU-Net's augmentation, then dropout; no static method here, since the channels are to be known."""
        augmentation = super().get_training_transforms(*args, **kwargs)
        return ModalityDropout(augmentation, num_channels=len(channel_names_of(self.dataset_json)))


class nnUNetTrainerCFNetModalityDropout(nnUNetTrainerModalityDropout, nnUNetTrainerCFNet):
    """nnUNetTrainerCFNet with modality dropout: trains CFNet for cases that lack any of their sequences.

    A modality group without any sequence adds nothing (mask_missing_groups, whatever the plans say of it).

    Raises:
        ValueError: a dataset of one channel, or what nnUNetTrainerCFNet refuses. Nothing is written then.
    """

    translate = staticmethod(masked_plans)


class nnUNetTrainerCFNetPublished(nnUNetTrainerCFNet):
    """Trains the published 2D network in nnU-Net's configuration 2d, with the published recipe.

    0.6 Dice + 0.4 focal (losses.py); SGD, learning rate 0.01, momentum 0.9, weight decay 5e-4; the learning rate falls
    by a factor of 0.96 an epoch; 200 epochs; no deep supervision. Source: the release's training script.
    Departures:
    - Data path, patch, batch size, augmentation and foreground oversampling are nnU-Net's; published: whole 240 x 240
      slices with tumour, batches of 12, right-angled rotations, flips and rotations by up to 20 degrees.
    - An epoch is nnU-Net's 250 iterations; published: once over the training slices.
    - The variants of N epochs (nnUNetTrainerCFNetPublished_250epochs, ..) have the factor 0.96^(200 / N): the learning
      rate falls as far as in 200 epochs. The schedules of nnU-Net's variants span their epochs too.
    - nnU-Net's mixed precision, and its clipping of gradients at a norm of 12.
    - The release's script steps its scheduler twice an epoch, which makes the factor 0.9216; here it is 0.96.
    - The focal term is the focal loss (losses.py says what the script computes).
    - The encoders start from random weights; published: from ImageNet's (nnUNetTrainerCFNetPublishedImageNet).
    - Validation and prediction take overlapping tiles and mirror them, as nnU-Net's; published: each slice once.
    - The last epoch's weights are predicted with, as always in nnU-Net; the script keeps those that do best on the
      test slices.
    """

    epochs: int = PUBLISHED_EPOCHS
    translate = staticmethod(published_plans)

    def __init__(
        self,
        plans: dict,
        configuration: str,
        fold: int,
        dataset_json: dict,
        device: torch.device = torch.device("cuda"),  # noqa: B008 - nnU-Net's signature
    ) -> None:
        super().__init__(plans, configuration, fold, dataset_json, device)
        self.initial_lr = 1e-2
        self.weight_decay = 5e-4
        self.enable_deep_supervision = False

    def _build_loss(self) -> torch.nn.Module:
        """The published loss, in the place of Dice and cross entropy."""
        from nnunetv2_cfnet.training.losses import DiceFocalLoss  # MONAI takes seconds that prediction need not spend

        return DiceFocalLoss(self.label_manager.has_regions, self.label_manager.ignore_label)

    def configure_optimizers(self) -> tuple[torch.optim.Optimizer, object]:
        """The published optimizer and schedule, in the place of Nesterov momentum 0.99 and polynomial decay."""
        optimizer = torch.optim.SGD(
            self.network.parameters(), self.initial_lr, momentum=0.9, weight_decay=self.weight_decay
        )
        return optimizer, ExponentialLRByEpoch(optimizer, gamma=0.96 ** (PUBLISHED_EPOCHS / self.epochs))

    def set_deep_supervision_enabled(self, enabled: bool) -> None:
        """Nothing: the network has one output, and no decoder attribute to switch."""


class nnUNetTrainerCFNetPublishedImageNet(nnUNetTrainerCFNetPublished):
    """nnUNetTrainerCFNetPublished whose encoders start from timm's ImageNet weights of ResNet-50, as published.

    They are loaded when a training starts from scratch: neither --c, --val and prediction, nor -pretrained_weights,
    which bring all weights, touch them.

    Raises:
        UserError: when the training starts, if they are not there and can't be downloaded; says what to put where.
    """

    def on_train_start(self) -> None:
        """nnU-Net initialises a network here that has no weights yet; ours then gets its encoders' weights."""
        if not self.was_initialized:
            self.initialize()
            network = self.network.module if self.is_ddp else self.network
            file = load_imagenet_weights(getattr(network, "_orig_mod", network))  # torch.compile wraps it
            self.print_to_log_file(f"The encoders start from the ImageNet weights in {file}.")
        super().on_train_start()


class ExponentialLRByEpoch(torch.optim.lr_scheduler.ExponentialLR):
    """torch's ExponentialLR, set to an epoch as nnU-Net's trainer and --c do; torch deprecates step(epoch)."""

    def step(self, epoch: int | None = None) -> None:
        """Set the learning rate of an epoch."""
        epoch = self.last_epoch = epoch or 0  # none where torch's constructor calls it
        for group, initial in zip(self.optimizer.param_groups, self.base_lrs, strict=True):
            group["lr"] = initial * self.gamma**epoch
        self._last_lr = [group["lr"] for group in self.optimizer.param_groups]  # what get_last_lr returns


for _trainer in (
    nnUNetTrainerCFNet,
    nnUNetTrainerCFNetModalityDropout,
    nnUNetTrainerModalityDropout,
    nnUNetTrainerCFNetPublished,
    nnUNetTrainerCFNetPublishedImageNet,
):
    for _epochs in EPOCH_VARIANTS:
        _name = f"{_trainer.__name__}_{_epochs}epoch{'s' if _epochs > 1 else ''}"
        _doc = f"{_trainer.__name__} for {_epochs} epoch(s)."
        globals()[_name] = type(_name, (_trainer,), {"epochs": _epochs, "__module__": __name__, "__doc__": _doc})
