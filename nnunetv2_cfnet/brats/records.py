"""What was found in a case, kept in a file, so that a later run need not look at the case again.

A record is used only where it is whole and all that it depends on is the same: the case's files by their content, the
edition, and the version of this package. Worker processes write the records.
"""

import hashlib
import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple, get_args, get_origin, get_type_hints

from nnunetv2_cfnet import __version__
from nnunetv2_cfnet.brats.checks import Inspection, inspect_case
from nnunetv2_cfnet.brats.editions import Edition
from nnunetv2_cfnet.brats.sources import SourceCase
from nnunetv2_cfnet.files.digests import content_digest
from nnunetv2_cfnet.files.whole import whole_file


class CheckedCase(NamedTuple):
    """What was found in a case, and a digest of all that this depends on; None where a file can't be read."""

    inspection: Inspection
    digest: str | None


def check_case(case: SourceCase, edition: Edition, folder: Path, in_work: Path) -> CheckedCase:
    """inspect_case, or its record if that is of the same case.

    Args:
        folder: of the records.
        in_work: where unfinished ones are made.
    """
    file = folder / f"{case.name}.json"
    digest = _digest(case, edition)
    if digest:
        # a record that is broken is none, however it is broken
        with suppress(OSError, ValueError, TypeError, AttributeError, LookupError, RecursionError):
            recorded = json.loads(file.read_bytes())
            if recorded["digest"] == digest:
                return CheckedCase(_decoded(Inspection, recorded["inspection"]), digest)
    inspection = inspect_case(case, edition)
    if digest:
        text = json.dumps({"digest": digest, "inspection": inspection}, default=_encoded)
        with whole_file(file, made_in=in_work) as unfinished:
            unfinished.write_text(text)
    return CheckedCase(inspection, digest)


def _digest(case: SourceCase, edition: Edition) -> str | None:
    paths = {path for paths in case.files.values() for path in paths}
    try:
        contents = {str(path): content_digest(path) for path in sorted(paths)}
    except OSError:
        return None
    files = {content: list(map(str, paths)) for content, paths in case.files.items()}
    inputs = json.dumps([__version__, edition.name, edition.labels, case.name, files, contents])
    return hashlib.blake2b(inputs.encode(), digest_size=16).hexdigest()


def _encoded(value: Any) -> Any:
    """What JSON has no word for."""
    return value.hex() if isinstance(value, bytes) else value.item()  # of numpy's numbers


def _decoded(kind: Any, value: Any) -> Any:
    """A value of a type as it was before JSON: NamedTuples, lists, dictionaries by text, bytes, texts, numbers, enums.

    Raises:
        TypeError, ValueError: it is none.
    """
    if get_origin(kind) is dict:
        return {key: _decoded(get_args(kind)[1], item) for key, item in value.items()}
    if get_origin(kind) is list:
        return [_decoded(get_args(kind)[0], item) for item in value]
    if hasattr(kind, "_fields"):
        fields = get_type_hints(kind).values()
        return kind(*(_decoded(field, item) for field, item in zip(fields, value, strict=True)))
    make: Callable[[Any], Any] = bytes.fromhex if kind is bytes else kind
    if not isinstance(value, str if issubclass(kind, str | bytes) else int | float):
        raise TypeError(f"{value!r} is no {kind}")
    return make(value)
