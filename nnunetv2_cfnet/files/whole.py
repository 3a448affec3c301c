"""Written whole or not at all: everything is made under another name and renamed when it is complete."""

import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

from nnunetv2_cfnet.errors import UserError
from nnunetv2_cfnet.files.lock import clear_what_was_left, locked
from nnunetv2_cfnet.files.paths import resolved


@contextmanager
def whole_file(file: Path, made_in: Path | None = None) -> Iterator[Path]:
    """A name to write to; it becomes `file`, in place of what is there, when all went well, and is gone otherwise.

    Args:
        file: its folder must exist.
        made_in: folder of the name, on the same file system: a lock's, which is cleared of what a killed run left. The
            file itself is locked if it is not given.

    Raises:
        UserError: without made_in, another process is writing the file.
    """
    with nullcontext(made_in) if made_in else locked(file) as folder:
        unfinished = folder / f".{os.getpid()}.{file.name}"
        unfinished.unlink(missing_ok=True)
        try:
            yield unfinished
            unfinished.replace(file)
        finally:
            unfinished.unlink(missing_ok=True)


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """An empty folder to fill, beside `folder`; it becomes `folder` when all went well, and is gone otherwise.

    Args:
        folder: new or empty; missing parents are made.

    Raises:
        UserError: there is something in it, or another process is making it.
    """
    folder = resolved(folder)  # a link to an empty folder stays one
    with locked(folder) as made_in:
        check_new_folder(folder)  # now that no other run can fill it
        unfinished = made_in / folder.name
        unfinished.mkdir()
        yield unfinished
        unfinished.replace(folder)


def check_new_folder(folder: Path, flag: str = "-o") -> None:
    """A UserError unless a new folder can be made there, or an empty one is there to be filled.

    Args:
        flag: that the user gave it with, for messages.
    """
    target = resolved(folder, flag)
    if target == Path.cwd():
        raise UserError(f"{folder} is the folder that this runs in, which can't be replaced: give {flag} a new one.")
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        clear_what_was_left(target)  # by a run that was killed when it had made the folder, and is refused here
        raise UserError(f"{folder} exists and is no empty folder: choose another one for {flag}, or remove it.")
    if target.is_mount():
        raise UserError(f"{folder} is where a disk is mounted, and can't be replaced: give {flag} a new folder in it.")
    check_place(target.parent, (), flag)  # where it is made, and renamed


def check_place(folder: Path, files: Iterable[str], flag: str = "-o") -> None:
    """A UserError where these files can't be written into a folder; what is missing of it is not made.

    Args:
        flag: that the user gave the folder with, for messages.

    Raises:
        UserError: something else is in the place of the folder or of a file, or nothing may be written there.
    """
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not existing.is_dir():
        raise UserError(
            f"{existing} is a file, and a folder is to be written there: choose another {flag}, or remove it."
        )
    for file in (folder / name for name in files):
        if file.is_dir():
            raise UserError(
                f"{file} is a folder, and a file is to be written there: choose another {flag}, or remove it."
            )
    try:
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as error:
        raise UserError(f"{folder} can't be written ({existing}: {error.strerror}): choose another {flag}.") from error


def check_space(folder: Path, needed_bytes: int) -> None:
    """A UserError where a folder, there or not, lies on a disk with less free space than it needs."""
    if needed_bytes > (free := free_bytes(folder)):
        raise UserError(
            f"{folder} needs about {gigabytes(needed_bytes)}, and {gigabytes(free)} are free: make room, then the same "
            "command goes on."
        )


def free_bytes(folder: Path) -> int:
    """Free space where a folder is, or will be."""
    return shutil.disk_usage(next(path for path in (folder, *folder.absolute().parents) if path.exists())).free


def gigabytes(num_bytes: int) -> str:
    """As in 1.25 GB."""
    return f"{num_bytes / 1e9:.3g} GB"
