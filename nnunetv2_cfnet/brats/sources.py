"""Cases of a BraTS release, in any layout of folders."""

import csv
import errno
import os
import stat
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from nnunetv2_cfnet.brats.editions import (
    AUTO,
    CHANNELS,
    EDITIONS,
    Edition,
    decide_edition,
    editions_of,
    refuse_other_tumours,
)
from nnunetv2_cfnet.brats.labels import parse_labels
from nnunetv2_cfnet.errors import UserError
from nnunetv2_cfnet.files.volumes import Geometry, is_broken_link, read_geometry, shared_geometry, unreadable

NIFTI = (".nii.gz", ".nii")
SEGMENTATION = "seg"
NAME_MAPPING = "name_mapping.csv"
# What releases come as besides NIfTI, by how names end, and what to do.
OTHER_FORMATS = {
    (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".7z", ".rar"): "unpack them, and give the folder",
    (".mha", ".mhd", ".nrrd"): "not read here, write them as .nii.gz under BraTS's names (with SimpleITK, for example)",
    (".h5", ".hdf5", ".npy", ".npz"): "not read here, get the release's own NIfTI files",
    (".dcm",): "not read here, get the release's own NIfTI files",
}
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

    @property
    def lacking(self) -> list[str]:
        """Channels without a file."""
        return [channel for channel in CHANNELS if not self.files.get(channel)]

    @property
    def is_incomplete(self) -> bool:
        """Tell whether it lacks some channels, and has others."""
        return 0 < len(self.lacking) < len(CHANNELS)

    def read_geometry(self) -> Geometry:
        """What most of its files have; only headers are read.

        Raises:
            OSError: one of them can't be read.
        """
        return shared_geometry([read_geometry(paths[0]) for paths in self.files.values() if paths])


@dataclass
class Source:
    """What find_cases found: cases by name, in order, and NIfTI files that belong to none.

    edition: with the labels that were given, if labels_given.
    """

    folder: Path
    edition: Edition
    cases: list[SourceCase]
    unclaimed: list[Path]
    labels_given: bool = False


def find_cases(folder: Path, edition: str = AUTO, labels: str | None = None) -> Source:
    """Find the cases of a release: case folders, HGG/ and LGG/, flat, or nested; .nii and .nii.gz; MSD's 4D files.

    Args:
        folder: searched with all its subfolders, linked ones too.
        edition: a name of EDITIONS, or "auto" to decide from the case names. Where it is given and no file has a
            BraTS name, any name before a channel's suffix is a case's.
        labels: what the labels are, for parse_labels, where they are not the edition's.

    Raises:
        UserError: no folder, no cases, cases of other tumours, names that do not settle the edition, or something that
            can't be read.
    """
    if not folder.is_dir():
        raise UserError(f"{folder} is no folder: give the one that the release was unpacked to.")
    files = _files_below(folder)
    # a broken link to a case's folder has no ending
    images = [path for path in files if path.name.lower().endswith(NIFTI) or is_broken_link(path)]
    refuse_other_tumours((name for path in images for name in (path.name, path.parent.name)), str(folder))
    claims = [_claim(path, EDITIONS.values()) for path in images]
    if not any(set(contents) - {SEGMENTATION} for _, contents in claims):
        _refuse_nnunet_format(images, folder)
    if not any(name for name, _ in claims):
        editions = [EDITIONS[edition]] if edition != AUTO else list(EDITIONS.values())
        by_any_name = {each.name: [_claim(path, [each], any_name=True) for path in images] for each in editions}
        possible = [name for name, claims in by_any_name.items() if any(case for case, _ in claims)]
        if not possible:
            raise UserError(f"{folder} holds no cases{_expected(edition)}. {_what_there_is(files, images)}")
        if edition == AUTO:
            raise UserError(
                f"{folder} holds no cases with BraTS names, and files are named as in {', '.join(possible)}. Say with "
                "--edition which of them has the same labels."
            )
        claims = by_any_name[edition]
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
    if labels is not None:
        decided = replace(decided, labels=parse_labels(labels, decided))
    _group_patients(cases.values(), [path for path in files if path.name == NAME_MAPPING])
    return Source(folder, decided, [cases[name] for name in sorted(cases)], unclaimed, labels is not None)


def stem(path: Path) -> str:
    """The name without .nii.gz or .nii."""
    return next((path.name[: -len(ending)] for ending in NIFTI if path.name.lower().endswith(ending)), path.name)


def _refuse_nnunet_format(images: Sequence[Path], folder: Path) -> None:
    """nnU-Net's channels, which MSD's 4D files in folders of the same names could be taken for."""
    labelled = {stem(path) for path in images if path.parent.name == "labelsTr"}
    for path in images:
        if stem(path).endswith("_0000") and stem(path) not in labelled:
            raise UserError(
                f"{folder} holds files as nnU-Net names them ({path}), not a BraTS release. A whole dataset of nnU-Net "
                "(imagesTr, labelsTr, dataset.json) needs no conversion: put it into nnUNet_raw as DatasetXXX_NAME."
            )


def _expected(edition: str) -> str:
    if edition == AUTO:
        return " with BraTS names"
    suffixes = ", ".join(EDITIONS[edition].suffixes.values()) or "imagesTr/ and labelsTr/ with 4D files"
    return f" of edition {edition} (files ending in {suffixes})"


def _what_there_is(files: Iterable[Path], images: Sequence[Path]) -> str:
    """Sentences for a message: what a folder without cases holds, and what to do."""
    sentences = []
    for endings, remedy in OTHER_FORMATS.items():
        if found := [path for path in files if path.name.lower().endswith(endings)]:
            sentences.append(f"There are {len(found)} files such as {found[0].name}: {remedy}.")
    if images:
        sentences.append(f"There are {len(images)} files such as {images[0].name}, of which none is named so.")
    return " ".join([*sentences, "Give the folder that the release was unpacked to, with its file names."])


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
    """Path.is_file, but yes to a link to nothing, and an error where it can't tell."""
    try:
        return stat.S_ISREG(path.stat().st_mode)
    except OSError as error:
        # what should be there is missed by name, when it is to be read
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
            return path.is_symlink()
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
    others = [name for name in cases if (editions := editions_of(name)) and edition.name not in editions]
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
    except OSError as error:
        raise UserError(unreadable(file, error, "Put the release's own table there, or take it away.")) from error
    header = lines[0] if lines else ""
    reader = csv.reader(lines, delimiter=max(",;\t", key=header.count), strict=True)
    try:
        rows = list(reader)
    except csv.Error as error:
        raise UserError(
            f"{file} is no table that can be read (line {reader.line_num}: {error}). Put the release's own table "
            "there, or take it away."
        ) from error
    first, *rows = rows or [[]]
    columns = [column.strip() for column in first]
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
