"""What nnU-Net has here: its versions that are supported, its folders, its datasets, its trainers.

nnunetv2 itself is imported only where it is asked, since it takes seconds.
"""

import io
import os
import warnings
from contextlib import redirect_stderr, redirect_stdout
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path
from typing import TYPE_CHECKING

from nnunetv2_cfnet.errors import UserError

if TYPE_CHECKING:
    from packaging.specifiers import SpecifierSet

OURSELVES = "nnunetv2_cfnet"
VARIABLES = ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")


def supported_versions(distribution: str) -> "SpecifierSet":
    """The versions that this package's own requirements (pyproject.toml) allow, so that they are written once.

    Raises:
        UserError: packaging, or this package's own metadata, is missing.
    """
    try:
        from packaging.requirements import Requirement
        from packaging.utils import canonicalize_name
    except Exception as error:
        raise UserError(
            f"not checked without packaging ({type(error).__name__}: {error}); "
            "fix it with: pip install --force-reinstall packaging"
        ) from error
    try:
        requirements = [Requirement(line) for line in requires(OURSELVES) or []]
    except PackageNotFoundError:
        raise UserError(
            f"{OURSELVES} is not installed in this Python; fix it with: pip install . in its source folder"
        ) from None
    return next(
        each.specifier for each in requirements if canonicalize_name(each.name) == canonicalize_name(distribution)
    )


def nnunet_folder(variable: str) -> Path:
    """The folder in one of VARIABLES; a UserError if there is none. nnU-Net makes nnUNet_preprocessed itself."""
    value = os.environ.get(variable)
    if not value:
        raise UserError(f"{variable} is not set; fix it with: export {variable}=/path/to/a/folder")
    if variable != "nnUNet_preprocessed" and not os.path.isdir(value):
        raise UserError(f"{variable}={value} is no folder; fix it with: export {variable}=/path/to/a/folder")
    return Path(value)


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
