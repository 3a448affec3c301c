"""`nnunetv2_cfnet fill_missing`: cases that lack sequences -> complete ones, with zero images for what they lack.

nnU-Net takes cases with a file for each channel alone. A network that was trained with modality dropout
(training/modality_dropout.py) takes a zero image for a missing sequence, and nnU-Net's normalisation keeps it zero.
"""

import argparse
import re
import shutil
from collections import Counter, defaultdict
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from nnunetv2_cfnet.commands.flags import add_processes
from nnunetv2_cfnet.errors import UserError, lines_of, printable

if TYPE_CHECKING:
    from nnunetv2.imageio.base_reader_writer import BaseReaderWriter

    from nnunetv2_cfnet.files.volumes import Geometry

DESCRIPTION = (
    "Complete cases for prediction: each sequence that a case lacks becomes a zero image, for models that were trained "
    "with modality dropout. Every image is read first; OUT is written whole or not at all."
)
REMEDY = "Fetch it anew, or take it away: what a case lacks is filled in."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-i", type=Path, required=True, metavar="IN", help="folder of images named CASE_XXXX.ending, as nnU-Net wants"
    )
    parser.add_argument("-o", type=Path, required=True, metavar="OUT", help="to be written; new, or an empty folder")
    dataset = parser.add_mutually_exclusive_group(required=True)
    dataset.add_argument("-d", type=int, metavar="ID", help="of the dataset, whose channels and file ending count")
    dataset.add_argument("-djfile", type=Path, metavar="FILE", help="its dataset.json, as in a model folder")
    add_processes(parser)
    parser.add_argument("--symlink", action="store_true", help="link images instead of copying them")


def run(options: argparse.Namespace) -> int:
    dataset_json = options.djfile or _dataset_json_of(options.d)
    fill_missing(options.i, options.o, dataset_json, symlink=options.symlink, num_processes=options.np)
    return 0


class Case(NamedTuple):
    """A case's files by channel number."""

    name: str
    files: dict[int, Path]


class CheckedCase(NamedTuple):
    """What is wrong with a case, and the channels that it lacks: without a file, or with a zero image."""

    problems: list[str]
    lacking: list[int]


def fill_missing(images: Path, output: Path, dataset_json: Path, symlink: bool = False, num_processes: int = 8) -> None:
    """Write a folder of complete cases, and say which lack what.

    Args:
        images: with files named CASE_XXXX.ending.
        output: must be new or empty; it is there whole or not at all.
        dataset_json: names channels, file ending and perhaps a reader of nnU-Net.
        symlink: link images instead of copying them.
        num_processes: at a time; each holds one case.

    Raises:
        UserError: files that nnU-Net would not take as images of such cases, images of a case that lie differently, a
            case with nothing in its images, or an output that can't be written. Nothing is written then.
    """
    from nnunetv2_cfnet.evaluation.segmentations import choose_reader
    from nnunetv2_cfnet.files.json_files import read_dataset_json
    from nnunetv2_cfnet.files.paths import resolved
    from nnunetv2_cfnet.files.processes import check_num_processes, in_parallel
    from nnunetv2_cfnet.files.whole import check_new_folder, check_space, whole_folder
    from nnunetv2_cfnet.planning.modality_groups import channel_names_of

    check_num_processes(num_processes)
    images = resolved(images, "-i")
    if not images.is_dir():
        raise UserError(f"{images} is no folder: give -i the one with the images.")
    if images in (target := resolved(output), *target.parents):
        raise UserError(f"{output} lies in {images}: choose another folder for -o.")
    check_new_folder(output)
    description = read_dataset_json(dataset_json, "Give that of the model, or of the dataset, with -djfile.")
    try:
        channels = channel_names_of(description)
    except ValueError as error:
        raise UserError(f"{dataset_json}: {error}") from error
    cases = find_cases(images, description["file_ending"], channels)
    reader = choose_reader(description, [path for case in cases for path in case.files.values()])
    _check_reader(reader)
    check = partial(check_case, reader=reader, num_channels=len(channels))
    checked = in_parallel(check, cases, num_processes, "checking")
    _refuse([problem for case in checked for problem in case.problems], images)
    _print_lacking({case.name: of_case.lacking for case, of_case in zip(cases, checked, strict=True)}, channels)
    if not symlink:
        check_space(output, sum(path.stat().st_size for case in cases for path in case.files.values()))
    with whole_folder(output) as unfinished:
        write = partial(write_case, reader=reader, num_channels=len(channels), folder=unfinished, symlink=symlink)
        in_parallel(write, cases, num_processes, "filling")
    print(f"{output} has {len(cases)} cases of {len(channels)} images each.")


def _dataset_json_of(dataset_id: int) -> Path:
    """That of the raw dataset, or where there is none the one that nnU-Net keeps with the plans."""
    from nnunetv2_cfnet.host import dataset_name, nnunet_folder

    name = dataset_name(dataset_id)
    raw, preprocessed = (nnunet_folder(v) / name / "dataset.json" for v in ("nnUNet_raw", "nnUNet_preprocessed"))
    return preprocessed if preprocessed.is_file() and not raw.is_file() else raw


def find_cases(folder: Path, ending: str, channels: Sequence[str]) -> list[Case]:
    """The cases of a folder, by name. Hidden files and what nnU-Net writes beside images (.json) are passed over.

    Raises:
        UserError: no images, images in folders further down, another ending, or a name that is not CASE_XXXX with the
            number of a channel.
    """
    try:
        entries = [
            path for path in sorted(folder.iterdir()) if not (path.name.startswith(".") or path.suffix == ".json")
        ]
    except OSError as error:
        raise UserError(f"{folder} can't be read ({error.strerror}): give -i a folder that you may read.") from error
    cases: dict[str, dict[int, Path]] = defaultdict(dict)
    problems = []
    for path in entries:
        match = re.fullmatch(rf"(?P<case>.+)_(?P<channel>[0-9]{{4}}){re.escape(ending)}", path.name)
        if path.is_dir():
            if path.name.endswith(ending) or any(path.rglob(f"*{ending}")):
                problems.append(f"{path} is a folder with images, which nnU-Net would not see: move them up.")
        elif not path.name.endswith(ending):
            problems.append(f"{path} does not end in {ending}, the file_ending of dataset.json: take it away.")
        elif not match:
            problems.append(f"{path} is not named CASE_XXXX{ending}, XXXX being a channel's number: rename it.")
        elif int(match["channel"]) >= len(channels):
            known = ", ".join(f"{number:04d} = {name}" for number, name in enumerate(channels))
            problems.append(f"{path}: there is no channel {match['channel']} ({known}): rename it, or take it away.")
        else:
            cases[match["case"]][int(match["channel"])] = path
    _refuse(problems, folder)
    if not cases:
        raise UserError(f"{folder} holds no images named CASE_XXXX{ending}: give -i the folder with the images.")
    return [Case(name, cases[name]) for name in sorted(cases)]


def _refuse(problems: Sequence[str], folder: Path) -> None:
    """A UserError if there are problems."""
    if problems:
        raise UserError(f"{folder} can't be completed, and nothing was written:{lines_of(problems)}")


def _check_reader(reader: "type[BaseReaderWriter]") -> None:
    from nnunetv2.imageio.tif_reader_writer import Tiff3DIO

    if issubclass(reader, Tiff3DIO):
        raise UserError("3D TIFF has its spacing in files of its own, which are not filled in: save images as .nii.gz.")


def check_case(case: Case, reader: "type[BaseReaderWriter]", num_channels: int) -> CheckedCase:
    """Read all images of a case."""
    from nnunetv2_cfnet.evaluation.segmentations import read_image

    problems, empty = [], []
    first: tuple[Path, tuple[int, ...], Geometry] | None = None
    for channel, path in sorted(case.files.items()):
        try:
            image = read_image(path, reader, REMEDY)
        except UserError as error:
            problems.append(str(error))
            continue
        array, geometry = image.channels[0], image.geometry
        if not array.any():
            empty.append(channel)
        first = first or (path, array.shape, geometry)
        if array.shape != first[1]:
            problems.append(f"{path} has {array.shape} voxels, {first[0]} {first[1]}: resample one to the other.")
        elif differences := geometry.differences(first[2]):
            problems.append(f"{path} has another header than {first[0]}: {differences}. Mend it, or resample it.")
        elif geometry.spacing_mm != first[2].spacing_mm:  # within our tolerances
            problems.append(
                f"{path} has the spacing {geometry.spacing_mm}, {first[0]} {first[2].spacing_mm}: nnU-Net takes no "
                "images whose spacings differ, however little. Write one header to both."
            )
    if not problems and len(empty) == len(case.files):
        problems.append(f"{case.name} has nothing: all its images are zero. Take it away, or fetch its images anew.")
    return CheckedCase(problems, [c for c in range(num_channels) if c not in case.files or c in empty])


def write_case(case: Case, reader: "type[BaseReaderWriter]", num_channels: int, folder: Path, symlink: bool) -> None:
    """Link or copy a case's images; write zeros, with the header of the first, for those that are not there."""
    import numpy as np

    from nnunetv2_cfnet.evaluation.segmentations import read_image
    from nnunetv2_cfnet.files.volumes import count_non_finite

    example = case.files[min(case.files)]
    ending = example.name.removeprefix(f"{case.name}_{min(case.files):04d}")
    for path in case.files.values():
        if symlink:
            (folder / path.name).symlink_to(path.resolve())
        else:
            shutil.copyfile(path, folder / path.name)
    missing = [folder / f"{case.name}_{c:04d}{ending}" for c in range(num_channels) if c not in case.files]
    if missing:
        image = read_image(example, reader, REMEDY)
    for path in missing:
        reader().write_seg(np.zeros(image.channels[0].shape, dtype=np.uint8), str(path), image.properties)
        if path.name.endswith((".nii", ".nii.gz")):
            count_non_finite(path)  # SimpleITK says nothing of a disk that is full


def _print_lacking(lacking: dict[str, list[int]], channels: Sequence[str]) -> None:
    for name, numbers in lacking.items():
        if numbers:
            print(printable(f"{name} lacks {', '.join(channels[number] for number in numbers)}"))
    counts = Counter(number for numbers in lacking.values() for number in numbers)
    of_each = ", ".join(f"{channels[number]} {counts[number]}" for number in sorted(counts))
    print(f"{sum(map(bool, lacking.values()))} of {len(lacking)} cases lack a sequence{': ' * bool(counts)}{of_each}.")
