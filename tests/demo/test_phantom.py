import json

import numpy as np
import pytest
import SimpleITK
from nnunetv2_cfnet.data import phantom

from nnunetv2_cfnet.demo.phantom import Tissue, make_case, make_tissues, write_dataset

SHAPE = (32, 36, 32)
T1, T1CE, T2, FLAIR = range(4)


def roc_auc(positives: np.ndarray, negatives: np.ndarray) -> float:
    """Probability that a positive exceeds a negative (no ties in noisy images)."""
    below = np.searchsorted(np.sort(negatives), positives)
    return float(below.mean() / len(negatives))


@pytest.fixture(scope="module")
def voxels() -> dict[Tissue, np.ndarray]:
    """Voxels of each tissue over 12 cases, half of them enhancing: (4, n), in units of the case's white matter."""
    collected: dict[Tissue, list[np.ndarray]] = {tissue: [] for tissue in Tissue}
    for index in range(12):
        images, _ = make_case([5, index], SHAPE, with_enhancing=index % 2 == 0)
        tissues = make_tissues(np.random.default_rng([5, index]), SHAPE, with_enhancing=index % 2 == 0)
        white_matter = images[:, tissues == Tissue.WHITE_MATTER].mean(axis=1)
        for tissue in Tissue:
            collected[tissue].append(images[:, tissues == tissue] / white_matter[:, None])
    return {tissue: np.concatenate(parts, axis=1) for tissue, parts in collected.items()}


def test_equal_seeds_give_equal_cases_and_other_seeds_do_not():
    images, labels = make_case([7, 0, 3], SHAPE, with_enhancing=True)
    same_images, same_labels = make_case(np.random.default_rng([7, 0, 3]), SHAPE, with_enhancing=True)
    other_images, other_labels = make_case([7, 0, 4], SHAPE, with_enhancing=True)
    np.testing.assert_array_equal(images, same_images)
    np.testing.assert_array_equal(labels, same_labels)
    assert (labels != other_labels).any()
    assert (images != other_images).any()


def test_types_and_shapes():
    images, labels = make_case(0, SHAPE, with_enhancing=True)
    assert images.shape == (4, *SHAPE)
    assert images.dtype == np.float32
    assert labels.shape == SHAPE
    assert labels.dtype == np.uint8


def test_labels_follow_nnunets_brats_order():
    """1 = ED, 2 = NCR/NET, 3 = ET, and nothing else is labelled."""
    tissues = make_tissues(np.random.default_rng(1), SHAPE, with_enhancing=True)
    _, labels = make_case(1, SHAPE, with_enhancing=True)
    for label, tissue in {1: Tissue.OEDEMA, 2: Tissue.CORE, 3: Tissue.ENHANCING}.items():
        np.testing.assert_array_equal(labels == label, tissues == tissue)
        assert (labels == label).any()


def test_cases_without_enhancing_tumour_keep_oedema_and_core():
    _, labels = make_case(1, SHAPE, with_enhancing=False)
    assert set(np.unique(labels)) == {0, 1, 2}


@pytest.mark.parametrize("seed", range(5))
def test_background_is_exactly_zero_and_the_brain_is_not(seed: int):
    images, labels = make_case(seed, SHAPE, with_enhancing=True)
    brain = make_tissues(np.random.default_rng(seed), SHAPE, with_enhancing=True) != Tissue.BACKGROUND
    assert (images[:, ~brain] == 0).all()
    assert (images[:, brain] > 0).all()
    assert not labels[~brain].any()


@pytest.mark.parametrize("seed", range(5))
def test_brains_bounding_box_is_the_same_in_every_case(seed: int):
    images, _ = make_case(seed, SHAPE, with_enhancing=True)
    extents = [np.ptp(indices) + 1 for indices in np.nonzero(images[0])]
    assert extents == [length - 2 * phantom.MARGIN_VOXELS for length in SHAPE]


def test_enhancing_tumour_needs_t1ce_against_t1(voxels):
    enhancing, blood = voxels[Tissue.ENHANCING], voxels[Tissue.BLOOD]
    assert 0.3 < roc_auc(enhancing[T1CE], blood[T1CE]) < 0.7
    assert roc_auc((enhancing[T1CE] - enhancing[T1]), (blood[T1CE] - blood[T1])) > 0.98


def test_oedema_needs_flair_and_t2(voxels):
    oedema, csf, gliosis = voxels[Tissue.OEDEMA], voxels[Tissue.CSF], voxels[Tissue.GLIOSIS]
    assert roc_auc(oedema[T2], csf[T2]) < 0.6
    assert 0.3 < roc_auc(oedema[FLAIR], gliosis[FLAIR]) < 0.7
    lookalikes = np.concatenate([csf, gliosis], axis=1)
    assert roc_auc(oedema[[T2, FLAIR]].min(axis=0), lookalikes[[T2, FLAIR]].min(axis=0)) > 0.95


def test_core_needs_t1_against_t1ce(voxels):
    core, csf = voxels[Tissue.CORE], voxels[Tissue.CSF]
    assert roc_auc(-core[T1CE], -csf[T1CE]) < 0.6
    assert roc_auc(core[T1] - core[T1CE], csf[T1] - csf[T1CE]) > 0.9


def test_a_shape_too_small_for_a_brain_is_named():
    with pytest.raises(ValueError, match=r"shape must be three numbers of at least 16 voxels, got \(8, 32, 32\)"):
        make_case(0, (8, 32, 32), with_enhancing=True)


def read(path):
    return SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(path)))


def test_dataset_has_nnunets_files(tmp_path):
    folder = tmp_path / "nnUNet_raw" / "Dataset001_Phantom"
    write_dataset(folder, num_training=4, num_test=1, seed=3, shape=SHAPE)

    description = json.loads((folder / "dataset.json").read_text())
    assert description["channel_names"] == {"0": "T1", "1": "T1ce", "2": "T2", "3": "FLAIR"}
    assert description["labels"] == {
        "background": 0,
        "whole_tumor": [1, 2, 3],
        "tumor_core": [2, 3],
        "enhancing_tumor": [3],
    }
    assert description["regions_class_order"] == [1, 2, 3]
    assert description["numTraining"] == 4
    assert description["file_ending"] == ".nii.gz"

    cases = [f"phantom_tr_00{index}" for index in range(4)]
    assert sorted(path.name for path in (folder / "labelsTr").iterdir()) == [f"{case}.nii.gz" for case in cases]
    assert sorted(path.name for path in (folder / "imagesTr").iterdir()) == [
        f"{case}_000{channel}.nii.gz" for case in cases for channel in range(4)
    ]
    assert sorted(path.name for path in (folder / "labelsTs").iterdir()) == ["phantom_ts_000.nii.gz"]
    assert len(list((folder / "imagesTs").iterdir())) == 4

    images, labels = make_case([3, 0, 1], SHAPE, with_enhancing=True)
    np.testing.assert_array_equal(read(folder / "labelsTr" / "phantom_tr_001.nii.gz"), labels)
    np.testing.assert_array_equal(read(folder / "imagesTr" / "phantom_tr_001_0002.nii.gz"), images[2])
    assert SimpleITK.ReadImage(str(folder / "imagesTr" / "phantom_tr_001_0002.nii.gz")).GetSpacing() == (1, 1, 1)

    has_enhancing = [(read(folder / "labelsTr" / f"{case}.nii.gz") == 3).any() for case in cases]
    assert has_enhancing == [True, True, False, True]


def test_a_larger_dataset_starts_with_the_smaller_ones_cases(tmp_path):
    for num_training in (1, 2):
        write_dataset(tmp_path / str(num_training), num_training=num_training, num_test=1, seed=3, shape=SHAPE)
    for file in ("imagesTr/phantom_tr_000_0000.nii.gz", "imagesTs/phantom_ts_000_0000.nii.gz"):
        np.testing.assert_array_equal(read(tmp_path / "1" / file), read(tmp_path / "2" / file))
    training, held_out = (
        read(tmp_path / "2" / f"labels{split}" / f"phantom_{split.lower()}_000.nii.gz") for split in ("Tr", "Ts")
    )
    assert (training != held_out).any()


def test_an_interrupted_dataset_is_absent_and_can_be_written_again(tmp_path, monkeypatch):
    folder = tmp_path / "Dataset001_Phantom"
    write_image = phantom._write_image

    def interrupted(array, path):
        if path.name.startswith("phantom_tr_001"):
            raise KeyboardInterrupt
        write_image(array, path)

    monkeypatch.setattr(phantom, "_write_image", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_dataset(folder, num_training=2, num_test=1, seed=0, shape=SHAPE)
    assert not list(tmp_path.glob("Dataset*"))  # what nnU-Net would look for

    monkeypatch.setattr(phantom, "_write_image", write_image)
    write_dataset(folder, num_training=2, num_test=1, seed=0, shape=SHAPE)
    assert (folder / "dataset.json").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["Dataset001_Phantom"]


def test_an_existing_dataset_is_not_overwritten(tmp_path):
    with pytest.raises(FileExistsError, match="exists already"):
        write_dataset(tmp_path, num_training=1, num_test=1, seed=0, shape=SHAPE)
