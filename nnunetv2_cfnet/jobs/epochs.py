"""How long trainers train: each trainer's number of epochs, and variants of trainers that have the same."""

import re
from collections.abc import Sequence

from nnunetv2_cfnet.errors import UserError
from nnunetv2_cfnet.host import find_trainer
from nnunetv2_cfnet.training.trainers import EPOCH_VARIANTS

NUM_EPOCHS = 1000  # of nnUNetTrainer and nnUNetTrainerCFNet


def matched(trainers: Sequence[str], num_epochs: int | None) -> tuple[dict[str, str], int]:
    """Each trainer's variant of that many epochs, and their number.

    Args:
        num_epochs: None: as many as the trainers have themselves, if that is one number.

    Raises:
        UserError: there is no such trainer or variant, or the trainers have different numbers of epochs.
    """
    own = {name: epochs_of(name) for name in trainers}
    asked = set(own.values()) if num_epochs is None else {num_epochs}
    if len(asked) == 1:
        (number,) = asked
        variants = {name: variant for name in own if (variant := _with_epochs(number, name, own[name]))}
        if len(variants) == len(own):
            return variants, number
        lacking = ", ".join(name for name in own if name not in variants)
        problem = f"--epochs {number}: {lacking} can't be trained for so many."
    else:
        listed = ", ".join(f"{name} {epochs}" for name, epochs in own.items())
        problem = f"Trained for different numbers of epochs ({listed}), models can't be compared."
    known = {*EPOCH_VARIANTS, *own.values()}
    of_all = [str(n) for n in sorted(known) if all(_with_epochs(n, name, own[name]) for name in own)]
    remedy = f"With these trainers, --epochs can be {', '.join(of_all)}." if of_all else "Choose other --trainers."
    raise UserError(f"{problem} {remedy}")


def epochs_of(trainer: str) -> int:
    """A trainer's number of epochs, as its class or its name says, or else nnU-Net's own, also for a user's trainer.

    Raises:
        UserError: nnU-Net finds no such trainer.
    """
    if (epochs := _num_epochs(trainer)) is None:
        raise UserError(f"nnU-Net finds no trainer {trainer}.")
    return epochs


def _with_epochs(num_epochs: int, trainer: str, own: int) -> str | None:
    """The trainer itself where that is its own number of epochs, or its variant by nnU-Net's name, if there is one."""
    if num_epochs == own:
        return trainer
    variant = f"{trainer}_{num_epochs}epoch{'s' if num_epochs > 1 else ''}"
    return variant if _num_epochs(variant) == num_epochs else None


def _num_epochs(trainer: str) -> int | None:
    """Of a trainer; None: there is no such one."""
    try:
        own = getattr(find_trainer(trainer), "epochs", None)
    except RuntimeError:
        return None
    except (Exception, SystemExit) as error:  # of any module on nnUNet_extTrainer
        raise UserError(
            f"nnU-Net's search for {trainer} stops with {type(error).__name__}: {error}. To find the module, run: "
            "nnunetv2_cfnet doctor"
        ) from error
    of_name = re.search(r"_(\d+)epochs?(_|$)", trainer)
    return own or (int(of_name[1]) if of_name else NUM_EPOCHS)
