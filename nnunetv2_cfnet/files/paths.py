"""Paths as a user gives them."""

import os
from pathlib import Path

from nnunetv2_cfnet.errors import UserError


def resolved(path: Path, flag: str = "-o") -> Path:
    """The absolute path without links and ~.

    Args:
        flag: that the user gave it with, for messages.

    Raises:
        UserError: a link leads back to itself.
    """
    try:
        return Path(os.path.expanduser(path)).resolve()  # leaves ~ of nobody, where Path raises
    except RuntimeError:
        raise UserError(f"{path} is a link that leads back to itself: choose another {flag}, or remove it.") from None
