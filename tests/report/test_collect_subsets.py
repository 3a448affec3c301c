"""evaluate_subsets with a predictor whose results are worked out by hand: figures, going on, and what is refused.

T1ce shows the core and FLAIR the whole of a cube of 6^3 voxels around one of 3^3. The good model sees both, and
the poor one is blind to T1ce.
"""

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import SimpleITK
import torch
from images import write_image
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO

from nnunetv2_cfnet import cli
from nnunetv2_cfnet.evaluation import cases, predict_subsets
from nnunetv2_cfnet.evaluation.segmentations import Labelling
from nnunetv2_cfnet.files.lock import locked
from nnunetv2_cfnet.files.processes import workers
from nnunetv2_cfnet.planning.plans import CFNET
from nnunetv2_cfnet.report import statistics, subsets
from nnunetv2_cfnet.report.collect_subsets import PROGRESS, RECORDS
from nnunetv2_cfnet.report.figures import Picture
from nnunetv2_cfnet.report.subsets import dice_of_nothing, mean_dice, with_means, write_subsets_report

DATASET = "Dataset007_Cubes"
DATASET_JSON = {
    "channel_names": {"0": "T1ce", "1": "FLAIR"},
    "labels": {"background": 0, "whole": [1, 2], "core": [2]},
    "regions_class_order": [1, 2],
    "numTraining": 4,
    "file_ending": ".nii.gz",
}
PLANS = {
    "dataset_name": DATASET,
    "image_reader_writer": "SimpleITKIO",
    "configurations": {
        "3d_fullres": {"architecture": {}},
        "3d_cascade_fullres": {"inherits_from": "3d_fullres", "previous_stage": "3d_lowres"},
    },
}
CASES = [f"case_{number}" for number in range(4)]
GOOD, POOR = "nnUNetTrainerGood__nnUNetPlans", "nnUNetTrainerPoor__nnUNetPlans"
TRAINED = ("-d", "7", "-c", "3d_fullres", "--models", GOOD, POOR, "--folds", "0", "1", "-device", "cpu")
GIVEN = ("--predictions", "good=good", "--reference", f"nnUNet_raw/{DATASET}/labelsTr")
WHOLE, CORE = (slice(3, 9), slice(4, 10), slice(4, 10)), (slice(5, 8),) * 3


def cubes() -> np.ndarray:
    """(T1ce, FLAIR)"""
    images = np.zeros((2, 14, 14, 14), np.float32)
    images[0][CORE], images[1][WHOLE] = 1, 1
    return images


def labels_of(images: np.ndarray) -> np.ndarray:
    return np.where(images[0] > 0, 2, (images[1] > 0).astype(np.uint8)).astype(np.uint8)


def write_json(file: Path, content: object) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content))


def cut_off(image: Path) -> None:
    """As a download that ended early leaves it: SimpleITK still reads it."""
    content = image.read_bytes()
    image.write_bytes(content[:-20])
    SimpleITK.ReadImage(str(image))


@pytest.fixture(scope="module")
def original(tmp_path_factory) -> Path:
    """A dataset, two models of it, and predictions from each subset. Only for reading."""
    root = tmp_path_factory.mktemp("original")
    raw = root / "nnUNet_raw" / DATASET
    write_json(raw / "dataset.json", DATASET_JSON)
    for number, case in enumerate(CASES):
        for channel, image in enumerate(cubes()):
            write_image(image, raw / "imagesTr" / f"{case}_{channel:04d}.nii.gz")
        for folder in (raw / "labelsTr", root / "nnUNet_preprocessed" / DATASET / "gt_segmentations"):
            write_image(labels_of(cubes()), folder / f"{case}.nii.gz")
        for name in (GOOD, POOR):
            fold = root / "nnUNet_results" / DATASET / f"{name}__3d_fullres" / f"fold_{number % 2}"
            write_image(labels_of(cubes()), fold / "validation" / f"{case}.nii.gz")
            (fold / "validation" / "summary.json").touch()
            torch.save(f"weights of {name}, {fold.name}", fold / "checkpoint_final.pth")
            write_json(fold.parent / "dataset.json", DATASET_JSON)
            write_json(fold.parent / "plans.json", PLANS)
        for folder, channels in (("t1ce", [0]), ("FLAIR", [1]), ("FLAIR+T1ce", [0, 1])):
            present = np.zeros_like(cubes())
            present[channels] = cubes()[channels]
            write_image(labels_of(present), root / "good" / folder / f"{case}.nii.gz")
    write_json(root / "good" / "dataset.json", DATASET_JSON)
    return root


class Predictor:
    """In place of nnU-Net's: writes down what it is given."""

    plans_manager = SimpleNamespace(image_reader_writer_class=SimpleITKIO)

    def __init__(self, fold: Path, seen: list) -> None:
        self.fold, self.seen = fold, seen

    def predict_single_npy_array(self, images: np.ndarray, properties: dict) -> np.ndarray:
        self.seen.append((self.fold.parent.name.split("__")[0], self.fold.name, tuple(images.any((1, 2, 3)))))
        properties["bbox_used_for_cropping"] = "added by preprocessing"
        return labels_of(images if "Good" in str(self.fold) else images * np.reshape([0, 1], (2, 1, 1, 1)))


@pytest.fixture
def seen(original, tmp_path, monkeypatch) -> list[tuple]:
    """A copy to work in, with made-up figures; model, fold and channels of each prediction that is made."""
    shutil.copytree(original, tmp_path, dirs_exist_ok=True)
    for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        monkeypatch.setenv(name, str(tmp_path / name))
    monkeypatch.chdir(tmp_path)
    for name in ("subsets", "shapley"):
        pictures = [Picture(name, name, name, b"made up")]
        monkeypatch.setattr(subsets, f"{name.removesuffix('s')}_plots", lambda *_, pictures=pictures: pictures)
    predictions: list[tuple] = []
    monkeypatch.setattr(predict_subsets, "load_predictor", lambda fold, *_: Predictor(fold, predictions))
    return predictions


def run(*flags: str, code: int = 0) -> dict:
    assert cli.main(["evaluate_subsets", "-np", "1", *flags]) == code
    return {} if code else json.loads(Path("cfnet_subsets/subsets.json").read_text())


def test_the_figures_are_those_worked_out_by_hand(seen):
    report = run(*TRAINED)
    good, poor = report["models"]
    # from T1ce alone the whole is predicted as the core: 2 * 27 / (27 + 216)
    assert good["mean_dice"]["T1ce"] == pytest.approx({"whole": 2 / 9, "core": 1})
    assert good["mean_dice"]["FLAIR"] == {"whole": 1, "core": 0}
    assert good["mean_dice"]["T1ce+FLAIR"] == {"whole": 1, "core": 1}
    assert good["mean_dice"]["mean of 3, all"] == pytest.approx({"whole": (2 / 9 + 2) / 3, "core": 2 / 3})
    assert good["mean_dice"]["mean of 2, with T1ce"] == pytest.approx({"whole": 11 / 18, "core": 1})
    assert poor["mean_dice"]["T1ce"] == {"whole": 0, "core": 0}
    # first T1ce adds 2/9 to nothing, or nothing to FLAIR; the core is in T1ce alone
    assert good["shapley"] == {
        "whole": pytest.approx({"T1ce": 1 / 9, "FLAIR": 8 / 9}),
        "core": pytest.approx({"T1ce": 1, "FLAIR": 0}),
    }
    (test,) = (test for test in report["tests"] if test["region"] == "T1ce: whole")
    assert (test["metric"], test["difference"], test["num_cases"]) == ("dice", pytest.approx(2 / 9), 4)


def test_each_case_is_predicted_from_each_subset_by_the_fold_that_left_it_out(seen):
    run(*TRAINED)
    for model in ("nnUNetTrainerGood", "nnUNetTrainerPoor"):
        for fold in ("fold_0", "fold_1"):
            for present in ((True, False), (False, True), (True, True)):
                assert seen.count((model, fold, present)) == 2
    assert len(seen) == 2 * 4 * 3


def test_the_report_is_four_things_and_records_stay(seen):
    run(*TRAINED)
    out = Path("cfnet_subsets")
    assert {path.name for path in out.iterdir()} == {*("subsets.json", "subsets.md", "report.html", "figures"), RECORDS}
    markdown = (out / "subsets.md").read_text()
    assert "What a sequence adds to this model's score on these cases" in markdown
    assert "| T1ce+FLAIR | 1.000 | 1.000 | 1.000 | 0.000 |" in markdown


def test_one_model_alone_has_no_tests(seen):
    report = run(*(flag for flag in TRAINED if flag != POOR))
    assert report["tests"] == []
    assert "## Verdict\n\nCross-validation, folds 0, 1:" in Path("cfnet_subsets/subsets.md").read_text()


def test_an_interrupted_run_goes_on_and_torn_lines_are_made_anew(seen, monkeypatch, capsys):
    class Interrupted(Predictor):
        def predict_single_npy_array(self, *arguments):
            if len(self.seen) == 7:
                raise KeyboardInterrupt
            return super().predict_single_npy_array(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(predict_subsets, "load_predictor", lambda fold, *_: Interrupted(fold, seen))
        run(*TRAINED, code=130)
    assert [path.name for path in Path("cfnet_subsets").iterdir()] == [RECORDS]
    records = Path("cfnet_subsets", RECORDS)
    lines = records.read_text().rstrip("\n").split("\n")
    records.write_text("\n".join(lines)[:-40])  # the last one is cut off
    run(*TRAINED)
    assert "6 of 24 predictions are taken over." in capsys.readouterr().out
    assert len(seen) == 7 + 18
    del seen[:]
    run(*TRAINED)
    assert not seen


@pytest.mark.parametrize(
    ("change", "num_predictions"),
    [
        (lambda model: torch.save("other weights", model / "fold_0" / "checkpoint_final.pth"), 2 * 3),
        (lambda _: write_image(2 * cubes()[0], Path("nnUNet_raw", DATASET, "imagesTr/case_3_0000.nii.gz")), 2 * 3),
        (
            lambda _: write_image(
                1 - labels_of(cubes()) // 2, Path("nnUNet_preprocessed", DATASET, "gt_segmentations/case_3.nii.gz")
            ),
            2 * 3,
        ),
    ],
    ids=["checkpoint", "image", "reference"],
)
def test_what_changed_is_predicted_again_and_nothing_else(seen, change, num_predictions):
    run(*TRAINED)
    del seen[:]
    change(Path("nnUNet_results", DATASET, f"{GOOD}__3d_fullres"))
    run(*TRAINED)
    assert len(seen) == num_predictions


def test_chosen_subsets_alone_are_predicted_and_have_no_shares(seen):
    report = run(*TRAINED, "--subsets", "flair;FLAIR,t1ce")
    assert report["subsets"] == ["FLAIR", "T1ce+FLAIR"]
    assert len(seen) == 2 * 4 * 2
    assert report["models"][0]["shapley"] == {}
    assert report["figures"] == ["subsets"]


def test_a_case_without_any_of_the_sequences_is_an_empty_prediction(seen):
    write_image(0 * cubes()[1], Path("nnUNet_raw", DATASET, "imagesTr", "case_0_0001.nii.gz"))
    report = run(*TRAINED)
    assert report["models"][0]["mean_dice"]["FLAIR"] == {"whole": 3 / 4, "core": 0}
    assert len(seen) == 2 * (4 * 3 - 1)
    assert (False, False) not in {present for _, _, present in seen}


@pytest.mark.parametrize("model", [GOOD, POOR])
def test_modality_groups_are_those_of_the_first_cfnet_among_the_models(seen, model):
    architecture = {"network_class_name": CFNET, "arch_kwargs": {"modality_groups": [[0, 1], [1]]}}
    plans = {**PLANS, "configurations": {"3d_fullres": {"architecture": architecture}}}
    write_json(Path("nnUNet_results", DATASET, f"{model}__3d_fullres", "plans.json"), plans)
    other = {**plans, "cfnet_modality_groups": [["FLAIR"], ["T1ce"]]}
    other["configurations"] = {"3d_fullres": {"architecture": {**architecture, "arch_kwargs": {}}}}
    if model == GOOD:
        write_json(Path("nnUNet_results", DATASET, f"{POOR}__3d_fullres", "plans.json"), other)
    report = run(*TRAINED)
    short = report["names"][model]
    assert report["notes"][-1] == f"Modality groups: (T1ce, FLAIR) and (FLAIR) - of {short}, named by the plans file."
    assert report["means"]["mean of 1, without a whole group"] == ["T1ce"]


def test_modality_groups_that_do_not_fit_are_named_with_their_file(seen, capsys):
    architecture = {"network_class_name": CFNET, "arch_kwargs": {"modality_groups": [[0], [2]]}}
    plans = {**PLANS, "configurations": {"3d_fullres": {"architecture": architecture}}}
    write_json(Path("nnUNet_results", DATASET, f"{GOOD}__3d_fullres", "plans.json"), plans)
    run(*TRAINED, code=2)
    assert f"{GOOD}__3d_fullres/plans.json: modality_groups=[[0], [2]] in the plans file" in capsys.readouterr().err
    assert not seen


def test_zeros_in_place_of_sequences_are_claimed_of_trained_models_alone(seen):
    markdown = Path("cfnet_subsets/subsets.md")
    for flags, is_said in ((TRAINED, True), (GIVEN, False)):
        run(*flags)
        assert ("the others as images of zeros" in markdown.read_text()) == is_said
        assert ("counts as an empty prediction" in markdown.read_text()) == is_said


def test_predictions_from_elsewhere_have_the_same_figures(seen):
    of_trained = run(*TRAINED)["models"][0]
    records = Path("cfnet_subsets", RECORDS).read_bytes()
    (given,) = run(*GIVEN)["models"]
    assert given["mean_dice"] == of_trained["mean_dice"]
    assert given["shapley"] == of_trained["shapley"]
    assert Path("cfnet_subsets", RECORDS).read_bytes() == records
    assert not Path("cfnet_subsets", PROGRESS).exists()


@pytest.mark.host
def test_worker_processes_give_the_same_figures(seen, monkeypatch):
    one = run(*TRAINED)["models"]
    shutil.rmtree("cfnet_subsets")
    # one will do: each takes seconds to start
    monkeypatch.setattr(cases, "workers", lambda _, *arguments, **more: workers(1, *arguments, **more))
    assert run(*TRAINED, "-np", "2")["models"] == one


@pytest.mark.parametrize(
    ("break_it", "flags", "message"),
    [
        (
            lambda model: (model / "fold_1" / "checkpoint_final.pth").unlink(),
            TRAINED,
            "fold_1/checkpoint_final.pth is not there: copy it from where the model was trained.",
        ),
        (
            lambda model: os.truncate(file := model / "fold_1" / "checkpoint_final.pth", file.stat().st_size - 20),
            TRAINED,
            "fold_1/checkpoint_final.pth is damaged or cut off: copy it anew",
        ),
        (
            lambda model: write_json(model / "plans.json", {"dataset_name": DATASET}),
            TRAINED,
            "plans.json does not plan 3d_fullres (KeyError",
        ),
        (
            lambda model: write_json(model / "dataset.json", {**DATASET_JSON, "channel_names": {"0": "T1ce"}}),
            TRAINED,
            "have different channels, T1ce and T1ce, FLAIR: compare models",
        ),
        (
            lambda _: write_json(
                Path("good/dataset.json"), {**DATASET_JSON, "channel_names": {"0": "FLAIR", "1": "flair"}}
            ),
            GIVEN,
            "channel_names has FLAIR, flair several times",
        ),
        (
            lambda _: write_json(Path("other/dataset.json"), {**DATASET_JSON, "labels": {"background": 0, "core": 1}}),
            (*GIVEN[:2], "other=other", *GIVEN[2:]),
            "other/dataset.json and good/dataset.json have different labels",
        ),
        (
            lambda _: write_json(
                Path("other/dataset.json"), {**DATASET_JSON, "channel_names": {"0": "FLAIR", "1": "T1ce"}}
            ),
            (*GIVEN[:2], "other=other", *GIVEN[2:]),
            "other/dataset.json and good/dataset.json have different channels, FLAIR, T1ce and T1ce, FLAIR",
        ),
        (
            lambda _: Path("nnUNet_raw", DATASET, "imagesTr", "case_2_0001.nii.gz").unlink(),
            TRAINED,
            "1 of 4 cases do not have their 2 images there: case_2.",
        ),
        (
            lambda _: Path("nnUNet_raw", DATASET, "imagesTr", "case_2_0001.nii.gz").write_bytes(b"torn"),
            TRAINED,
            "case_2_0001.nii.gz can't be read",
        ),
        (
            lambda _: cut_off(Path("nnUNet_raw", DATASET, "imagesTr", "case_2_0001.nii.gz")),
            TRAINED,
            "case_2_0001.nii.gz can't be read (Compressed file ended before the end-of-stream marker was reached)",
        ),
        (
            lambda _: write_image(
                cubes()[0], Path("nnUNet_raw", DATASET, "imagesTr/case_2_0000.nii.gz"), Origin=(9, 0, 0)
            ),
            TRAINED,
            "case_2_0000.nii.gz lies elsewhere than",
        ),
        (
            lambda _: write_image(
                cubes()[1], Path("nnUNet_raw", DATASET, "imagesTr/case_2_0001.nii.gz"), Origin=(9, 0, 0)
            ),
            TRAINED,
            "case_2_0001.nii.gz lies elsewhere than",
        ),
        (lambda _: shutil.rmtree("good/FLAIR"), GIVEN, "good has no folder FLAIR, for what is predicted from"),
        (lambda _: Path("good/FLAIR/case_1.nii.gz").unlink(), GIVEN, "1 without a prediction in good/FLAIR: case_1"),
    ],
    ids=[
        *("checkpoint", "torn checkpoint", "plans", "channels", "names", "other labels", "other channels"),
        *("missing", "torn", "cut off", "geometry", "FLAIR", "folder", "case"),
    ],
)
def test_broken_files_are_named_before_anything_is_predicted_or_written(seen, capsys, break_it, flags, message):
    break_it(Path("nnUNet_results", DATASET, f"{POOR}__3d_fullres"))
    run(*flags, code=2)
    assert message in capsys.readouterr().err
    assert not Path("cfnet_subsets").exists()
    assert not seen


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ((*TRAINED, "--subsets", "T1ce;PET"), "'PET' is no channel of dataset.json, which has T1ce, FLAIR."),
        ((*TRAINED, "--folds", "0", "0"), "--folds 0 0: give each once."),
        ((*TRAINED, "--models", GOOD, GOOD), f"{GOOD} is given twice"),
        ((*TRAINED, "-np", "0"), "0 processes can't do anything"),
        ((*TRAINED, "-o", f"nnUNet_raw/{DATASET}/dataset.json"), "dataset.json is a file, and a folder"),
        (GIVEN[:2], "give either -d, -c and --models (and --names, --folds, -device, --disable_tta)"),
        ((*GIVEN, "--disable_tta"), "give either -d, -c and --models"),
    ],
)
def test_wrong_flags_are_named_and_nothing_is_written(seen, capsys, flags, message):
    run(*flags, code=2)
    assert message in capsys.readouterr().err
    assert not Path("cfnet_subsets").exists()


def test_a_cascade_is_refused(seen, capsys):
    for name in (GOOD, POOR):
        folder = Path("nnUNet_results", DATASET, f"{name}__3d_fullres")
        folder.rename(folder.with_name(f"{name}__3d_cascade_fullres"))
    run(*(flag.replace("3d_fullres", "3d_cascade_fullres") for flag in TRAINED), code=2)
    assert "takes the segmentations of 3d_lowres besides the images: evaluate 3d_lowres" in capsys.readouterr().err


def test_a_second_run_into_one_folder_is_refused(seen, capsys):
    with locked(Path("cfnet_subsets/subsets.json")):
        run(*TRAINED, code=2)
    assert "cfnet_subsets/subsets.json is being written by process" in capsys.readouterr().err


def test_few_voxels_of_enhancing_tumour_count_as_none():
    from nnunetv2_cfnet.report.collect_subsets import _with_large_enhancing

    brats = {"whole_tumor": (1, 2, 3), "tumor_core": (2, 3), "enhancing_tumor": (3,)}
    labelling = _with_large_enhancing(Labelling(brats))
    assert list(labelling.regions)[3:] == ["enhancing_tumor (none below 500 voxels)"]
    reference = SimpleNamespace(labels=np.zeros((10, 10, 10), np.uint8), spacing_mm=(1, 1, 1))
    for num_voxels, dice in ((499, 1), (500, 0)):
        prediction = np.zeros(1000, np.uint8)
        prediction[:num_voxels] = 3
        metrics = predict_subsets.metrics_of(reference, prediction.reshape(10, 10, 10), labelling)
        assert metrics["enhancing_tumor"]["dice"] == 0
        assert metrics["enhancing_tumor (none below 500 voxels)"]["dice"] == dice
    assert _with_large_enhancing(Labelling({"lesion": (1,)})).least_voxels == {}


def test_a_mean_over_subsets_is_the_mean_of_their_means_over_cases(make_subsets):
    comparison = make_subsets(1)
    model = with_means(comparison.models[0], comparison)
    scores = mean_dice(model, comparison)
    assert list(scores.index) == [*comparison.names, *comparison.means]
    assert scores.loc["mean of 15, all", "et"] == pytest.approx(scores.loc[comparison.names, "et"].mean())
    without = [name for name in comparison.names if "T1ce" not in name]
    assert scores.loc["mean of 7, without T1ce", "wt"] == pytest.approx(scores.loc[without, "wt"].mean())


def test_nothing_is_right_where_the_reference_is_empty(make_subsets):
    model = make_subsets(1).models[0]
    assert [dice_of_nothing(model, region) for region in ("wt", "et")] == [0, 3 / 12]


@pytest.mark.usefixtures("quick_drawing")
def test_the_report_of_brats_has_a_row_for_each_subset_and_mean_and_verdicts_on_means(
    make_subsets, tmp_path, monkeypatch
):
    monkeypatch.setattr(statistics, "bootstrap_interval", lambda *_: (0.01, 0.02))
    monkeypatch.setattr(statistics, "wilcoxon_p", lambda _: 0.5)
    names = {"model_0": "CFNet", "model_1": "U-Net"}
    write_subsets_report(make_subsets(2), names, tmp_path, tmp_path)
    sections = (tmp_path / "subsets.md").read_text().split("\n## ")
    assert [section.split("\n")[0] for section in sections[1:]] == [
        *("At a glance", "Dice of every subset", "Verdict", "What each sequence adds"),
        *("Cases, mean of 15, all", "All paired tests", "How it was computed", "Provenance"),
    ]
    assert sections[0].count("\n| ") == 2 + 4
    assert sections[2].count("\n| ") == 2 + 15
    assert sections[3].count("\n- mean of") == 4 * 2
    assert sections[6].count("\n| ") == 2 + 2 * (15 + 4)
    assert "CFNet against U-Net: Dice better in 8 of 8 means (" in sections[0]
    page = (tmp_path / "report.html").read_text()
    assert "| sequences | wt, CFNet | wt, U-Net | et, CFNet | et, U-Net |" in sections[0].replace("\\", "")
    assert '<th scope="colgroup" colspan="2">wt</th>' in page
    assert page.count("<img") == 2
    worst = mean_dice(make_subsets(2).models[1], replace(make_subsets(2), means={}))["wt"].min()
    assert f"U-Net, wt: from {worst:.3f} (" in page
    assert page.count('class="better"') == 2 * 4 * 2  # marks of the forest plot, verdicts
    assert page.count("<tr data-case=") == 12
    report = json.loads((tmp_path / "subsets.json").read_text())
    values = report["models"][0]["shapley"]["et"].values()
    of_all = report["models"][0]["mean_dice"]["T1+T1ce+T2+FLAIR"]["et"]
    assert sum(values) == pytest.approx(of_all - 3 / 12)
