"""`nnunetv2_cfnet export_brats`: nnU-Net's predictions -> files as a BraTS edition wants them submitted.

    PREDICTIONS/CASE.nii.gz -> tissues, by the labels in PREDICTIONS/dataset.json
                            -> small enhancing tumour becomes necrotic core, if asked for
                            -> the edition's labels, the source's name and geometry, in OUT

Names are those of the predictions, or what dataset.json's source_cases calls them. Where the source is given, they are
checked against it and lie where it lies.

The rule for small enhancing tumour is that of BraTS 2020's winner: BraTS scores a case without ET 1 if none is
predicted and 0 otherwise, so a few false voxels cost a whole case. Source: Isensee et al., "nnU-Net for Brain Tumor
Segmentation", BrainLes 2020 (doi:10.1007/978-3-030-72087-2_11).
"""

import json
import math
import tempfile
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import SimpleITK
from tqdm import tqdm

from nnunetv2_cfnet.brats.editions import AUTO, EDITIONS, TISSUES, Edition, decide_edition, editions_of
from nnunetv2_cfnet.brats.sources import find_cases
from nnunetv2_cfnet.errors import UserError, listing_of
from nnunetv2_cfnet.evaluation.cross_validation import cross_validation
from nnunetv2_cfnet.files.json_files import read_json_object
from nnunetv2_cfnet.files.volumes import BROKEN, Geometry, count_non_finite, geometry_of, write_volume

NCR, ET = TISSUES.index("NCR/NET") + 1, TISSUES.index("ET") + 1  # in nnU-Net's order

# Names of labels and regions in datasets for nnU-Net -> the tissues that they stand for; see _plain for the spelling.
SPELLINGS = {
    ("ED", "NCR/NET", "ET"): ("whole tumor", "complete tumor", "wt"),
    ("NCR/NET", "ET"): ("tumor core", "tc"),
    ("ED",): (
        "edema",
        "ed",
        "peritumoral edema",
        "peritumoral edematous tissue",
        "peritumoral edematous invaded tissue",
        "snfh",
        "surrounding non enhancing flair hyperintensity",
    ),
    ("NCR/NET",): (
        "ncr net",
        "ncr",
        "net",
        "netc",
        "necrosis",
        "necrotic core",
        "necrotic tumor core",
        "non enhancing tumor",
        "non enhancing tumor core",
        "necrotic and non enhancing tumor",
        "necrotic and non enhancing tumor core",
    ),
    ("ET",): ("enhancing tumor", "et", "gd enhancing tumor", "enhancing tissue"),
    ("RC",): ("resection cavity", "rc"),
}
TISSUES_OF = {spelling: set(tissues) for tissues, spellings in SPELLINGS.items() for spelling in spellings}


class Overlap(NamedTuple):
    """Enhancing tumour of one cross-validation case: voxels predicted, voxels in the reference, voxels in both."""

    predicted: int
    reference: int
    both: int

    def dice(self, threshold: int) -> float:
        """Dice where a prediction below `threshold` voxels is none; BraTS gives 1 if both are empty, 0 if one is."""
        if self.predicted < threshold or self.predicted == 0:
            return float(self.reference == 0)
        return 2 * self.both / (self.predicted + self.reference)


def export_brats(
    predictions: Path,
    out: Path,
    edition: str | None = None,
    like: Path | None = None,
    et_threshold: int | Literal["auto"] | None = None,
    cv: Path | None = None,
    zip_archive: bool = False,
) -> None:
    """Write predictions with an edition's labels under the source's names, and say what was done.

    Args:
        predictions: a folder that nnUNetv2_predict wrote; its dataset.json tells which label is which tissue.
        out: must be new or empty; it is there complete or not at all.
        edition: a name of EDITIONS; without it what dataset.json records, or what the case names tell.
        like: the release's cases that were predicted; names are checked against it, and geometry is taken from there.
        et_threshold: cases with fewer voxels of enhancing tumour get them as NCR/NET; "auto" chooses it with `cv`.
        cv: model folder with cross-validation predictions.
        zip_archive: also write OUT.zip.

    Raises:
        UserError: whatever is wrong with the input; nothing is written then.
    """
    out = out.expanduser().resolve()
    _check_free(out, zip_archive)
    _check_threshold(et_threshold, cv)
    if not predictions.is_dir():
        raise UserError(f"{predictions} is no folder: give the one that nnUNetv2_predict wrote.")
    dataset_json = read_json_object(predictions / "dataset.json", "Copy it there from the model folder.")
    order = read_label_order(dataset_json, predictions / "dataset.json")
    files = _prediction_files(predictions, dataset_json)
    target = _decide_edition(edition, dataset_json, files, predictions)
    geometries = _source_geometries(like, target, files) if like else {}
    print(
        f"{len(files)} cases. Labels of {predictions / 'dataset.json'}: {_listing(order)}. "
        f"Edition {target.name}: {_listing({label: tissue for tissue, label in target.labels.items()})}."
    )
    _check_predictions(files, order, target, geometries)
    threshold = choose_threshold(cv) if cv else int(et_threshold or 0)

    num_changed = 0
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as unfinished:
        folder, archive = Path(unfinished, "cases"), Path(unfinished, "cases.zip")
        folder.mkdir()
        for name, file in tqdm(files.items(), desc="Writing", unit="case"):
            segmentation, geometry = _load(file, order)
            num_changed += _relabel_small_enhancing(segmentation, threshold)
            image = SimpleITK.GetImageFromArray(target.from_nnunet(segmentation))
            write_volume(image, geometries.get(name, geometry), folder / f"{name}.nii.gz")
        if zip_archive:
            _write_zip(folder, archive)
            archive.replace(_zip_of(out))
        folder.replace(out)

    if threshold:
        print(f"Enhancing tumour below {threshold} voxels was relabelled NCR/NET in {num_changed} cases.")
    print(f"{len(files)} cases are in {out}{f' and {_zip_of(out)}' if zip_archive else ''}")


def read_label_order(dataset_json: dict, file: Path) -> dict[int, str]:
    """The tissue of each label value in predictions.

    It is told by the key "label_order" that convert_brats writes, or else by the names of labels and regions: a value
    is the one tissue that all the names with it share and, if that leaves several, that no other name has.

    Args:
        dataset_json: of the model that predicted.
        file: where it was read, for messages.

    Raises:
        UserError: the tissue of a value can't be told.
    """
    if "label_order" in dataset_json:
        given = dataset_json["label_order"]
        is_order = (
            isinstance(given, dict)
            and set(given) <= set(TISSUES)
            and all(type(value) is int and value > 0 for value in given.values())
            and len(set(given.values())) == len(given) > 0
        )
        if not is_order:
            raise UserError(
                f"{file}: label_order is {given}; it must give tissues ({', '.join(TISSUES)}) a label each, such as "
                '{"ED": 1, "NCR/NET": 2, "ET": 3}.'
            )
        return {value: tissue for tissue, value in given.items()}

    labels = dataset_json.get("labels", {})
    try:
        named = _values_of_names(labels)
        tissues = {name: TISSUES_OF[_plain(name)] for name in named}
        order = {}
        for value in sorted(set().union(*named.values())):
            shared = set.intersection(*(tissues[name] for name in named if value in named[name]))
            if len(shared) > 1:
                shared = shared.difference(*(tissues[name] for name in named if value not in named[name]))
            (order[value],) = shared
    except (KeyError, ValueError, TypeError, AttributeError):
        order = {}
    if not order:
        raise UserError(
            f"{file}: its labels {json.dumps(labels)} do not tell which value is which tissue. Understood are tissues "
            "by name (edema, ED, SNFH; non-enhancing tumor, necrosis, NCR, NET, NETC; enhancing tumor, ET; resection "
            "cavity, RC) and the regions whole tumor, tumor core and enhancing tumor together. Otherwise add what is "
            'the case to that file, such as "label_order": {"ED": 1, "NCR/NET": 2, "ET": 3}.'
        )
    _check_class_order(named, dataset_json, file)
    return order


def choose_threshold(model_folder: Path) -> int:
    """The smallest threshold with the best mean ET Dice of a model's cross-validation; says what it gains there.

    Only one more than a predicted volume can be it: the mean changes nowhere else. 0 is off.

    Raises:
        UserError: predictions or labels of the cross-validation are missing or can't be read.
    """
    json_file = model_folder / "dataset.json"
    dataset_json = read_json_object(json_file, "Give --cv the model folder, the one with fold_0, fold_1, ..")
    order = read_label_order(dataset_json, json_file)
    predictions, labels = cross_validation(model_folder, _file_ending(dataset_json, json_file))
    overlaps = [
        _overlap(prediction, labels[case], order)
        for case, prediction in tqdm(predictions.items(), desc="Cross-validation", unit="case")
    ]

    def mean_dice(threshold: int) -> float:
        # fsum, so that equal means are equal and the smallest threshold of a tie wins
        return math.fsum(overlap.dice(threshold) for overlap in overlaps) / len(overlaps)

    candidates = sorted({0} | {overlap.predicted + 1 for overlap in overlaps if overlap.predicted})
    means = [mean_dice(threshold) for threshold in candidates]
    best = candidates[int(np.argmax(means))]
    print(
        f"Mean ET Dice of {len(overlaps)} cross-validation cases is {means[0]:.4f} without a threshold, "
        + (f"{max(means):.4f} with {best} voxels, the best one. " if best else "and no threshold raises it. ")
        + "This is in-sample: chosen and measured on the same cases, so expect less of it on new ones."
    )
    return best


def _check_free(out: Path, zip_archive: bool) -> None:
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out} exists and is no empty folder: choose another one for -o, or remove it.")
    if zip_archive and _zip_of(out).exists():
        raise UserError(f"{_zip_of(out)} exists already: choose another -o, or remove it.")


def _zip_of(out: Path) -> Path:
    return out.with_name(f"{out.name}.zip")


def _check_threshold(et_threshold: int | Literal["auto"] | None, cv: Path | None) -> None:
    if et_threshold == AUTO and cv is None:
        raise UserError("--et-threshold auto needs --cv MODEL_FOLDER, whose cross-validation it is chosen with.")
    if et_threshold != AUTO and cv is not None:
        raise UserError(f"--cv {cv} is used by --et-threshold auto only: give both or none.")
    if isinstance(et_threshold, int) and et_threshold < 0:
        raise UserError(f"--et-threshold {et_threshold}: give a number of voxels, 0 or more.")


def _file_ending(dataset_json: dict, file: Path) -> str:
    ending = dataset_json.get("file_ending", ".nii.gz")
    if not isinstance(ending, str) or not ending.startswith("."):
        raise UserError(f'{file}: file_ending is {json.dumps(ending)}; it must be the ending of the files, ".nii.gz".')
    return ending


def _plain(name: str) -> str:
    """A name in small letters, without British spelling and punctuation."""
    name = name.lower().replace("tumour", "tumor").replace("oedema", "edema").replace("nonenhancing", "non enhancing")
    return " ".join("".join(character if character.isalnum() else " " for character in name).split())


def _values_of_names(labels: dict) -> dict[str, list[int]]:
    """The values of each label or region but background and nnU-Net's label for voxels to ignore."""
    values = {name: value if isinstance(value, list) else [value] for name, value in labels.items()}
    return {name: list(map(int, value)) for name, value in values.items() if name not in ("background", "ignore")}


def _check_class_order(named: Mapping[str, Sequence[int]], dataset_json: dict, file: Path) -> None:
    """nnU-Net writes a region's entry of regions_class_order, later regions over earlier ones: it must be the label."""
    if all(len(values) == 1 for values in named.values()):
        return
    class_order = dataset_json.get("regions_class_order", [])
    if not isinstance(class_order, list) or any(type(label) is not int for label in class_order):
        raise UserError(
            f"{file}: regions_class_order is {json.dumps(class_order)}; it must list the labels of the regions, such "
            "as [1, 2, 3]. Copy the file from the model folder."
        )
    written = {value: label for values, label in zip(named.values(), class_order, strict=False) for value in values}
    if len(class_order) != len(named) or any(value != label for value, label in written.items()):
        raise UserError(
            f"{file}: regions_class_order {class_order} writes other values than the regions "
            f"{json.dumps(dict(named))} have, so that the labels of the predictions can't be told. Add what is the "
            'case to that file, such as "label_order": {"ED": 1, "NCR/NET": 2, "ET": 3}.'
        )


def _prediction_files(predictions: Path, dataset_json: dict) -> dict[str, Path]:
    """The predictions by the source's case names, which convert_brats records under "source_cases"."""
    json_file = predictions / "dataset.json"
    ending = _file_ending(dataset_json, json_file)
    names = dataset_json.get("source_cases", {})
    if not isinstance(names, dict) or not all(isinstance(name, str) for name in names.values()):
        raise UserError(
            f"{json_file}: source_cases must give each case the source's name, such as "
            '{"case_1": "BraTS20_Validation_001"}. Copy the file from the model folder, or remove source_cases from it.'
        )
    files: dict[str, Path] = {}
    for path in sorted(predictions.iterdir()):
        if not path.name.endswith(ending) or path.name.startswith(".") or not path.is_file():
            continue
        case = path.name.removesuffix(ending)
        name = names.get(case, case)
        if not name or name != Path(name).name:
            raise UserError(
                f"{json_file}: {name!r}, the source's name of {case}, is no file name. Mend it in source_cases."
            )
        if name in files:
            raise UserError(
                f"{files[name]} and {path} would both be written as {name}.nii.gz: mend source_cases in "
                f"{json_file}, or remove one of them."
            )
        files[name] = path
    if not files:
        raise UserError(f"{predictions} holds no predictions (files ending in {ending}).")
    return files


def _decide_edition(given: str | None, dataset_json: dict, names: Iterable[str], predictions: Path) -> Edition:
    if given is not None:
        if given not in EDITIONS:
            raise UserError(f"--edition {given} is none of {', '.join(EDITIONS)}.")
        return EDITIONS[given]
    if "edition" not in dataset_json:
        return decide_edition(names, str(predictions))
    recorded = str(dataset_json["edition"])
    if recorded not in EDITIONS:
        raise UserError(
            f"{predictions / 'dataset.json'}: edition {recorded} is none of {', '.join(EDITIONS)}; say which with "
            "--edition."
        )
    # a model of one year, and cases of another, whose challenge wants its own labels
    others = [name for name in names if (editions := editions_of(name)) and recorded not in editions]
    if others:
        raise UserError(
            f"{predictions}: the model was trained on edition {recorded}, and {others[0]} is named as in "
            f"{' or '.join(editions_of(others[0]))}. Say with --edition whose labels are to be written."
        )
    return EDITIONS[recorded]


def _source_geometries(like: Path, edition: Edition, files: Mapping[str, Path]) -> dict[str, Geometry]:
    """The geometry of each case's T1; only headers are read."""
    cases = {case.name: case for case in find_cases(like, edition.name).cases}
    for names, problem in (
        (files.keys() - cases.keys(), f"predictions without a case in {like}"),
        (cases.keys() - files.keys(), f"cases of {like} without a prediction"),
    ):
        if names:
            raise UserError(
                f"{len(names)} {problem}: {listing_of(sorted(names))}. Give --like the folder with the cases that were "
                "predicted, and no others."
            )
    geometries = {}
    for name in files:
        paths = cases[name].files.get("T1")
        if not paths:
            raise UserError(f"{like}: {name} has no T1 to take the geometry from.")
        reader = SimpleITK.ImageFileReader()
        reader.SetFileName(str(paths[0]))
        try:
            reader.ReadImageInformation()
        except RuntimeError as error:
            raise UserError(f"{paths[0]} can't be read: {_last_line(error)} Unpack it again.") from None
        geometries[name] = geometry_of(reader)
    return geometries


def _check_predictions(
    files: Mapping[str, Path], order: Mapping[int, str], edition: Edition, geometries: Mapping[str, Geometry]
) -> None:
    """Refuse what can't be exported, before anything is written; say whose geometry changes."""
    moved = []
    for name, file in tqdm(files.items(), desc="Checking", unit="case"):
        segmentation, geometry = _load(file, order)
        tissues = [tissue for label, tissue in enumerate(TISSUES, start=1) if (segmentation == label).any()]
        without_label = [tissue for tissue in tissues if tissue not in edition.labels]
        if without_label:
            raise UserError(
                f"{file} has {', '.join(without_label)}, for which edition {edition.name} has no label. Choose another "
                "--edition."
            )
        source = geometries.get(name, geometry)
        if source.size != geometry.size:
            raise UserError(
                f"{file} has {_shape(geometry)} voxels, its source has {_shape(source)}. Predict the source's images."
            )
        if difference := geometry.differences(source):
            moved.append(f"{name}: {difference}")
    if moved:
        print(f"{len(moved)} predictions lie elsewhere than their source, whose geometry is written ({moved[0]}).")


def _load(file: Path, order: Mapping[int, str]) -> tuple[np.ndarray, Geometry]:
    """A prediction in nnU-Net's order, uint8 (z, y, x), and where it lies."""
    image = _read(file)
    voxels = SimpleITK.GetArrayViewFromImage(image)
    _check_values(np.unique(voxels), order, file)
    segmentation = np.zeros(voxels.shape, dtype=np.uint8)
    for value, tissue in order.items():
        segmentation[voxels == value] = TISSUES.index(tissue) + 1
    return segmentation, geometry_of(image)


def _check_values(values: np.ndarray, order: Mapping[int, str], file: Path) -> None:
    unknown = [value for value in values.tolist() if value != 0 and value not in order]
    if unknown:
        raise UserError(
            f"{file} has the values {listing_of(map(str, unknown))}, which are no labels of its dataset.json "
            f"({_listing(order)}). Put the dataset.json of the model that predicted it there, or remove the file."
        )


def _read(file: Path) -> SimpleITK.Image:
    try:
        count_non_finite(file)  # reads it to its end, which SimpleITK does not need
        image = SimpleITK.ReadImage(str(file))
    except BROKEN as error:
        raise UserError(f"{file} can't be read: {_last_line(error)} Make it again, or remove it.") from None
    if image.GetDimension() != 3 or image.GetNumberOfComponentsPerPixel() != 1:
        raise UserError(f"{file} is no segmentation in three dimensions: its size is {image.GetSize()}.")
    return image


def _relabel_small_enhancing(segmentation: np.ndarray, threshold: int) -> bool:
    """Turn enhancing tumour below the threshold into NCR/NET, in place; whether there was some."""
    enhancing = segmentation == ET
    is_small = 0 < int(np.count_nonzero(enhancing)) < threshold
    if is_small:
        segmentation[enhancing] = NCR
    return is_small


def _write_zip(folder: Path, archive: Path) -> None:
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_STORED) as zip_file:  # the files are compressed already
        for file in sorted(folder.iterdir()):
            zip_file.write(file, file.name)


def _overlap(prediction: Path, reference: Path, order: Mapping[int, str]) -> Overlap:
    enhancing = [value for value, tissue in order.items() if tissue == "ET"]
    masks = []
    for file in (prediction, reference):
        voxels = SimpleITK.GetArrayFromImage(_read(file))
        masks.append(np.isin(voxels, enhancing))
    if masks[0].shape != masks[1].shape:
        raise UserError(
            f"{prediction} and its label {reference} differ in shape, {masks[0].shape} and {masks[1].shape}. Validate "
            "the model again with nnUNetv2_train .. --val."
        )
    predicted, labelled = masks
    return Overlap(*(int(np.count_nonzero(mask)) for mask in (predicted, labelled, predicted & labelled)))


def _listing(order: Mapping[int, str]) -> str:
    return ", ".join(f"{value} = {order[value]}" for value in sorted(order))


def _shape(geometry: Geometry) -> str:
    return " x ".join(map(str, geometry.size))


def _last_line(error: Exception) -> str:
    """What ITK says without the place in its source, as a sentence."""
    return str(error).strip().splitlines()[-1].strip().rstrip(".") + "."
