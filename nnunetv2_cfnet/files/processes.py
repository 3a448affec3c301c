"""Work on many cases in processes of their own, with a progress bar and an end that Ctrl-C can bring about."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, as_completed, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing.context import SpawnContext, SpawnProcess
from typing import Any, TypeVar

import SimpleITK
from tqdm import tqdm

from nnunetv2_cfnet.errors import UserError

Case = TypeVar("Case")
Key = TypeVar("Key")
Result = TypeVar("Result")

_INTERRUPTING = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]


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
        UserError: one could not start, crashed or was killed.
    """
    context = _RememberingContext()
    started = context.RawValue("b", 0)  # without a lock, which a process that is killed could keep
    executor = ProcessPoolExecutor(num_processes, context, initializer=prepare_worker, initargs=(started, prepare))
    try:
        yield executor
    except BrokenProcessPool as error:
        executor.shutdown()  # then all have ended
        raise UserError(
            _why_broken({process.exitcode for process in context.processes}, bool(started.value), doing)
        ) from error
    finally:
        executor.shutdown(cancel_futures=True)  # after the cases at hand


class _RememberingContext(SpawnContext):
    """Starts processes as SpawnContext does, and remembers them: an executor does not tell how its own ended."""

    def __init__(self) -> None:
        self.processes: list[SpawnProcess] = []

    def Process(self, *args: Any, **more: Any) -> SpawnProcess:  # type: ignore[override]  # noqa: N802
        self.processes.append(SpawnProcess(*args, **more))
        return self.processes[-1]


def _why_broken(exit_codes: set[int | None], started: bool, doing: str) -> str:
    """What became of a process that ended before its work did.

    Args:
        exit_codes: of all processes; minus the number of a signal.
        started: whether one has come as far as to its work.
    """
    codes = {code for code in exit_codes if code is not None}
    codes = codes - {0, -signal.SIGTERM} or codes  # by which the executor has ended the others
    if -signal.SIGKILL in codes:
        return (
            f"A process was killed while {doing}, most likely because memory ran out: the same command with a smaller "
            "-np goes on."
        )
    ends = " and ".join(signal.Signals(-code).name if code < 0 else f"exit code {code}" for code in sorted(codes))
    if not started:
        return f"A process for {doing} could not start ({ends}; what it said is above): run nnunetv2_cfnet doctor."
    return (
        f"A process crashed while {doing} ({ends}; what it said is above): the same command with -np 1 goes on, and "
        "stops at the case that does it."
    )


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
    with _interruption_deferred():
        keys = {executor.submit(function, case): key for key, case in cases.items()}
    for future in tqdm(as_completed(keys), total=len(keys), desc=title, unit="case"):
        yield keys[future], future.result()


def run_while_made(
    executor: ProcessPoolExecutor | None,
    function: Callable[[Case], Result],
    cases: Iterable[tuple[Key, Case]],
    most_waiting: int,
) -> Iterator[tuple[Key, Result]]:
    """As run, for cases that this process makes meanwhile, and without a bar.

    Args:
        most_waiting: as many cases are in memory at a time.
    """
    if executor is None:
        for key, case in cases:
            yield key, function(case)
        return
    waiting: dict[Future[Result], Key] = {}
    for key, case in cases:
        with _interruption_deferred():
            waiting[executor.submit(function, case)] = key
        patience_s = None if len(waiting) >= most_waiting else 0
        for future in wait(waiting, patience_s, FIRST_COMPLETED).done:
            yield waiting.pop(future), future.result()
    for future in as_completed(waiting):
        yield waiting[future], future.result()


@contextmanager
def _interruption_deferred() -> Iterator[None]:
    """Ctrl-C takes effect at the end, and never in processes that are started in here; what ends this one, at the end.

    Ctrl-C reaches all processes of a terminal, and the main process alone is to deal with it. A new process ignores it
    from its first instruction on only where it is blocked in the thread that starts it. That is not enough for this
    process: one of its other threads, such as those of numpy's libraries, may take it.
    """
    came: list[int] = []
    # Those that a handler of Python's deals with, as cli.py's for SIGTERM: others end the process, or are ignored
    deferred = {number: handler for number in _INTERRUPTING if callable(handler := signal.getsignal(number))}
    for number in deferred:
        signal.signal(number, lambda number, frame: came.append(number))
    blocks = hasattr(signal, "pthread_sigmask")  # not on Windows, whose workers may be interrupted while they start
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT]) if blocks else None
    try:
        yield
    finally:
        if mask is not None:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        for number, handler in deferred.items():
            signal.signal(number, handler)
        if came:
            signal.raise_signal(came[0])


def prepare_worker(started: Any, more: Callable[[], None] | None = None) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    SimpleITK.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    SimpleITK.ProcessObject.SetGlobalWarningDisplay(False)  # of odd headers: they would break the bar
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    if more:
        more()
    started.value = True


def _exit_with_parent() -> None:
    """A main process that was killed can't stop its workers, which would write on beside the next run's."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
