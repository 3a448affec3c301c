"""Phantom releases: each edition's layout as find_cases reads it, and each defect where it was planted."""

import csv
import gzip
import json
from pathlib import Path

import numpy as np
import pytest
import SimpleITK
from nnunetv2_cfnet.data import brats_phantom

from nnunetv2_cfnet.brats.editions import CHANNELS, EDITIONS
from nnunetv2_cfnet.brats.findings import Kind
from nnunetv2_cfnet.brats.sources import Source, SourceCase, find_cases
from nnunetv2_cfnet.demo.brats_phantom import make_phantom
from nnunetv2_cfnet.errors import UserError

SHAPE = (20, 24, 18)  # no two axes alike
ORIGIN = (0.0, -239.0, 0.0)
LPS = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)
LABELS = {"2018": {0, 1, 2, 4}, "2019": {0, 1, 2, 4}, "2020": {0, 1, 2, 4}, "2021": {0, 1, 2, 4}} | {
    "2023": {0, 1, 2, 3},
    "2024": {0, 1, 2, 3, 4},
    "msd": {0, 1, 2, 3},
}


@pytest.fixture(scope="module")
def releases(tmp_path_factory) -> dict[str, Source]:
    """Six cases of each edition."""
    folder = tmp_path_factory.mktemp("releases")
    for edition in EDITIONS:
        make_phantom(folder / edition, edition, 6, shape=SHAPE)
    return {edition: find_cases(folder / edition, edition) for edition in EDITIONS}


def read(file: Path) -> np.ndarray:
    return SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(file)))


def segmentation(case: SourceCase) -> np.ndarray:
    return read(case.files["seg"][0])


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("edition", EDITIONS)
def test_every_case_is_found_with_all_its_channels(edition, tmp_path):
    names = make_phantom(tmp_path / "release", edition, 6, shape=SHAPE)
    source = find_cases(tmp_path / "release", edition)
    training = [case for case in source.cases if case.is_training]
    assert [case.name for case in training] == sorted(names)
    assert len(names) == 6
    assert all(len(case.files[content]) == 1 for case in training for content in (*CHANNELS, "seg"))
    assert source.unclaimed == []
    assert [path.name for path in tmp_path.iterdir()] == ["release"]


@pytest.mark.parametrize("edition", ["2018", "2019", "2020", "2021", "msd"])
def test_the_names_tell_the_edition(releases, edition):
    assert find_cases(releases[edition].folder).edition.name == edition


@pytest.mark.parametrize("edition", ["2023", "2024"])
def test_the_names_of_2023_and_2024_do_not(releases, edition):
    with pytest.raises(UserError, match="cases are named as in 2023 and 2024"):
        find_cases(releases[edition].folder)


@pytest.mark.parametrize("edition", EDITIONS)
def test_the_labels_are_the_editions_and_the_types_brats(releases, edition):
    found = set()
    for case in releases[edition].cases:
        for content, (file,) in case.files.items():
            image = SimpleITK.ReadImage(str(file))
            assert image.GetSpacing()[:3] == (1, 1, 1)
            assert image.GetOrigin()[:3] == ORIGIN
            assert image.GetSize()[:3] == SHAPE[::-1]
            if content == "seg":
                assert image.GetDirection() == LPS
                assert image.GetPixelID() == SimpleITK.sitkUInt8
                found |= set(np.unique(SimpleITK.GetArrayFromImage(image)))
            else:
                assert image.GetPixelID() == SimpleITK.sitkInt16
    assert found == LABELS[edition]


@pytest.mark.parametrize("edition", EDITIONS)
def test_lgg_cases_have_no_enhancing_tumour(tmp_path, edition):
    names = make_phantom(tmp_path / "release", edition, 6, shape=SHAPE)
    cases = {case.name: case for case in find_cases(tmp_path / "release", edition).cases}
    enhancing = EDITIONS[edition].labels["ET"]
    has_enhancing = [bool((segmentation(cases[name]) == enhancing).any()) for name in names]
    assert has_enhancing == [True, True, False, True, True, False]


@pytest.mark.parametrize("edition", ["2018", "2019"])
def test_2018_and_2019_have_a_folder_for_each_grade(releases, edition):
    source, brats = releases[edition], {"2018": "Brats18", "2019": "BraTS19"}[edition]
    assert {case.name: case.grade for case in source.cases} == {
        f"{brats}_CBICA_AAB_1": "HGG",
        f"{brats}_TCIA01_101_1": "HGG",
        f"{brats}_TCIA10_102_1": "LGG",
        f"{brats}_TCIA01_103_1": "HGG",
        f"{brats}_CBICA_AAF_1": "HGG",
        f"{brats}_2013_5_1": "LGG",
    }
    name = f"{brats}_2013_5_1"
    assert sorted(str(path.relative_to(source.folder)) for path in source.folder.rglob(f"{name}_*")) == [
        f"LGG/{name}/{name}_{suffix}.nii.gz" for suffix in ("flair", "seg", "t1", "t1ce", "t2")
    ]
    tables = {"2018": ["survival_data.csv"], "2019": ["name_mapping.csv", "survival_data.csv"]}[edition]
    assert sorted(path.name for path in source.folder.iterdir()) == ["HGG", "LGG", *tables]


def test_2020_mixes_endings_and_has_one_odd_segmentation(releases):
    training = releases["2020"].folder / "MICCAI_BraTS2020_TrainingData"
    files = {number: {path.name for path in training.glob(f"*_{number:03d}/*")} for number in (1, 2, 3)}
    for number, ending in {1: ".nii", 2: ".nii.gz"}.items():
        suffixes = ("flair", "seg", "t1", "t1ce", "t2")
        assert files[number] == {f"BraTS20_Training_{number:03d}_{suffix}{ending}" for suffix in suffixes}
    assert "W39_1998.09.19_Segm.nii" in files[3]
    assert "BraTS20_Training_003_seg.nii" not in files[3]


def test_2020_has_one_validation_case_without_a_segmentation(releases):
    (case,) = [case for case in releases["2020"].cases if not case.is_training]
    assert case.name == "BraTS20_Validation_001"
    assert sorted(path.name for path in (releases["2020"].folder / "MICCAI_BraTS2020_ValidationData").rglob("*.*")) == [
        f"BraTS20_Validation_001_{suffix}.nii.gz" for suffix in ("flair", "t1", "t1ce", "t2")
    ]


def test_2020s_mapping_tells_grades_and_twins(releases):
    cases = {case.name[-3:]: case for case in releases["2020"].cases if case.is_training}
    assert [case.grade for case in cases.values()] == ["HGG", "HGG", "LGG", "HGG", "HGG", "LGG"]
    assert cases["004"].patient == cases["005"].patient
    assert len({case.patient for case in cases.values()}) == 5


def test_2020s_tables_have_the_releases_columns(releases):
    folder = releases["2020"].folder / "MICCAI_BraTS2020_TrainingData"
    mapping = list(csv.reader((folder / "name_mapping.csv").open()))
    assert mapping[0] == [
        "Grade",
        "BraTS_2017_subject_ID",
        "BraTS_2018_subject_ID",
        "TCGA_TCIA_subject_ID",
        "BraTS_2019_subject_ID",
        "BraTS_2020_subject_ID",
    ]
    assert mapping[3] == ["LGG", "NA", "NA", "NA", "NA", "BraTS20_Training_003"]
    assert len(mapping) == 7
    survival = list(csv.reader((folder / "survival_info.csv").open()))
    assert survival[0] == ["Brats20ID", "Age", "Survival_days", "Extent_of_Resection"]
    assert [row[0][-3:] for row in survival[1:]] == ["001", "002", "004", "005"]


@pytest.mark.parametrize(
    ("edition", "first", "second"),
    [("2023", "BraTS-GLI-00000-000", "BraTS-GLI-00000-001"), ("2024", "BraTS-GLI-00005-100", "BraTS-GLI-00005-101")],
)
def test_every_fourth_patient_has_two_time_points(tmp_path, edition, first, second):
    names = make_phantom(tmp_path / "release", edition, 7, shape=SHAPE)
    assert names[:2] == [first, second]
    cases = find_cases(tmp_path / "release", edition).cases
    assert [int(case.patient[-2:]) - int(first[-6:-4]) for case in cases] == [0, 0, 1, 2, 3, 4, 4]
    files = sorted(path.name for path in (tmp_path / "release" / first).iterdir())
    assert files == [f"{first}-{suffix}.nii.gz" for suffix in ("seg", "t1c", "t1n", "t2f", "t2w")]


def test_2024s_resection_cavity_is_brain_but_no_tumour(releases):
    for case in releases["2024"].cases:
        cavity = segmentation(case) == 4
        assert 1 < cavity.sum() < 0.1 * cavity.size
        t1, t2 = read(case.files["T1"][0]), read(case.files["T2"][0])
        assert (t1[cavity] > 0).all()
        healthy = (t1 > 0) & (segmentation(case) == 0)
        assert t1[cavity].mean() < 0.6 * t1[healthy].mean()
        assert t2[cavity].mean() > t2[healthy].mean()


def test_msd_has_4d_files_in_its_own_order(releases, tmp_path):
    make_phantom(tmp_path / "2021", "2021", 6, shape=SHAPE)
    others = find_cases(tmp_path / "2021").cases
    task = releases["msd"].folder / "Task01_BrainTumour"
    volumes = read(task / "imagesTr" / "BRATS_002.nii.gz")
    for volume, channel in zip(volumes, ("FLAIR", "T1", "T1ce", "T2"), strict=True):
        np.testing.assert_array_equal(volume, read(others[1].files[channel][0]))
    assert [case.name for case in releases["msd"].cases if not case.is_training] == ["BRATS_007"]


def test_msd_has_shadow_files_and_its_own_dataset_json(releases):
    task = releases["msd"].folder / "Task01_BrainTumour"
    assert sorted(path.name for path in (task / "imagesTs").iterdir()) == ["._BRATS_007.nii.gz", "BRATS_007.nii.gz"]
    assert (task / "labelsTr" / "._BRATS_001.nii.gz").exists()
    description = json.loads((task / "dataset.json").read_text())
    assert description["modality"] == {"0": "FLAIR", "1": "T1w", "2": "t1gd", "3": "T2w"}
    assert description["labels"] == {
        "0": "background",
        "1": "edema",
        "2": "non-enhancing tumor",
        "3": "enhancing tumour",
    }
    assert description["training"][0] == {
        "image": "./imagesTr/BRATS_001.nii.gz",
        "label": "./labelsTr/BRATS_001.nii.gz",
    }
    assert description["test"] == ["./imagesTs/BRATS_007.nii.gz"]
    assert (description["numTraining"], description["numTest"]) == (6, 1)


def test_equal_seeds_give_equal_files_and_other_seeds_do_not(tmp_path):
    for name, seed in {"one": 1, "same": 1, "other": 2}.items():
        make_phantom(tmp_path / name, "2020", 2, seed=seed, shape=SHAPE)
    one, same, other = (tree(tmp_path / name) for name in ("one", "same", "other"))
    assert one == same
    assert one.keys() == other.keys()
    assert all(one[name] != other[name] for name in one if "nii" in name)


# Defects: the same case with and without


@pytest.fixture(scope="module")
def plant(tmp_path_factory):
    """Plant a kind into the first of two cases: (that case, its folder), and the same without a defect."""

    def make(kind: Kind, edition: str) -> tuple[SourceCase, SourceCase, Source]:
        folder = tmp_path_factory.mktemp("planted")
        names = make_phantom(folder / "bad", edition, 2, plant=[kind.value], shape=SHAPE)
        make_phantom(folder / "good", edition, 2, shape=SHAPE)
        bad, good = find_cases(folder / "bad", edition), find_cases(folder / "good", edition)
        changed = {
            name
            for name in tree(folder / "good").keys() | tree(folder / "bad").keys()
            if tree(folder / "good").get(name) != tree(folder / "bad").get(name)
        }
        assert changed
        assert all(names[0] in name for name in changed)
        return (
            next(case for case in bad.cases if case.name == names[0]),
            next(case for case in good.cases if case.name == names[0]),
            bad,
        )

    return make


def files_of(case: SourceCase) -> dict[str, list[str]]:
    return {content: [path.name for path in files] for content, files in case.files.items()}


def differing(bad: SourceCase, good: SourceCase) -> set[str]:
    """Contents whose files differ."""
    return {c for c in good.files if good.files[c][0].read_bytes() != bad.files[c][0].read_bytes()}


def t1ce(case: SourceCase) -> np.ndarray:
    array = read(case.files["T1ce"][0])
    return array[2] if array.ndim == 4 else array  # FLAIR, T1, T1ce, T2


def test_missing(plant):
    bad, good, _ = plant(Kind.MISSING, "2021")
    assert bad.files.keys() == good.files.keys() - {"T1ce"}


def test_missing_in_msd_is_a_file_of_three_volumes(plant):
    bad, good, _ = plant(Kind.MISSING, "msd")
    np.testing.assert_array_equal(read(bad.files["T1"][0]), read(good.files["T1"][0])[[0, 1, 3]])


@pytest.mark.parametrize(("edition", "others"), [("2021", {"T1ce"}), ("msd", set(CHANNELS))])
def test_unreadable_is_half_a_file(plant, edition, others):
    bad, good, _ = plant(Kind.UNREADABLE, edition)
    assert differing(bad, good) == others
    # SimpleITK reads it without a word, as zeros
    with pytest.raises(EOFError), gzip.open(bad.files["T1ce"][0]) as file:
        file.read()
    assert bad.files["T1ce"][0].stat().st_size == good.files["T1ce"][0].stat().st_size // 2


@pytest.mark.parametrize(
    ("edition", "files"),
    [
        ("2020", ["BraTS20_Training_001_t1ce.nii", "BraTS20_Training_001_t1ce.nii.gz"]),
        ("2021", ["BraTS2021_00000_t1ce.nii", "BraTS2021_00000_t1ce.nii.gz"]),
        ("msd", ["BRATS_001.nii", "BRATS_001.nii.gz"]),
    ],
)
def test_duplicate_has_both_endings(plant, edition, files):
    bad, _, _ = plant(Kind.DUPLICATE, edition)
    assert files_of(bad)["T1ce"] == files
    first, second = bad.files["T1ce"]
    np.testing.assert_array_equal(read(first), read(second))


@pytest.mark.parametrize(("edition", "misfit"), [("2021", "T1ce"), ("msd", "seg")])
def test_shape_is_one_slice_less(plant, edition, misfit):
    bad, good, _ = plant(Kind.SHAPE, edition)
    assert differing(bad, good) == {misfit}
    np.testing.assert_array_equal(read(bad.files[misfit][0]), read(good.files[misfit][0])[:-1])


def dice(one: np.ndarray, other: np.ndarray) -> float:
    return 2 * (one & other).sum() / (one.sum() + other.sum())


@pytest.mark.parametrize("shape", [SHAPE, (40, 64, 56)])
@pytest.mark.parametrize("seed", range(3))
def test_geometry_moves_header_and_brain(tmp_path, seed, shape):
    make_phantom(tmp_path / "release", "2021", 1, plant=["geometry"], seed=seed, shape=shape)
    (case,) = find_cases(tmp_path / "release").cases
    moved, origin = t1ce(case), SimpleITK.ReadImage(str(case.files["T1ce"][0])).GetOrigin()
    assert origin == (5.0, -239.0, 0.0)
    assert dice(moved > 0, read(case.files["T1"][0]) > 0) < 0.7
    assert not any(face.any() for axis in range(3) for face in np.moveaxis(moved, axis, 0)[[0, -1]])


@pytest.mark.parametrize("seed", range(3))
def test_geometry_in_msd_moves_the_segmentation_out_of_the_brain(tmp_path, seed):
    make_phantom(tmp_path / "release", "msd", 1, plant=["geometry"], seed=seed, shape=SHAPE)
    case = find_cases(tmp_path / "release").cases[0]
    assert SimpleITK.ReadImage(str(case.files["seg"][0])).GetOrigin() == (5.0, -239.0, 0.0)
    brain = read(case.files["T1"][0])[1] > 0
    assert (brain[segmentation(case) > 0]).mean() < 0.7


@pytest.mark.parametrize(("edition", "misfit"), [("2021", "T1ce"), ("msd", "seg")])
def test_header_is_ras_for_lps_around_the_same_voxels(plant, edition, misfit):
    bad, good, _ = plant(Kind.HEADER, edition)
    assert differing(bad, good) == {misfit}
    image = SimpleITK.ReadImage(str(bad.files[misfit][0]))
    assert image.GetOrigin() == (0.0, 239.0, 0.0)
    assert image.GetDirection() == (-1, 0, 0, 0, -1, 0, 0, 0, 1)
    np.testing.assert_array_equal(SimpleITK.GetArrayFromImage(image), read(good.files[misfit][0]))


@pytest.mark.parametrize("edition", ["2021", "msd"])
def test_labels_has_one_voxel_of_7(plant, edition):
    bad, good, _ = plant(Kind.LABELS, edition)
    assert differing(bad, good) == {"seg"}
    changed = segmentation(bad) != segmentation(good)
    assert segmentation(bad)[changed].tolist() == [7]


@pytest.mark.parametrize("edition", ["2021", "msd"])
def test_non_finite_is_one_nan_among_floats(plant, edition):
    bad, good, _ = plant(Kind.NON_FINITE, edition)
    with gzip.open(bad.files["T1ce"][0]) as file:
        voxels = np.frombuffer(file.read()[352:], "<f4")  # SimpleITK reads NaN as 0: past the header of NIfTI-1
    nan = np.isnan(voxels.reshape(read(good.files["T1ce"][0]).shape))
    assert nan.sum() == 1
    if edition == "msd":
        nan = nan[2]
    assert t1ce(bad).dtype == np.float32
    np.testing.assert_array_equal(t1ce(bad)[~nan], t1ce(good)[~nan])
    assert (t1ce(good)[nan] > 0).all()


@pytest.mark.parametrize("edition", ["2021", "msd"])
def test_empty_is_zero_everywhere(plant, edition):
    bad, good, _ = plant(Kind.EMPTY, edition)
    assert not t1ce(bad).any()
    assert t1ce(good).any()
    np.testing.assert_array_equal(segmentation(bad), segmentation(good))


@pytest.mark.parametrize("edition", ["2021", "msd"])
def test_outside_has_30_percent_of_the_segmentation_outside_the_brain(plant, edition):
    bad, good, _ = plant(Kind.OUTSIDE, edition)
    assert differing(bad, good) == {"seg"}
    brain = t1ce(bad) > 0
    assert not segmentation(good)[~brain].any()
    moved = segmentation(bad) > 0
    assert (moved & ~brain).sum() / moved.sum() == pytest.approx(0.3, abs=0.01)
    np.testing.assert_array_equal(np.bincount(segmentation(bad).flat), np.bincount(segmentation(good).flat))


@pytest.mark.parametrize("edition", ["2021", "msd"])
def test_clipped_ends_in_the_middle_of_the_brain_in_all_files(plant, edition):
    bad, good, _ = plant(Kind.CLIPPED, edition)
    num_slices = len(t1ce(bad))
    assert 0 < num_slices < SHAPE[0] - 4
    for content in (*CHANNELS, "seg"):
        cut, whole = read(bad.files[content][0]), read(good.files[content][0])
        np.testing.assert_array_equal(cut, whole[..., :num_slices, :, :])
    assert (t1ce(bad)[-1] > 0).mean() > 0.2
    assert segmentation(bad).any()


@pytest.mark.parametrize("edition", ["2021", "msd"])
def test_saturated_has_5_percent_of_the_brain_at_the_maximum(plant, edition):
    bad, good, _ = plant(Kind.SATURATED, edition)
    brain, image = t1ce(good) > 0, t1ce(bad)
    assert (image[brain] == image.max()).mean() == pytest.approx(0.05, abs=0.01)
    np.testing.assert_array_equal(image, np.minimum(t1ce(good), image.max()))


@pytest.mark.parametrize("edition", ["2021", "msd"])
def test_unclaimed_is_a_file_of_no_case(plant, edition):
    bad, good, source = plant(Kind.UNCLAIMED, edition)
    assert [path.name for path in source.unclaimed] == [f"{bad.name}_brainmask.nii.gz"]
    assert files_of(bad) == files_of(good)


def test_every_kind_can_be_planted_at_once_one_a_case(tmp_path):
    kinds = [kind.value for kind in Kind]
    names = make_phantom(tmp_path / "bad", "2018", len(kinds), plant=kinds, shape=SHAPE)
    make_phantom(tmp_path / "good", "2018", len(kinds), shape=SHAPE)
    bad, good = tree(tmp_path / "bad"), tree(tmp_path / "good")
    changed = {name.split("/")[1] for name in bad.keys() | good.keys() if bad.get(name) != good.get(name)}
    assert changed == set(names)


# Refusals


def refuse(folder: Path, *arguments: object, **more: object) -> str:
    """The message, after checking that nothing was written."""
    before = sorted(folder.parent.rglob("*"))
    with pytest.raises(UserError) as error:
        make_phantom(folder, *arguments, **more)
    assert sorted(folder.parent.rglob("*")) == before
    return str(error.value)


def test_refuses_editions_and_defects_that_there_are_not(tmp_path):
    out = tmp_path / "out"
    assert refuse(out, "2017", 2) == (
        "There is no edition '2017': choose one of 2018, 2019, 2020, 2021, 2023, 2024, msd."
    )
    message = refuse(out, "2020", 2, plant=["missing", "lost"])
    assert message.startswith("There is no defect 'lost' to plant: choose from missing, unreadable, duplicate,")


def test_refuses_more_defects_than_cases(tmp_path):
    assert refuse(tmp_path / "out", "2020", 1, plant=["missing", "shape"]) == (
        "2 defects (missing, shape) do not fit into 1 cases, one each: ask for at least 2 cases."
    )


def test_refuses_no_cases_and_shapes_without_room(tmp_path):
    assert refuse(tmp_path / "out", "2020", 0) == "0 cases is too few: ask for at least 1."
    assert "give each axis at least 16 voxels" in refuse(tmp_path / "out", "2020", 1, shape=(8, 24, 24))


def test_refuses_a_folder_with_something_in_it_and_takes_an_empty_one(tmp_path):
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / "note.txt").write_text("mine")
    assert refuse(folder, "2020", 1) == f"{folder} exists and is no empty folder: choose another one, or remove it."
    assert refuse(folder / "note.txt", "2020", 1).startswith(f"{folder / 'note.txt'} exists and is no empty folder")
    (folder / "note.txt").unlink()
    make_phantom(folder, "2020", 1, shape=SHAPE)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert len(find_cases(folder).cases) == 2


def test_an_interrupted_release_is_absent(tmp_path, monkeypatch):
    write = brats_phantom._write

    def interrupted(image, file):
        if "00001" in file.name:
            raise KeyboardInterrupt
        write(image, file)

    monkeypatch.setattr(brats_phantom, "_write", interrupted)
    with pytest.raises(KeyboardInterrupt):
        make_phantom(tmp_path / "out", "2021", 2, shape=SHAPE)
    assert list(tmp_path.iterdir()) == []
