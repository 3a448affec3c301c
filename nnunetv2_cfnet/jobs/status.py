"""`nnunetv2_cfnet status`: how an experiment's trainings get on, from the files in its folder alone."""

from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from nnunetv2_cfnet.errors import UserError, printable
from nnunetv2_cfnet.files.json_files import is_json
from nnunetv2_cfnet.jobs.progress import Progress, read_progress
from nnunetv2_cfnet.jobs.records import DONE, FAILED, INTERRUPTED, RUNNING, WAITING, Record, Records

HEADER = ("training", "state", "epoch", "Dice", "time left", "log")
MAX_WHY = 70  # characters of a reason


def print_status(out: Path) -> None:
    """Print a table of an experiment's parts.

    Raises:
        UserError: there are none.
    """
    records = Records(out)
    names = records.names()
    if not names:
        raise UserError(
            f"{out} has no records of trainings (jobs/*.json): give the folder of a benchmark, or the model folder of "
            "a cross-validation."
        )
    print(_table([HEADER, *(_row(records, name) for name in names)]))


def summary_of(out: Path) -> str:
    """One line: how many parts are in which state, and the epochs of those that run."""
    records = Records(out)
    read = {}
    for name in records.names():
        with suppress(UserError):  # which print_status shows
            read[name] = records.read(name)
    states = Counter(WAITING if record.state == INTERRUPTED else record.state for record in read.values())
    counts = ", ".join(f"{number} {state}" for state, number in sorted(states.items()))
    running = [
        f"{name} {_epoch(record, _progress(records, record))}".strip()
        for name, record in read.items()
        if record.state == RUNNING
    ]
    return f"{counts}: {', '.join(running)}" if running else counts


def _row(records: Records, name: str) -> tuple[str, ...]:
    try:
        record = records.read(name)
    except UserError:
        return (printable(name), f"record unreadable: {printable(str(records.file(name)))}", *[""] * (len(HEADER) - 2))
    progress = _progress(records, record)
    log = records.out / "logs" / f"{name}.log"
    return (
        printable(name),
        _state(records, name, record, progress),
        _epoch(record, progress),
        "" if progress.dice is None else f"{progress.dice:.3f}",
        _time_left(record, progress),
        printable(str(log)) if log.is_file() else "",
    )


def _progress(records: Records, record: Record) -> Progress:
    return read_progress(records.out / record.fold_folder) if record.fold_folder else Progress()


def _state(records: Records, name: str, record: Record, progress: Progress) -> str:
    is_done = record.fold_folder and is_json(records.out / record.fold_folder / "validation" / "summary.json")
    state = DONE if is_done else WAITING if record.state == INTERRUPTED else record.state
    why = f": {printable(record.why)[:MAX_WHY]}" if record.why else ""
    if state == RUNNING and records.is_silent(name):
        state = "running, without a sign of life: killed?"
    elif state == RUNNING and progress.is_validating:
        state = "running, validating"
    elif state == FAILED:
        state = f"failed{why}"
    times = record.num_interruptions
    interrupted = f", interrupted {times} time{'s' if times > 1 else ''}" if times else ""
    return f"{state}{interrupted}{why if state == WAITING else ''}"


def _epoch(record: Record, progress: Progress) -> str:
    return f"{progress.epoch}/{record.num_epochs}" if record.num_epochs else ""


def _time_left(record: Record, progress: Progress) -> str:
    """Of the epochs that are left, by the times of recent ones; validation comes on top."""
    if not record.num_epochs or progress.epoch_s is None or progress.epoch >= record.num_epochs:
        return ""
    minutes = round((record.num_epochs - progress.epoch) * progress.epoch_s / 60)
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min"


def _table(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )
