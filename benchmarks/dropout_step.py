"""What modality dropout costs in a training step: `python benchmarks/dropout_step.py [-d ID] [-device cpu|cuda]`.

Steps of each trainer with modality dropout and of the same trainer without it, in turns: a batch from its own data
loader, augmentation included, and the training step on it. Prints the median and the quartiles of their ratio.
"""

import argparse
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ablation import CONFIGURATION, prepare
from tqdm import trange

from nnunetv2_cfnet.errors import UserError

PAIRS = (
    ("nnUNetTrainer", "nnUNetTrainerModalityDropout"),
    ("nnUNetTrainerCFNet", "nnUNetTrainerCFNetModalityDropout"),
)
WARM_UP = 3  # steps that are not counted


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-d", type=int, metavar="ID", help="dataset in nnUNet_raw (default: a phantom in OUT)")
    parser.add_argument("--rounds", type=int, default=30, help="(default: %(default)s)")
    parser.add_argument("-device", choices=("cpu", "cuda"), default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("-o", type=Path, default=Path("cfnet_ablation"), metavar="OUT", help="(default: %(default)s)")
    options = parser.parse_args()
    plans, _ = prepare(options.o.resolve(), options.d, "small", None)
    for pair in PAIRS:
        steps = [Steps(name, plans, options.device) for name in pair]
        ratios = []
        for turn in trange(WARM_UP + options.rounds, desc=pair[1]):
            order = steps[:: 1 if turn % 2 else -1]  # neither is always first
            seconds = {step: step.seconds() for step in order}
            plain, dropout = (seconds[step] for step in steps)
            if turn >= WARM_UP:
                ratios.append(dropout / plain)
        low, median, high = np.quantile(ratios, (0.25, 0.5, 0.75))
        print(f"{pair[1]} over {pair[0]}: {median:.3f} ({low:.3f} to {high:.3f}, {options.rounds} pairs)")


class Steps:
    """Training steps of one of nnU-Net's trainers, from its own data loader.

    Args:
        name: of the trainer.
        plans: nnU-Net's.
        device: "cpu" or "cuda".
    """

    def __init__(self, name: str, plans: dict, device: str) -> None:
        from nnunetv2.run.run_training import get_trainer_from_args

        trainer: Any = get_trainer_from_args(
            plans["dataset_name"], CONFIGURATION, 0, name, plans["plans_name"], device=torch.device(device)
        )
        trainer.initialize()
        self.trainer = trainer
        self.batches, _ = trainer.get_dataloaders()
        trainer.network.train()

    def seconds(self) -> float:
        """Of one step, to the end of what the device has to do; on a CPU, time of the process."""
        clock = time.perf_counter if self.trainer.device.type == "cuda" else time.process_time
        start = clock()
        self.trainer.train_step(next(self.batches))
        if self.trainer.device.type == "cuda":
            torch.cuda.synchronize()
        return clock() - start


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(f"dropout_step.py: {error}")
