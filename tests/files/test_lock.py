"""One run at a time on a target, and nothing left of those before it."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from filelock import FileLock

from nnunetv2_cfnet.errors import UserError
from nnunetv2_cfnet.files.lock import locked
from nnunetv2_cfnet.files.whole import check_new_folder, whole_folder

HOLD = """
import sys, time
from pathlib import Path
from nnunetv2_cfnet.files.lock import locked
with locked(Path(sys.argv[1])) as made_in:
    (made_in / "half.bin").touch()
    print("held", flush=True)
    time.sleep(100)
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that holds tmp_path/out."""
    command = [sys.executable, "-c", HOLD, str(tmp_path / "out")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_a_lock_leaves_nothing_but_what_was_made(tmp_path):
    target = tmp_path / "new" / "out"
    with locked(target) as made_in:
        (made_in / "file").touch()
        (made_in / "file").replace(target)
        assert all(path.name.startswith(".out.") for path in target.parent.iterdir() if path != target)
    assert list(target.parent.iterdir()) == [target]


def test_a_lock_on_nothing_leaves_no_folders(tmp_path):
    with locked(tmp_path / "new" / "folder" / "out"):
        pass
    assert list(tmp_path.iterdir()) == []


@pytest.mark.host
def test_a_second_run_is_refused_and_told_who_is_at_it(holder, tmp_path):
    expected = rf"out is being written by process {holder.pid} on {socket.gethostname()}: wait until that has ended"
    for attempt in (locked, whole_folder):
        with pytest.raises(UserError, match=expected), attempt(tmp_path / "out"):
            pass
    assert (tmp_path / ".out.work" / "unfinished" / "half.bin").exists()  # the holder's own
    with locked(tmp_path / "another"):
        pass


@pytest.mark.host
def test_a_killed_holder_is_followed_and_cleared_away(holder, tmp_path):
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert (tmp_path / ".out.work").exists()
    with locked(tmp_path / "out") as made_in:
        assert list(made_in.iterdir()) == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.host
def test_what_was_left_beside_a_finished_folder_goes_when_that_is_refused_and_not_while_its_holder_lives(
    holder, tmp_path
):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "file").touch()
    for expected in ({"out", ".out.lock", ".out.work"}, {"out"}):
        with pytest.raises(UserError, match="out exists and is no empty folder"):
            check_new_folder(tmp_path / "out")
        assert {path.name for path in tmp_path.iterdir()} == expected
        holder.kill()
        holder.wait()


def test_whoever_waited_for_a_lock_file_that_was_removed_does_not_hold_it(tmp_path):
    """filelock looks whether the file that it has locked still has its name: locked() removes it on that ground."""
    lock_file = tmp_path / ".out.lock"
    with locked(tmp_path / "out"):
        waiting = os.open(lock_file, os.O_RDWR)  # what another process opened before the end
    with locked(tmp_path / "out"):
        assert not os.path.samestat(os.fstat(waiting), lock_file.stat())
        with pytest.raises(UserError, match="is being written by process"), locked(tmp_path / "out"):
            pass
        assert lock_file.exists()
    os.close(waiting)


def test_filelock_removes_no_lock_file_that_is_another_ones(tmp_path):
    first, second = (FileLock(tmp_path / "lock") for _ in range(2))
    first.acquire(timeout=0)
    Path(first.lock_file).unlink()
    second.acquire(timeout=0)
    first.release()
    assert Path(second.lock_file).exists()
    second.release()


def test_a_folder_that_was_filled_meanwhile_is_refused_under_the_lock(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "file").touch()
    with pytest.raises(UserError, match="out exists and is no empty folder"), whole_folder(tmp_path / "out"):
        pass
