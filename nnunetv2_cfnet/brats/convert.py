"""`nnunetv2_cfnet convert_brats`: a BraTS release -> a raw dataset of nnU-Net.

Cases are found (sources.py), all checked (checks.py), and only then converted, in a folder beside the dataset's, where
an interrupted run goes on (target.py): it keeps what was found in a case (records.py), and every file that is whole.

Worker processes import this module: nothing here imports torch, and nnunetv2 only in functions of the main process.
"""

import csv
import gzip
import json
import os
import re
import shutil
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import SimpleITK

from nnunetv2_cfnet import __version__
from nnunetv2_cfnet.brats.checks import Inspection, check_source, inspect_case
from nnunetv2_cfnet.brats.editions import AUTO, CHANNELS, TISSUES, Edition
from nnunetv2_cfnet.brats.findings import NO_CASE, Finding, Kind, Severity
from nnunetv2_cfnet.brats.records import check_case
from nnunetv2_cfnet.brats.sources import SEGMENTATION, Source, SourceCase, find_cases
from nnunetv2_cfnet.brats.splits import make_splits
from nnunetv2_cfnet.brats.target import Target
from nnunetv2_cfnet.errors import UserError, printable
from nnunetv2_cfnet.files.lock import locked
from nnunetv2_cfnet.files.processes import check_num_processes, in_parallel
from nnunetv2_cfnet.files.volumes import Geometry, name_for_itk, read_geometry, reason, write_volume
from nnunetv2_cfnet.files.whole import whole_file
from nnunetv2_cfnet.host import nnunet_folder

FILE_ENDING = ".nii.gz"
SPLITS = "splits_final.json"
COMPRESSED = 0.1  # of a plain file's size, at the least; BraTS's come to 0.12 and more


def convert_brats(
    source_folder: Path,
    dataset_id: int,
    name: str | None = None,
    edition: str = AUTO,
    num_processes: int = 8,
    symlink: bool = False,
    overwrite: bool = False,
    dry_run: bool = False,
    skip_bad: bool = False,
    fix_headers: bool = False,
    labels: str | None = None,
    allow_missing: bool = False,
) -> None:
    """Check all cases of a release, then write them as DatasetXXX_NAME in nnUNet_raw.

    Args:
        source_folder: where the release was unpacked to.
        dataset_id: 1 to 999.
        name: of the dataset; BraTS and the edition if not given.
        edition: a name of EDITIONS, or "auto" to decide from the names of the cases.
        num_processes: at a time; each holds one case.
        symlink: link images that need no change instead of copying them.
        overwrite: replace the dataset's folder, once the new one is complete.
        dry_run: check and say what would be written, and write nothing.
        skip_bad: leave out cases with errors.
        fix_headers: where only headers differ, write the one that most files of the case have.
        labels: the source's, as in ED=1,NCR=2,ET=3, where they are not the edition's.
        allow_missing: write zero images for sequences that a case lacks, if it has any.

    Raises:
        UserError: something that the user can mend; before anything but the table of findings, and what is kept of the
            checks, is written, unless a process was killed.
    """
    check_num_processes(num_processes)
    raw = nnunet_folder("nnUNet_raw").absolute()
    source = find_cases(source_folder.expanduser().resolve(), edition, labels)
    target = _choose_target(raw, dataset_id, name or f"BraTS{source.edition.name.upper()}")
    _print_source(source, decided=edition == AUTO)
    if dry_run:
        _check_replaceable(target, source, overwrite)
        inspect = partial(inspect_case, edition=source.edition)
        inspections = in_parallel(inspect, source.cases, num_processes, "checking")
        findings = _find(source, inspections, fix_headers=fix_headers, allow_missing=allow_missing)
        cases = _good_cases(source, findings, skip_bad)
        print(f"{target.folder} would get {_count(cases)}. Nothing was written.")
        _print_filled(cases)
        return

    needed_bytes = _needed_bytes(source, symlink)
    target.check_place()
    with locked(raw / target.folder.name.partition("_")[0]):  # the ID: nnU-Net takes one dataset of it
        _check_id(dataset_id, target.folder)  # now that no other run can make one
        target.check_unfinished(needed_bytes)
        target.restore()
        _check_replaceable(target, source, overwrite)
        with target.kept(needed_bytes):
            check = partial(check_case, edition=source.edition, folder=target.checked, in_work=target.in_work)
            checked = in_parallel(check, source.cases, num_processes, "checking")
            inspections = [case.inspection for case in checked]
            findings = _find(source, inspections, fix_headers=fix_headers, allow_missing=allow_missing)
            _write_findings(findings, target)
            cases = _good_cases(source, findings, skip_bad)

            digests = {case.name: digest for case, (_, digest) in zip(source.cases, checked, strict=True)}
            target.begin(
                {
                    "version": __version__,
                    "edition": source.edition.name,
                    "labels": source.edition.labels,
                    "symlink": symlink,
                    "cases": {case.name: digests[case.name] for case in cases},
                }
            )
            for part in ("imagesTr", "labelsTr"):  # which nnU-Net looks for in every dataset
                (target.unfinished / part).mkdir(exist_ok=True)
            convert = partial(convert_case, edition=source.edition, folder=target.unfinished, in_work=target.in_work)
            in_parallel(partial(convert, symlink=symlink), cases, num_processes, "converting")
            training = [case for case in cases if case.is_training]
            splits = make_splits(training)
            _write_descriptions(target, source.edition, cases, splits)
            volumes = [path for case in cases for path in (*images_of(case).values(), *labels_of(case))]
            target.finish({"dataset.json", *([SPLITS] if splits else []), *volumes})
    print(f"{target.folder} has {_count(cases)}.")
    _print_filled(cases)
    trainer = "nnUNetTrainerCFNetModalityDropout" if any(case.lacking for case in cases) else "nnUNetTrainerCFNet"
    if training:
        print(
            f"Next:\n  nnUNetv2_plan_and_preprocess -d {dataset_id} -c 3d_fullres --verify_dataset_integrity\n"
            f"  nnUNetv2_train {dataset_id} 3d_fullres {'0' if splits else 'all'} -tr {trainer}"
        )


# Before the conversion


def _choose_target(raw: Path, dataset_id: int, name: str) -> Target:
    """The dataset's folder, if nnU-Net takes its name."""
    if not 1 <= dataset_id <= 999:
        raise UserError(f"{dataset_id} is no dataset ID of nnU-Net: give -d a number from 1 to 999.")
    if not re.fullmatch(r"[\w-]+", name):
        raise UserError(f"{name!r} is no name for a dataset: give --name letters, digits, _ and - only.")
    target = Target(raw / f"Dataset{dataset_id:03d}_{name}")
    _check_id(dataset_id, target.folder)
    return target


def _check_id(dataset_id: int, folder: Path) -> None:
    """A UserError if nnU-Net has another dataset with the ID."""
    from nnunetv2.utilities.dataset_name_id_conversion import find_candidate_datasets

    others = [str(other) for other in find_candidate_datasets(dataset_id) if other != folder.name]
    if others:
        raise UserError(
            f"nnU-Net has a dataset with ID {dataset_id} already, {', '.join(others)}: choose another -d, or "
            f"--name {others[0].partition('_')[2]} for that one."
        )


def _check_replaceable(target: Target, source: Source, overwrite: bool) -> None:
    """A UserError if something is lost with a folder that is there."""
    if target.folder.exists() and not overwrite:
        raise UserError(
            f"{target.folder} exists already: replace it with --overwrite, or choose another -d and --name."
        )
    if target.folder.resolve() in (source.folder, *source.folder.parents):
        raise UserError(f"{source.folder} lies in {target.folder}, which would be replaced: choose another -d.")


def _needed_bytes(source: Source, symlink: bool) -> int:
    """About as many as the files of the dataset will take, not more."""
    symlink = symlink and not source.edition.volumes
    files = {paths[0]: content for case in source.cases for content, paths in case.files.items() if paths}
    linked = {path for path, content in files.items() if symlink and content != SEGMENTATION and _is_packed(path)}
    return round(sum(_size(path) * (1 if _is_packed(path) else COMPRESSED) for path in files.keys() - linked))


def _size(path: Path) -> int:
    """In bytes; 0 where it can't be told, as of a link to nothing, which the checks report."""
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _is_packed(path: Path) -> bool:
    return path.name.lower().endswith(FILE_ENDING)


def _print_source(source: Source, decided: bool) -> None:
    how = "by their names" if decided else "by --edition"
    print(f"{source.folder} holds cases of edition {source.edition.name}, {how}: {_count(source.cases)}.")
    labels = sorted(source.edition.labels.items(), key=lambda item: item[1])
    print(f"Its labels: {', '.join(f'{label} = {tissue}' for tissue, label in labels)}.", flush=True)


def _count(cases: Sequence[SourceCase]) -> str:
    num_training = sum(case.is_training for case in cases)
    return f"{num_training} with segmentation (imagesTr, labelsTr), {len(cases) - num_training} without (imagesTs)"


def _print_filled(cases: Sequence[SourceCase]) -> None:
    counts = Counter(channel for case in cases for channel in case.lacking)
    if counts:
        of_each = ", ".join(f"{channel} {counts[channel]}" for channel in CHANNELS if channel in counts)
        lacking = sum(bool(case.lacking) for case in cases)
        print(f"{lacking} of {len(cases)} cases lack a sequence, zero images stand for it: {of_each}.", flush=True)


def _find(source: Source, inspections: Sequence[Inspection], fix_headers: bool, allow_missing: bool) -> list[Finding]:
    """All that was found, printed as a table."""
    findings = [finding for inspection in inspections for finding in inspection.findings]
    findings += check_source(source, inspections)
    if fix_headers:
        findings = [f._replace(severity=Severity.REPAIRED) if f.kind is Kind.HEADER else f for f in findings]
    if allow_missing:
        filled = {(case.name, Severity.ERROR, Kind.MISSING) for case in source.cases if case.is_incomplete}
        findings = [f._replace(severity=Severity.REPAIRED) if f[:3] in filled else f for f in findings]
    rows = _rows(findings)
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    for row in rows if findings else ():
        print(*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[-1], sep="  ", flush=True)
    if not findings:
        print("Nothing was found wrong with any case.")
    return findings


def _rows(findings: Sequence[Finding]) -> list[tuple[str, ...]]:
    cells = ((f.case, f.severity.value, f.kind.value, f.message) for f in findings)
    return [Finding._fields, *(tuple(map(printable, row)) for row in cells)]


def _write_findings(findings: Sequence[Finding], target: Target) -> None:
    with (
        whole_file(target.findings, made_in=target.in_work) as unfinished,
        unfinished.open("w", newline="", encoding="utf-8", errors="backslashreplace") as file,
    ):
        csv.writer(file).writerows(_rows(findings))


def _good_cases(source: Source, findings: Sequence[Finding], skip_bad: bool) -> list[SourceCase]:
    """The cases to convert.

    Raises:
        UserError: some have errors and are not to be skipped, or all have.
    """
    errors = [finding for finding in findings if finding.severity is Severity.ERROR]
    if any(finding.case == NO_CASE for finding in errors):
        raise UserError("The release as a whole has an error, listed above, which --skip-bad can't leave out.")
    bad = {finding.case for finding in errors}
    good = [case for case in source.cases if case.name not in bad]
    remedies = []
    if any(f.kind is Kind.MISSING for f in errors) and any(c.is_incomplete for c in source.cases if c.name in bad):
        remedies.append("take zero images for sequences that are missing with --allow-missing")
    if any(finding.kind is Kind.HEADER for finding in errors):
        remedies.append("repair headers with --fix-headers")
    if good:
        remedies.append("leave them out with --skip-bad")
    if bad and not (skip_bad and good):
        raise UserError(
            f"{len(bad)} of {len(source.cases)} cases have errors, listed above. "
            f"{', or '.join(['Mend the files', *remedies])}."
        )
    if bad:
        print(f"{len(bad)} of {len(source.cases)} cases have errors and are left out.", flush=True)
    return good


# The conversion


def images_of(case: SourceCase) -> dict[str, str]:
    """Each channel's file in the dataset's folder."""
    folder = "imagesTr" if case.is_training else "imagesTs"
    return {channel: f"{folder}/{case.name}_{number:04d}{FILE_ENDING}" for number, channel in enumerate(CHANNELS)}


def labels_of(case: SourceCase) -> list[str]:
    """The segmentation's file in the dataset's folder, if there is one."""
    return [f"labelsTr/{case.name}{FILE_ENDING}"] if case.is_training else []


def convert_case(case: SourceCase, edition: Edition, folder: Path, in_work: Path, symlink: bool) -> None:
    """Write what is missing of a case.

    All its files get the header that most of them have: nnU-Net takes no images whose spacings differ, however little.
    What the case lacks becomes zeros.

    Args:
        folder: of the dataset.
        in_work: where unfinished files are made.
    """
    missing = {channel: folder / file for channel, file in images_of(case).items() if not (folder / file).exists()}
    geometry = case.read_geometry()
    volumes = _read(case.files[CHANNELS[0]][0]) if edition.volumes and missing else None
    for channel, path in missing.items():
        path.parent.mkdir(exist_ok=True)
        with whole_file(path, made_in=in_work) as unfinished:
            if channel in case.lacking:
                write_volume(SimpleITK.Image(geometry.size, SimpleITK.sitkUInt8), geometry, unfinished)
            elif volumes is not None:
                write_volume(volumes[:, :, :, edition.volumes.index(channel)], geometry, unfinished)
            else:
                _take_image(case.files[channel][0], geometry, unfinished, symlink)
    for labels in (folder / file for file in labels_of(case)):
        if not labels.exists():
            segmentation = edition.to_nnunet(SimpleITK.GetArrayFromImage(_read(case.files[SEGMENTATION][0])))
            with whole_file(labels, made_in=in_work) as unfinished:
                write_volume(SimpleITK.GetImageFromArray(segmentation), geometry, unfinished)


def _take_image(path: Path, geometry: Geometry, target: Path, symlink: bool) -> None:
    """Link, copy or compress an image; write it anew only where its header is to be another."""
    own = read_geometry(path)
    if not all(np.allclose(a, b, rtol=1e-6, atol=1e-6) for a, b in zip(own, geometry, strict=True)):
        write_volume(_read(path), geometry, target)
    elif not _is_packed(path):
        # without a name and a time in it, equal images make equal files
        with path.open("rb") as plain, target.open("wb") as file, gzip.GzipFile("", "wb", 6, file, mtime=0) as packed:
            shutil.copyfileobj(plain, packed, 1 << 20)
    elif symlink:
        target.symlink_to(path.resolve())
    else:
        shutil.copyfile(path, target)


def _read(path: Path) -> SimpleITK.Image:
    try:
        return SimpleITK.ReadImage(name_for_itk(path))
    except RuntimeError as error:
        raise OSError(f"{path} can't be read any more ({reason(error)})") from error


# After the conversion


def _write_descriptions(
    target: Target, edition: Edition, cases: Sequence[SourceCase], splits: list[dict[str, list[str]]] | None
) -> None:
    """dataset.json and, where there are patients enough, splits_final.json."""
    from nnunetv2.dataset_conversion.generate_dataset_json import generate_dataset_json

    num_training = sum(case.is_training for case in cases)
    label_order = {tissue: value for value, tissue in enumerate(TISSUES, 1) if tissue in edition.labels}
    generate_dataset_json(
        str(target.unfinished),
        channel_names={number: channel for number, channel in enumerate(CHANNELS)},
        labels={"background": 0, **edition.regions},
        num_training_cases=num_training,
        file_ending=FILE_ENDING,
        regions_class_order=tuple(label_order.values()),
        dataset_name=target.folder.name,
        description=f"BraTS, edition {edition.name}, by nnunetv2_cfnet convert_brats; "
        f"labels {', '.join(f'{value} = {tissue}' for tissue, value in label_order.items())}",
        license="the release's",
        converted_by="nnunetv2_cfnet convert_brats",
        edition=edition.name,
        source_cases={case.name: case.name for case in cases},  # the same here; export_brats takes others too
        label_order=label_order,
    )
    splits_json = json.dumps(splits, indent=4)
    if splits:
        (target.unfinished / SPLITS).write_text(splits_json)
        print("splits_final.json: five folds, each patient in one; grades are spread where five patients share one.")
    elif num_training:
        print("No splits_final.json: five folds take at least five patients with segmentation. Train with fold all.")
    # nnU-Net keeps the splits of an earlier planning, and fails without a word where they differ
    preprocessed = os.environ.get("nnUNet_preprocessed")
    older = Path(preprocessed or "", target.folder.name, SPLITS)
    if preprocessed and older.is_file() and older.read_text() != splits_json:
        print(f"{older} is of an earlier conversion: remove it before you plan, or nnU-Net stops there.")
