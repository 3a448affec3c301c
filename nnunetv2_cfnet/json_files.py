"""Reading JSON that a user may have touched, and writing it strictly and whole."""

import json
from pathlib import Path
from typing import Any

from nnunetv2_cfnet.errors import UserError


def read_json(file: Path, way_out: str) -> Any:
    """Read a file of JSON.

    Args:
        file: in UTF-8.
        way_out: what to do if it can't be read, a sentence for the message.

    Raises:
        UserError: it is missing, unreadable or no JSON.
    """
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{file} does not exist. {way_out}") from None
    except ValueError as error:
        raise UserError(f"{file} is no JSON ({error}). {way_out}") from None
    except OSError as error:
        raise UserError(f"{file} can't be read ({error.strerror}). {way_out}") from None


def read_json_object(file: Path, way_out: str) -> dict[str, Any]:
    """read_json where the file has to hold an object."""
    content = read_json(file, way_out)
    if not isinstance(content, dict):
        raise UserError(f"{file} holds no JSON object. {way_out}")
    return content


def write_json(content: object, file: Path) -> None:
    """Write strict JSON, in which NaN has no place, under a temporary name first."""
    unfinished = file.with_name(f".{file.name}")
    try:
        unfinished.write_text(json.dumps(content, indent=4, allow_nan=False), encoding="utf-8")
        unfinished.replace(file)
    finally:
        unfinished.unlink(missing_ok=True)
