import json
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path

import pytest

from nnunetv2_cfnet import cli
from nnunetv2_cfnet.files.lock import locked
from nnunetv2_cfnet.jobs.cross_validation import cross_validation
from nnunetv2_cfnet.jobs.preparation import prepare
from nnunetv2_cfnet.jobs.records import Records

MODEL = "Dataset001_Phantom/nnUNetTrainerCFNet_5epochs__nnUNetPlans__3d_fullres"


@pytest.fixture
def results(nnunet, tmp_path) -> Path:
    folder = tmp_path / "nnUNet_results"
    folder.mkdir()
    return folder


def run(*flags: object, code: int = 0) -> None:
    given = ("-d", 1, "-c", "3d_fullres", "-tr", "nnUNetTrainerCFNet_5epochs", "--folds", 0, 1, *flags)
    assert cli.main(["cross_validate", *map(str, given)]) == code


def test_the_folds_are_trained_into_the_users_results_and_put_together(nnunet, results):
    run("--npz")
    train = "nnUNetv2_train 1 3d_fullres {} -tr nnUNetTrainerCFNet_5epochs -p nnUNetPlans -device cpu --npz"
    assert nnunet.commands == [
        "nnUNetv2_extract_fingerprint -d 1 --verify_dataset_integrity",
        "nnUNetv2_plan_experiment -d 1",
        "nnUNetv2_preprocess -d 1 -plans_name nnUNetPlans -c 3d_fullres",
        train.format(0),
        train.format(1),
        "nnUNetv2_accumulate_crossval_results 1 -c 3d_fullres -tr nnUNetTrainerCFNet_5epochs -p nnUNetPlans -f 0 1",
    ]
    assert nnunet.results == [str(results)] * 2
    records = Records(results / MODEL)
    assert records.names() == ["preparation", "fold_0", "fold_1", "conclusion"]
    assert {records.read(name).state for name in records.names()} == {"done"}


def test_a_fold_that_failed_is_trained_again_alone(nnunet, results, capsys):
    nnunet.fails_at = "3d_fullres 0"
    run(code=2)
    captured = capsys.readouterr()
    assert "CUDA out of memory" in captured.out
    assert f"1 of 2 trainings are missing; nnunetv2_cfnet status {results / MODEL} says why" in captured.err
    assert Records(results / MODEL).read("conclusion").state == "failed"
    assert not [command for command in nnunet.commands if "accumulate" in command]
    nnunet.fails_at = None
    nnunet.commands.clear()
    run()
    assert [command.split()[0] for command in nnunet.commands] == [
        "nnUNetv2_train",
        "nnUNetv2_accumulate_crossval_results",
    ]
    assert nnunet.commands[0].endswith("--c")


def test_a_fold_that_the_datasets_own_splits_lack_is_named(nnunet, results, tmp_path, capsys):
    run("--prepare")
    splits = tmp_path / "nnUNet_preprocessed/Dataset001_Phantom/splits_final.json"
    splits.write_text(json.dumps(json.loads(splits.read_text())[:1]))
    run(code=2)
    assert f"--folds 0 1: there are 1 splits, from 0 on ({splits})." in capsys.readouterr().err


def test_other_folds_of_the_model_wait_for_those_that_are_trained(nnunet, results, capsys):
    with locked(results / MODEL / "jobs"):
        run("--folds", 2, code=2)
    assert f"{MODEL}/jobs is being written by process" in capsys.readouterr().err
    assert nnunet.commands == []


def test_a_preparation_waits_for_another_one_of_the_dataset(nnunet, results, tmp_path):
    which = (1, "3d_fullres", "nnUNetTrainerCFNet_5epochs", "nnUNetPlans")
    experiment = cross_validation(*which, folds=[0], npz=False, device="cpu")
    preprocessed = tmp_path / "nnUNet_preprocessed"
    preprocessed.mkdir()
    with ThreadPoolExecutor(1) as pool:
        with locked(preprocessed / "Dataset001_Phantom"):
            preparation = pool.submit(prepare, experiment)
            assert wait([preparation], timeout=0.5).done == set()
            assert nnunet.commands == []
        preparation.result(timeout=30)
    assert len(nnunet.commands) == 3


def test_a_summary_that_was_cut_short_is_made_again(nnunet, results):
    run()
    nnunet.commands.clear()
    (results / MODEL / "fold_1/validation/summary.json").write_text('{"mean": {')
    run()
    assert [command.split()[:4] for command in nnunet.commands if "train" in command] == [
        ["nnUNetv2_train", "1", "3d_fullres", "1"]
    ]


def test_splits_that_were_cut_short_are_named(nnunet, results, tmp_path, capsys):
    run("--prepare")
    splits = tmp_path / "nnUNet_preprocessed/Dataset001_Phantom/splits_final.json"
    splits.write_text('[{"tra')
    run(code=2)
    assert f"{splits} is no JSON" in capsys.readouterr().err


def test_a_gpu_is_needed_for_trainings_alone(nnunet, results, capsys):
    run("--prepare", "-device", "cuda")
    run("-device", "cuda", code=2)
    assert "-device cuda: torch finds no CUDA device here" in capsys.readouterr().err
    assert not Records(results / MODEL).names()
    run()
    run("-device", "cuda")


def test_preparing_alone_trains_nothing(nnunet, results):
    run("--prepare")
    assert [command.split()[0] for command in nnunet.commands] == [
        "nnUNetv2_extract_fingerprint",
        "nnUNetv2_plan_experiment",
        "nnUNetv2_preprocess",
    ]
    assert (results / MODEL / "plans.json").is_file()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("-tr", "Absent"), "nnU-Net finds no trainer Absent."),
        (("-p", "a__b"), "-p a__b: give the name of plans, as in nnUNetPlans."),
        (("-p", "../plans"), "-p ../plans: give the name of plans, as in nnUNetPlans."),
        (("-p", "Mine"), "Mine.json is not there: plan it first"),
        (("--folds", 1, 1), "--folds 1 1: give each once, from 0 on."),
        (("--folds", 4, 5), "--folds 4 5: there are 5 splits, from 0 on ("),
        (("-c", "3d_cascade_fullres"), "is trained on predictions of 3d_lowres: train it with nnU-Net's commands."),
    ],
)
def test_bad_input_is_named_and_nothing_is_run(nnunet, results, capsys, flags, message):
    run(*flags, code=2)
    assert message in capsys.readouterr().err
    assert nnunet.commands == []
    assert not list(results.iterdir())
