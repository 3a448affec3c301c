"""Models are found, checked, evaluated and put into one report; what is wrong is named before a report is written."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from images import write_image

from nnunetv2_cfnet import cli
from nnunetv2_cfnet.files.lock import locked
from nnunetv2_cfnet.report import collect, statistics
from nnunetv2_cfnet.report.comparison import Comparison, Cost, PairedTest
from nnunetv2_cfnet.report.tables import summary_of

DATASET = "Dataset007_Cubes"
LABELS = {"background": 0, "whole": [1, 2], "core": [2]}
DATASET_JSON = {
    "channel_names": {"0": "T1ce", "1": "FLAIR"},
    "labels": LABELS,
    "regions_class_order": [1, 2],
    "numTraining": 10,
    "file_ending": ".nii.gz",
}
CASES = [f"case_{number}" for number in range(10)]
GOOD, POOR = "nnUNetTrainerGood__nnUNetPlans", "nnUNetTrainerPoor__nnUNetPlans"


def cube(shift: int = 0) -> np.ndarray:
    """6^3 voxels of label 1 around 3^3 of label 2."""
    array = np.zeros((14, 14, 14), np.uint8)
    array[3 + shift : 9 + shift, 4:10, 4:10] = 1
    array[5 + shift : 8 + shift, 5:8, 5:8] = 2
    return array


def write_model(results: Path, name: str, shift: int, num_epochs: int = 3) -> Path:
    """Folds 0 and 1, whose every case is shifted by so many voxels."""
    model = results / DATASET / f"{name}__3d_fullres"
    times = {"epoch_start_timestamps": range(num_epochs), "epoch_end_timestamps": range(1, num_epochs + 1)}
    losses = {"train_losses": range(num_epochs), "val_losses": range(num_epochs), "mean_fg_dice": [0.5] * num_epochs}
    for number in (0, 1):
        fold = model / f"fold_{number}"
        write_predictions(fold / "validation", shift, CASES[number::2])
        (fold / "validation" / "summary.json").touch()
        log = {key: list(values) for key, values in (losses | times).items()}
        torch.save({"logging": log}, fold / "checkpoint_final.pth")
    (model / "dataset.json").write_text(json.dumps(DATASET_JSON))
    (model / "plans.json").write_text(json.dumps({"dataset_name": DATASET}))
    return model


def write_predictions(folder: Path, shift: int, cases: list[str]) -> None:
    for case in cases:
        write_image(cube(shift), folder / f"{case}.nii.gz")


@pytest.fixture(scope="module")
def original(tmp_path_factory) -> Path:
    """A dataset, and a good and a poor model of it; folders of their predictions. Only for reading."""
    root = tmp_path_factory.mktemp("original")
    raw = root / "nnUNet_raw" / DATASET
    write_predictions(raw / "labelsTr", 0, CASES)
    write_predictions(root / "nnUNet_preprocessed" / DATASET / "gt_segmentations", 0, CASES)
    for case in CASES:
        for channel in (0, 1):
            write_image(cube().astype(np.float32), raw / "imagesTr" / f"{case}_{channel:04d}.nii.gz")
    (raw / "dataset.json").write_text(json.dumps(DATASET_JSON))
    for model, name, shift in ((GOOD, "good", 0), (POOR, "poor", 2)):
        write_model(root / "nnUNet_results", model, shift)
        write_predictions(root / name, shift, CASES)
        (root / name / "dataset.json").write_text(json.dumps(DATASET_JSON))
    return root


@pytest.fixture
def nnunet(original, tmp_path, monkeypatch) -> Path:
    """A copy of it to work in."""
    shutil.copytree(original, tmp_path, dirs_exist_ok=True)
    for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        monkeypatch.setenv(name, str(tmp_path / name))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(collect, "measure_cost", lambda *_: Cost(parameters=7, device="cpu, pretended"))
    monkeypatch.setattr(statistics, "wilcoxon_p", lambda _: 0.5)  # scipy tries all signs of 10 cases, which takes long
    return tmp_path


@pytest.fixture
def comparisons(nnunet, monkeypatch) -> list[Comparison]:
    """What would be written to reports, whose figures take seconds."""
    made: list[Comparison] = []

    def write(comparison: Comparison, out: Path, *_: object) -> None:
        made.append(comparison)
        (out / "report.html").write_bytes(b"0" * 1_250_000)

    monkeypatch.setattr(collect, "write_report", write)
    return made


def run(*flags: object, code: int = 0) -> None:
    assert cli.main(["compare", "-np", "1", *map(str, flags)]) == code


def trained(*more: object, models: tuple[str, ...] = (GOOD, POOR)) -> tuple[object, ...]:
    return ("-d", 7, "-c", "3d_fullres", "--models", *models, "--folds", 0, 1, *more)


# which lie in the folder that tests run in
GIVEN = ("--predictions", "good=good", "poor=poor", "--reference", f"nnUNet_raw/{DATASET}/labelsTr")


def dice_of_core(comparison: Comparison) -> PairedTest:
    (test,) = (test for test in comparison.tests if (test.region, test.metric) == ("core", "dice"))
    return test


@pytest.mark.usefixtures("quick_drawing")
def test_trained_models_are_compared_by_case(nnunet):
    out = nnunet / "cfnet_comparison"
    out.mkdir()
    (out / ".mine.jsonl").touch()
    run(*trained())
    report = json.loads((out / "compare.json").read_text())
    (test,) = (test for test in report["tests"] if (test["region"], test["metric"]) == ("core", "dice"))
    # of the core, 9 of 27 voxels are hit: the poor model has a Dice of 1/3, the good one 1
    assert test["difference"] == pytest.approx(2 / 3)
    assert (test["num_cases"], test["wins"], test["verdict"]) == (10, 10, "better")
    assert report["ranks"] == {GOOD: 1.0, POOR: 2.0}
    assert report["names"] == {GOOD: "Good", POOR: "Poor"}
    good, poor = report["models"]
    assert good["cost"] == {**good["cost"], "parameters": 7, "epoch_s": 1.0}
    assert [curves["fold"] for curves in poor["curves"]] == ["0", "1"]
    assert {"case_best.png", "training_curves.png"} <= {path.name for path in (out / "figures").iterdir()}
    assert "different numbers of epochs" not in (out / "compare.md").read_text()
    assert "The images are not there" not in (out / "compare.md").read_text()
    assert [path.name for path in out.glob(".*")] == [".mine.jsonl"]  # the user's, and nothing of ours


def test_the_verdict_is_that_of_the_first_model(comparisons):
    run(*trained(models=(POOR, GOOD)))
    test = dice_of_core(comparisons[0])
    assert (test.other, test.difference, test.verdict) == (GOOD, pytest.approx(-2 / 3), "worse")


def test_predictions_are_compared_with_pictures_of_the_raw_dataset(comparisons, nnunet):
    run(*GIVEN)
    (comparison,) = comparisons
    assert [model.name for model in comparison.models] == ["good", "poor"]
    assert comparison.models[0].cost is None
    assert dice_of_core(comparison).difference == pytest.approx(2 / 3)
    files = {path.name for path in comparison.images["case_3"].values() if path.is_file()}
    assert files == {"case_3_0000.nii.gz", "case_3_0001.nii.gz"}
    assert list(comparison.images["case_3"]) == ["T1ce", "FLAIR"]


def test_without_channel_names_there_are_no_images(comparisons, nnunet):
    for name in ("good", "poor"):
        (nnunet / name / "dataset.json").write_text(json.dumps({**DATASET_JSON, "channel_names": {}}))
    run(*GIVEN)
    assert comparisons[0].images == {}


def test_trained_models_without_channel_names_are_compared_without_images(comparisons):
    for model in (GOOD, POOR):
        write_json(fold_1(model).parent / "dataset.json", {**DATASET_JSON, "channel_names": {}})
    run(*trained())
    assert comparisons[0].images == {}


def test_without_the_raw_dataset_there_are_no_images(comparisons, nnunet):
    shutil.rmtree(nnunet / "nnUNet_raw" / DATASET / "imagesTr")
    run(*trained())
    assert comparisons[0].images == {}


def test_a_fold_beyond_the_splits_is_taken_as_it_is(comparisons, nnunet):
    """nnU-Net splits by chance there."""
    splits = [{"train": [], "val": CASES[0::2]}]
    (nnunet / "nnUNet_preprocessed" / DATASET / "splits_final.json").write_text(json.dumps(splits))
    run(*trained())
    assert len(comparisons[0].references) == 10


def test_unequal_training_is_noted(comparisons, nnunet):
    write_model(nnunet / "nnUNet_results", GOOD, shift=0, num_epochs=4)
    run(*trained())
    note = comparisons[0].notes[-1]
    assert note.startswith("The models were trained for different numbers of epochs (")
    assert "Good 4, Poor 3): this is no comparison at equal budget." in note


def test_the_size_of_the_page_is_printed(comparisons, capsys):
    run(*trained())
    assert capsys.readouterr().out.endswith("compare.md, compare.json\nThe page has 1.25 MB.\n")


def test_replicates_are_averaged_case_by_case_and_empty_regions_count_in_each(comparisons, nnunet):
    """The core of case 0 is empty: the first replicate is right about it, the second predicts it, shifted."""
    without = np.where(cube() == 2, 1, cube()).astype(np.uint8)
    write_image(without, nnunet / "nnUNet_preprocessed" / DATASET / "gt_segmentations" / "case_0.nii.gz")
    results = [nnunet / "replicate_0", nnunet / "replicate_1"]
    for folder, shift in zip(results, (0, 2), strict=True):
        good = write_model(folder, GOOD, shift)
        write_model(folder, POOR, 2)
        if shift == 0:
            write_image(without, good / "fold_0" / "validation" / "case_0.nii.gz")
    collect.compare_models(7, "3d_fullres", [GOOD, POOR], folds=[0, 1], out=nnunet, num_processes=1, results=results)
    (comparison,) = comparisons
    good = comparison.models[0]
    dice = good.rows.set_index(["case", "region"])["dice"]
    assert dice["case_0", "core"] == (1 + 0) / 2
    assert dice["case_1", "core"] == pytest.approx((1 + 1 / 3) / 2)
    by_replicate = [rows.set_index(["case", "region"])["dice"]["case_1", "core"] for rows in good.replicate_rows]
    assert by_replicate == pytest.approx([1, 1 / 3])
    assert comparison.notes[-1].startswith("Each model was trained 2 times. In tests and plots, the metrics of a case")
    core = summary_of(good)["core"]
    assert (core["num_cases"], core["empty_in_reference"], core["empty_in_both"]) == (20, 2, 1)
    assert core["metrics"]["dice"]["brats"]["mean"] == pytest.approx((1 + 9 + 9 / 3) / 20)
    assert core["metrics"]["dice"]["nnunet"] == core["metrics"]["dice_nnunet"]["brats"]
    assert core["metrics"]["dice_nnunet"]["brats"]["mean"] == pytest.approx((9 + 9 / 3) / 19)


def test_an_interrupted_comparison_goes_on(comparisons, monkeypatch, capsys):
    def fail(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(collect, "measure_cost", fail)
        run(*trained(), code=130)
    assert not comparisons
    run(*trained())
    assert "20 of 20 cases of 2 models are taken over from an interrupted run." in capsys.readouterr().out


@pytest.mark.parametrize("flags", [trained(), GIVEN], ids=["trained", "given"])
def test_a_second_comparison_into_one_folder_is_refused(nnunet, capsys, flags):
    with locked(nnunet / "cfnet_comparison" / "compare.json"):
        run(*flags, code=2)
    assert "cfnet_comparison/compare.json is being written by process" in capsys.readouterr().err
    assert not (nnunet / "cfnet_comparison").exists()


def fold_1(model: str) -> Path:
    return Path("nnUNet_results", DATASET, f"{model}__3d_fullres", "fold_1")


def write_json(file: Path, content: object) -> None:
    file.write_text(json.dumps(content))


def relabel(file: Path, **labels: object) -> None:
    write_json(file, {**DATASET_JSON, "labels": {"background": 0, **labels}})


def leak_a_case() -> None:
    splits = [{"train": [], "val": [case for case in CASES[fold::2] if case != "case_3"]} for fold in (0, 1)]
    write_json(Path("nnUNet_preprocessed", DATASET, "splits_final.json"), splits)


@pytest.mark.parametrize(
    ("break_it", "flags", "message"),
    [
        (
            lambda: (fold_1(POOR) / "validation" / "summary.json").unlink(),
            trained(),
            "fold_1 is not trained and validated to the end",
        ),
        (
            lambda: (fold_1(POOR) / "validation" / "case_3.nii.gz").unlink(),
            trained(),
            f"The models' cases differ: 1 that {POOR} did not predict: case_3. Compare models",
        ),
        (
            lambda: relabel(fold_1(POOR).parent / "dataset.json", whole=1),
            trained(),
            "have different labels, {'whole': (1,)} and {'whole': (1, 2), 'core': (2,)}",
        ),
        (
            lambda: write_image(cube(), fold_1(POOR) / "validation" / "case_3.nii.gz", Spacing=(2.0, 2.0, 2.0)),
            trained(),
            "case_3.nii.gz: spacing (2, 2, 2) against (1, 1, 1)",
        ),
        (
            lambda: (fold_1(GOOD) / "validation" / "case_3.nii.gz").write_bytes(b"torn"),
            trained(),
            "fold_1/validation/case_3.nii.gz can't be read",
        ),
        (
            lambda: (fold_1(GOOD) / "checkpoint_final.pth").write_bytes(b"PK"),
            trained(),
            "fold_1/checkpoint_final.pth is no readable checkpoint",
        ),
        (
            lambda: write_json(fold_1(GOOD).parent / "plans.json", {"dataset_name": "a\0"}),
            trained(),
            r'plans.json: dataset_name is "a\u0000", no name.',
        ),
        (leak_a_case, trained(), "folds 0, 1 predicted 1 cases that they don't leave out by"),
        (lambda: Path("poor/case_3.nii.gz").unlink(), GIVEN, "1 without a prediction in"),
        (lambda: relabel(Path("poor/dataset.json"), whole=[1, 2], core=[1]), GIVEN, "poor/dataset.json and"),
    ],
)
def test_broken_files_are_named_and_no_report_is_written(nnunet, capsys, break_it, flags, message):
    break_it()
    run(*flags, code=2)
    assert message in capsys.readouterr().err
    assert not (nnunet / "cfnet_comparison").exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            trained("-o", f"nnUNet_raw/{DATASET}/dataset.json"),
            "dataset.json is a file, and a folder is to be written there: choose another -o",
        ),
        ((*GIVEN[:-1], "absent"), "absent is no folder: give the one with the labels"),
        ((*GIVEN, "--folds", 0), "give either -d, -c and --models (and --folds, if not all, and --names), for trained"),
        ((*GIVEN, "--names", "a", "b"), "give either -d, -c and --models (and --folds, if not all, and --names)"),
        (
            trained("--names", "CFNet"),
            f"--names CFNet: give each of the 2 models a name of its own, in the order of {GOOD}",
        ),
        (trained("--names", "a", "a"), "--names a a: give each of the 2 models a name of its own"),
        (trained("--cases", -1), "--cases -1: give 0, for the best, median and worst case alone, or more."),
        (trained("--smallest-differences", 0.01, 0), "--smallest-differences 0.01 0: give two numbers above 0."),
        (("-np", 0, *trained()), "0 processes can't do anything"),
        (trained("--folds", 0, 0), "--folds 0 0: give each once."),
        (trained(models=(GOOD,)), "A comparison takes two models at least"),
        (trained(models=(GOOD, GOOD)), f"{GOOD} is given twice"),
        (trained(models=(GOOD, "Absent__nnUNetPlans")), f"for 3d_fullres are {GOOD}__3d_fullres"),
        (trained(models=(GOOD, "nnUNetTrainer")), "nnUNetTrainer is no model: give TRAINER__PLANS"),
        (
            ("-d", 7, "-c", "3d_fullres"),
            "(and --folds, if not all, and --names), for trained models, or",
        ),
        ((*GIVEN, "-d", 7), "give either -d, -c and --models"),
        (("-d", 8, "-c", "2d", "--models", GOOD, POOR), "Could not find a dataset with the ID 8"),
    ],
)
def test_wrong_flags_are_named_and_no_report_is_written(nnunet, capsys, flags, message):
    run(*flags, code=2)
    assert message in capsys.readouterr().err
    assert not (nnunet / "cfnet_comparison").exists()
