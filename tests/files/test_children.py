import signal
import subprocess
import sys
import time

from children import ends

PROGRAM = """
import subprocess
from nnunetv2_cfnet.files.children import ending_with_us
with subprocess.Popen(["sleep", "100"], start_new_session=True) as process, ending_with_us(process):
    print(process.pid, flush=True)
"""


def test_the_signal_that_a_cluster_sends_to_all_of_a_job_leaves_the_watcher():
    with subprocess.Popen([sys.executable, "-c", PROGRAM], stdout=subprocess.PIPE, text=True) as parent:
        child = int(parent.stdout.readline())
        watcher = eventually(lambda: output_of("pgrep", "-P", parent.pid, "-x", "sh"))
        eventually(lambda: int(output_of("ps", "-o", "ignored=", "-p", watcher), 16) >> (signal.SIGUSR2 - 1) & 1)
        subprocess.run(["kill", "-USR2", watcher], check=True)
        parent.kill()
    assert ends(child)


def output_of(*words: object) -> str:
    return subprocess.run([str(word) for word in words], capture_output=True, text=True).stdout.strip()


def eventually(value):
    deadline = time.monotonic() + 10
    while not (found := value()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return found
