"""Worker processes: results in order, what they load, and what becomes of one that is killed."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial

import pytest

from nnunetv2_cfnet.errors import UserError
from nnunetv2_cfnet.files.processes import check_num_processes, in_parallel, run, run_while_made, workers


def square(number: int) -> int:
    return number * number


def kill_itself(number: int) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_results_are_in_the_order_of_the_cases(capsys):
    assert in_parallel(square, range(5), 2, "squaring") == [0, 1, 4, 9, 16]
    assert "squaring: 100%" in capsys.readouterr().err


@pytest.mark.parametrize("in_threads", [False, True])
def test_cases_are_made_while_others_are_worked_on_and_few_wait(in_threads):
    made, finished = [], []

    def cases():
        for number in range(20):
            assert len(made) - len(finished) <= 3
            made.append(number)
            yield number, number

    with ThreadPoolExecutor(2) as threads:
        for key, result in run_while_made(threads if in_threads else None, square, cases(), most_waiting=3):
            assert result == key * key
            finished.append(key)
    assert sorted(finished) == made == list(range(20))


def test_a_worker_that_is_killed_is_an_error_that_says_what_to_do():
    with pytest.raises(
        UserError, match=r"A process was killed while checking, most likely because memory ran out: .* -np"
    ):
        in_parallel(kill_itself, [1], 1, "checking")


def crash(number: int) -> None:
    os.abort()


def test_a_worker_that_crashed_is_not_taken_for_one_without_memory():
    with pytest.raises(UserError, match=r"^A process crashed while checking \(SIGABRT; .* -np 1 .* stops at the case"):
        in_parallel(crash, [1], 1, "checking")


def test_a_worker_that_could_not_start_is_not_taken_for_one_without_memory():
    with (
        pytest.raises(UserError, match=r"^A process for checking could not start \(exit code 3; .*doctor"),
        workers(1, "checking", prepare=partial(os._exit, 3)) as executor,
    ):
        dict(run(executor, square, {"a": 1}, "checking"))


def interrupt_itself(number: int) -> set[signal.Signals]:
    """Ctrl-C at a worker; and the signals that it is blocked for, from the start."""
    os.kill(os.getpid(), signal.SIGINT)
    return signal.pthread_sigmask(signal.SIG_BLOCK, [])


def test_workers_never_get_ctrl_c():
    assert in_parallel(interrupt_itself, [1], 1, "checking") == [{signal.SIGINT}]


class InterruptedExecutor:
    """A signal comes while cases are submitted, in the main thread or in another one that does not block it."""

    def __init__(self, number: signal.Signals) -> None:
        self.number = number
        self.submitted = []

    def submit(self, function: Callable, case: int) -> Future:
        self.submitted.append(case)
        os.kill(os.getpid(), self.number)
        future: Future = Future()
        future.set_result(function(case))
        return future


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("in_another_thread", [False, True])
def test_an_interruption_while_cases_are_submitted_waits_and_is_not_lost(in_another_thread, number):
    executor, end = InterruptedExecutor(number), threading.Event()
    other = threading.Thread(target=end.wait)
    if in_another_thread:
        other.start()
    before = signal.signal(number, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            next(run(executor, square, {"a": 1, "b": 2}, "squaring"))
        assert signal.getsignal(number) is signal.default_int_handler
    finally:
        signal.signal(number, before)
        end.set()
    assert executor.submitted == [1, 2]
    assert number not in signal.pthread_sigmask(signal.SIG_BLOCK, [])


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
