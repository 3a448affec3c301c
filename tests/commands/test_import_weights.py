"""`nnunetv2_cfnet import_weights`, and prediction from the folder that it writes, by nnU-Net's own predictor."""

import json
import resource
import sys
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
import torch
from images import geometry, read, write_image
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

from nnunetv2_cfnet import cli
from nnunetv2_cfnet.architecture.published import PublishedCFNet
from nnunetv2_cfnet.architecture.published_weights import load_published_state_dict


@pytest.fixture(scope="module")
def checkpoint(release_state_dict, tmp_path_factory) -> Path:
    file = tmp_path_factory.mktemp("release") / "best.pth"
    torch.save(release_state_dict | {"\x1b[2Jmine": torch.zeros(1)}, file)
    return file


@pytest.fixture(scope="module")
def imported(checkpoint, tmp_path_factory) -> tuple[Path, str]:
    """The folder that the command wrote, and what it said."""
    folder = tmp_path_factory.mktemp("models") / "below" / "model"
    with redirect_stdout(StringIO()) as output:
        assert cli.main(["import_weights", str(checkpoint), "-o", str(folder)]) == 0
    return folder, output.getvalue()


def test_the_folder_is_a_model_of_nnunet_with_the_releases_labels(imported):
    model, _ = imported
    assert sorted(str(path.relative_to(model)) for path in model.rglob("*") if path.is_file()) == [
        "dataset.json",
        "fold_0/checkpoint_final.pth",
        "plans.json",
    ]
    assert [path.name for path in model.parent.iterdir()] == ["model"]
    dataset_json = json.loads((model / "dataset.json").read_text())
    assert dataset_json["labels"] == {"background": 0, "NCR/NET": 1, "ED": 2, "ET": 3}
    assert dataset_json["channel_names"] == {"0": "T1", "1": "T1ce", "2": "T2", "3": "FLAIR"}
    assert "z-score over the brain's voxels is assumed" in dataset_json["description"]
    assert model.stat().st_mode == model.parent.stat().st_mode  # not a temporary folder's, for its owner alone


def test_says_what_was_loaded_ignored_and_assumed(imported):
    model, output = imported
    assert "853 entries loaded" in output
    assert "447 entries ignored, which the release never uses: encoder_two_conv1, encoder_two_bn1," in output
    assert "1 entries ignored, which are not its own: \\x1b[2Jmine." in output  # which would act on a terminal
    assert "0 = background, 1 = NCR/NET, 2 = ED, 3 = ET" in output
    assert "z-score over the brain's voxels is assumed" in output
    assert "figures of these predictions are not the paper's" in output
    assert f"nnUNetv2_predict_from_modelfolder -i IMAGES -o PREDICTIONS -m {model} -f 0" in output


def brain(generator: np.random.Generator) -> np.ndarray:
    """(4, 3, 240, 240): an ellipse of noise in zeros, different for each sequence."""
    y, x = np.mgrid[:240, :240]
    inside = ((y - 120) / 95) ** 2 + ((x - 120) / 70) ** 2 < 1
    noise = generator.normal(size=(4, 3, 240, 240)) * np.array([40, 70, 90, 55])[:, None, None, None] + 500
    return np.where(inside, noise, 0).astype(np.float32)


@pytest.mark.host
def test_nnunet_predicts_what_the_network_says(imported, checkpoint, tmp_path):
    """By hand: z-scores over the brain, its bounding box in the middle of a 240 x 240 slice, one slice at a time."""
    volume = brain(np.random.default_rng(0))
    images = tmp_path / "images"
    for channel, array in enumerate(volume):
        write_image(array, images / f"CASE_{channel:04d}.nii.gz", Origin=(1.0, -239.0, 7.0))
    (tmp_path / "predicted").mkdir()
    predictor = nnUNetPredictor(device=torch.device("cpu"))
    predictor.initialize_from_trained_model_folder(str(imported[0]), use_folds=(0,))
    files = [str(images / f"CASE_{channel:04d}.nii.gz") for channel in range(4)]
    predictor.predict_from_files_sequential([files], str(tmp_path / "predicted"), save_probabilities=True)
    with np.load(tmp_path / "predicted" / "CASE.npz") as arrays:
        predicted = arrays["probabilities"]  # (classes, 3, 240, 240)

    inside = volume[0, 0] != 0
    normalised = np.zeros_like(volume)
    for channel, array in enumerate(volume):
        voxels = array[:, inside]
        normalised[channel][:, inside] = (voxels - voxels.mean()) / voxels.std()
    rows, columns = (np.flatnonzero(inside.any(axis=axis)) for axis in (1, 0))
    box = (slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1))
    height, width = len(rows), len(columns)
    top, left = (240 - height) // 2, (240 - width) // 2
    padded = np.zeros_like(normalised)
    middle = (..., slice(top, top + height), slice(left, left + width))
    padded[middle] = normalised[(..., *box)]

    network = PublishedCFNet(4, 4).eval()
    load_published_state_dict(network, checkpoint)
    with torch.no_grad():
        expected = torch.softmax(network(torch.from_numpy(padded).movedim(1, 0)), dim=1).movedim(1, 0).numpy()
    # nnU-Net adds up tiles in half precision; two sequences swapped differ by 6e-4 and more
    np.testing.assert_allclose(predicted[(..., *box)], expected[middle], rtol=0, atol=1e-4)

    segmentation = tmp_path / "predicted" / "CASE.nii.gz"
    assert geometry(segmentation) == geometry(images / "CASE_0000.nii.gz")
    assert np.array_equal(read(segmentation)[:, inside], predicted.argmax(0)[:, inside])


def refuse(capsys, *arguments: object) -> str:
    """The message of a command that exits with 2."""
    assert cli.main(["import_weights", *map(str, arguments)]) == 2
    message = capsys.readouterr().err
    assert message.startswith("nnunetv2_cfnet import_weights: ")
    return message


def test_a_folder_with_something_in_it_is_left_alone(checkpoint, tmp_path, capsys):
    (tmp_path / "note.txt").write_text("mine")
    message = refuse(capsys, checkpoint, "-o", tmp_path)
    assert f"{tmp_path} exists and is no empty folder: choose another one for -o" in message
    assert f"{tmp_path / 'note.txt'} is a file" in refuse(capsys, checkpoint, "-o", tmp_path / "note.txt" / "model")
    assert [path.name for path in tmp_path.iterdir()] == ["note.txt"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"<html>", "is no readable checkpoint (damaged? UnpicklingError); nothing in it was run"),
        (b"PK\x03\x04 torn", "is no readable checkpoint (damaged? "),
    ],
)
def test_a_bad_checkpoint_is_one_message_and_nothing_is_written(tmp_path, capsys, content, message):
    file = tmp_path / "bad.pth"
    file.write_bytes(content)
    before = sorted(tmp_path.iterdir())
    error = refuse(capsys, file, "-o", tmp_path / "below" / "model")
    assert message in error
    assert str(file) in error
    assert sorted(tmp_path.iterdir()) == before


def test_a_checkpoint_that_is_not_there_is_named_before_torch_is_imported(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.setenv("HOME", str(tmp_path))
    error = refuse(capsys, "~/bad.pth", "-o", "~/model")
    assert f"{tmp_path / 'bad.pth'} is no file: give the checkpoint that the release's training saved." in error
    assert list(tmp_path.iterdir()) == []


@pytest.mark.host
def test_a_full_disk_is_one_message_and_leaves_nothing_behind(checkpoint, tmp_path, capsys):
    """No file of this process may grow beyond 50 MB; the weights have 200."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000_000, hard))
    try:
        message = refuse(capsys, checkpoint, "-o", tmp_path / "model")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert f"{tmp_path / 'model'} can't hold the weights (a full disk?)" in message
    assert list(tmp_path.iterdir()) == []
