import signal
import subprocess
import sys
import time
from collections.abc import Callable

import pytest
from children import ends

PROGRAM = """
import subprocess
from nnunetv2_cfnet.files.children import ending_with_us
with subprocess.Popen(["sleep", "100"], start_new_session=True) as process, ending_with_us(process):
    print(process.pid, flush=True)
"""


@pytest.mark.host
def test_the_signal_that_a_cluster_sends_to_all_of_a_job_leaves_the_watcher():
    with subprocess.Popen([sys.executable, "-c", PROGRAM], stdout=subprocess.PIPE, text=True) as parent:
        try:
            child = int(parent.stdout.readline())
            watcher = when_there(lambda: output_of("pgrep", "-P", parent.pid, "-x", "sh"))
            when_there(lambda: int(output_of("ps", "-o", "ignored=", "-p", watcher), 16) >> (signal.SIGUSR2 - 1) & 1)
            subprocess.run(["kill", "-USR2", watcher], check=True)
        finally:
            parent.kill()
    assert ends(child)


def output_of(*words: object) -> str:
    return subprocess.run([str(word) for word in words], capture_output=True, text=True).stdout.strip()


def when_there(find: Callable):
    """What is found, as soon as there is something."""
    deadline = time.monotonic() + 10
    while not (found := find()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return found
