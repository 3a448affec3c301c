"""Other programs that are started from here, and end where this process does."""

import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

# waits for the end of its input, then ends the process group $1, by force what is left of it after ten seconds
END_GROUP = """
trap '' USR2  # SLURM sends it to all of a job, to announce that time is nearly up
read _
kill -s TERM -- "-$1"
for _ in 1 2 3 4 5 6 7 8 9 10; do
    kill -s 0 -- "-$1" || exit
    sleep 1
done
kill -s KILL -- "-$1"
"""
# what runs in ending_with_us, in any thread, and its watcher
_running: dict[subprocess.Popen, subprocess.Popen] = {}


@contextmanager
def ending_with_us(process: subprocess.Popen) -> Iterator[None]:
    """End a process and its group, its own workers included, when an exception leaves the block or this process dies.

    A shell waits for the end of a pipe that this process alone holds open: the kernel closes it after SIGKILL too.

    Args:
        process: leader of a session.
    """
    if os.name == "nt":  # without process groups; Ctrl-C reaches all of a console
        yield
        return
    watcher = subprocess.Popen(
        ["sh", "-c", END_GROUP, "sh", str(process.pid)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # what is sent to our own group is not for it
    )
    assert watcher.stdin is not None
    _running[process] = watcher
    try:
        yield
        process.wait()
        watcher.kill()
    finally:
        del _running[process]
        watcher.stdin.close()
        process.wait()
        watcher.wait()


def end_children() -> None:
    """End what other threads run in ending_with_us, as if this process died."""
    for watcher in list(_running.values()):
        assert watcher.stdin is not None
        watcher.stdin.close()


def interrupt_children(signal_number: int, patience_s: float) -> None:
    """Send a signal to what runs in ending_with_us, without its workers, and wait until it has ended.

    For signal handlers: the frame that is interrupted may be the one that waits for the same process, and still gets
    its exit code.
    """
    processes = list(_running)
    for process in processes:
        with suppress(ProcessLookupError):
            os.kill(process.pid, signal_number)
    deadline = time.monotonic() + patience_s
    while time.monotonic() < deadline and not all(map(_has_ended, processes)):
        time.sleep(0.1)


def _has_ended(process: subprocess.Popen) -> bool:
    """Without taking its exit code from who waits for it."""
    try:
        return os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
    except ChildProcessError:  # it was waited for
        return True
