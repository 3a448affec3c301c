"""A digest of a file's content: whether it is still what it was when something was computed from it."""

import hashlib
from pathlib import Path


def content_digest(file: Path) -> str:
    """Hexadecimal digest of all bytes of a file (BLAKE2b): size and time of a change can stay as they were.

    A compressed image of BraTS takes a few milliseconds, hundreds of times less than checking or evaluating it.

    Raises:
        OSError: it can't be read.
    """
    digest = hashlib.blake2b(digest_size=16)
    with file.open("rb") as content:
        while chunk := content.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()
