"""Processes that tests started."""

import subprocess
import time


def ends(pid: int) -> bool:
    """Whether a process ends within 30 seconds."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and is_running(pid):
        time.sleep(0.05)
    return not is_running(pid)


def is_running(pid: int) -> bool:
    """Whether a process is there that has not ended; one that nobody waits for stays listed as a zombie."""
    state = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True).stdout
    return bool(state) and not state.startswith("Z")
