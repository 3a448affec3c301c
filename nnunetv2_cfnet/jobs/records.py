"""Records of what happened to an experiment's parts, as files in OUT/jobs: what `nnunetv2_cfnet status` reads.

A part is a training, the preparation or the conclusion. OUT/jobs/NAME.json is written by who runs the part, and
OUT/jobs/submitted.json, which job it is, by who submits it: each file has one writer. Whoever runs a part gives a sign
of life now and then, its record's time; a killed one can't say that it has ended.
"""

import json
import os
import socket
import threading
import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from nnunetv2_cfnet.errors import UserError
from nnunetv2_cfnet.files.json_files import read_json_object
from nnunetv2_cfnet.files.whole import whole_file
from nnunetv2_cfnet.jobs.experiment import Training
from nnunetv2_cfnet.jobs.progress import read_progress
from nnunetv2_cfnet.jobs.steps import StepError

PREPARATION, CONCLUSION = "preparation", "conclusion"  # the parts that are no training
STATES = ("waiting", "running", "interrupted", "done", "failed", "cancelled")
WAITING, RUNNING, INTERRUPTED, DONE, FAILED, CANCELLED = STATES
SIGN_OF_LIFE_S = 20
SILENT_S = 120  # without a sign of life: longer than a busy file system takes to show one
MAX_STARTS_WITHOUT_PROGRESS = 5
REMEDY = "Remove it, and give the command again."


@dataclass(frozen=True)
class Record:
    """What is known of a part.

    Args:
        state: One of the states above.
        why: Of a failure.
        host: Where it was run last.
        starts: Of a training that began or went on, the number of epochs that had been trained; of others, zeros.
        fold_folder: Of a training, as seen from OUT.
        num_epochs: Of a training.
    """

    state: str = WAITING
    why: str = ""
    host: str = ""
    starts: Sequence[int] = ()
    fold_folder: str | None = None
    num_epochs: int | None = None

    @property
    def num_interruptions(self) -> int:
        """Each start but the first follows one, and so will the next."""
        return len(self.starts) - (self.state != INTERRUPTED) if self.starts else 0


class Records:
    """The records below an experiment's folder, OUT."""

    def __init__(self, out: Path) -> None:
        self.out = out
        self.folder = out / "jobs"
        self._submitted = self.folder / "submitted.json"

    def names(self) -> list[str]:
        """Of all parts: the preparation, trainings in order, the conclusion."""
        found = {file.stem for file in self.folder.glob("*.json")} - {self._submitted.stem}
        trainings = sorted(found - {PREPARATION, CONCLUSION})
        return [*({PREPARATION} & found), *trainings, *({CONCLUSION} & found)]

    def read(self, name: str) -> Record:
        """The record of a part; that of one that waits if there is none."""
        file = self.file(name)
        if not file.is_file():
            return Record()
        try:
            record = Record(**read_json_object(file, REMEDY))
            _check_types(record)
        except TypeError as error:
            raise UserError(f"{file} is no record of a job ({error}). {REMEDY}") from error
        return record

    def write(self, name: str, record: Record) -> None:
        """Put a record in the place of the one that is there."""
        self._write(self.file(name), asdict(record))

    def expect(self, trainings: Iterable[Training], others: Iterable[str] = ()) -> None:
        """Record that these are to be run, whatever happened to them before; those that are done stay so."""
        for training in trainings:
            self.write(training.name, self._of_training(training))
        for name in others:
            self.write(name, Record())

    @contextmanager
    def expecting(self, trainings: Iterable[Training], others: Iterable[str] = ()) -> Iterator[None]:
        """expect, taken back where the block fails: these are not to be run after all."""
        trainings, others = list(trainings), list(others)
        names = [*(training.name for training in trainings), *others]
        before = {name: self.read(name) if self.file(name).is_file() else None for name in names}
        self.expect(trainings, others)
        try:
            yield
        except BaseException:
            for name, record in before.items():
                if record is None:
                    self.file(name).unlink()
                else:
                    self.write(name, record)
            raise

    def give_up(self, name: str) -> None:
        """Record that a part has failed, where nothing is recorded of how it ended."""
        record = self.read(name)
        if record.state in (WAITING, RUNNING, INTERRUPTED):
            self.write(name, replace(record, state=FAILED, why=record.why or "its job ended"))

    def _of_training(self, training: Training) -> Record:
        return Record(
            state=DONE if training.is_done else WAITING,
            fold_folder=os.path.relpath(training.fold_folder, self.out),
            num_epochs=training.num_epochs,
        )

    def is_silent(self, name: str) -> bool:
        """Whether the last sign of life of a part that is running was long ago."""
        return time.time() - self.file(name).stat().st_mtime > SILENT_S

    @contextmanager
    def running(self, name: str, fold_folder: Path | None = None) -> Iterator[None]:
        """Record that a part is running, and how it ends.

        Args:
            fold_folder: of a training.

        Raises:
            UserError: it was started again and again, and got no further; or the block's.
        """
        before = self.read(name)
        num_trained = read_progress(fold_folder).num_trained if fold_folder else 0
        record = replace(before, state=RUNNING, why="", host=socket.gethostname(), starts=[*before.starts, num_trained])
        stuck = record.starts[-MAX_STARTS_WITHOUT_PROGRESS - 1 :]
        try:
            if len(stuck) > MAX_STARTS_WITHOUT_PROGRESS and len(set(stuck)) == 1:
                raise UserError(
                    f"{name} was interrupted {MAX_STARTS_WITHOUT_PROGRESS} times without getting further: give it more "
                    "time or memory"
                )
            with self._signs_of_life(name, record):
                yield
        except StepError as error:
            state = INTERRUPTED if error.is_interruption else FAILED
            self.write(name, replace(record, state=state, why=error.last_line))
            raise
        except Exception as error:
            self.write(name, replace(record, state=FAILED, why=" ".join(str(error).split()) or type(error).__name__))
            raise
        except BaseException:  # Ctrl-C, or the end of a job that will be started again
            self.write(name, replace(record, state=INTERRUPTED))
            raise
        self.write(name, replace(record, state=DONE))

    @contextmanager
    def _signs_of_life(self, name: str, record: Record) -> Iterator[None]:
        self.write(name, record)
        has_ended = threading.Event()

        def give_signs() -> None:
            while not has_ended.wait(SIGN_OF_LIFE_S):
                with suppress(OSError):
                    os.utime(self.file(name))

        thread = threading.Thread(target=give_signs, daemon=True)
        thread.start()
        try:
            yield
        finally:
            has_ended.set()
            thread.join()

    def submitted(self) -> dict[str, str]:
        """The job of each part that was submitted last, by SLURM's number."""
        return read_json_object(self._submitted, REMEDY) if self._submitted.is_file() else {}

    def add_submitted(self, jobs: Iterable[tuple[str, str]]) -> None:
        """Add parts and their jobs, in the place of earlier ones."""
        self._write(self._submitted, {**self.submitted(), **dict(jobs)})

    def cancel(self, name: str) -> None:
        """Record that a part is in no job's hands any more."""
        self.write(name, replace(self.read(name), state=CANCELLED))
        self.forget_submitted([name])

    def forget_submitted(self, names: Collection[str]) -> None:
        """No job has these parts any more."""
        self._write(self._submitted, {part: job for part, job in self.submitted().items() if part not in names})

    def file(self, name: str) -> Path:
        """Where a part's record lies."""
        return self.folder / f"{name}.json"

    def _write(self, file: Path, content: object) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        with whole_file(file, made_in=self.folder) as unfinished:
            unfinished.write_text(json.dumps(content, indent=1))


def _check_types(record: Record) -> None:
    """A TypeError where a value is none of a record's."""
    is_right = {
        "state": record.state in STATES,
        "why": isinstance(record.why, str),
        "host": isinstance(record.host, str),
        "starts": isinstance(record.starts, list | tuple) and all(type(number) is int for number in record.starts),
        "fold_folder": isinstance(record.fold_folder, str | None),
        "num_epochs": isinstance(record.num_epochs, int | None),
    }
    if wrong := [f"{name} is {getattr(record, name)!r}" for name, right in is_right.items() if not right]:
        raise TypeError(", ".join(wrong))
