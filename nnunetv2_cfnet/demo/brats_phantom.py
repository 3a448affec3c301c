"""Phantom cases as each edition of BraTS lays out its files.

The images are phantom.py's; names, folders, labels and geometry are the edition's, so that conversion and export can be
tried without the data. Of the tables beside the cases, 2020's name_mapping.csv alone is made, with invented IDs: it
tells which of its cases are of one patient.
"""

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK
from scipy.ndimage import distance_transform_edt

from nnunetv2_cfnet.brats.editions import CHANNELS, EDITIONS, TISSUES, Edition
from nnunetv2_cfnet.brats.sources import NAME_MAPPING, SEGMENTATION
from nnunetv2_cfnet.demo.phantom import SIGNALS, Tissue, make_case
from nnunetv2_cfnet.errors import UserError
from nnunetv2_cfnet.files.paths import resolved
from nnunetv2_cfnet.files.volumes import write_image
from nnunetv2_cfnet.files.whole import check_new_folder, whole_folder

SHAPE = (24, 28, 24)
ORIGIN_MM = (0.0, -239.0, 0.0)
TRAINING_2020, VALIDATION_2020 = "MICCAI_BraTS2020_TrainingData", "MICCAI_BraTS2020_ValidationData"
ODD_SEGMENTATION = "W39_1998.09.19_Segm.nii"  # BraTS20_Training_355's, which kept its name from before the release
ODD_INDEX = 2  # the case of 2020 that has it here
TWIN_INDEX = 4  # the case of 2020 that is of the patient before
TASK = "Task01_BrainTumour"

Case = dict[str, np.ndarray]  # voxels (z, y, x) of 1 mm by channel, and "seg"


@dataclass(frozen=True)
class Place:
    """Where a case's files go.

    folder: of the images, below the release's; of all files but in msd.
    grade: HGG or LGG.
    """

    name: str
    folder: Path
    grade: str
    ending: str = ".nii.gz"
    has_segmentation: bool = True


def make_phantom(folder: Path, edition: str, num_cases: int) -> list[str]:
    """Write phantom cases in an edition's layout and return the names of those with a segmentation.

    Two thirds are HGG; LGG cases have no enhancing tumour. 2020 and msd get one more case, without a segmentation. A
    case depends on its index only.

    Args:
        folder: new or empty; it is there complete or not at all.
        edition: a name of EDITIONS.
        num_cases: cases with a segmentation.

    Raises:
        UserError: a folder with something in it, or no cases; nothing is written then.
    """
    folder = resolved(folder)
    if num_cases < 1:
        raise UserError(f"{num_cases} cases is too few: ask for at least 1.")
    check_new_folder(folder)

    places = [_place(edition, index) for index in range(num_cases)]
    names = [place.name for place in places]
    if edition == "2020":
        name = "BraTS20_Validation_001"
        places.append(Place(name, Path(VALIDATION_2020, name), "HGG", has_segmentation=False))
    if edition == "msd":  # which counts on where training ends
        places.append(Place(f"BRATS_{num_cases + 1:03d}", Path(TASK, "imagesTs"), "HGG", has_segmentation=False))
    with whole_folder(folder) as release:
        for index, place in enumerate(places):
            case = _make_case(EDITIONS[edition], index, with_enhancing=place.grade == "HGG")
            _write_case(release, place, EDITIONS[edition], case)
        if edition == "2020":
            _write_name_mapping(release / TRAINING_2020 / NAME_MAPPING, places[:num_cases])
    return names


# Names and folders


def _place(edition: str, index: int) -> Place:
    grade = "LGG" if index % 3 == 2 else "HGG"
    patient, time = max(index - 1, 0), int(index == 1)  # of 2023 and 2024: the first has two time points
    name = {
        "2018": f"Brats18_TCIA01_{100 + index}_1",
        "2019": f"BraTS19_TCIA01_{100 + index}_1",
        "2020": f"BraTS20_Training_{index + 1:03d}",
        "2021": f"BraTS2021_{index:05d}",
        "2023": f"BraTS-GLI-{patient:05d}-{time:03d}",
        "2024": f"BraTS-GLI-{patient:05d}-{100 + time}",
        "msd": f"BRATS_{index + 1:03d}",
    }[edition]
    if edition == "msd":
        return Place(name, Path(TASK, "imagesTr"), grade)
    parent = {"2018": grade, "2019": grade, "2020": TRAINING_2020}.get(edition, "")
    return Place(name, Path(parent, name), grade, ending=".nii" if edition == "2020" and index % 2 == 0 else ".nii.gz")


# Images


def _make_case(edition: Edition, index: int, with_enhancing: bool) -> Case:
    """A case with the edition's labels and BraTS's types."""
    images, labels = make_case([0, index], SHAPE, with_enhancing)
    if "RC" in edition.labels:
        _add_resection_cavity(images, labels)
    # rounded up, so that no voxel of the brain becomes background
    case = {channel: np.ceil(image).astype(np.int16) for channel, image in zip(CHANNELS, images, strict=True)}
    return case | {SEGMENTATION: edition.from_nnunet(labels)}


def _add_resection_cavity(images: np.ndarray, labels: np.ndarray) -> None:
    """Label a ball in the thickest healthy part of the brain, and let it shine as CSF does."""
    depth = distance_transform_edt((images[0] > 0) & (labels == 0))
    centre = np.unravel_index(depth.argmax(), depth.shape)
    distance = np.linalg.norm(np.indices(depth.shape) - np.reshape(centre, (3, 1, 1, 1)), axis=0)
    cavity = distance < min(depth.max(), min(depth.shape) / 8)
    labels[cavity] = TISSUES.index("RC") + 1
    images[:, cavity] *= (SIGNALS[Tissue.CSF] / SIGNALS[Tissue.WHITE_MATTER])[:, None]


# Files


def _write_case(release: Path, place: Place, edition: Edition, case: Case) -> None:
    folder = release / place.folder
    if edition.volumes:
        image_file = folder / f"{place.name}{place.ending}"
        _write(SimpleITK.JoinSeries([_to_image(case[channel]) for channel in edition.volumes]), image_file)
        segmentation_file = release / TASK / "labelsTr" / image_file.name
    else:
        for channel in CHANNELS:
            _write(_to_image(case[channel]), folder / f"{place.name}{edition.suffixes[channel]}{place.ending}")
        segmentation_file = folder / f"{place.name}{edition.suffixes[SEGMENTATION]}{place.ending}"
        if place.name == _place("2020", ODD_INDEX).name:
            segmentation_file = segmentation_file.with_name(ODD_SEGMENTATION)
    if place.has_segmentation:
        _write(_to_image(case[SEGMENTATION]), segmentation_file)


def _to_image(voxels: np.ndarray) -> SimpleITK.Image:
    image = SimpleITK.GetImageFromArray(voxels)
    image.SetOrigin(ORIGIN_MM)
    return image


def _write(image: SimpleITK.Image, file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    write_image(image, file)


def _write_name_mapping(file: Path, places: list[Place]) -> None:
    """Each case's grade, and its ID in the edition before; two are twins."""
    with file.open("w", newline="", encoding="utf-8") as table:
        writer = csv.writer(table)
        writer.writerow(["Grade", "BraTS_2019_subject_ID", "BraTS_2020_subject_ID"])
        for index, place in enumerate(places):
            earlier = _place("2019", index - (index == TWIN_INDEX)).name
            writer.writerow([place.grade, earlier, place.name])
