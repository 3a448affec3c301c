"""One run at a time on what it writes: a lock, and a place for what is unfinished.

The lock is flock's, by filelock: the kernel gives it up when the process ends, however it ends, so that a dead holder's
lock is simply free, without a guess from its process ID whether it still lives. Such a guess is all that filelock's
SoftFileLock has, and no help where the holder was on another host. FileLock falls back to it where a file system has no
flock. Who holds a lock is noted beside it, for messages alone.
"""

import os
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from nnunetv2_cfnet.errors import UserError
from nnunetv2_cfnet.files.paths import resolved


@contextmanager
def locked(target: Path, *, wait: bool = False) -> Iterator[Path]:
    """Keep others from writing a target, and yield an empty folder on its file system to make it in.

    Lock and folder are hidden beside the target, and gone at the end. What a killed run left in the folder is removed.

    Args:
        target: a file or a folder, there or not; a link is not followed. Missing parents are made, and removed if they
            stay empty.
        wait: until no other process is at it.

    Raises:
        UserError: another process is at it, and this one does not wait.
    """
    from filelock import FileLock, Timeout  # here: doctor, which imports this module, reports where it is missing

    target = resolved(target.parent) / target.name
    missing_parents = [parent for parent in target.parents if not parent.exists()]
    target.parent.mkdir(parents=True, exist_ok=True)
    lock_file, work = _hidden(target)
    holder, unfinished = work / "holder", work / "unfinished"
    lock = FileLock(lock_file)
    try:
        lock.acquire(timeout=-1 if wait else 0, poll_interval=1)
    except Timeout:
        raise UserError(
            f"{target} is being written by {_read(holder)}: wait until that has ended, or write elsewhere."
        ) from None
    try:
        if work.exists():
            shutil.rmtree(work)
        unfinished.mkdir(parents=True)
        holder.write_text(f"process {os.getpid()} on {socket.gethostname()}")
        yield unfinished
    finally:
        shutil.rmtree(work, ignore_errors=True)
        # While the lock is held: whoever opened the file before finds, with the lock, that it has no name any more.
        # Windows removes no open file; there filelock does it.
        with suppress(PermissionError):
            lock_file.unlink(missing_ok=True)
        lock.release()
        for parent in missing_parents:
            with suppress(OSError):
                parent.rmdir()


def clear_what_was_left(target: Path) -> None:
    """Remove lock and folder of a run that was killed when its target was there, unless another run is at it."""
    if any(path.exists() for path in _hidden(target)):
        with suppress(UserError, OSError), locked(target):
            pass


def _hidden(target: Path) -> tuple[Path, Path]:
    """The lock, and the folder with what is unfinished."""
    return target.with_name(f".{target.name}.lock"), target.with_name(f".{target.name}.work")


def _read(holder: Path) -> str:
    try:
        return holder.read_text() or "another process"
    except OSError:  # not written yet
        return "another process"
