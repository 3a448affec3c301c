"""Models are found, checked, evaluated and put into one report; what is wrong is told before a report is written."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import SimpleITK
import torch

from nnunetv2_cfnet import cli
from nnunetv2_cfnet.report import collect, figures
from nnunetv2_cfnet.report.comparison import Cost

DATASET = "Dataset007_Cubes"
LABELS = {"background": 0, "whole": [1, 2], "core": [2]}
DATASET_JSON = {
    "channel_names": {"0": "T1ce", "1": "FLAIR"},
    "labels": LABELS,
    "regions_class_order": [1, 2],
    "numTraining": 8,
    "file_ending": ".nii.gz",
}
CASES = [f"case_{number}" for number in range(14)]  # for fewer scipy tries all signs, which takes seconds
GOOD, POOR = "nnUNetTrainerGood__nnUNetPlans", "nnUNetTrainerPoor__nnUNetPlans"


def write(array: np.ndarray, path: Path, spacing: float = 1.0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = SimpleITK.GetImageFromArray(array)
    image.SetSpacing((spacing,) * 3)
    SimpleITK.WriteImage(image, str(path))


def cube(shift: int = 0) -> np.ndarray:
    """6^3 voxels of label 1 around 3^3 of label 2."""
    array = np.zeros((14, 14, 14), np.uint8)
    array[3 + shift : 9 + shift, 4:10, 4:10] = 1
    array[5 + shift : 8 + shift, 5:8, 5:8] = 2
    return array


def write_model(results: Path, name: str, shift: int, num_epochs: int = 3) -> Path:
    """Folds 0 and 1, whose every case is shifted by so many voxels."""
    model = results / DATASET / f"{name}__3d_fullres"
    for number, case in enumerate(CASES):
        fold = model / f"fold_{number % 2}"
        write(cube(shift), fold / "validation" / f"{case}.nii.gz")
        (fold / "validation" / "summary.json").touch()
        log = {"train_losses": range(num_epochs), "val_losses": range(num_epochs), "mean_fg_dice": [0.5] * num_epochs}
        times = {"epoch_start_timestamps": range(num_epochs), "epoch_end_timestamps": range(1, num_epochs + 1)}
        torch.save(
            {"logging": {key: list(values) for key, values in (log | times).items()}}, fold / "checkpoint_final.pth"
        )
    (model / "dataset.json").write_text(json.dumps(DATASET_JSON))
    (model / "plans.json").write_text(json.dumps({"dataset_name": DATASET}))
    return model


@pytest.fixture
def nnunet(tmp_path, monkeypatch) -> Path:
    """A dataset, and a good and a poor model of it."""
    for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        monkeypatch.setenv(name, str(tmp_path / name))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(figures, "RESOLUTIONS_DPI", (30,))
    monkeypatch.setattr(collect, "measure_cost", lambda *_: Cost(parameters=7, device="cpu, pretended"))
    raw = tmp_path / "nnUNet_raw" / DATASET
    generator = np.random.default_rng(0)
    for case in CASES:
        write(cube(), raw / "labelsTr" / f"{case}.nii.gz")
        write(cube(), tmp_path / "nnUNet_preprocessed" / DATASET / "gt_segmentations" / f"{case}.nii.gz")
        for channel in (0, 1):
            noise = generator.normal(size=cube().shape).astype(np.float32)
            write(noise, raw / "imagesTr" / f"{case}_{channel:04d}.nii.gz")
    (raw / "dataset.json").write_text(json.dumps(DATASET_JSON))
    write_model(tmp_path / "nnUNet_results", GOOD, shift=0)
    write_model(tmp_path / "nnUNet_results", POOR, shift=2)
    return tmp_path


def run(*flags: object, code: int = 0) -> None:
    assert cli.main(["compare", "-np", "1", *map(str, flags)]) == code


def trained(*more: object, models: tuple[str, ...] = (GOOD, POOR)) -> tuple[object, ...]:
    return ("-d", 7, "-c", "3d_fullres", "--models", *models, "--folds", 0, 1, *more)


def given(root: Path, *more: object) -> tuple[object, ...]:
    folders = {name: root / name for name in ("good", "poor")}
    for number, folder in enumerate(folders.values()):
        for case in CASES:
            write(cube(2 * number), folder / f"{case}.nii.gz")
        (folder / "dataset.json").write_text(json.dumps(DATASET_JSON))
    labels = root / "nnUNet_raw" / DATASET / "labelsTr"
    return ("--predictions", *(f"{name}={folder}" for name, folder in folders.items()), "--reference", labels, *more)


def test_trained_models_are_compared_by_case(nnunet):
    run(*trained())
    report = json.loads((nnunet / "cfnet_comparison" / "compare.json").read_text())
    (test,) = (test for test in report["tests"] if (test["region"], test["metric"]) == ("core", "dice"))
    # of the core, 9 of 27 voxels are hit: the poor model has a Dice of 1/3, the good one 1
    assert test["difference"] == pytest.approx(2 / 3)
    assert (test["num_cases"], test["wins"], test["verdict"]) == (14, 14, "better")
    assert report["ranks"] == {GOOD: 1.0, POOR: 2.0}
    good, poor = report["models"]
    assert good["cost"] == {**good["cost"], "parameters": 7, "epoch_s": 1.0}
    assert [curves["fold"] for curves in poor["curves"]] == ["0", "1"]
    assert {"case_best.png", "training_curves.png"} <= {p.name for p in (nnunet / "cfnet_comparison/figures").iterdir()}
    assert "different numbers of epochs" not in (nnunet / "cfnet_comparison" / "compare.md").read_text()
    assert not list((nnunet / "cfnet_comparison").glob(".*"))


def test_the_verdict_is_that_of_the_first_model(nnunet):
    run(*trained("-o", "other", models=(POOR, GOOD)))
    text = (nnunet / "other" / "compare.md").read_text()
    assert f"core, Dice: {POOR} is worse than {GOOD} (mean difference −0.667" in text


def test_predictions_are_compared_with_pictures_of_the_raw_dataset(nnunet):
    run(*given(nnunet))
    report = json.loads((nnunet / "cfnet_comparison" / "compare.json").read_text())
    assert [model["name"] for model in report["models"]] == ["good", "poor"]
    assert report["models"][0]["cost"] is None
    text = (nnunet / "cfnet_comparison" / "report.html").read_text()
    assert "FLAIR" in text
    assert "T1ce" in text


def test_without_channel_names_there_are_no_images(nnunet):
    flags = given(nnunet)
    for name in ("good", "poor"):
        (nnunet / name / "dataset.json").write_text(json.dumps({**DATASET_JSON, "channel_names": {}}))
    run(*flags)
    assert "The images are not there" in (nnunet / "cfnet_comparison" / "compare.md").read_text()


def test_a_fold_beyond_the_splits_is_taken_as_it_is(nnunet):
    """nnU-Net splits by chance there."""
    splits = [{"train": [], "val": CASES[0::2]}]
    (nnunet / "nnUNet_preprocessed" / DATASET / "splits_final.json").write_text(json.dumps(splits))
    run(*trained())


def test_unequal_training_is_told(nnunet):
    shutil.rmtree(nnunet / "nnUNet_results")
    write_model(nnunet / "nnUNet_results", GOOD, shift=0, num_epochs=4)
    write_model(nnunet / "nnUNet_results", POOR, shift=2)
    run(*trained())
    text = (nnunet / "cfnet_comparison" / "compare.md").read_text()
    assert "trained for different numbers of epochs (" in text
    assert f"{GOOD} 4, {POOR} 3): this is no comparison at equal budget." in text


def test_replicates_are_averaged_case_by_case(nnunet):
    for number, shift in enumerate((0, 2)):
        write_model(nnunet / f"replicate_{number}", GOOD, shift)
        write_model(nnunet / f"replicate_{number}", POOR, 2)
    results = [nnunet / "replicate_0", nnunet / "replicate_1"]
    out = nnunet / "pooled"
    collect.compare_models(7, "3d_fullres", [GOOD, POOR], folds=[0, 1], out=out, num_processes=1, results=results)
    good = json.loads((out / "compare.json").read_text())["models"][0]
    assert good["cases"]["case_0"]["core"]["dice"] == pytest.approx((1 + 1 / 3) / 2)
    first, second = good["replicates"]
    assert [rows[1]["dice"] for rows in (first, second)] == pytest.approx([1, 1 / 3])
    assert (
        "Each model was trained 2 times. In tests and plots, the metrics of a case are means"
        in (out / "compare.md").read_text()
    )


def test_an_empty_region_counts_in_each_replicate_by_itself(nnunet):
    """One case without the core: one replicate is right about it, the other predicts it."""
    label = nnunet / "nnUNet_preprocessed" / DATASET / "gt_segmentations" / "case_0.nii.gz"
    without = np.where(cube() == 2, 1, cube()).astype(np.uint8)
    write(without, label)
    for number in (0, 1):
        model = write_model(nnunet / f"replicate_{number}", GOOD, 0)
        write_model(nnunet / f"replicate_{number}", POOR, 2)
        if number == 0:
            write(without, model / "fold_0" / "validation" / "case_0.nii.gz")
    results = [nnunet / "replicate_0", nnunet / "replicate_1"]
    out = nnunet / "pooled"
    collect.compare_models(7, "3d_fullres", [GOOD, POOR], folds=[0, 1], out=out, num_processes=1, results=results)
    core = json.loads((out / "compare.json").read_text())["models"][0]["summary"]["core"]
    assert (core["num_cases"], core["empty_in_reference"], core["empty_in_both"]) == (28, 2, 1)
    assert core["metrics"]["dice"]["brats"]["mean"] == pytest.approx(27 / 28)
    assert core["metrics"]["dice"]["nnunet"] == core["metrics"]["dice_nnunet"]["brats"]
    assert core["metrics"]["dice_nnunet"]["brats"]["mean"] == pytest.approx(26 / 27)


def test_a_users_hidden_files_stay(nnunet):
    out = nnunet / "cfnet_comparison"
    out.mkdir()
    (out / ".mine.jsonl").touch()
    run(*given(nnunet))
    assert sorted(path.name for path in out.glob(".*")) == [".mine.jsonl"]


def test_an_interrupted_comparison_goes_on(nnunet, monkeypatch, capsys):
    def fail(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(collect, "measure_cost", fail)
        run(*trained(), code=130)
    assert not (nnunet / "cfnet_comparison" / "compare.md").exists()
    run(*trained())
    assert "28 of 28 cases of 2 models are taken over from an interrupted run." in capsys.readouterr().out


def break_fold(root: Path) -> tuple[object, ...]:
    (root / "nnUNet_results" / DATASET / f"{POOR}__3d_fullres" / "fold_1" / "validation" / "summary.json").unlink()
    return trained()


def break_cases(root: Path) -> tuple[object, ...]:
    validation = root / "nnUNet_results" / DATASET / f"{POOR}__3d_fullres" / "fold_1" / "validation"
    (validation / "case_3.nii.gz").unlink()
    return trained()


def break_labels(root: Path) -> tuple[object, ...]:
    file = root / "nnUNet_results" / DATASET / f"{POOR}__3d_fullres" / "dataset.json"
    file.write_text(json.dumps({**DATASET_JSON, "labels": {"background": 0, "whole": 1}}))
    return trained()


def break_geometry(root: Path) -> tuple[object, ...]:
    validation = root / "nnUNet_results" / DATASET / f"{POOR}__3d_fullres" / "fold_1" / "validation"
    write(cube(), validation / "case_3.nii.gz", spacing=2)
    return trained()


def break_file(root: Path) -> tuple[object, ...]:
    file = root / "nnUNet_results" / DATASET / f"{GOOD}__3d_fullres" / "fold_1" / "validation" / "case_3.nii.gz"
    file.write_bytes(file.read_bytes()[:60])
    return trained()


def break_checkpoint(root: Path) -> tuple[object, ...]:
    (root / "nnUNet_results" / DATASET / f"{GOOD}__3d_fullres" / "fold_1" / "checkpoint_final.pth").write_bytes(b"PK")
    return trained()


def leak_a_case(root: Path) -> tuple[object, ...]:
    splits = [{"train": [], "val": [case for case in CASES[fold::2] if case != "case_3"]} for fold in (0, 1)]
    (root / "nnUNet_preprocessed" / DATASET / "splits_final.json").write_text(json.dumps(splits))
    return trained()


def block_the_place(root: Path) -> tuple[object, ...]:
    (root / "blocked").touch()
    return trained("-o", "blocked")


def relabel(root: Path) -> tuple[object, ...]:
    flags = given(root)
    labels = {"background": 0, "whole": [1, 2], "core": [1]}
    (root / "poor" / "dataset.json").write_text(json.dumps({**DATASET_JSON, "labels": labels}))
    return flags


def break_prediction(root: Path) -> tuple[object, ...]:
    flags = given(root)
    (root / "poor" / "case_3.nii.gz").unlink()
    return flags


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (break_fold, "fold_1 is not trained and validated to the end"),
        (break_cases, f"The models' cases differ: 1 that {POOR} did not predict: case_3. Compare models"),
        (break_labels, "have different labels, {'whole': (1,)} and {'whole': (1, 2), 'core': (2,)}"),
        (break_geometry, "case_3.nii.gz: spacing (2, 2, 2) against (1, 1, 1)"),
        (break_file, "fold_1/validation/case_3.nii.gz can't be read"),
        (break_checkpoint, "fold_1/checkpoint_final.pth can't be read"),
        (break_prediction, "1 without a prediction in"),
        (relabel, "poor/dataset.json and"),
        (leak_a_case, "folds 0, 1 predicted 1 cases that they don't leave out by"),
        (block_the_place, "blocked is a file, and a folder is to be written there: choose another -o"),
        (lambda root: [*given(root)[:-1], "absent"], "absent is no folder: give the one with the labels"),
        (lambda root: (*given(root), "--folds", 0), "give either -d, -c and --models, and --folds, for trained"),
        (lambda _: ("-np", 0, *trained()), "0 processes can't do anything"),
        (lambda _: trained("--folds", 0, 0), "--folds 0 0: give each once."),
        (lambda _: trained(models=(GOOD,)), "A comparison takes two models at least"),
        (lambda _: trained(models=(GOOD, GOOD)), f"{GOOD} is given twice"),
        (
            lambda _: trained(models=(GOOD, "Absent__nnUNetPlans")),
            f"for 3d_fullres are {GOOD}__3d_fullres",
        ),
        (lambda _: trained(models=(GOOD, "nnUNetTrainer")), "nnUNetTrainer is no model: give TRAINER__PLANS"),
        (
            lambda _: ("-d", 7, "-c", "3d_fullres"),
            "give either -d, -c and --models, and --folds, for trained models, or",
        ),
        (lambda root: (*given(root), "-d", 7), "give either -d, -c and --models"),
        (lambda _: ("-d", 8, "-c", "2d", "--models", GOOD, POOR), "Could not find a dataset with the ID 8"),
    ],
)
def test_bad_input_is_named_and_no_report_is_written(nnunet, capsys, break_it, message):
    run(*break_it(nnunet), code=2)
    assert message in capsys.readouterr().err
    assert not (nnunet / "cfnet_comparison").exists()
