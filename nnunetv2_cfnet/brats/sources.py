"""Cases of a BraTS release, in any layout of folders."""

import csv
import errno
import os
import stat
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from nnunetv2_cfnet.brats.editions import AUTO, EDITIONS, Edition, decide_edition, editions_of, refuse_other_tumours
from nnunetv2_cfnet.errors import UserError
from nnunetv2_cfnet.files.volumes import Geometry, read_geometry, shared_geometry

NIFTI = (".nii.gz", ".nii")
SEGMENTATION = "seg"
NAME_MAPPING = "name_mapping.csv"
NO_ID = ("", "-", "na", "n/a", "nan", "none")  # what tables write where there is none, in any case


@dataclass
class SourceCase:
    """One case: files of each channel and of the segmentation, more than one where they are duplicates.

    name: the source's own, such as BraTS20_Training_001.
    files: by channel (T1, T1ce, T2, FLAIR; the same 4D file for all of them in msd) and "seg".
    patient: what cases of one patient share, so that they stay in one fold.
    grade: "HGG" or "LGG" where folders or name_mapping.csv tell.
    """

    name: str
    files: dict[str, list[Path]] = field(default_factory=lambda: defaultdict(list))
    patient: str = ""
    grade: str | None = None

    @property
    def is_training(self) -> bool:
        return bool(self.files.get(SEGMENTATION))

    def read_geometry(self) -> Geometry:
        """What most of its files have; only headers are read.

        Raises:
            OSError: one of them can't be read.
        """
        return shared_geometry([read_geometry(paths[0]) for paths in self.files.values()])


@dataclass
class Source:
    """What find_cases found: cases by name, in order, and NIfTI files that belong to none."""

    folder: Path
    edition: Edition
    cases: list[SourceCase]
    unclaimed: list[Path]


def find_cases(folder: Path, edition: str = AUTO) -> Source:
    """Find the cases of a release: case folders, HGG/ and LGG/, flat, or nested; .nii and .nii.gz; MSD's 4D files.

    Args:
        folder: searched with all its subfolders, linked ones too.
        edition: a name of EDITIONS, or "auto" to decide from the case names. Where it is given and no file has a
            BraTS name, any name before a channel's suffix is a case's.

    Raises:
        UserError: no folder, no cases, cases of other tumours, names that do not settle the edition, or something that
            can't be read.
    """
    if not folder.is_dir():
        raise UserError(f"{folder} is no folder: give the one that the release was unpacked to.")
    files = _files_below(folder)
    images = [path for path in files if path.name.endswith(NIFTI)]
    refuse_other_tumours((name for path in images for name in (path.name, path.parent.name)), str(folder))
    claims = [_claim(path, EDITIONS.values()) for path in images]
    if edition != AUTO and not any(name for name, _ in claims):
        claims = [_claim(path, [EDITIONS[edition]], any_name=True) for path in images]
    cases: dict[str, SourceCase] = {}
    unclaimed = []
    for path, (name, contents) in zip(images, claims, strict=True):
        if name is None:
            unclaimed.append(path)
            continue
        case = cases.setdefault(name, SourceCase(name))
        for content in contents:
            case.files[content].append(path)
        grades = {"HGG", "LGG"} & {part.upper() for part in path.relative_to(folder).parts}
        case.grade = case.grade or next(iter(grades), None)
    if edition == AUTO:
        decided = decide_edition(cases, str(folder))
    else:
        decided = EDITIONS[edition]
        _check_given(decided, cases, folder)
    _group_patients(cases.values(), [path for path in files if path.name == NAME_MAPPING])
    return Source(folder, decided, [cases[name] for name in sorted(cases)], unclaimed)


def stem(path: Path) -> str:
    """The name without .nii.gz or .nii."""
    return path.name.removesuffix(".gz").removesuffix(".nii")


def _files_below(folder: Path) -> list[Path]:
    """All files, sorted, without hidden ones and what macOS adds to archives.

    Raises:
        UserError: a folder can't be read: its cases would be missing without a word.
    """
    files: list[Path] = []
    visited = set()  # links may lead in circles
    try:
        for parent, folders, names in os.walk(folder, onerror=_stop, followlinks=True):
            if os.path.realpath(parent) in visited:
                folders.clear()
                continue
            visited.add(os.path.realpath(parent))
            folders[:] = sorted(name for name in folders if not _is_hidden(name))
            files += [path for name in names if not _is_hidden(name) and _is_file(path := Path(parent, name))]
    except OSError as error:
        raise UserError(
            f"{error.filename} can't be read ({error.strerror}), and cases may be missing without it. Make it "
            "readable, or give a folder without it."
        ) from error
    return sorted(files)


def _stop(error: OSError) -> None:
    raise error


def _is_file(path: Path) -> bool:
    """Path.is_file, which also says no where it can't tell, depending on the version of Python."""
    try:
        return stat.S_ISREG(path.stat().st_mode)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):  # a link to nothing
            return False
        raise


def _is_hidden(name: str) -> bool:
    return name.startswith((".", "__MACOSX"))


def _claim(path: Path, candidates: Iterable[Edition], any_name: bool = False) -> tuple[str | None, tuple[str, ...]]:
    """The case that a file belongs to and what it holds of it: channels, or the segmentation."""
    for edition in candidates:
        if edition.volumes:
            contents = {"imagesTr": edition.volumes, "imagesTs": edition.volumes, "labelsTr": (SEGMENTATION,)}
            if path.parent.name in contents and (any_name or edition.case_name.fullmatch(stem(path))):
                return stem(path), contents[path.parent.name]
            continue
        # some redistributions unpack a file into a folder of the file's name
        for name in (stem(path), stem(path.parent)):
            for content, suffix in edition.suffixes.items():
                case = name[: -len(suffix)]
                if name.lower().endswith(suffix) and case and (any_name or edition.case_name.fullmatch(case)):
                    return case, (content,)
        # BraTS20_Training_355's segmentation kept its name from before the release
        if stem(path).lower().endswith("_segm") and (any_name or edition.case_name.fullmatch(path.parent.name)):
            return path.parent.name, (SEGMENTATION,)
    return None, ()


def _check_given(edition: Edition, cases: Iterable[str], folder: Path) -> None:
    names = list(cases)
    if not names:
        expected = ", ".join(edition.suffixes.values()) or "imagesTr/ and labelsTr/ with 4D files"
        raise UserError(
            f"{folder} holds no cases of edition {edition.name} (files ending in {expected}). Give the folder that the "
            "release was unpacked to, or another --edition."
        )
    others = [name for name in names if (editions := editions_of(name)) and edition.name not in editions]
    if others:
        raise UserError(
            f"{folder}: {others[0]} (and {len(others) - 1} more) is named as in {' or '.join(editions_of(others[0]))}, "
            f"not in {edition.name}. Choose the --edition that they are of, or give that edition a folder of its own."
        )


def _group_patients(cases: Iterable[SourceCase], mappings: Iterable[Path]) -> None:
    """Set each case's patient, and its grade where no folder gave it."""
    patients: dict[str, str] = {}  # each ID of a patient -> one that stands for all
    grades: dict[str, str] = {}
    for row in (row for mapping in mappings for row in _read_mapping(mapping)):
        ids = [value for column, value in row.items() if column.endswith("_ID") and value]
        keys = [_patient_of(name) for name in ids]
        roots = {patients.get(key, key) for key in keys}
        for key, root in list(patients.items()):
            if root in roots:
                patients[key] = min(roots)
        patients |= {key: min(roots) for key in keys}
        if row.get("Grade"):
            grades |= {name: row["Grade"] for name in ids}
    for case in cases:
        own = _patient_of(case.name)
        case.patient = patients.get(own, own)
        case.grade = case.grade or grades.get(case.name)


def _read_mapping(file: Path) -> list[dict[str, str]]:
    """Rows of a name_mapping.csv, values by column; "" where the table says that there is none."""
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise UserError(f"{file} is not UTF-8 ({error}): save it as a CSV in UTF-8, or take it away.") from error
    header = lines[0] if lines else ""
    rows = csv.reader(lines, delimiter=max(",;\t", key=header.count))
    columns = [column.strip() for column in next(rows, [])]
    if not any(column.endswith("_ID") for column in columns):
        raise UserError(
            f"{file} has no column whose name ends in _ID, such as BraTS_2020_subject_ID (its first line: "
            f"{header[:100]!r}), so that it does not say which cases are of one patient. Put the release's own table "
            "there, or take it away."
        )
    values = ([value.strip() for value in row] for row in rows)
    return [
        {column: "" if value.lower() in NO_ID else value for column, value in zip(columns, row, strict=False)}
        for row in values
    ]


def _patient_of(name: str) -> str:
    return next((match["patient"] for e in EDITIONS.values() if (match := e.case_name.fullmatch(name))), name)
