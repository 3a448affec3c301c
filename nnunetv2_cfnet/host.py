"""What nnU-Net has here: its folders, its datasets, its trainers.

nnunetv2 itself is imported only where it is asked, since it takes seconds.
"""

import io
import os
import warnings
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

from nnunetv2_cfnet.errors import UserError

VARIABLES = ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")


def nnunet_variable(variable: str) -> Path:
    """The path in one of VARIABLES; a UserError if it is not set."""
    value = os.environ.get(variable)
    if not value:
        raise UserError(f"{variable} is not set; fix it with: export {variable}=/path/to/a/folder")
    return Path(value)


def nnunet_folder(variable: str) -> Path:
    """nnunet_variable, and a UserError if it is no folder; nnU-Net makes nnUNet_preprocessed itself."""
    folder = nnunet_variable(variable)
    if variable != "nnUNet_preprocessed" and not folder.is_dir():
        raise UserError(f"{variable}={folder} is no folder; fix it with: export {variable}=/path/to/a/folder")
    return folder


def dataset_name(dataset_id: int) -> str:
    """The dataset of that ID, as nnU-Net finds it; a UserError if there is none, or several."""
    from nnunetv2.utilities.dataset_name_id_conversion import convert_id_to_dataset_name

    try:
        return str(convert_id_to_dataset_name(dataset_id))
    except RuntimeError as error:
        raise UserError(f"-d {dataset_id}: {error}") from None


def find_trainer(name: str) -> type:
    """The class that nnU-Net's own search finds, without what it prints of every step and import.

    Raises:
        RuntimeError: nnU-Net's, if there is none. A module on the search path can raise anything.
    """
    from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name

    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return recursive_find_trainer_class_by_name(name)
