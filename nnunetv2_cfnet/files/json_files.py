"""Reading JSON that a user may have touched, and making JSON that every reader takes."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nnunetv2_cfnet.errors import UserError


def read_json(file: Path, remedy: str) -> Any:
    """Read a file of JSON.

    Args:
        file: in UTF-8.
        remedy: what to do if it can't be read, a sentence for the message.

    Raises:
        UserError: it is missing, unreadable, nested too deeply or no JSON.
    """
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{file} does not exist. {remedy}") from None
    except ValueError as error:
        raise UserError(f"{file} is no JSON ({error}). {remedy}") from None
    except RecursionError:
        raise UserError(f"{file} is nested too deeply to be read. {remedy}") from None
    except OSError as error:
        raise UserError(f"{file} can't be read ({error.strerror}). {remedy}") from None


def is_json(file: Path) -> bool:
    """Whether it is there, and whole."""
    try:
        read_json(file, remedy="")
    except UserError:
        return False
    return True


def read_json_object(file: Path, remedy: str) -> dict[str, Any]:
    """read_json where the file has to hold an object."""
    content = read_json(file, remedy)
    if not isinstance(content, dict):
        raise UserError(f"{file} holds no JSON object. {remedy}")
    return content


def read_dataset_json(file: Path, remedy: str) -> dict[str, Any]:
    """read_json_object for nnU-Net's dataset.json, which has to name the ending of the files, and may name a reader."""
    content = read_json_object(file, remedy)
    ending = content.get("file_ending")
    if not isinstance(ending, str) or not ending.startswith("."):
        raise UserError(
            f'{file}: file_ending is {json.dumps(ending)}; it must be that of the files, such as ".nii.gz".'
        )
    reader = content.get("overwrite_image_reader_writer", "None")  # nnU-Net's word for none
    if not isinstance(reader, str):
        raise UserError(
            f"{file}: overwrite_image_reader_writer is {json.dumps(reader)}; it must be the name of one of nnU-Net's "
            'readers, such as "SimpleITKIO". Without the entry, nnU-Net chooses one.'
        )
    return content


def to_json(content: object, indent: int | None = None) -> str:
    """Strict JSON: paths as text, and null for NaN and infinity, which it has no words for."""
    return json.dumps(in_json_types(content), indent=indent, allow_nan=False)


def in_json_types(content: Any) -> Any:
    """The same in JSON's own types: equal for equal content, NaN included, whether from numpy or a file."""
    if isinstance(content, Mapping):
        return {str(key): in_json_types(value) for key, value in content.items()}
    if isinstance(content, Sequence) and not isinstance(content, str):
        return [in_json_types(value) for value in content]
    if isinstance(content, Path):
        return str(content)
    if isinstance(content, np.generic | np.ndarray):
        return in_json_types(content.tolist())
    return None if isinstance(content, float) and not math.isfinite(content) else content
