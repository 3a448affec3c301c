"""`export_brats`: labels, names and geometry of submissions, small enhancing tumour, and what is refused."""

import json
import re
import shutil
import zipfile
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from functools import partial
from itertools import permutations, product
from pathlib import Path
from types import SimpleNamespace

import nibabel
import numpy as np
import pytest
import SimpleITK
from defects import RAS, change
from images import geometry, read, write_image
from scipy.spatial.transform import Rotation

from nnunetv2_cfnet.brats import enhancing, export
from nnunetv2_cfnet.brats.editions import EDITIONS
from nnunetv2_cfnet.brats.export import export_brats
from nnunetv2_cfnet.brats.sources import find_cases
from nnunetv2_cfnet.commands.import_weights import LABELS
from nnunetv2_cfnet.errors import UserError
from nnunetv2_cfnet.files.volumes import read_geometry

SHAPE = (3, 4, 5)
# Worked out by hand from the releases' descriptions.
LABELS_OF_EDITIONS = {
    **{edition: {"NCR/NET": 1, "ED": 2, "ET": 4} for edition in ("2018", "2019", "2020", "2021")},
    "2023": {"NCR/NET": 1, "ED": 2, "ET": 3},
    "2024": {"NCR/NET": 1, "ED": 2, "ET": 3, "RC": 4},
    "msd": {"ED": 1, "NCR/NET": 2, "ET": 3},
}
REGIONS_OF_OURS = {"background": 0, "whole_tumor": [1, 2, 3], "tumor_core": [2, 3], "enhancing_tumor": [3]}
REGIONS_OF_NNUNET = {"background": 0, "whole tumor": [1, 2, 3], "tumor core": [2, 3], "enhancing tumor": [3]}
# dataset.json of a model, and the tissue that each of its values is.
MODELS = {
    "ours of 2024": (
        {
            "labels": {**REGIONS_OF_OURS, "resection_cavity": [4]},
            "regions_class_order": [1, 2, 3, 4],
            "label_order": {"ED": 1, "NCR/NET": 2, "ET": 3, "RC": 4},
        },
        {1: "ED", 2: "NCR/NET", 3: "ET", 4: "RC"},
    ),
    "ours without the key": (
        {"labels": {**REGIONS_OF_OURS, "resection_cavity": [4]}, "regions_class_order": [1, 2, 3, 4]},
        {1: "ED", 2: "NCR/NET", 3: "ET", 4: "RC"},
    ),
    "nnU-Net's Dataset137_BraTS21": (
        {"labels": REGIONS_OF_NNUNET, "regions_class_order": [1, 2, 3]},
        {1: "ED", 2: "NCR/NET", 3: "ET"},
    ),
    "nnU-Net's Dataset226_BraTS2024": (
        {"labels": {"background": 0, "NETC": 1, "SNFH": 2, "ET": 3, "RC": 4}},
        {1: "NCR/NET", 2: "ED", 3: "ET", 4: "RC"},
    ),
    "import_weights": ({"labels": LABELS}, {1: "NCR/NET", 2: "ED", 3: "ET"}),
    "MSD": (
        {"labels": {"background": 0, "edema": 1, "non-enhancing tumor": 2, "enhancing tumour": 3}},
        {1: "ED", 2: "NCR/NET", 3: "ET"},
    ),
    "regions over BraTS's own order": (
        {
            "labels": {"background": 0, "Whole Tumour": [1, 2, 3], "TC": [1, 3], "ET": 3, "ignore": 4},
            "regions_class_order": [2, 1, 3],
        },
        {1: "NCR/NET", 2: "ED", 3: "ET"},
    ),
    "a core in two parts, as in 2015": (
        {"labels": {"background": 0, "Necrosis": 1, "Oedema": 2, "Nonenhancing tumour": 3, "Enhancing tumour": 4}},
        {1: "NCR/NET", 2: "ED", 3: "NCR/NET", 4: "ET"},
    ),
}
BY_NAME = {"labels": {"background": 0, "NCR": 1, "ED": 2, "ET": 3}}


def write_predictions(folder: Path, cases: dict[str, np.ndarray], dataset_json: dict, **header: object) -> Path:
    """As nnUNetv2_predict leaves them."""
    for case, array in cases.items():
        write_image(array, folder / f"{case}.nii.gz", **{"Origin": (0.0, -239.0, 0.0), **header})
    folder.mkdir(exist_ok=True)
    (folder / "dataset.json").write_text(json.dumps({"file_ending": ".nii.gz", **dataset_json}))
    (folder / "plans.json").write_text("{}")
    return folder


def with_enhancing(num_voxels: int, start: int = 0) -> np.ndarray:
    """Label 3 in so many voxels, from the start-th on, and one voxel of oedema (2)."""
    array = np.zeros(SHAPE, dtype=np.uint8)
    array.flat[start : start + num_voxels] = 3
    array.flat[-1] = 2
    return array


def refuse(tmp_path: Path, **arguments) -> str:
    """The message of an export that writes nothing."""
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UserError) as error:
        export_brats(**{"predictions": tmp_path / "predictions", "out": tmp_path / "out", **arguments})
    assert sorted(tmp_path.rglob("*")) == before
    return str(error.value)


@pytest.mark.parametrize("edition", LABELS_OF_EDITIONS)
@pytest.mark.parametrize("model", MODELS)
def test_every_models_tissues_get_every_editions_labels(tmp_path, model, edition):
    dataset_json, tissues = MODELS[model]
    labels = LABELS_OF_EDITIONS[edition]
    values = [0] + [value for value, tissue in tissues.items() if tissue in labels]
    array = np.resize(np.array(values, dtype=np.uint8), SHAPE)
    predictions = write_predictions(tmp_path / "predictions", {"case": array}, dataset_json)
    export_brats(predictions, tmp_path / "out", edition=edition)
    expected = [0 if value == 0 else labels[tissues[value]] for value in values]
    written = read(tmp_path / "out" / "case.nii.gz")
    assert written.dtype == np.uint8
    np.testing.assert_array_equal(written, np.resize(expected, SHAPE))


@pytest.mark.parametrize("edition", EDITIONS)
def test_a_releases_segmentations_come_back_voxel_for_voxel(tmp_path, clean_release, edition):
    """There with to_nnunet, under numbers for names and without a header, and back with the source beside it."""
    release = clean_release(edition, 2)
    cases = find_cases(release, edition).cases
    arrays = {
        f"case_{number}": EDITIONS[edition].to_nnunet(read(case.files["seg"][0]))
        if case.is_training
        else np.ones((24, 28, 24), dtype=np.uint8)
        for number, case in enumerate(cases)
    }
    source_cases = {f"case_{number}": case.name for number, case in enumerate(cases)}
    dataset_json = {**MODELS["ours of 2024"][0], "edition": edition, "source_cases": source_cases}
    predictions = write_predictions(tmp_path / "predictions", arrays, dataset_json, Origin=(0.0, 0.0, 0.0))
    export_brats(predictions, tmp_path / "out", like=release)

    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [f"{case.name}.nii.gz" for case in cases]
    for case in (case for case in cases if case.is_training):
        written = tmp_path / "out" / f"{case.name}.nii.gz"
        np.testing.assert_array_equal(read(written), read(case.files["seg"][0]))
        assert read(written).dtype == np.uint8
        assert geometry(written) == geometry(case.files["seg"][0])


CASE = "BraTS-GLI-00001-000"
DIRECTIONS = {"axis-aligned": np.eye(3), "oblique": Rotation.from_euler("xyz", (10, -7, 30), degrees=True).as_matrix()}


def write_source(folder: Path, direction: np.ndarray) -> SimpleITK.Image:
    """CASE's only image, random labels, which no turn leaves the same."""
    image = SimpleITK.GetImageFromArray(np.random.default_rng(0).integers(0, 4, SHAPE).astype(np.uint8))
    image.SetOrigin((0.0, -239.0, 7.5))
    image.SetSpacing((1.0, 1.0, 2.5))
    image.SetDirection(direction.ravel())
    folder.mkdir()
    SimpleITK.WriteImage(image, str(folder / f"{CASE}-t1n.nii.gz"))
    return image


@pytest.mark.parametrize("direction", DIRECTIONS.values(), ids=DIRECTIONS)
def test_predictions_in_every_axis_order_are_turned_to_their_sources(tmp_path, direction, capsys):
    truth = write_source(tmp_path / "release", direction)
    predictions = write_predictions(tmp_path / "predictions", {}, BY_NAME)
    export_brats_to = partial(export_brats, predictions, edition="2023", like=tmp_path / "release")
    orders = list(product(permutations(range(3)), product((False, True), repeat=3)))
    for number, (axes, flips) in enumerate(orders):
        turned = SimpleITK.Flip(SimpleITK.PermuteAxes(truth, axes), flips)
        SimpleITK.WriteImage(turned, str(predictions / f"{CASE}.nii.gz"))
        export_brats_to(tmp_path / f"out_{number}")
        written = tmp_path / f"out_{number}" / f"{CASE}.nii.gz"
        np.testing.assert_array_equal(read(written), SimpleITK.GetArrayFromImage(truth))
        assert read_geometry(written).fits(read_geometry(tmp_path / "release" / f"{CASE}-t1n.nii.gz"))
    message = (
        f"1 predictions are in another axis order than their source and are turned to its own, voxel for voxel: {CASE}."
    )
    assert capsys.readouterr().out.count(message) == len(orders) - 1


@pytest.mark.parametrize("affine", [None, np.eye(4)], ids=["none", "identity"])
def test_a_lost_header_is_replaced_by_the_sources_and_its_case_named(tmp_path, affine, capsys):
    truth = SimpleITK.GetArrayFromImage(write_source(tmp_path / "release", DIRECTIONS["oblique"]))
    predictions = write_predictions(tmp_path / "predictions", {}, BY_NAME)
    nibabel.save(nibabel.Nifti1Image(truth.T, affine), predictions / f"{CASE}.nii.gz")
    export_brats(predictions, tmp_path / "out", edition="2023", like=tmp_path / "release")
    written = tmp_path / "out" / f"{CASE}.nii.gz"
    np.testing.assert_array_equal(read(written), truth)
    assert read_geometry(written).fits(read_geometry(tmp_path / "release" / f"{CASE}-t1n.nii.gz"))
    assert "1 predictions have lost their header and get their source's" in (output := capsys.readouterr().out)
    assert f"in its order: {CASE}." in output


@pytest.mark.parametrize(
    ("header", "difference"),
    [
        ({"Origin": (0.0, -239.0, 8.0)}, "origin (0, -239, 8) against (0, -239, 7.5)"),
        ({"Spacing": (1.0, 1.0, 2.0)}, "spacing (1, 1, 2) against (1, 1, 2.5)"),
        ({"Direction": RAS}, "direction (-1, 0, 0, 0, -1, 0, 0, 0, 1) against (1, "),
        ({"Direction": DIRECTIONS["oblique"].ravel()}, "direction (0.8"),
    ],
)
def test_a_prediction_that_lies_elsewhere_is_refused(tmp_path, header, difference):
    prediction = write_source(tmp_path / "release", DIRECTIONS["axis-aligned"])
    for name, value in header.items():
        getattr(prediction, f"Set{name}")(value)
    file = write_predictions(tmp_path / "predictions", {}, BY_NAME) / f"{CASE}.nii.gz"
    SimpleITK.WriteImage(prediction, str(file))
    message = refuse(tmp_path, edition="2023", like=tmp_path / "release")
    assert f"{file} lies elsewhere than its source, in any axis order: {difference}" in message
    assert message.endswith(". Predict the source's images.")


def test_a_source_lies_where_most_of_its_files_do(tmp_path):
    """As convert_brats has it, whose datasets were predicted."""
    truth = write_source(tmp_path / "release", DIRECTIONS["axis-aligned"])
    for suffix in ("t2w", "t2f"):
        SimpleITK.WriteImage(truth, str(tmp_path / "release" / f"{CASE}-{suffix}.nii.gz"))
    change(tmp_path / "release" / f"{CASE}-t1n.nii.gz", header=lambda image: image.SetDirection(RAS))
    predictions = write_predictions(tmp_path / "predictions", {}, BY_NAME)
    SimpleITK.WriteImage(truth, str(predictions / f"{CASE}.nii.gz"))
    export_brats(predictions, tmp_path / "out", edition="2023", like=tmp_path / "release")
    out, t2 = tmp_path / "out" / f"{CASE}.nii.gz", tmp_path / "release" / f"{CASE}-t2w.nii.gz"
    assert geometry(out) == geometry(t2)


def test_without_a_source_the_predictions_own_geometry_stays(tmp_path, capsys):
    predictions = write_predictions(tmp_path / "predictions", {"BraTS2021_00001": with_enhancing(2)}, BY_NAME)
    export_brats(predictions, tmp_path / "out")
    assert geometry(tmp_path / "out" / "BraTS2021_00001.nii.gz") == geometry(predictions / "BraTS2021_00001.nii.gz")
    output = capsys.readouterr().out
    assert "dataset.json: 1 = NCR/NET, 2 = ED, 3 = ET. Edition 2021: 1 = NCR/NET, 2 = ED, 4 = ET." in output
    assert f"1 cases are in {tmp_path / 'out'}" in output


def test_the_zip_holds_all_files_and_nothing_else(tmp_path):
    arrays = {f"BraTS2021_0000{i}": with_enhancing(i) for i in (1, 2)}
    predictions = write_predictions(tmp_path / "predictions", arrays, BY_NAME)
    (predictions / "._BraTS2021_00001.nii.gz").write_bytes(b"a Mac's shadow file")
    export_brats(predictions, tmp_path / "out", zip_archive=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "out.zip", "predictions"]
    with zipfile.ZipFile(tmp_path / "out.zip") as archive:
        assert archive.testzip() is None
        assert archive.namelist() == ["BraTS2021_00001.nii.gz", "BraTS2021_00002.nii.gz"]
        for name in archive.namelist():
            assert archive.read(name) == (tmp_path / "out" / name).read_bytes()


def test_a_full_disk_is_found_before_predictions_are_read(tmp_path, monkeypatch):
    predictions = write_predictions(tmp_path / "predictions", {"BraTS20_Validation_001": with_enhancing(2)}, BY_NAME)
    (predictions / "BraTS20_Validation_001.nii.gz").write_bytes(bytes(10_000_000))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=19_000_000))
    message = refuse(tmp_path, zip_archive=True)
    assert message == (
        f"{tmp_path / 'out'} needs about 0.02 GB, and 0.019 GB are free: make room, then the same command goes on."
    )
    assert "can't be read" in refuse(tmp_path)


def test_an_interrupted_export_leaves_nothing_behind(tmp_path, monkeypatch):
    predictions = write_predictions(tmp_path / "predictions", {"BraTS2021_00001": with_enhancing(2)}, BY_NAME)

    def interrupted(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(export, "_write_zip", interrupted)
    with pytest.raises(KeyboardInterrupt):
        export_brats(predictions, tmp_path / "out", zip_archive=True)
    assert [path.name for path in tmp_path.iterdir()] == ["predictions"]


class Killed(BaseException):
    pass


def test_killed_at_any_step_the_same_command_goes_on(tmp_path, monkeypatch):
    arrays = {f"BraTS2021_0000{i}": with_enhancing(i) for i in (1, 2)}
    predictions = write_predictions(tmp_path / "predictions", arrays, BY_NAME)
    run = partial(export_brats, predictions, tmp_path / "out", zip_archive=True)
    num_steps = 0

    def killed_at(step: int, function: Callable) -> Callable:
        def counted(*arguments, **more):
            nonlocal num_steps
            num_steps += 1
            if num_steps >= step:  # nothing is cleared away either
                raise Killed
            return function(*arguments, **more)

        return counted

    kills = 0
    while True:
        num_steps = 0
        with monkeypatch.context() as patch:
            for name in ("replace", "unlink", "mkdir"):
                patch.setattr(Path, name, killed_at(kills + 1, getattr(Path, name)))
            patch.setattr(shutil, "rmtree", killed_at(kills + 1, shutil.rmtree))
            try:
                run()
                break
            except Killed:
                pass
        all_done = (tmp_path / "out").exists()
        with pytest.raises(UserError, match="exists and is no empty folder") if all_done else nullcontext():
            run()
        assert {path.name for path in tmp_path.iterdir()} == {"out", "out.zip", "predictions"}, kills
        with zipfile.ZipFile(tmp_path / "out.zip") as archive:
            for name in (f"{case}.nii.gz" for case in arrays):
                assert archive.read(name) == (tmp_path / "out" / name).read_bytes()
        shutil.rmtree(tmp_path / "out")
        (tmp_path / "out.zip").unlink()
        kills += 1
    assert kills > 5


# Labels that do not tell


def in_dataset_json(key: str, values: Iterable, message: str, others: dict = BY_NAME) -> list:
    return [({**others, key: value}, message.format(json=json.dumps(value), value=value)) for value in values]


@pytest.mark.parametrize(
    ("dataset_json", "message"),
    [
        *in_dataset_json(
            "labels",
            [
                {"background": 0, "whole tumor": [1, 2, 3], "enhancing tumor": [3]},  # 1 and 2 may be oedema or core
                # no regions: they exclude each other
                {"background": 0, "tumor core": 1, "whole tumor": 2, "enhancing tumor": 3},
                {"background": 0, "lesion": 1},
                {"background": 0, "edema": 1, "core": 2, "enhancing tumor": 3},
                {"background": 0},
                {"edema": 1, "necrosis": 2.5, "enhancing tumor": 3},
                {"edema": 1, "necrosis": 2, "enhancing tumor": float("inf")},
                ["edema"],
                None,
            ],
            "its labels {json} do not say which value is which tissue. Understood are tissues by name (edema, ED, "
            "SNFH; non-enhancing tumor, necrosis, NCR, NET, NETC; enhancing tumor, ET; resection cavity, RC) and the "
            "regions whole tumor, tumor core and enhancing tumor together. Otherwise add what is the case to that "
            'file, such as "label_order": {{"ED": 1, "NCR/NET": 2, "ET": 3}}.',
        ),
        *in_dataset_json(
            "regions_class_order",
            [3, True, None, {"1": 1}, "123", [1, "2", 3], [1, [2], 3]],
            "regions_class_order is {json}; it must list the labels of the regions, such as [1, 2, 3]. Copy the file "
            "from the model folder.",
            {"labels": REGIONS_OF_NNUNET},
        ),
        *in_dataset_json(
            "regions_class_order",
            [[2, 1, 3]],
            "regions_class_order {json} writes other values than the regions",
            {"labels": REGIONS_OF_NNUNET},
        ),
        *in_dataset_json(
            "label_order",
            [{"ED": 1, "core": 2}, {"ED": 1, "ET": 1}, {"ED": 0}, {"ED": [1]}, {}, [1, 2]],
            "label_order is {value}; it must give tissues (ED, NCR/NET, ET, RC) a label each",
        ),
        *in_dataset_json(
            "source_cases",
            [["a"], "a", None, {"a": 1}, {"a": None}, {"elsewhere": ["a"]}],
            "source_cases must give each case the source's name, such as "
            '{{"case_1": "BraTS20_Validation_001"}}. Copy the file from the model folder, or '
            "remove source_cases from it.",
        ),
        *in_dataset_json(
            "source_cases", [{"a": "../a"}], "'../a', the source's name of a, is no file name. Mend it in source_cases."
        ),
        *in_dataset_json("source_cases", [{"a": ""}], "'', the source's name of a, is no file name."),
    ],
)
def test_a_dataset_json_that_does_not_tell_is_refused(tmp_path, dataset_json, message):
    write_predictions(tmp_path / "predictions", {"a": with_enhancing(2)}, dataset_json)
    assert f"{tmp_path / 'predictions' / 'dataset.json'}: {message}" in refuse(tmp_path, edition="2020")


# Folders, files and editions that are refused


def test_no_predictions_and_no_dataset_json_are_refused(tmp_path):
    folder = tmp_path / "predictions"
    assert f"{folder} is no folder: give the one that nnUNetv2_predict wrote." in refuse(tmp_path)
    folder.mkdir()
    assert f"{folder / 'dataset.json'} does not exist. Copy it there from the model folder." in refuse(tmp_path)
    (folder / "dataset.json").write_text("{torn")
    assert f"{folder / 'dataset.json'} is no JSON" in refuse(tmp_path)
    write_predictions(folder, {}, BY_NAME)
    assert f"{folder} holds no predictions (files ending in .nii.gz)." in refuse(tmp_path)


def test_an_out_with_something_in_it_is_left_alone(tmp_path):
    write_predictions(tmp_path / "predictions", {"BraTS2021_00001": with_enhancing(2)}, BY_NAME)
    (tmp_path / "out.zip").write_text("mine")
    refused = f"{tmp_path / 'out.zip'} exists already: choose another -o, or remove it."
    assert refuse(tmp_path, zip_archive=True) == refused
    for content, expected in (
        ("note.txt", refused),
        ("BraTS2021_00001.nii.gz", refused.replace(":", ", with another BraTS2021_00001.nii.gz:")),
    ):
        with zipfile.ZipFile(tmp_path / "out.zip", "w") as archive:
            archive.writestr(content, "mine")
        assert refuse(tmp_path, zip_archive=True) == expected
        with zipfile.ZipFile(tmp_path / "out.zip") as archive:
            assert archive.read(content) == b"mine"
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "note.txt").write_text("mine")
    assert f"{tmp_path / 'out'} exists and is no empty folder: choose another one for -o" in refuse(tmp_path)


@pytest.mark.parametrize("ending", [".nii.gz", ".nii"])
@pytest.mark.parametrize("share", [0, 0.5, 0.98])
def test_a_torn_prediction_is_refused(tmp_path, ending, share):
    """SimpleITK itself reads most of them without a word."""
    predictions = write_predictions(tmp_path / "predictions", {}, {**BY_NAME, "file_ending": ending})
    torn = predictions / f"BraTS2021_00001{ending}"
    write_image(np.random.default_rng(0).integers(0, 4, SHAPE).astype(np.uint8), torn)
    content = torn.read_bytes()
    torn.write_bytes(content[: int(share * len(content))])
    message = refuse(tmp_path)
    assert message.startswith(f"{torn} can't be read (")
    assert message.endswith("). Make it again, or remove it.")


def test_a_value_that_is_no_label_is_refused(tmp_path):
    array = with_enhancing(2)
    array[0, 0, :2] = 4, 9
    write_predictions(tmp_path / "predictions", {"BraTS2021_00001": array}, BY_NAME)
    assert (
        f"{tmp_path / 'predictions' / 'BraTS2021_00001.nii.gz'} has the values 4, 9, which are no labels of its "
        "dataset.json (1 = NCR/NET, 2 = ED, 3 = ET)" in refuse(tmp_path)
    )


def test_probabilities_and_slices_are_no_segmentations(tmp_path):
    write_predictions(tmp_path / "predictions", {"BraTS2021_00001": with_enhancing(2)[0]}, BY_NAME)
    assert "BraTS2021_00001.nii.gz is no segmentation in three dimensions: its size is (5, 4)" in refuse(tmp_path)
    write_predictions(tmp_path / "predictions", {"BraTS2021_00001": np.full(SHAPE, 0.5, np.float32)}, BY_NAME)
    assert "has the values 0.5, which are no labels" in refuse(tmp_path)


def test_a_tissue_without_a_label_in_the_edition_is_refused(tmp_path):
    array = with_enhancing(2)
    array[1, 1, 1] = 4
    dataset_json = MODELS["nnU-Net's Dataset226_BraTS2024"][0]
    write_predictions(tmp_path / "predictions", {"BraTS-GLI-00001-100": array}, dataset_json)
    message = refuse(tmp_path, edition="2023")
    assert "BraTS-GLI-00001-100.nii.gz has RC, for which edition 2023 has no label" in message
    export_brats(tmp_path / "predictions", tmp_path / "out", edition="2024")


def test_an_edition_that_nothing_tells_is_asked_for(tmp_path):
    folder = tmp_path / "predictions"
    write_predictions(folder, {"BraTS-GLI-00001-100": with_enhancing(2)}, BY_NAME)
    assert "named as in 2023 and 2024" in refuse(tmp_path)
    write_predictions(folder, {}, {**BY_NAME, "edition": "2022"})
    assert "dataset.json: edition 2022 is none of 2018, 2019" in refuse(tmp_path)


def test_a_model_of_another_edition_than_the_cases_asks_whose_labels(tmp_path):
    dataset_json = {**BY_NAME, "edition": "2020"}
    write_predictions(tmp_path / "predictions", {"BraTS-GLI-00001-000": with_enhancing(2)}, dataset_json)
    message = refuse(tmp_path)
    assert "trained on edition 2020, and BraTS-GLI-00001-000 is named as in 2023 or 2024. Say with --edition" in message
    export_brats(tmp_path / "predictions", tmp_path / "out", edition="2023")
    assert read(tmp_path / "out" / "BraTS-GLI-00001-000.nii.gz").max() == 3


@pytest.mark.parametrize("recorded", [{}, {"edition": "2024"}])
@pytest.mark.parametrize("edition", [None, "2024"])
def test_predictions_of_other_tumours_are_refused_by_name(tmp_path, edition, recorded):
    write_predictions(tmp_path / "predictions", {"BraTS-PED-00001-000": with_enhancing(2)}, {**BY_NAME, **recorded})
    message = refuse(tmp_path, edition=edition)
    assert message.startswith(
        f"BraTS-PED is not supported: {tmp_path / 'predictions'} holds BraTS-PED-00001-000, which"
    )


def test_source_names_that_clash_are_refused(tmp_path):
    arrays = {"a": with_enhancing(1), "b": with_enhancing(2)}
    write_predictions(tmp_path / "predictions", arrays, {**BY_NAME, "source_cases": {"a": "b"}})
    assert "would both be written as b.nii.gz: mend source_cases" in refuse(tmp_path, edition="2020")


@pytest.mark.parametrize("ending", [1, None, [".nii.gz"], "", "nii.gz"])
def test_a_file_ending_that_is_none_is_refused(tmp_path, nnunet, ending):
    model = write_cross_validation(nnunet, FIVE_CASES)
    for folder, arguments in ((model, {"et_threshold": "auto", "cv": model}), (tmp_path / "predictions", {})):
        file = folder / "dataset.json"
        file.write_text(json.dumps({**BY_NAME, "file_ending": ending}))
        assert f"{file}: file_ending is {json.dumps(ending)}; it must be that of the files" in refuse(
            tmp_path, **arguments
        )


def test_predictions_and_source_must_be_the_same_cases_in_the_same_shape(tmp_path):
    release = tmp_path / "release"
    first, second = "BraTS20_Validation_001", "BraTS20_Validation_002"
    write_predictions(tmp_path / "predictions", {first: with_enhancing(2)}, BY_NAME)
    t1 = np.zeros(SHAPE, dtype=np.int16)
    write_image(t1, release / second / f"{second}_t1.nii.gz")
    message = refuse(tmp_path, like=release)
    assert f"1 predictions without a case in {release}: {first}. Give --like the folder" in message
    write_image(t1[:2], release / first / f"{first}_t1.nii.gz")
    assert f"1 cases of {release} without a prediction: {second}. Give --like" in refuse(tmp_path, like=release)
    (release / second / f"{second}_t1.nii.gz").unlink()
    assert f"{first}.nii.gz has (5, 4, 3) voxels, its source has (5, 4, 2)." in refuse(tmp_path, like=release)
    (release / first / f"{first}_t1.nii.gz").write_bytes(b"torn")
    assert f"{first}_t1.nii.gz can't be read" in refuse(tmp_path, like=release)


# Small enhancing tumour


def test_enhancing_tumour_below_the_threshold_becomes_core(tmp_path, capsys):
    volumes = {f"BraTS2021_0000{voxels}": voxels for voxels in (0, 3, 4, 5)}
    arrays = {case: with_enhancing(voxels) for case, voxels in volumes.items()}
    predictions = write_predictions(tmp_path / "predictions", arrays, BY_NAME)
    export_brats(predictions, tmp_path / "out", et_threshold=4)
    counts = {}
    for case in volumes:
        written = read(tmp_path / "out" / f"{case}.nii.gz")
        counts[case] = [int((written == label).sum()) for label in (1, 2, 4)]
    assert counts == {
        "BraTS2021_00000": [0, 1, 0],
        "BraTS2021_00003": [3, 1, 0],
        "BraTS2021_00004": [0, 1, 4],
        "BraTS2021_00005": [0, 1, 5],
    }
    assert "Enhancing tumour below 4 voxels was relabelled NCR/NET in 1 cases." in capsys.readouterr().out


@pytest.mark.parametrize("threshold", [None, 0, 1])
def test_no_threshold_changes_nothing(tmp_path, threshold):
    predictions = write_predictions(tmp_path / "predictions", {"BraTS2021_00001": with_enhancing(1)}, BY_NAME)
    export_brats(predictions, tmp_path / "out", et_threshold=threshold)
    assert (read(tmp_path / "out" / "BraTS2021_00001.nii.gz") == 4).sum() == 1


def test_threshold_and_model_folder_go_together(tmp_path):
    assert "--et-threshold auto needs --cv MODEL_FOLDER" in refuse(tmp_path, et_threshold="auto")
    for threshold in (None, 5):
        message = refuse(tmp_path, et_threshold=threshold, cv=tmp_path)
        assert f"--cv {tmp_path} is used by --et-threshold auto only" in message
    assert "--et-threshold -1: give a number of voxels" in refuse(tmp_path, et_threshold=-1)


@pytest.fixture
def nnunet(tmp_path, monkeypatch) -> Path:
    """nnU-Net's folders, and predictions to be exported: 3 and 5 voxels of enhancing tumour."""
    root = tmp_path / "nnunet"
    for variable in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        monkeypatch.setenv(variable, str(root / variable))
    arrays = {f"BraTS2021_0000{voxels}": with_enhancing(voxels) for voxels in (3, 5)}
    write_predictions(tmp_path / "predictions", arrays, BY_NAME)
    return root


def write_cross_validation(
    root: Path, cases: dict[str, tuple[np.ndarray, np.ndarray]], labels: str = "nnUNet_preprocessed/{}/gt_segmentations"
) -> Path:
    """A model of two folds, predictions and references by case, in the order of import_weights (3 = ET)."""
    dataset = "Dataset021_Small"
    model = root / "nnUNet_results" / dataset / "nnUNetTrainerCFNet__nnUNetPlans__3d_fullres"
    for number, (case, (prediction, reference)) in enumerate(cases.items()):
        write_image(prediction, model / f"fold_{number % 2}" / "validation" / f"{case}.nii.gz")
        write_image(reference, root / labels.format(dataset) / f"{case}.nii.gz")
    (model / "dataset.json").write_text(json.dumps({**BY_NAME, "file_ending": ".nii.gz"}))
    (model / "plans.json").write_text(json.dumps({"dataset_name": dataset}))
    return model


MISSED_5 = (with_enhancing(5), with_enhancing(5, start=10))
FALSE_3 = (with_enhancing(3), with_enhancing(0))
PERFECT_6 = (with_enhancing(6), with_enhancing(6))
FIVE_CASES = {
    "false_3": FALSE_3,
    "good_4": (with_enhancing(4), with_enhancing(5)),
    "both_empty": (with_enhancing(0), with_enhancing(0)),
    "false_8": (with_enhancing(8), with_enhancing(0)),
    "perfect_6": PERFECT_6,
}


def in_two_folds(*folds: Iterable[tuple[np.ndarray, np.ndarray]]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Cases for write_cross_validation, which puts every other one into the other fold."""
    cases = [case for pair in zip(*folds, strict=True) for case in pair]
    return {f"case_{number:02d}": case for number, case in enumerate(cases)}


# With or without FALSE_3, 4 is as good as any threshold that is better than none.
SURE = in_two_folds([FALSE_3] * 3 + [PERFECT_6] * 3, [FALSE_3] * 3 + [PERFECT_6] * 3)


@pytest.mark.parametrize("labels", ["nnUNet_preprocessed/{}/gt_segmentations", "nnUNet_raw/{}/labelsTr"])
def test_auto_applies_what_gains_in_folds_that_did_not_choose_it(nnunet, tmp_path, capsys, labels):
    """By hand: 6 of 12 cases have Dice 0 without, and 1 below 4 voxels, which either fold chooses for the other."""
    model = write_cross_validation(nnunet, SURE, labels)
    export_brats(tmp_path / "predictions", tmp_path / "out", et_threshold="auto", cv=model)
    output = capsys.readouterr().out
    assert "Mean ET Dice of 12 cross-validation cases is 0.5000 without a threshold." in output
    assert re.search(
        r"With one for each fold, chosen by the other folds, it changes by \+0\.5000 \(95 % interval \+0\.[12]\d+ to "
        r"\+0\.[78]\d+\)\.\nThat is a gain: the best threshold of all folds, 4 voxels, is applied\.\n",
        output,
    )
    assert "Enhancing tumour below 4 voxels was relabelled NCR/NET in 1 cases." in output
    assert (read(tmp_path / "out" / "BraTS2021_00003.nii.gz") == 1).sum() == 3
    assert (read(tmp_path / "out" / "BraTS2021_00005.nii.gz") == 4).sum() == 5


@pytest.mark.parametrize(
    ("cases", "measured"),
    [
        # 4 is best on all cases, and gains 1 / 12 there. Fold 0 chooses it, for fold 1, where it changes nothing.
        (in_two_folds([FALSE_3] + [PERFECT_6] * 5, [PERFECT_6] * 6), "+0.0000 (95 % interval +0.0000 to +0.0000)"),
        # 7 is best on all cases, +1 / 12. Fold 1 chooses it for fold 0, and loses three times what fold 0 gains.
        (
            in_two_folds([PERFECT_6] * 3 + [MISSED_5] * 3, [(PERFECT_6[0], FALSE_3[1])] * 4 + [MISSED_5] * 2),
            "-0.2500 (95 % interval -0.5833 to -0.0833)",
        ),
        # either fold chooses 4 for the other, but two of twelve cases may be chance
        (in_two_folds(*[[FALSE_3] + [PERFECT_6] * 5] * 2), "+0.1667 (95 % interval +0.0000 to +0.5000)"),
        (in_two_folds(*[[FALSE_3] * 4] * 2), "+1.0000 (too few for an interval)"),
        (in_two_folds(*[[MISSED_5, PERFECT_6] * 3] * 2), "+0.0000 (95 % interval +0.0000 to +0.0000)"),
    ],
)
def test_auto_applies_nothing_where_other_folds_do_not_show_a_gain(nnunet, tmp_path, capsys, cases, measured):
    model = write_cross_validation(nnunet, cases)
    export_brats(tmp_path / "predictions", tmp_path / "out", et_threshold="auto", cv=model)
    output = capsys.readouterr().out
    assert f"it changes by {measured}.\nThat shows no gain: no threshold is applied.\n" in output
    assert (read(tmp_path / "out" / "BraTS2021_00003.nii.gz") == 4).sum() == 3


def test_auto_takes_the_smallest_of_equal_thresholds(nnunet):
    """A prediction of 5 voxels that misses counts 0 with and without: 6 is as good as 4."""
    cases = in_two_folds(*[[FALSE_3, FALSE_3, FALSE_3, MISSED_5, MISSED_5]] * 2)
    assert enhancing.choose_threshold(write_cross_validation(nnunet, cases)) == 4


def test_auto_reads_the_models_own_label_order(nnunet):
    """Where 2 is ET, label 3 is a thing of no interest."""
    model = write_cross_validation(nnunet, SURE)
    assert enhancing.choose_threshold(model) == 4
    (model / "dataset.json").write_text(
        json.dumps({"labels": {"background": 0, "ED": 1, "ET": 2, "NCR": 3}, "file_ending": ".nii.gz"})
    )
    assert enhancing.choose_threshold(model) == 0  # one voxel in each, all of them right


def test_auto_names_missing_folds_and_labels(nnunet, tmp_path, monkeypatch):
    def refused(model: Path) -> str:
        return refuse(tmp_path, et_threshold="auto", cv=model)

    assert "dataset.json does not exist. Give --cv the model folder" in refused(nnunet)
    model = write_cross_validation(nnunet, FIVE_CASES)
    dataset = nnunet / "nnUNet_preprocessed" / "Dataset021_Small"
    label = dataset / "gt_segmentations" / "false_8.nii.gz"
    write_image(with_enhancing(1)[:2], label)
    message = refused(model)
    assert "fold_1/validation/false_8.nii.gz and its label" in message
    assert "differ in shape, (3, 4, 5) and (2, 4, 5)" in message
    label.unlink()
    assert f"1 cross-validation predictions have no label in {label.parent}, such as {model}/fold_1" in refused(model)

    write_image(with_enhancing(1), label)
    (model / "fold_1" / "validation" / "good_4.nii.gz").rename(model / "fold_1" / "good_4.nii.gz")
    message = refused(model)
    assert f"{model}: 1 of 5 cases have no cross-validation prediction, such as good_4. Train the missing" in message
    splits = [{"train": [], "val": sorted(FIVE_CASES.keys() - {"good_4"})}]
    (dataset / "splits_final.json").write_text(json.dumps(splits))
    assert enhancing.choose_threshold(model) == 0  # what no split leaves out is not missed
    write_image(with_enhancing(1), model / "fold_1" / "validation" / "false_3.nii.gz")
    assert "false_3.nii.gz: a cross-validation predicts each case once" in refused(model)

    for fold in model.glob("fold_*"):
        fold.rename(fold.with_name(f"old_{fold.name}"))
    write_image(with_enhancing(1), model / "fold_all" / "validation" / "false_3.nii.gz")
    assert f"{model} has no cross-validation predictions (fold_*/validation/*.nii.gz)" in refused(model)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ('[{"train": [], "val": ["a"', "is no JSON (Expecting"),
        ("", "is no JSON (Expecting"),
        ('[{"train": ["a"]}]', 'does not list cases under "val" in each of its splits.'),
        ('[{"val": null}]', 'does not list cases under "val"'),
        ('[{"val": [1]}]', 'does not list cases under "val"'),
        ('[{"val": [["a"]]}]', 'does not list cases under "val"'),
        ('{"train": [], "val": []}', 'does not list cases under "val"'),
        ('["val"]', 'does not list cases under "val"'),
        ("5", 'does not list cases under "val"'),
    ],
)
def test_auto_names_splits_that_are_none(nnunet, tmp_path, content, problem):
    model = write_cross_validation(nnunet, FIVE_CASES)
    splits_file = nnunet / "nnUNet_preprocessed" / "Dataset021_Small" / "splits_final.json"
    splits_file.write_text(content)
    message = refuse(tmp_path, et_threshold="auto", cv=model)
    assert message.startswith(f"{splits_file} {problem}")
    assert message.endswith("Put the file there that the model was trained with.")


@pytest.mark.parametrize("name", ["21", '"../../elsewhere"'])
def test_auto_names_plans_whose_dataset_has_no_name(nnunet, tmp_path, name):
    model = write_cross_validation(nnunet, FIVE_CASES)
    (model / "plans.json").write_text(f'{{"dataset_name": {name}}}')
    message = refuse(tmp_path, et_threshold="auto", cv=model)
    assert (
        f"{model / 'plans.json'}: dataset_name is {name}, no name. Copy it from where the model was trained." in message
    )


def test_auto_says_where_it_looked_for_labels(nnunet, tmp_path, monkeypatch):
    model = write_cross_validation(nnunet, FIVE_CASES, labels="elsewhere/{}")
    monkeypatch.delenv("nnUNet_raw")
    message = refuse(tmp_path, et_threshold="auto", cv=model)
    assert "The labels of Dataset021_Small" in message
    assert f"nothing in {nnunet / 'nnUNet_preprocessed' / 'Dataset021_Small' / 'gt_segmentations'}" in message
    assert "nnUNet_raw is not set" in message


def test_auto_finds_the_dataset_by_the_folder_above_without_plans(nnunet):
    model = write_cross_validation(nnunet, SURE)
    (model / "plans.json").unlink()
    assert enhancing.choose_threshold(model) == 4
