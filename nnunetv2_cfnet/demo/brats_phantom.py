"""Phantom cases as each edition of BraTS lays out its files.

The images are phantom.py's; names, folders, tables, labels and geometry are the edition's, so that conversion and
export can be tried without the data. What a table says of a phantom patient (age, survival, IDs) is invented.
"""

import csv
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK
from scipy.ndimage import distance_transform_edt

from nnunetv2_cfnet.brats.editions import CHANNELS, EDITIONS, TISSUES, Edition
from nnunetv2_cfnet.brats.sources import NAME_MAPPING, SEGMENTATION
from nnunetv2_cfnet.demo.phantom import SIGNALS, Tissue, make_case
from nnunetv2_cfnet.errors import UserError
from nnunetv2_cfnet.files.volumes import write_image
from nnunetv2_cfnet.files.whole import check_new_folder, whole_folder

ORIGIN_MM = (0.0, -239.0, 0.0)
TRAINING_2020, VALIDATION_2020 = "MICCAI_BraTS2020_TrainingData", "MICCAI_BraTS2020_ValidationData"
ODD_SEGMENTATION = "W39_1998.09.19_Segm.nii"  # BraTS20_Training_355's, which kept its name from before the release
ODD_INDEX = 2  # the case that has it here
TWIN_INDEX = 4  # has the 2019 ID of the case before
TASK = Path("Task01_BrainTumour")

Case = dict[str, np.ndarray]  # voxels (z, y, x) of 1 mm by channel, and "seg"


@dataclass(frozen=True)
class Place:
    """Where a case's files go.

    folder: of the images, below the release's; of all files but in msd.
    grade: HGG or LGG, for folders and tables.
    """

    name: str
    folder: Path
    grade: str
    ending: str = ".nii.gz"
    has_segmentation: bool = True


def make_phantom(
    folder: Path, edition: str, num_cases: int, seed: int = 0, shape: tuple[int, int, int] = (24, 28, 24)
) -> list[str]:
    """Write phantom cases in an edition's layout and return the names of those with a segmentation.

    Two thirds are HGG; LGG cases have no enhancing tumour. 2020 and msd get one more case, without a segmentation. A
    case depends on the seed and its index only.

    Args:
        folder: new or empty; it is there complete or not at all.
        edition: a name of EDITIONS.
        num_cases: cases with a segmentation.
        shape: as in make_case.

    Raises:
        UserError: a folder with something in it, an edition that there is not, no cases or a shape without room;
            nothing is written then.
    """
    folder = folder.expanduser().resolve()
    if edition not in EDITIONS:
        raise UserError(f"There is no edition {edition!r}: choose one of {', '.join(EDITIONS)}.")
    if num_cases < 1:
        raise UserError(f"{num_cases} cases is too few: ask for at least 1.")
    if min(shape) < 16:
        raise UserError(f"A shape of {shape} is too small for a brain: give each axis at least 16 voxels.")
    check_new_folder(folder)

    places = _plan_places(edition, num_cases)
    with whole_folder(folder) as release:
        for index, place in enumerate(places):
            case = _make_case(EDITIONS[edition], [seed, index], shape, with_enhancing=place.grade == "HGG")
            _write_case(release, place, EDITIONS[edition], case)
        held_out = _held_out_place(edition, num_cases)
        if held_out:
            # a seed of three numbers is no training case's
            case = _make_case(EDITIONS[edition], [seed, 0, 1], shape, with_enhancing=True)
            _write_case(release, held_out, EDITIONS[edition], case)
        _write_tables(release, edition, places, np.random.default_rng([seed, 0, 2]))
    return [place.name for place in places]


# Names and folders


def _plan_places(edition: str, num_cases: int) -> list[Place]:
    make = {
        "2018": lambda index: _graded_place(f"Brats18_{_patient(index)}_1", index),
        "2019": lambda index: _graded_place(f"BraTS19_{_patient(index)}_1", index),
        "2020": _place_2020,
        "2021": lambda index: _flat_place(f"BraTS2021_{index:05d}", index),
        "2023": lambda index: _flat_place(_timed_name(index, first_patient=0, first_time=0), index),
        "2024": lambda index: _flat_place(_timed_name(index, first_patient=5, first_time=100), index),
        "msd": lambda index: Place(f"BRATS_{index + 1:03d}", TASK / "imagesTr", _grade(index)),
    }[edition]
    return [make(index) for index in range(num_cases)]


def _held_out_place(edition: str, num_cases: int) -> Place | None:
    """The case without a segmentation, in the editions that get one."""
    if edition == "2020":
        name = "BraTS20_Validation_001"
        return Place(name, Path(VALIDATION_2020, name), "HGG", has_segmentation=False)
    if edition == "msd":  # which counts on where training ends
        return Place(f"BRATS_{num_cases + 1:03d}", TASK / "imagesTs", "HGG", has_segmentation=False)
    return None


def _grade(index: int) -> str:
    return "LGG" if index % 3 == 2 else "HGG"


def _patient(index: int) -> str:
    """An ID such as CBICA_AAB, TCIA01_101 or 2013_2, from the institutions that the early editions name."""
    letters = f"A{chr(65 + (index + 1) // 26 % 26)}{chr(65 + (index + 1) % 26)}"
    high, low = (f"CBICA_{letters}", f"TCIA01_{100 + index}"), (f"TCIA10_{100 + index}", f"2013_{index}")
    return (low if _grade(index) == "LGG" else high)[index % 2]


def _graded_place(name: str, index: int) -> Place:
    return Place(name, Path(_grade(index), name), _grade(index))


def _flat_place(name: str, index: int) -> Place:
    return Place(name, Path(name), _grade(index))


def _place_2020(index: int) -> Place:
    name = f"BraTS20_Training_{index + 1:03d}"
    return Place(name, Path(TRAINING_2020, name), _grade(index), ending=".nii.gz" if index % 2 else ".nii")


def _timed_name(index: int, first_patient: int, first_time: int) -> str:
    """Of every four patients, the first has two time points: five cases."""
    group, member = divmod(index, 5)
    patient, time = max(member - 1, 0), int(member == 1)
    return f"BraTS-GLI-{first_patient + 4 * group + patient:05d}-{first_time + time:03d}"


# Images


def _make_case(edition: Edition, seed: list[int], shape: tuple[int, int, int], with_enhancing: bool) -> Case:
    """A case with the edition's labels and BraTS's types."""
    images, labels = make_case(seed, shape, with_enhancing)
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
        if place.name == _place_2020(ODD_INDEX).name:
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


# The tables beside the cases


def _write_tables(release: Path, edition: str, places: list[Place], rng: np.random.Generator) -> None:
    """What the release puts beside its cases; 2018 has no mapping of names yet."""
    if edition in ("2018", "2019"):
        case_id = f"BraTS{edition[2:]}ID"
        _write_survival(release / "survival_data.csv", [case_id, "Age", "Survival", "ResectionStatus"], places, rng)
    if edition == "2019":
        _write_name_mapping(release / NAME_MAPPING, places, years=(2017, 2018, 2019))
    if edition == "2020":
        columns = ["Brats20ID", "Age", "Survival_days", "Extent_of_Resection"]
        _write_survival(release / TRAINING_2020 / "survival_info.csv", columns, places, rng)
        _write_name_mapping(release / TRAINING_2020 / NAME_MAPPING, places, years=(2017, 2018, 2019, 2020))
    if edition == "msd":
        _write_msd_description(release / TASK, places)


def _write_survival(file: Path, columns: list[str], places: list[Place], rng: np.random.Generator) -> None:
    """Age, days and resection of the HGG cases."""
    rows = [
        [place.name, f"{rng.uniform(30, 80):.3f}", str(rng.integers(30, 1500)), str(rng.choice(["GTR", "STR", "NA"]))]
        for place in places
        if place.grade == "HGG"
    ]
    _write_csv(file, [columns, *rows])


def _write_name_mapping(file: Path, places: list[Place], years: Sequence[int]) -> None:
    """Each case's IDs in the editions up to its own; one 2020 case in four was new then, and two are twins."""
    earlier, last = [f"BraTS_{year}_subject_ID" for year in years[:-1]], f"BraTS_{years[-1]}_subject_ID"
    earlier.insert(2, "TCGA_TCIA_subject_ID")
    rows = []
    for index, place in enumerate(places):
        ids = {
            "BraTS_2017_subject_ID": f"Brats17_{_patient(index)}_1",
            "BraTS_2018_subject_ID": f"Brats18_{_patient(index)}_1",
            "BraTS_2019_subject_ID": f"BraTS19_{_patient(index)}_1",
        }
        if "TCIA" in _patient(index):
            ids["TCGA_TCIA_subject_ID"] = f"TCGA-02-{index:04d}"
        if last == "BraTS_2020_subject_ID" and index % 4 == 2:
            ids = {}
        if last == "BraTS_2020_subject_ID" and index == TWIN_INDEX:
            ids = {"BraTS_2019_subject_ID": f"BraTS19_{_patient(index - 1)}_1"}
        rows.append([place.grade, *(ids.get(column, "NA") for column in earlier), place.name])
    _write_csv(file, [["Grade", *earlier, last], *rows])


def _write_csv(file: Path, rows: list[list[str]]) -> None:
    with file.open("w", newline="", encoding="utf-8") as table:
        csv.writer(table, lineterminator="\n").writerows(rows)


def _write_msd_description(task: Path, places: list[Place]) -> None:
    """dataset.json in the decathlon's format, and the shadow files of the Mac that packed its archive."""
    tests = sorted(file.name for file in (task / "imagesTs").iterdir())
    description: dict[str, Any] = {
        "name": "BRATS",
        "description": "Phantom brain tumours in the format of the decathlon's Task01",
        "reference": "nnunetv2_cfnet make_phantom",
        "licence": "CC0-1.0",
        "release": "phantom",
        "tensorImageSize": "4D",
        "modality": {"0": "FLAIR", "1": "T1w", "2": "t1gd", "3": "T2w"},
        "labels": {"0": "background", "1": "edema", "2": "non-enhancing tumor", "3": "enhancing tumour"},
        "numTraining": len(places),
        "numTest": len(tests),
        "training": [
            {"image": f"./imagesTr/{place.name}.nii.gz", "label": f"./labelsTr/{place.name}.nii.gz"} for place in places
        ],
        "test": [f"./imagesTs/{name}" for name in tests],
    }
    (task / "dataset.json").write_text(json.dumps(description, indent=4))
    for file in sorted(task.glob("*/*.nii.gz")):
        file.with_name(f"._{file.name}").write_bytes(b"\x00\x05\x16\x07\x00\x02\x00\x00Mac OS X        ")
