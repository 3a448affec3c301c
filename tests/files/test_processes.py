"""Worker processes: results in order, what they load, and what becomes of one that is killed."""

import os
import signal
import subprocess
import sys

import pytest

from nnunetv2_cfnet.errors import UserError
from nnunetv2_cfnet.files.processes import check_num_processes, in_parallel


def square(number: int) -> int:
    return number * number


def kill_itself(number: int) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_results_are_in_the_order_of_the_cases(capsys):
    assert in_parallel(square, range(5), 2, "squaring") == [0, 1, 4, 9, 16]
    assert "squaring: 100%" in capsys.readouterr().err


def test_a_worker_that_is_killed_is_an_error_that_says_what_to_do():
    with pytest.raises(
        UserError, match=r"A process was killed while checking, most likely because memory ran out: .* -np"
    ):
        in_parallel(kill_itself, [1], 1, "checking")


def test_no_processes_are_refused():
    with pytest.raises(UserError, match=r"^0 processes can't do anything: give -np at least 1\.$"):
        check_num_processes(0)


def test_workers_of_brats_load_neither_torch_nor_nnunet():
    """They import what they are to run from these modules; torch takes seconds, and memory in each."""
    code = (
        "import sys; from nnunetv2_cfnet.brats import checks, convert, export, splits\n"
        "print(sorted({'torch', 'nnunetv2', 'sklearn'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
