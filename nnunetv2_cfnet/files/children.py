"""Other programs that are started from here, and end where this process does."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

# waits for the end of its input, then ends the process group $1, by force what is left of it after ten seconds
END_GROUP = """
read _
kill -s TERM -- "-$1"
for _ in 1 2 3 4 5 6 7 8 9 10; do
    kill -s 0 -- "-$1" || exit
    sleep 1
done
kill -s KILL -- "-$1"
"""


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
    try:
        yield
        process.wait()
        watcher.kill()
    finally:
        watcher.stdin.close()
        process.wait()
        watcher.wait()
