"""The dataset's folder that convert_brats writes, and what it keeps of a run that was interrupted.

Beside the folder lies .DatasetXXX_NAME.unfinished, whose leading dot hides it from nnU-Net:

    checked/            what was found in each case (records.py)
    conversion.json     what is converted, and how
    in_work/            files that are being written; each is moved to where it belongs when it is whole
    imagesTr/, ..       the dataset

It gets the dataset's name when it is complete, and only then an earlier dataset of that name is removed.
"""

import json
import os
import shutil
import sys
from collections.abc import Iterator, Set
from contextlib import contextmanager
from pathlib import Path

from nnunetv2_cfnet.errors import UserError, listing_of
from nnunetv2_cfnet.files.whole import check_place, check_space, free_bytes, gigabytes, whole_file

CONVERSION = "conversion.json"


class Target:
    """Where a dataset is converted to.

    replaced: where an earlier dataset waits until the new one has its place.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.unfinished = folder.with_name(f".{folder.name}.unfinished")
        self.replaced = folder.with_name(f".{folder.name}.replaced")
        self.findings = folder.with_name(f"{folder.name}_findings.csv")
        self.checked = self.unfinished / "checked"
        self.in_work = self.unfinished / "in_work"

    def restore(self) -> None:
        """Undo what a run left that was killed while the new dataset took an earlier one's place."""
        if not os.path.lexists(self.replaced):
            return
        if os.path.lexists(self.folder):
            _remove(self.replaced)
        else:
            self.replaced.rename(self.folder)

    def check_place(self) -> None:
        """A UserError where nothing can be written; what another run may be changing is not looked at."""
        check_place(self.folder.parent, (self.findings.name,), "nnUNet_raw")

    def check_unfinished(self, needed_bytes: int) -> None:
        """A UserError where the unfinished folder can't be written, or holds less than the dataset needs.

        Args:
            needed_bytes: by the whole dataset, at the least.
        """
        check_place(self.unfinished, (), "nnUNet_raw")
        check_space(self.unfinished, self._still_needed(needed_bytes))

    def _still_needed(self, needed_bytes: int) -> int:
        return needed_bytes - sum(path.lstat().st_size for path in self.unfinished.rglob("*"))

    @contextmanager
    def kept(self, needed_bytes: int) -> Iterator[None]:
        """The unfinished folder is there, and stays if it is not finished; what to do then is said."""
        shutil.rmtree(self.in_work, ignore_errors=True)
        for folder in (self.in_work, self.checked):
            folder.mkdir(parents=True, exist_ok=True)
        try:
            yield
        except KeyboardInterrupt:
            if self.unfinished.exists():  # not when it has become the dataset
                print(f"{self.unfinished} is kept: the same command goes on there.", file=sys.stderr)
            raise
        except UserError as error:
            raise UserError(
                f"{error} What was checked is kept in {self.unfinished}: a case is not checked again while its files, "
                "edition and labels stay the same."
            ) from error
        except OSError as error:
            raise UserError(
                f"{error}. {self.unfinished} is kept: the same command goes on there. It needs about "
                f"{gigabytes(max(0, self._still_needed(needed_bytes)))} more; {gigabytes(free_bytes(self.unfinished))} "
                "are free."
            ) from error

    def begin(self, conversion: dict) -> None:
        """Go on with what is converted already, if it was the same conversion; otherwise remove it.

        Args:
            conversion: all that the dataset depends on.
        """
        text = json.dumps(conversion, indent=4)
        file = self.unfinished / CONVERSION
        if file.exists() and file.read_bytes() == text.encode():
            print(f"Going on in {self.unfinished}, which an interrupted run left.", flush=True)
            return
        if file.exists():
            print(f"{self.unfinished} is of a run with other files, edition or options: starting anew.", flush=True)
        for path in self.unfinished.iterdir():
            if path not in (self.checked, self.in_work):
                _remove(path)
        with whole_file(file, made_in=self.in_work) as unfinished:
            unfinished.write_text(text)

    def finish(self, files: Set[str]) -> None:
        """Give the unfinished folder its name, in place of an earlier one.

        Args:
            files: all that the dataset must have, as in "labelsTr/CASE.nii.gz".

        Raises:
            UserError: it has others.
        """
        found = set()
        for path in self.unfinished.rglob("*"):
            if path.is_file() and not {self.checked, self.in_work} & set(path.parents):
                found.add(path.relative_to(self.unfinished).as_posix())
        for names, problem in ((files - found, "files are not there"), (found - files - {CONVERSION}, "are not ours")):
            if names:
                raise UserError(
                    f"{self.unfinished} was changed by something else: of {len(files)} files, {len(names)} {problem}: "
                    f"{listing_of(sorted(names))}. The same command writes what is missing; remove what is too much."
                )
        for folder in (self.checked, self.in_work):
            shutil.rmtree(folder)
        if os.path.lexists(self.folder):
            self.folder.rename(self.replaced)
        # At once one after the other: a dataset must not have that file, and is made again without it
        (self.unfinished / CONVERSION).unlink()
        self.unfinished.rename(self.folder)
        try:
            if os.path.lexists(self.replaced):
                _remove(self.replaced)
        except OSError as error:  # the new one has its place
            print(f"The earlier dataset can't be removed ({error}): remove {self.replaced}.", file=sys.stderr)


def _remove(path: Path) -> None:
    """A folder, a file, or a link, and never what a link leads to."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()
