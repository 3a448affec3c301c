"""nnU-Net trainers for CFNet: `nnUNetv2_train DATASET CONFIGURATION FOLD -tr nnUNetTrainerCFNet`.

The network is named, with every argument, by the plans that nnUNetTrainerCFNet hands to nnU-Net, so that it overrides
nothing but __init__ and stock nnUNetTrainer predicts from the model folder too.
"""

from pathlib import Path

import torch
from nnunetv2.paths import nnUNet_results
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.file_path_utilities import get_output_folder

from nnunetv2_cfnet.planning.plans import cfnet_plans, keep_trained_plans

# nnU-Net's own list (nnunetv2/training/nnUNetTrainer/variants/training_length/nnUNetTrainer_Xepochs.py)
EPOCH_VARIANTS = (1, 5, 10, 20, 50, 100, 250, 500, 750, 2000, 4000, 8000)


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

    def __init__(
        self,
        plans: dict,
        configuration: str,
        fold: int,
        dataset_json: dict,
        device: torch.device = torch.device("cuda"),  # noqa: B008 - nnU-Net's signature
    ) -> None:
        ours = cfnet_plans(plans, dataset_json, configuration)
        if nnUNet_results.is_set():
            folder = get_output_folder(plans["dataset_name"], type(self).__name__, plans["plans_name"], configuration)
            ours = keep_trained_plans(ours, plans, dataset_json, configuration, Path(folder, "plans.json"))
        super().__init__(ours.plans, configuration, fold, dataset_json, device)
        if self.epochs is not None:
            self.num_epochs = self.epochs
        for note in ours.notes:
            self.print_to_log_file(note)


class nnUNetTrainerCFNetDemo(nnUNetTrainerCFNet):
    """A few minutes' training for the phantom of `nnunetv2_cfnet demo`; of no use for real data."""

    epochs = 10

    def __init__(
        self,
        plans: dict,
        configuration: str,
        fold: int,
        dataset_json: dict,
        device: torch.device = torch.device("cuda"),  # noqa: B008 - nnU-Net's signature
    ) -> None:
        super().__init__(plans, configuration, fold, dataset_json, device)
        self.num_iterations_per_epoch = 14
        self.num_val_iterations_per_epoch = 2
        self.save_every = 1
        self.initial_lr = 3e-2

    def configure_optimizers(self) -> tuple[torch.optim.Optimizer, object]:
        """Less momentum than nnU-Net's 0.99, which averages over about as many steps as this training has."""
        optimizer, scheduler = super().configure_optimizers()
        for group in optimizer.param_groups:
            group["momentum"] = 0.9
        return optimizer, scheduler


for _epochs in EPOCH_VARIANTS:
    _name = f"nnUNetTrainerCFNet_{_epochs}epoch{'s' if _epochs > 1 else ''}"
    _members = {"epochs": _epochs, "__module__": __name__, "__doc__": f"nnUNetTrainerCFNet for {_epochs} epoch(s)."}
    globals()[_name] = type(_name, (nnUNetTrainerCFNet,), _members)
