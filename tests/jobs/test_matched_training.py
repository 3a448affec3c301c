import json
from pathlib import Path

import pytest

from nnunetv2_cfnet import cli
from nnunetv2_cfnet.files.lock import locked
from nnunetv2_cfnet.jobs import epochs

DATASET = "Dataset001_Phantom"
CFNET, UNET = "nnUNetTrainerCFNet_5epochs", "nnUNetTrainer_5epochs"


def run(tmp_path: Path, *flags: object, code: int = 0) -> None:
    given = ("-d", 1, "-o", tmp_path / "out", *flags)
    assert cli.main(["benchmark", *map(str, given)]) == code


def test_plans_preprocesses_trains_and_compares(nnunet, tmp_path):
    run(tmp_path, "--epochs", 5, "--folds", 0, 1, "-np", 3)
    models = [(CFNET, "nnUNetPlans"), (UNET, "nnUNetPlans"), (UNET, "nnUNetResEncUNetMPlans")]
    assert nnunet.commands == [
        "nnUNetv2_extract_fingerprint -d 1 --verify_dataset_integrity",
        "nnUNetv2_plan_experiment -d 1",
        "nnUNetv2_plan_experiment -pl nnUNetPlannerResEncM -d 1",
        "nnUNetv2_preprocess -d 1 -plans_name nnUNetPlans -c 3d_fullres",  # once: the plans share their data
        *(
            f"nnUNetv2_train 1 3d_fullres {fold} -tr {trainer} -p {plans} -device cpu"
            for trainer, plans in models
            for fold in (0, 1)
        ),
    ]
    assert nnunet.compared == {
        "dataset_id": 1,
        "configuration": "3d_fullres",
        "names": [f"{trainer}__{plans}" for trainer, plans in models],
        "folds": [0, 1],
        "out": tmp_path / "out" / "comparison",
        "num_processes": 3,
        "results": [tmp_path / "out" / "replicate_0"],
    }


def test_each_replicate_is_trained_in_its_own_results_folder(nnunet, tmp_path):
    run(tmp_path, "--epochs", 5, "--folds", 0, "--replicates", 2, "--trainers", "nnUNetTrainerCFNet", "nnUNetTrainer")
    replicates = [str(tmp_path / "out" / f"replicate_{number}") for number in (0, 1)]
    assert nnunet.results == [replicates[0]] * 2 + [replicates[1]] * 2
    assert list(map(str, nnunet.compared["results"])) == replicates
    assert not (tmp_path / "nnUNet_results").exists()


def test_a_stopped_benchmark_goes_on(nnunet, tmp_path, capsys):
    flags = ("--epochs", 5, "--folds", 0, "--trainers", "nnUNetTrainerCFNet", "nnUNetTrainer")
    nnunet.fails_at = f"-tr {UNET}"
    run(tmp_path, *flags, code=2)
    printed = capsys.readouterr().out
    assert "nnUNetv2_train failed with exit code 1" in printed
    assert "CUDA out of memory" in printed
    assert "the same command continues with this step" in printed
    assert nnunet.compared is None
    nnunet.commands.clear()
    nnunet.fails_at = None
    run(tmp_path, *flags)
    assert nnunet.commands == [f"nnUNetv2_train 1 3d_fullres 0 -tr {UNET} -p nnUNetPlans -device cpu --c"]
    assert f"replicate_0, {CFNET}__nnUNetPlans, fold 0 is done already" in capsys.readouterr().out


def test_a_second_benchmark_in_one_folder_is_refused_and_trains_nothing(nnunet, tmp_path, capsys):
    with locked(tmp_path / "out" / "jobs"):
        run(tmp_path, "--epochs", 5, code=2)
        run(tmp_path, "--epochs", 5, "--dry-run")
    assert "out/jobs is being written by process" in capsys.readouterr().err
    assert nnunet.commands == []


def test_a_dry_run_prints_the_commands_and_does_nothing(nnunet, tmp_path, capsys):
    run(tmp_path, "--epochs", 5, "--folds", 0)
    expected, nnunet.compared = [*nnunet.commands], None
    nnunet.commands.clear()
    (tmp_path / "out").rename(tmp_path / "elsewhere")
    (tmp_path / "nnUNet_preprocessed" / DATASET).rename(tmp_path / "preprocessed")
    capsys.readouterr()
    run(tmp_path, "--epochs", 5, "--folds", 0, "--dry-run")
    printed = capsys.readouterr().out.splitlines()
    assert [line for line in printed if line.startswith("nnUNetv2")] == expected
    assert f"export nnUNet_results={tmp_path / 'out' / 'replicate_0'}" in printed
    assert (nnunet.commands, nnunet.compared) == ([], None)
    assert not (tmp_path / "out").exists()


def test_a_dry_run_may_be_for_a_machine_with_a_gpu(nnunet, tmp_path, capsys):
    run(tmp_path, "--epochs", 5, "-device", "cuda", "--dry-run")
    assert "-p nnUNetPlans -device cuda\n" in capsys.readouterr().out
    run(tmp_path, "--epochs", 5, "-device", "cuda", code=2)
    assert "torch finds no CUDA device here; choose -device cpu (or auto)" in capsys.readouterr().err


PUBLISHED = "nnUNetTrainerCFNetPublished"


@pytest.mark.parametrize(
    ("trainers", "num_epochs", "matched"),
    [
        (["nnUNetTrainerCFNet", "nnUNetTrainer"], None, ["nnUNetTrainerCFNet", "nnUNetTrainer"]),
        (["nnUNetTrainerCFNet", "nnUNetTrainer"], 1000, ["nnUNetTrainerCFNet", "nnUNetTrainer"]),
        ([PUBLISHED, f"{PUBLISHED}ImageNet"], 200, [PUBLISHED, f"{PUBLISHED}ImageNet"]),
        (["nnUNetTrainerCFNet", "nnUNetTrainer_5epochs"], 5, ["nnUNetTrainerCFNet_5epochs", "nnUNetTrainer_5epochs"]),
        (
            ["nnUNetTrainerCFNet", "nnUNetTrainer_250epochs_NoMirroring"],
            250,
            ["nnUNetTrainerCFNet_250epochs", "nnUNetTrainer_250epochs_NoMirroring"],
        ),
    ],
)
def test_a_trainer_that_has_so_many_epochs_itself_is_taken_as_it_is(trainers, num_epochs, matched):
    assert list(epochs.matched(trainers, num_epochs)[0].values()) == matched


def test_the_published_network_is_benchmarked_in_2d(nnunet, tmp_path, capsys):
    trainers = ("--trainers", PUBLISHED, "nnUNetTrainer", "--epochs", 250)
    run(tmp_path, *trainers, "-c", "2d", "--folds", 0, "--dry-run")
    printed = capsys.readouterr().out
    assert f"nnUNetv2_train 1 2d 0 -tr {PUBLISHED}_250epochs -p nnUNetPlans -device cpu\n" in printed
    assert "nnUNetv2_train 1 2d 0 -tr nnUNetTrainer_250epochs -p nnUNetPlans -device cpu\n" in printed
    run(tmp_path, *trainers, code=2)
    message = f"-c 3d_fullres: {PUBLISHED}_250epochs is of the published CFNet, which is 2D: give -c 2d."
    assert message in capsys.readouterr().err


def test_plans_that_a_trainer_would_refuse_stop_before_anything_is_trained(nnunet, tmp_path, capsys):
    nnunet.plans["configurations"]["2d"]["patch_size"] = [40, 32]  # 8, which the U-Net asks for, divides it
    trainers = ("--trainers", "nnUNetTrainer", PUBLISHED, "--epochs", 5)
    run(tmp_path, *trainers, "-c", "2d", "--folds", 0, code=2)
    message = capsys.readouterr().err
    assert f"{PUBLISHED}_5epochs can't be trained with {tmp_path}" in message
    assert "patch_size [40, 32] has 40 voxels on axis 0, which the strides' product 16 does not divide" in message
    assert [command.split()[0] for command in nnunet.commands] == [
        "nnUNetv2_extract_fingerprint",
        "nnUNetv2_plan_experiment",
    ]


def test_a_dataset_that_nnunet_would_stop_at_runs_nothing(nnunet, tmp_path, capsys):
    file = tmp_path / "nnUNet_raw" / DATASET / "dataset.json"
    dataset_json = json.loads(file.read_text())
    dataset_json["labels"] = {"background": 0, "whole": [1, 2], "core": [2]}
    dataset_json.pop("regions_class_order", None)
    file.write_text(json.dumps(dataset_json))
    run(tmp_path, code=2)
    assert "you need to define regions_class_order!" in capsys.readouterr().err
    assert nnunet.commands == []


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            ("--epochs", 7),
            "--epochs 7: nnUNetTrainerCFNet, nnUNetTrainer can't be trained for so many. With these trainers, --epochs "
            "can be 1, 5, 10, 20, 50, 100, 250, 500, 750, 1000, 2000, 4000, 8000.",
        ),
        (("--epochs", 0), "--epochs 0: nnUNetTrainerCFNet, nnUNetTrainer can't be trained for so many."),
        (("--trainers", "nnUNetTrainer"), "--trainers nnUNetTrainer__nnUNetPlans: give two models or more"),
        (("--trainers", "nnUNetTrainer", "nnUNetTrainer"), "give two models or more, each once"),
        (("--trainers", "nnUNetTrainer", "Absent"), "nnU-Net finds no trainer Absent."),
        (("--trainers", "A__B__3d_fullres", "nnUNetTrainer"), "give TRAINER or TRAINER__PLANS"),
        (
            ("--trainers", "nnUNetTrainer", "nnUNetTrainerBN", "--epochs", 5),
            "--epochs 5: nnUNetTrainerBN can't be trained for so many. With these trainers, --epochs can be 1000.",
        ),
        (("--trainers", "nnUNetTrainer", "nnUNetTrainerCFNet__Mine"), "Mine.json is not there: plan it first"),
        (
            ("--trainers", "nnUNetTrainerCFNet", "nnUNetTrainer_5epochs"),
            "different numbers of epochs (nnUNetTrainerCFNet 1000, nnUNetTrainer_5epochs 5), models can't be compared. "
            "With these trainers, --epochs can be 5.",
        ),
        (
            ("--trainers", PUBLISHED, "nnUNetTrainer"),
            "(nnUNetTrainerCFNetPublished 200, nnUNetTrainer 1000), models can't be compared. With these trainers, "
            "--epochs can be 1, 5, 10, 20, 50, 100, 250, 500, 750, 2000, 4000, 8000.",
        ),
        (
            ("--trainers", PUBLISHED, "nnUNetTrainer", "--epochs", 200),
            "--epochs 200: nnUNetTrainer can't be trained for so many. With these trainers, --epochs can be 1, 5, 10, ",
        ),
        (
            ("--trainers", PUBLISHED, "nnUNetTrainerBN"),
            "CFNetPublished 200, nnUNetTrainerBN 1000), models can't be compared. Choose other --trainers.",
        ),
        (("-c", "foo"), "-c foo: nnUNetPlans can have 2d, 3d_fullres, 3d_lowres."),
        (("-np", 0), "0 processes can't do anything: give -np at least 1."),
        (("--replicates", 0), "--replicates 0: give at least 1."),
        (("--folds", 1, 1), "--folds 1 1: give each once"),
        (("-c", "3d_cascade_fullres"), "is trained on predictions of 3d_lowres"),
        (("-d", 9), "Could not find a dataset with the ID 9"),
    ],
)
def test_bad_input_is_named_and_nothing_is_run(nnunet, tmp_path, capsys, flags, message):
    run(tmp_path, *flags, code=2)
    assert message in capsys.readouterr().err
    assert nnunet.commands == []
    assert not (tmp_path / "out").exists()


def test_plans_without_the_configuration_are_named(nnunet, tmp_path, capsys):
    run(tmp_path, "--epochs", 5, "--folds", 0)
    run(tmp_path, "--epochs", 5, "--folds", 0, "-c", "3d_lowres", code=2)
    assert "nnUNetPlans.json has no configuration 3d_lowres: choose another one with -c." in capsys.readouterr().err


def test_plans_that_name_data_of_another_folder_run_nothing(nnunet, tmp_path, capsys):
    """nnUNetv2_preprocess would empty it."""
    run(tmp_path, "--epochs", 5, "--folds", 0)
    nnunet.plans["configurations"]["3d_fullres"]["data_identifier"] = "../outside"
    (tmp_path / "nnUNet_preprocessed" / DATASET / "nnUNetPlans.json").write_text(json.dumps(nnunet.plans))
    nnunet.commands.clear()
    run(tmp_path, "--epochs", 5, "--folds", 0, code=2)
    assert "nnUNetPlans.json: data_identifier of '3d_fullres' is '../outside', and must be" in capsys.readouterr().err
    assert nnunet.commands == []


def test_a_search_that_stops_is_one_message(nnunet, tmp_path, monkeypatch, capsys):
    def stop(name: str) -> None:
        raise SystemExit(3)  # as a module on nnUNet_extTrainer may

    monkeypatch.setattr(epochs, "_num_epochs", epochs._num_epochs.__wrapped__)
    monkeypatch.setattr(epochs, "find_trainer", stop)
    run(tmp_path, code=2)
    assert "search for nnUNetTrainerCFNet stops with SystemExit: 3. To find the module, run: nnunetv2_cfnet doctor" in (
        capsys.readouterr().err
    )
