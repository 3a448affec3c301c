"""`nnunetv2_cfnet export_brats`: nnU-Net's predictions -> files as a BraTS edition wants them submitted.

    PREDICTIONS/CASE.nii.gz -> tissues, by the labels in PREDICTIONS/dataset.json (labels.py)
                            -> small enhancing tumour becomes necrotic core, if asked for (enhancing.py)
                            -> the edition's labels, the source's name and geometry, in OUT

Names are those of the predictions, or what dataset.json's source_cases calls them. Where the source is given, they are
checked against it, and predictions must lie where it lies: in any axis order, or without a header.
"""

import zipfile
import zlib
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Literal

import numpy as np
import SimpleITK
from tqdm import tqdm

from nnunetv2_cfnet.brats.editions import (
    AUTO,
    EDITIONS,
    TISSUES,
    Edition,
    decide_edition,
    editions_of,
    refuse_other_tumours,
)
from nnunetv2_cfnet.brats.enhancing import choose_threshold, relabel_small_enhancing
from nnunetv2_cfnet.brats.labels import read_label_order
from nnunetv2_cfnet.brats.sources import find_cases
from nnunetv2_cfnet.errors import UserError, listing_of
from nnunetv2_cfnet.files.json_files import read_dataset_json
from nnunetv2_cfnet.files.paths import resolved
from nnunetv2_cfnet.files.volumes import (
    Geometry,
    files_by_case,
    geometry_of,
    in_axis_order_of,
    listing,
    read_label_map,
    write_volume,
)
from nnunetv2_cfnet.files.whole import check_new_folder, check_space, whole_file, whole_folder

REMEDY = "choose another -o, or remove it."  # for an archive that is in the way


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
        predictions: a folder that nnUNetv2_predict wrote; its dataset.json says which label is which tissue.
        out: must be new or empty; it is there complete or not at all.
        edition: a name of EDITIONS; without it what dataset.json records, or what the case names tell.
        like: the release's cases that were predicted; names and geometry are checked against it, and predictions in
            another axis order are turned to its own.
        et_threshold: cases with fewer voxels of enhancing tumour get them as NCR/NET; "auto" chooses it with `cv`.
        cv: model folder with cross-validation predictions.
        zip_archive: also write OUT.zip; one that holds the same is replaced.

    Raises:
        UserError: something is wrong with the input; nothing is written then.
    """
    out = resolved(out)
    archive = out.with_name(f"{out.name}.zip")
    check_new_folder(out)
    _check_threshold(et_threshold, cv)
    if not predictions.is_dir():
        raise UserError(f"{predictions} is no folder: give the one that nnUNetv2_predict wrote.")
    json_file = predictions / "dataset.json"
    dataset_json = read_dataset_json(json_file, "Copy it there from the model folder.")
    order = read_label_order(dataset_json, json_file)
    files = _prediction_files(predictions, dataset_json)
    archived = _archived(archive, files) if zip_archive else {}
    check_space(out, sum(file.stat().st_size for file in files.values()) * (2 if zip_archive else 1))
    target = _decide_edition(edition, dataset_json, files, predictions)
    geometries = _source_geometries(like, target, files) if like else {}
    print(
        f"{len(files)} cases. Labels of {json_file}: {_listing(order)}. "
        f"Edition {target.name}: {_listing({label: tissue for tissue, label in target.labels.items()})}."
    )
    _check_predictions(files, order, target, geometries)
    threshold = choose_threshold(cv) if cv else int(et_threshold or 0)

    num_changed = 0
    with whole_folder(out) as folder:
        for name, prediction in tqdm(files.items(), desc="Writing", unit="case"):
            segmentation, geometry, _ = _load(prediction, order, geometries.get(name))
            num_changed += relabel_small_enhancing(segmentation, threshold)
            image = SimpleITK.GetImageFromArray(target.from_nnunet(segmentation))
            file = folder / f"{name}.nii.gz"
            write_volume(image, geometry, file)
            if archived and archived[file.name] != zlib.crc32(file.read_bytes()):
                raise UserError(f"{archive} exists already, with another {file.name}: {REMEDY}")
        if zip_archive:
            with whole_file(archive, made_in=folder.parent) as unfinished:
                _write_zip(folder, unfinished)

    if threshold:
        print(f"Enhancing tumour below {threshold} voxels was relabelled NCR/NET in {num_changed} cases.")
    print(f"{len(files)} cases are in {out}{f' and {archive}' if zip_archive else ''}")


def _check_threshold(et_threshold: int | Literal["auto"] | None, cv: Path | None) -> None:
    if et_threshold == AUTO and cv is None:
        raise UserError("--et-threshold auto needs --cv MODEL_FOLDER, whose cross-validation it is chosen with.")
    if et_threshold != AUTO and cv is not None:
        raise UserError(f"--cv {cv} is used by --et-threshold auto only: give both or none.")
    if isinstance(et_threshold, int) and et_threshold < 0:
        raise UserError(f"--et-threshold {et_threshold}: give a number of voxels, 0 or more.")


def _prediction_files(predictions: Path, dataset_json: dict) -> dict[str, Path]:
    """The predictions by the source's case names, which convert_brats records under "source_cases"."""
    json_file = predictions / "dataset.json"
    ending = dataset_json["file_ending"]
    names = dataset_json.get("source_cases", {})
    if not isinstance(names, dict) or not all(isinstance(name, str) for name in names.values()):
        raise UserError(
            f"{json_file}: source_cases must give each case the source's name, such as "
            '{"case_1": "BraTS20_Validation_001"}. Copy the file from the model folder, or remove source_cases from it.'
        )
    files: dict[str, Path] = {}
    for case, path in files_by_case(predictions, ending).items():
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


def _decide_edition(given: str | None, dataset_json: dict, names: Collection[str], predictions: Path) -> Edition:
    refuse_other_tumours(names, str(predictions))
    if given is not None:
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
    """Where each case lies."""
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
        try:
            geometries[name] = cases[name].read_geometry()
        except OSError as error:
            raise UserError(f"{error}. Unpack it again.") from None
    return geometries


def _check_predictions(
    files: Mapping[str, Path], order: Mapping[int, str], edition: Edition, geometries: Mapping[str, Geometry]
) -> None:
    """Refuse what can't be exported, before anything is written; say whose geometry changes, and how."""
    changed: dict[str, list[str]] = {}
    for name, file in tqdm(files.items(), desc="Checking", unit="case"):
        segmentation, _, change = _load(file, order, geometries.get(name))
        if change:
            changed.setdefault(change, []).append(name)
        tissues = [tissue for label, tissue in enumerate(TISSUES, start=1) if (segmentation == label).any()]
        without_label = [tissue for tissue in tissues if tissue not in edition.labels]
        if without_label:
            raise UserError(
                f"{file} has {', '.join(without_label)}, for which edition {edition.name} has no label. Choose another "
                "--edition."
            )
    for change, names in changed.items():
        print(f"{len(names)} predictions {change}: {', '.join(names)}.")


def _load(file: Path, order: Mapping[int, str], source: Geometry | None) -> tuple[np.ndarray, Geometry, str]:
    """A prediction in nnU-Net's order, uint8 (z, y, x), where it lies, and what was changed to lie as its source."""
    image, change = read_label_map(file), ""
    if source:
        image, change = _placed(file, image, source)
    voxels = SimpleITK.GetArrayViewFromImage(image)
    unknown = [value for value in np.unique(voxels).tolist() if value != 0 and value not in order]
    if unknown:
        raise UserError(
            f"{file} has the values {listing_of(unknown)}, which are no labels of its dataset.json "
            f"({_listing(order)}). Put the dataset.json of the model that predicted it there, or remove the file."
        )
    segmentation = np.zeros(voxels.shape, dtype=np.uint8)
    for value, tissue in order.items():
        segmentation[voxels == value] = TISSUES.index(tissue) + 1
    return segmentation, source or geometry_of(image), change


def _placed(file: Path, image: SimpleITK.Image, source: Geometry) -> tuple[SimpleITK.Image, str]:
    """An image with its voxels in the source's order, and what was changed for that, in words; nothing is resampled."""
    own = geometry_of(image)
    if own.fits(source):
        return image, ""
    turned = in_axis_order_of(source, image)
    if geometry_of(turned).fits(source):
        return turned, "are in another axis order than their source and are turned to its own, voxel for voxel"
    if own.is_lost and own.size == source.size:
        return image, "have lost their header and get their source's, with their voxels taken to be in its order"
    if source.size not in (own.size, turned.GetSize()):
        difference = f"has {listing(own.size)} voxels, its source has {listing(source.size)}"
    else:
        difference = f"lies elsewhere than its source, in any axis order: {own.differences(source)}"
    raise UserError(f"{file} {difference}. Predict the source's images.")


def _archived(archive: Path, names: Collection[str]) -> dict[str, int]:
    """The check sum of each file in an archive that is there, which may be replaced by one that holds the same.

    Such a one is left by a run that was killed when its archive had got its name, and its folder had not.

    Args:
        names: what it has to hold.

    Raises:
        UserError: it is something else.
    """
    if not archive.exists():
        return {}
    try:
        with zipfile.ZipFile(archive) as zip_file:
            check_sums = {entry.filename: entry.CRC for entry in zip_file.infolist()}
    except (OSError, ValueError, zipfile.BadZipFile):
        check_sums = {}
    if check_sums.keys() != {f"{name}.nii.gz" for name in names}:
        raise UserError(f"{archive} exists already: {REMEDY}")
    return check_sums


def _write_zip(folder: Path, archive: Path) -> None:
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_STORED) as zip_file:  # the files are compressed already
        for file in sorted(folder.iterdir()):
            zip_file.write(file, file.name)


def _listing(order: Mapping[int, str]) -> str:
    return ", ".join(f"{value} = {order[value]}" for value in sorted(order))
