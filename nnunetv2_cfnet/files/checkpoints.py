"""Checkpoints that torch saved, read without running what they bring along."""

import re
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nnunetv2_cfnet.errors import UserError

# what torch refuses to unpickle of a stock checkpoint: numpy's numbers, under the names of numpy 1 and 2
SCALAR = np.float64().__reduce__()[0]
NUMBERS: list = [
    *((SCALAR, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")),
    np.dtype,
    *{type(np.dtype(code)) for code in np.typecodes["AllInteger"] + np.typecodes["Float"]},
]


def read_checkpoint(file: Path, remedy: str) -> Any:
    """Tensors, plain values and numpy's numbers that torch.save wrote; nothing in the file is run.

    Tensors stay in the file until they are used, in all formats but torch's oldest.

    Args:
        remedy: what to do if it can't be read, a sentence for the message.

    Raises:
        UserError: it is damaged, holds other objects, or was compressed, which torch never does.
        OSError: there is no file to read.
    """
    with file.open("rb"):
        pass
    try:
        with torch.serialization.safe_globals(NUMBERS), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's are about how to load what is refused here
            is_archive = zipfile.is_zipfile(file)
            if is_archive:
                _check_stored(file)
            return torch.load(file, map_location="cpu", mmap=is_archive, weights_only=True)
    # a damaged file can make torch raise anything, an OSError too
    except Exception as error:
        # torch's own text would advise to load the file without care
        refused = re.search(r"GLOBAL ([\w.]+)", str(error))
        if refused:
            reason = f"it holds {refused[1]}, which is neither weight nor number"
        else:
            reason = str(error) if isinstance(error, UserError) else f"damaged? {type(error).__name__}"
        raise UserError(f"{file} is no readable checkpoint ({reason}); nothing in it was run. {remedy}") from error


def _check_stored(file: Path) -> None:
    """A small file could fill the memory with what it was compressed from, or with one part under many names."""
    with zipfile.ZipFile(file) as archive:
        entries = archive.infolist()
    size = sum(entry.file_size for entry in entries)
    if size > file.stat().st_size or any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        raise UserError(f"its parts have {size} bytes, compressed, and torch saves them as they are")
