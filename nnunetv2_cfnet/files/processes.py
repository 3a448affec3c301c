"""Work on many cases in processes of their own, with a progress bar and an end that Ctrl-C can bring about."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import TypeVar

import SimpleITK
from tqdm import tqdm

from nnunetv2_cfnet.errors import UserError

Case = TypeVar("Case")
Key = TypeVar("Key")
Result = TypeVar("Result")


def check_num_processes(num_processes: int) -> None:
    """A UserError if the number is below 1."""
    if num_processes < 1:
        raise UserError(f"{num_processes} processes can't do anything: give -np at least 1.")


def in_parallel(
    function: Callable[[Case], Result], cases: Sequence[Case], num_processes: int, title: str
) -> list[Result]:
    """function(case) for all cases in worker processes, in their order, with a bar.

    Raises:
        UserError: a worker was killed.
    """
    with workers(min(num_processes, len(cases)), title) as executor:
        results = dict(run(executor, function, dict(enumerate(cases)), title))
    return [results[number] for number in range(len(cases))]


@contextmanager
def workers(num_processes: int, doing: str, prepare: Callable[[], None] | None = None) -> Iterator[ProcessPoolExecutor]:
    """Processes to run functions in.

    Args:
        doing: for messages, as in "converting".
        prepare: called in each process at first, after prepare_worker.

    Raises:
        UserError: one was killed.
    """
    executor = ProcessPoolExecutor(
        num_processes, multiprocessing.get_context("spawn"), initializer=prepare_worker, initargs=(prepare,)
    )
    try:
        yield executor
    except BrokenProcessPool as error:
        raise UserError(
            f"A process was killed while {doing}, most likely because memory ran out: the same command with a smaller "
            "-np goes on."
        ) from error
    finally:
        executor.shutdown(cancel_futures=True)  # after the cases at hand


def run(
    executor: ProcessPoolExecutor | None, function: Callable[[Case], Result], cases: Mapping[Key, Case], title: str
) -> Iterator[tuple[Key, Result]]:
    """Key and function(case) of all cases as they are finished, with a bar; an exception at once.

    Args:
        executor: None does them in this process, one after the other.
    """
    if executor is None:
        for key, case in tqdm(cases.items(), desc=title, unit="case"):
            yield key, function(case)
        return
    # Ctrl-C reaches all processes of a terminal: workers are started ignoring it, the main process alone deals with it
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        keys = {executor.submit(function, case): key for key, case in cases.items()}
    finally:
        signal.signal(signal.SIGINT, before)
    for future in tqdm(as_completed(keys), total=len(keys), desc=title, unit="case"):
        yield keys[future], future.result()


def prepare_worker(more: Callable[[], None] | None = None) -> None:
    SimpleITK.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    SimpleITK.ProcessObject.SetGlobalWarningDisplay(False)  # of odd headers: they would break the bar
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    if more:
        more()


def _exit_with_parent() -> None:
    """A main process that was killed can't stop its workers, which would write on beside the next run's."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
