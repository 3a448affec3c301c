import os
import re
import shutil
import subprocess
import sysconfig
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from nnunetv2.evaluation.evaluate_predictions import save_summary_json
from PIL import Image

from nnunetv2_cfnet.demo import demo
from nnunetv2_cfnet.errors import UserError
from nnunetv2_cfnet.files.lock import locked
from nnunetv2_cfnet.jobs import steps

NNUNET_FOLDERS = ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")


class FakeNnUnet:
    """Stands in for `steps.run_command`: notes each command and leaves what nnU-Net's would leave."""

    def __init__(self) -> None:
        self.commands: list[list[str]] = []
        self.environments: list[dict[str, str]] = []
        self.fails_at: str | None = None  # a part of the command to fail at, after half of its work
        self.enhancing_of_first_case = {"Dice": float("nan"), "n_ref": 0}

    def __call__(self, command, environment, log, on_line) -> int:
        self.commands.append([Path(command[0]).name, *command[1:]])
        self.environments.append(environment)
        log.write_text(f"{command[0]} starts\nit talks\n")
        fails = self.fails_at is not None and self.fails_at in " ".join(command)
        work = demo.Workplace(Path(environment["nnUNet_raw"]).parent)
        name = Path(command[0]).name
        if name == "nnUNetv2_plan_and_preprocess":
            assert not work.preprocessed.exists()
            work.preprocessed.mkdir(parents=True)
            if not fails:
                (work.preprocessed / "nnUNetPlans.json").touch()
        elif name == "nnUNetv2_train":
            fold = work.fold(int(command[3]), command[5])
            (fold / "validation").mkdir(parents=True, exist_ok=True)
            with zipfile.ZipFile(fold / "checkpoint_latest.pth", "w") as checkpoint:
                checkpoint.writestr("data.pkl", "weights")
            if not fails:
                (fold / "validation" / "summary.json").touch()
        elif name == "nnUNetv2_predict":
            shutil.copytree(work.raw / "labelsTs", work.predictions)
            (work.predictions / "plans.json").touch()
        elif name == "nnUNetv2_evaluate_folder":
            cases = [self.metrics(0.75), self.metrics(1.0)]
            cases[0][(3,)] = self.enhancing_of_first_case
            mean = {(1, 2, 3): {"Dice": 0.875}, (2, 3): {"Dice": 0.875}, (3,): {"Dice": 1.0}}
            summary = {"metric_per_case": [{"metrics": metrics} for metrics in cases], "mean": mean}
            save_summary_json(summary, str(work.summary))
        elif name == "nnunetv2_cfnet":
            work.comparison.mkdir(exist_ok=True)
            work.report.touch()
        return 1 if fails else 0

    @staticmethod
    def metrics(dice: float) -> dict[tuple[int, ...], dict[str, float]]:
        return {region: {"Dice": dice, "n_ref": 100} for region in demo.REGIONS.values()}

    def names(self) -> list[str]:
        return [command[0] for command in self.commands]


@pytest.fixture
def nnunet(monkeypatch) -> FakeNnUnet:
    fake = FakeNnUnet()
    monkeypatch.setattr(steps, "run_command", fake)
    for module in (demo, steps):
        monkeypatch.setattr(module, "find_command", lambda name: f"/bin/{name}")
    monkeypatch.setattr(demo, "NUM_TRAINING", 1)
    monkeypatch.setattr(demo, "NUM_HELD_OUT", 2)
    monkeypatch.setattr(demo, "SHAPE", (20, 20, 20))
    return fake


ALL_STEPS = [
    "nnUNetv2_plan_and_preprocess",
    *["nnUNetv2_train"] * 4,
    "nnUNetv2_predict",
    "nnUNetv2_evaluate_folder",
    "nnunetv2_cfnet",
]


def test_runs_nnunets_commands_in_order_and_prints_them(nnunet, tmp_path, capsys):
    demo.run_demo(tmp_path / "out", "cpu")
    assert nnunet.names() == ALL_STEPS
    printed = capsys.readouterr().out
    assert "$ nnUNetv2_train 1 3d_fullres 0 -tr nnUNetTrainerCFNetDemo -device cpu\n" in printed
    assert "$ nnUNetv2_train 1 3d_fullres 1 -tr nnUNetTrainerCFNetDemo -device cpu\n" in printed
    assert "$ nnUNetv2_train 1 3d_fullres 1 -tr nnUNetTrainerCFNetDemoBaseline -device cpu\n" in printed
    predict = nnunet.commands[5]
    assert predict[predict.index("-f") + 1 : predict.index("-f") + 3] == ["0", "1"]


def test_shows_a_small_picture_and_dice_of_each_region_and_says_what_was_empty(nnunet, tmp_path, capsys):
    demo.run_demo(tmp_path / "out", "cpu")
    printed = capsys.readouterr().out
    assert "Dice on 2 held-out phantom cases, 2 folds ensembled:" in printed
    assert re.search(r"whole_tumor +0\.875\n", printed)
    note = "1 without this region, rightly predicted empty, left out of the mean"
    assert re.search(rf"enhancing_tumor +1\.000 +{note}\n", printed)
    picture = tmp_path / "out" / "demo.png"
    with Image.open(picture) as image:
        image.verify()
    assert picture.stat().st_size < 1_000_000


def test_says_what_was_predicted_where_the_reference_is_empty(nnunet, tmp_path, capsys):
    nnunet.enhancing_of_first_case = {"Dice": 0.0, "n_ref": 0}
    demo.run_demo(tmp_path / "out", "cpu")
    note = "1 without this region, but predicted with it, counted as 0"
    assert re.search(rf"enhancing_tumor +1\.000 +{note}\n", capsys.readouterr().out)


def test_users_folders_and_variables_are_left_alone(nnunet, tmp_path, monkeypatch):
    for name in NNUNET_FOLDERS:
        (tmp_path / "user" / name).mkdir(parents=True)
        monkeypatch.setenv(name, str(tmp_path / "user" / name))
    monkeypatch.setenv("nnUNet_extTrainer", "/users/trainers")
    monkeypatch.setenv("nnUNet_wandb_enabled", "1")
    before = dict(os.environ)
    demo.run_demo(tmp_path / "out", "cpu")
    assert dict(os.environ) == before
    assert not [path for path in (tmp_path / "user").rglob("*") if path.name not in NNUNET_FOLDERS]
    for environment in nnunet.environments:
        assert [environment[name] for name in NNUNET_FOLDERS] == [str(tmp_path / "out" / n) for n in NNUNET_FOLDERS]
        assert environment["nnUNet_extTrainer"] == "/users/trainers"
        assert environment["nnUNet_wandb_enabled"] == "0"


def test_a_second_run_finds_everything_done(nnunet, tmp_path, capsys):
    demo.run_demo(tmp_path / "out", "cpu")
    nnunet.commands.clear()
    capsys.readouterr()
    demo.run_demo(tmp_path / "out", "cpu")
    printed = capsys.readouterr().out
    assert nnunet.commands == []
    assert "Dataset001_Phantom is there already" in printed
    for step in (
        "plan_and_preprocess",
        "train_cfnet_fold_0",
        "train_baseline_fold_1",
        "predict",
        "evaluate",
        "compare",
    ):
        assert f"{step} is done already" in printed
    assert re.search(r"whole_tumor +0\.875", printed)


def run_again_after_failing_at(command, nnunet, out):
    """Only the second run's commands are left in the fake."""
    nnunet.fails_at = command
    with pytest.raises(UserError):
        demo.run_demo(out, "cpu")
    nnunet.fails_at = None
    nnunet.commands.clear()
    demo.run_demo(out, "cpu")


def test_an_interrupted_preprocessing_is_redone(nnunet, tmp_path):
    run_again_after_failing_at("plan_and_preprocess", nnunet, tmp_path / "out")  # the fake wants nothing left over
    assert nnunet.names() == ALL_STEPS


def test_an_interrupted_training_continues(nnunet, tmp_path):
    run_again_after_failing_at("nnUNetv2_train 1 3d_fullres 1", nnunet, tmp_path / "out")
    assert nnunet.names() == ALL_STEPS[2:]
    assert nnunet.commands[0][3] == "1"
    assert nnunet.commands[0][-1] == "--c"


def test_steps_after_a_redone_one_are_redone(nnunet, tmp_path):
    demo.run_demo(tmp_path / "out", "cpu")
    nnunet.commands.clear()
    shutil.rmtree(demo.Workplace(tmp_path / "out").fold(1))
    demo.run_demo(tmp_path / "out", "cpu")
    assert nnunet.names() == ALL_STEPS[2:]
    assert "--c" not in nnunet.commands[0]


def test_changed_data_are_trained_on_anew(nnunet, tmp_path):
    demo.run_demo(tmp_path / "out", "cpu")
    image = demo.Workplace(tmp_path / "out").raw / "imagesTr" / "phantom_tr_000_0000.nii.gz"
    status = image.stat()
    changed = bytearray(image.read_bytes())
    changed[4] ^= 1  # gzip's time
    image.write_bytes(changed)
    os.utime(image, ns=(status.st_atime_ns, status.st_mtime_ns))
    nnunet.commands.clear()
    demo.run_demo(tmp_path / "out", "cpu")
    assert nnunet.names() == ALL_STEPS
    assert not [command for command in nnunet.commands if "--c" in command]  # from what older data left


def test_a_second_demo_in_one_folder_is_refused(nnunet, tmp_path):
    out = tmp_path / "out"
    demo.claim_folder(out)
    with locked(out / "demo.png"), pytest.raises(UserError, match=r"out/demo\.png is being written by process"):
        demo.run_demo(out, "cpu")
    assert nnunet.commands == []
    demo.run_demo(out, "cpu")


def test_a_failing_command_is_shown_with_its_log(nnunet, tmp_path):
    nnunet.fails_at = "nnUNetv2_predict"
    with pytest.raises(UserError, match="nnUNetv2_predict failed with exit code 1") as error:
        demo.run_demo(tmp_path / "out", "cpu")
    assert "it talks" in str(error.value)
    assert str(tmp_path / "out" / "logs" / "predict.log") in str(error.value)


def test_a_device_that_is_not_there_is_refused_before_anything_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match="-device cuda: torch finds no CUDA device here; choose -device cpu"):
        demo.run_demo(tmp_path / "out", "cuda")
    assert not (tmp_path / "out").exists()


def test_absent_nnunet_commands_are_named_before_anything_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda *args, **kwargs: None)
    with pytest.raises(UserError, match=r'nnUNetv2_plan_and_preprocess is neither in .* pip install "nnunetv2'):
        demo.run_demo(tmp_path / "out", "cpu")
    assert not (tmp_path / "out").exists()


def test_a_folder_with_other_files_is_refused(nnunet, tmp_path):
    (tmp_path / "nnUNet_raw").mkdir()
    with pytest.raises(UserError, match="holds files that are not the demo's; choose a new or empty folder with -o"):
        demo.run_demo(tmp_path, "cpu")
    assert [path.name for path in tmp_path.iterdir()] == ["nnUNet_raw"]


def test_a_file_in_the_folders_place_is_refused(nnunet, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="file is a file, and a folder is to be written there: choose another -o"):
        demo.run_demo(tmp_path / "file", "cpu")


@pytest.mark.slow
def test_demo_learns_on_cpu(tmp_path):
    """The real thing; a second run finds everything done."""
    command = [str(Path(sysconfig.get_path("scripts")) / "nnunetv2_cfnet"), "demo"]
    command += ["-o", str(tmp_path / "out"), "-device", "cpu"]
    first = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    print(first.stdout.splitlines()[-1])  # how long it took: shown by pytest -s, asserted by nobody
    assert first.returncode == 0, first.stdout + first.stderr
    match = re.search(r"whole_tumor +([\d.]+)", first.stdout)
    assert match is not None
    assert float(match[1]) > 0.6
    with Image.open(tmp_path / "out" / "demo.png") as image:
        assert np.asarray(image).std() > 0  # decodes, and is not blank
    assert (tmp_path / "out" / "demo.png").stat().st_size < 1_000_000

    second = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert second.returncode == 0, second.stdout + second.stderr
    assert second.stdout.count("already") == 9
    assert "$ nnUNetv2" not in second.stdout
