"""Work on many cases in processes of their own, with a progress bar and an end that Ctrl-C can bring about."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import TypeVar

import SimpleITK
from tqdm import tqdm

from nnunetv2_cfnet.errors import UserError

Case = TypeVar("Case")
Result = TypeVar("Result")


def in_parallel(
    function: Callable[[Case], Result], cases: Sequence[Case], num_processes: int, title: str
) -> list[Result]:
    """function(case) for all cases in worker processes, in their order, with a bar.

    Raises:
        UserError: a worker was killed.
    """
    executor = ProcessPoolExecutor(
        min(num_processes, len(cases)), multiprocessing.get_context("spawn"), initializer=prepare_worker
    )
    try:
        with ignored_interrupts():  # which workers start with, and keep
            futures = [executor.submit(function, case) for case in cases]
        for future in tqdm(as_completed(futures), total=len(futures), desc=title, unit="case"):
            future.result()  # or its exception, at once
        return [future.result() for future in futures]
    except BrokenProcessPool as error:
        raise UserError(
            f"A process was killed while {title}, most likely for want of memory: the same command with a smaller -np "
            "goes on."
        ) from error
    finally:
        executor.shutdown(cancel_futures=True)  # after the cases at hand


@contextmanager
def ignored_interrupts() -> Iterator[None]:
    """Ctrl-C reaches all processes of a terminal: the main process alone deals with it."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def prepare_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    SimpleITK.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    SimpleITK.ProcessObject.SetGlobalWarningDisplay(False)  # of odd headers: they would break the bar
    threading.Thread(target=_exit_with_parent, daemon=True).start()


def _exit_with_parent() -> None:
    """A main process that was killed can't stop its workers, which would write on beside the next run's."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
