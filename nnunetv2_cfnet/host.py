"""Which versions of nnU-Net and its parts this package runs with, and which of them are installed.

The supported versions are read from this package's own requirements (pyproject.toml), so they are written once. Only
package metadata is read: this works where nnunetv2 itself is missing or cannot be imported.
"""

import os
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from nnunetv2_cfnet.errors import UserError

OURSELVES = "nnunetv2_cfnet"


def supported_versions(distribution: str) -> SpecifierSet:
    """Return the versions of `distribution` that this package's requirements allow."""
    try:
        requirements = [Requirement(line) for line in requires(OURSELVES) or []]
    except PackageNotFoundError:
        raise UserError(
            f"{OURSELVES} is not installed in this Python; mend it with: pip install . in its source folder"
        ) from None
    return next(
        requirement.specifier
        for requirement in requirements
        if canonicalize_name(requirement.name) == canonicalize_name(distribution)
    )


def check_version(distribution: str) -> str:
    """Return the installed version of `distribution`.

    Raises UserError, with the pip command that mends it, if it is missing or outside the supported versions.
    """
    supported = supported_versions(distribution)
    way_out = f'(supported: {supported or "any version"}); mend it with: pip install "{distribution}{supported}"'
    try:
        installed = version(distribution)
    except PackageNotFoundError:
        raise UserError(f"{distribution} is not installed {way_out}") from None
    if not supported.contains(installed, prereleases=True):
        raise UserError(f"{distribution} {installed} is not supported {way_out}")
    return installed


def nnunet_folder(variable: str) -> Path:
    """The folder that nnUNet_raw, nnUNet_preprocessed or nnUNet_results names.

    Raises UserError if it is not set, or no folder; nnU-Net makes nnUNet_preprocessed itself.
    """
    folder = os.environ.get(variable)
    if not folder or not (variable == "nnUNet_preprocessed" or os.path.isdir(folder)):
        problem = f"={folder} is no folder" if folder else " is not set"
        raise UserError(f"{variable}{problem}; mend it with: export {variable}=/path/to/a/folder")
    return Path(folder)
