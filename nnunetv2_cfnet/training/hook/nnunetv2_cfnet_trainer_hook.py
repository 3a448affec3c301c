"""The file through which nnU-Net's own search finds our trainers: its folder is on `nnUNet_extTrainer`.

nnU-Net imports every module in that folder whatever trainer it seeks, asks each with `hasattr`, and drops the modules
from `sys.modules` afterwards. So this module imports nothing until it is asked for one of our trainers, and hands out
the class of the installed package, which stays importable (and so picklable) and exists once.
"""

from typing import Any

PREFIXES = ("nnUNetTrainerCFNet", "nnUNetTrainerModalityDropout")


def __getattr__(name: str) -> Any:
    """Return our trainer of that name; AttributeError for every other name, so that nnU-Net's search goes on."""
    if name.startswith(PREFIXES):
        try:
            from nnunetv2_cfnet.training import trainers
        except ModuleNotFoundError as error:
            # nnUNet_extTrainer may have come here from another environment: without our package, we have no trainers.
            # A dependency that is missing is another matter, and the user has to see it.
            if (error.name or "").partition(".")[0] != "nnunetv2_cfnet":
                raise
        else:
            return getattr(trainers, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
