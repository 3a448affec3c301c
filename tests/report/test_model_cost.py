"""Costs and curves of model folders: what a training step is given, what is measured, what is read from logs."""

import json
import mmap
import os
import re
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from subprocess import CompletedProcess

import numpy as np
import pytest
import torch
from children import ends
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from nnunetv2_cfnet.architecture.cost import count_parameters, count_saved_bytes
from nnunetv2_cfnet.errors import UserError
from nnunetv2_cfnet.report import training_step
from nnunetv2_cfnet.report.comparison import Cost, Curves
from nnunetv2_cfnet.report.model_cost import LOGGED, MARK, cost_of, measure_cost, read_logs
from nnunetv2_cfnet.report.training_step import forward_flops, make_trainer, random_batch, take_first_step

REGIONS = {
    "labels": {"background": 0, "whole": [1, 2, 3], "core": [2, 3], "enhancing": [3]},
    "regions_class_order": [1, 2, 3],
}
IGNORE = {"labels": {"background": 0, "oedema": 1, "core": 2, "ignore": 3}}
REGIONS_AND_IGNORE = {**REGIONS, "labels": {**REGIONS["labels"], "ignore": 4}}
DATA = Path(__file__).parents[1] / "data"
NNUNET_FOLDERS = ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")


@pytest.fixture
def make_model(tmp_path, make_plans, dataset_json):
    """Makes a model folder without a training; the patch is small."""

    def make(trainer: str, configuration: str, dataset: dict | None = None, patch: int = 16) -> Path:
        folder = tmp_path / "models" / f"{trainer}__nnUNetPlans__{configuration}"
        folder.mkdir(parents=True)
        plans = make_plans()
        del plans["continue_training"]  # the key is never in a model folder
        for entry in plans["configurations"].values():
            if "patch_size" in entry:
                entry["patch_size"] = [patch] * len(entry["patch_size"])
        (folder / "plans.json").write_text(json.dumps(plans))
        (folder / "dataset.json").write_text(json.dumps({**dataset_json, **(dataset or {})}))
        return folder

    return make


@pytest.fixture
def own_folders(tmp_path, monkeypatch):
    """nnU-Net's folders of the user; nothing may be written there."""
    for name in NNUNET_FOLDERS:
        monkeypatch.setenv(name, str(tmp_path / "own"))
    return tmp_path / "own"


@pytest.fixture
def make_initialised(make_model, tmp_path, monkeypatch):
    """Makes the initialised trainer of a new model folder, with nnU-Net's folders in a temporary one."""
    for name in NNUNET_FOLDERS:
        monkeypatch.setenv(name, str(tmp_path / "nnunet"))

    def make(trainer: str, configuration: str, dataset: dict | None = None) -> nnUNetTrainer:
        made = make_trainer(make_model(trainer, configuration, dataset), configuration, "cpu")
        made.initialize()
        return made

    return make


@pytest.mark.host
def test_a_fresh_process_measures_the_trainer_that_the_folder_names(make_model, own_folders):
    folder = make_model("nnUNetTrainerCFNet", "3d_fullres", REGIONS, patch=32)
    before = {file.name: file.read_text() for file in folder.iterdir()}
    cost = measure_cost(folder, "3d_fullres", "cpu")
    assert {file.name: file.read_text() for file in folder.iterdir()} == before
    assert not own_folders.exists()

    own_folders.mkdir()
    made = make_trainer(folder, "3d_fullres", "cpu")
    with torch.device("meta"):
        network = made.build_network_architecture(
            made.plans_manager, made.configuration_manager, 4, made.label_manager.num_segmentation_heads
        )
    assert cost.parameters == count_parameters(network)
    assert cost.forward_flops == forward_flops(made) > 0
    assert (cost.device, cost.epoch_s, cost.notes) == ("cpu, resident memory", None, ())
    # what backward needs; weights, gradients and momentum; and beyond that no interpreter, no import of torch
    held = count_saved_bytes(network, 4, (32, 32, 32), batch_size=2) + 3 * 4 * cost.parameters
    assert held < cost.step_peak_bytes < 2 * held + 100e6


@pytest.mark.parametrize(
    ("dataset", "channels", "dtype"),
    [({}, 1, torch.int16), (IGNORE, 1, torch.int16), (REGIONS, 3, torch.bool), (REGIONS_AND_IGNORE, 4, torch.bool)],
    ids=["labels", "ignore", "regions", "regions and ignore"],
)
def test_targets_are_those_of_the_dataset_at_every_scale(make_initialised, dataset, channels, dtype):
    trainer = make_initialised("nnUNetTrainer", "3d_fullres", dataset)
    batch = random_batch(trainer)
    assert batch["data"].shape == (2, 4, 16, 16, 16)
    assert [target.shape for target in batch["target"]] == [(2, channels, size, size, size) for size in (16, 8, 4)]
    assert {target.dtype for target in batch["target"]} == {dtype}
    finest = batch["target"][0]
    if dtype == torch.bool:
        assert finest.any(dim=(0, 2, 3, 4)).all()
    else:
        assert finest.unique().tolist() == [0, 1, 2, 3]
    assert np.isfinite(trainer.train_step(batch)["loss"])


def test_a_cascade_sees_the_previous_stage_as_channels(make_initialised):
    trainer = make_initialised("nnUNetTrainerCFNet", "3d_cascade_fullres")
    batch = random_batch(trainer)
    assert batch["data"].shape == (2, 4 + 3, 16, 16, 16)
    assert set(batch["data"][:, 4:].unique().tolist()) == {0, 1}
    assert np.isfinite(trainer.train_step(batch)["loss"])


@pytest.mark.parametrize("trainer", ["nnUNetTrainerNoDeepSupervision", "nnUNetTrainerCFNetPublished"])
def test_without_deep_supervision_there_is_one_target(make_initialised, trainer):
    trainer = make_initialised(trainer, "2d")
    batch = random_batch(trainer)
    assert batch["target"].shape == (2, 1, 16, 16)
    trainer.network.train()
    assert np.isfinite(trainer.train_step(batch)["loss"])


def test_flops_are_those_of_prediction(make_initialised):
    trainer = make_initialised("nnUNetTrainer", "2d")
    trainer.set_deep_supervision_enabled(False)
    with torch.utils.flop_counter.FlopCounterMode(display=False) as counter, torch.no_grad():
        trainer.network(torch.zeros(1, 4, 16, 16))
    assert forward_flops(trainer) == counter.get_total_flops()


def findings(output: str) -> dict:
    lines = [json.loads(line.removeprefix(MARK)) for line in output.splitlines() if line.startswith(MARK)]
    return {key: value for line in lines for key, value in line.items()}


def test_flops_that_can_not_be_counted_stop_nothing(make_model, own_folders, monkeypatch, capsys):
    def fail(trainer):
        raise NotImplementedError("nothing\nfor meta")

    monkeypatch.setattr(training_step, "forward_flops", fail)
    training_step.measure(make_model("nnUNetTrainer", "2d"), "2d", "cpu")
    found = findings(capsys.readouterr().out)
    assert found.pop("note") == "FLOPs could not be counted: NotImplementedError: nothing for meta"
    assert found.keys() == {"parameters", "step_peak_bytes", "device"}


@pytest.mark.parametrize("trainer", ["nnUNetTrainer", "nnUNetTrainerCFNet"])
def test_plans_that_name_no_layer_call_nothing(make_model, own_folders, tmp_path, trainer):
    folder, witness = make_model(trainer, "2d"), tmp_path / "witness"
    plans = json.loads((folder / "plans.json").read_text())
    change = {"nonlin": "os.mkdir", "nonlin_kwargs": {"path": str(witness)}}
    plans["configurations"]["2d"]["architecture"]["arch_kwargs"] |= change
    (folder / "plans.json").write_text(json.dumps(plans))
    with pytest.raises(ValueError, match=r"nonlin='os\.mkdir' is no network or layer"):
        training_step.measure(folder, "2d", "cpu")
    assert not witness.exists()


def test_data_of_another_folder_are_not_made(make_model, own_folders, tmp_path):
    folder = make_model("nnUNetTrainer", "2d")
    plans = json.loads((folder / "plans.json").read_text())
    plans["configurations"]["2d"]["data_identifier"] = str(tmp_path / "outside")
    (folder / "plans.json").write_text(json.dumps(plans))
    with pytest.raises(UserError, match=r"plans\.json: data_identifier of '2d' is .*outside"):
        training_step.measure(folder, "2d", "cpu")
    assert not (tmp_path / "outside").exists()


def test_plans_of_a_trained_model_are_to_be_copied_anew_not_planned(make_model, own_folders):
    folder = make_model("nnUNetTrainer", "2d")
    (folder / "plans.json").write_text("{}")
    with pytest.raises(UserError, match=r"has no configurations\. Copy it anew from where the model was trained\.$"):
        training_step.measure(folder, "2d", "cpu")


def test_a_plain_unet_that_no_machine_could_train_is_not_built(make_model, own_folders):
    folder = make_model("nnUNetTrainer", "2d")
    plans = json.loads((folder / "plans.json").read_text())
    plans["configurations"]["2d"]["architecture"]["arch_kwargs"]["n_conv_per_stage"] = 10**9
    (folder / "plans.json").write_text(json.dumps(plans))
    with pytest.raises(ValueError, match="n_conv_per_stage asks for more than 1000 layers"):
        training_step.measure(folder, "2d", "cpu")


def test_parameters_and_flops_are_printed_where_memory_runs_out(make_model, own_folders, monkeypatch, capsys):
    def fail(trainer, batch):
        raise MemoryError

    monkeypatch.setattr(nnUNetTrainer, "train_step", fail)
    with pytest.raises(MemoryError):
        training_step.measure(make_model("nnUNetTrainer", "2d"), "2d", "cpu")
    assert findings(capsys.readouterr().out).keys() == {"forward_flops", "parameters"}


class ScaledTrainer:
    """Its gradients overflow for so many steps; its gradient scaling, itself, halves the scale with each."""

    def __init__(self, overflows: int) -> None:
        self.overflows, self.scale, self.steps, self.grad_scaler = overflows, 65536.0, 0, self

    def get_scale(self) -> float:
        return self.scale

    def train_step(self, batch: dict) -> None:
        self.steps += 1
        if self.steps <= self.overflows:
            self.scale /= 2


def test_steps_that_gradient_scaling_skips_do_not_count():
    trainer = ScaledTrainer(overflows=3)
    take_first_step(trainer, {})
    assert trainer.steps == 4
    with pytest.raises(RuntimeError, match="gradients overflow in each of 20 training steps"):
        take_first_step(ScaledTrainer(overflows=100), {})


def test_resident_memory_and_its_peak_follow_what_is_held():
    size = 64 * 2**20
    before, _ = training_step.resident_bytes()
    with mmap.mmap(-1, size) as block:
        block.write(b"x" * size)
        held, _ = training_step.resident_bytes()
    after, peak = training_step.resident_bytes()
    assert held - before > 0.9 * size
    assert peak >= held - 2**20  # the kernel counts in batches
    if sys.platform == "linux":
        assert after - before < 0.1 * size


def test_a_failure_ends_in_one_line(monkeypatch, capsys):
    def fail(*_):
        raise RuntimeError("CUDA error:\n  out of luck")

    monkeypatch.setattr(training_step, "measure", fail)
    monkeypatch.setattr(training_step, "Path", lambda name: Path(name.replace("/proc/self", "/nowhere")))
    monkeypatch.setattr("sys.argv", ["training_step", "folder", "2d", "cuda"])
    with pytest.raises(SystemExit) as stop:
        training_step.main()
    assert stop.value.code == "RuntimeError: CUDA error: out of luck"
    assert "Traceback" in capsys.readouterr().err


def test_a_measurement_ends_with_the_process_that_started_it(tmp_path):
    python, pid = tmp_path / "python", tmp_path / "pid"
    python.write_text(f"#!/bin/sh\necho $$ > {pid}.new\nmv {pid}.new {pid}\nexec sleep 100\n")
    python.chmod(0o755)
    program = f"""
import pathlib, sys
from nnunetv2_cfnet.report.model_cost import measure_cost
sys.executable = {str(python)!r}
measure_cost(pathlib.Path("model"), "2d", "cpu")
"""
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    with subprocess.Popen([sys.executable, "-c", program], env=environment) as process:
        while not pid.exists():
            assert process.poll() is None
            time.sleep(0.05)
        process.kill()
    assert ends(int(pid.read_text()))


def outcome(returncode: int, stdout: str = "", stderr: str = "") -> CompletedProcess:
    return CompletedProcess([], returncode, stdout, stderr)


def test_findings_are_read_among_what_nnunet_prints():
    stdout = (
        f'Using device: cpu\n{MARK}{{"forward_flops": 12}}\n2026: a line without an end{MARK}{{"parameters": 3}}\n'
        f'{MARK}{{"step_peak_bytes": 4, "device": "cpu, resident memory"}}\n'
    )
    assert cost_of(outcome(0, stdout), "cpu") == Cost(3, 12, None, 4, "cpu, resident memory")


@pytest.mark.parametrize(
    ("returncode", "stderr", "cause"),
    [
        (1, "Traceback\n  ..\nRuntimeError: no such trainer\n\n", "RuntimeError: no such trainer"),
        (-9, "a warning\n", "killed by SIGKILL, most likely because memory ran out."),
        (-11, "", "killed by SIGSEGV."),
        (3, "", "exit code 3."),
    ],
)
def test_a_failed_measurement_is_a_note(returncode, stderr, cause):
    cost = cost_of(outcome(returncode, f'{MARK}{{"parameters": 3}}\n', stderr), "cuda")
    assert cost == Cost(parameters=3, device="cuda", notes=(f"A training step could not be measured: {cause}",))


def write_checkpoint(model_folder: Path, fold: int | str, durations: list[float], **more: object) -> Path:
    """As nnU-Net's trainer saves it, with epochs of these seconds."""
    starts = [1000.0 * epoch for epoch in range(len(durations))]
    logging = {
        "mean_fg_dice": [np.float64(0.1 * epoch) for epoch in range(len(durations))],
        "ema_fg_dice": [0.0] * len(durations),
        "train_losses": [np.float32(-epoch) for epoch in range(len(durations))],
        "val_losses": [np.float32(-epoch / 2) for epoch in range(len(durations))],
        "epoch_start_timestamps": starts,
        "epoch_end_timestamps": [start + duration for start, duration in zip(starts, durations, strict=True)],
    }
    checkpoint = model_folder / f"fold_{fold}" / "checkpoint_final.pth"
    checkpoint.parent.mkdir(parents=True)
    init_args = {"device": torch.device("cpu")}
    torch.save(
        {"network_weights": {"w": torch.ones(9)}, "init_args": init_args, "logging": logging, **more}, checkpoint
    )
    return checkpoint


def test_epoch_time_is_the_median_of_all_epochs_but_each_folds_first(tmp_path):
    write_checkpoint(tmp_path / "a", 0, [99, 5, 1])
    write_checkpoint(tmp_path / "a", 1, [99, 2])
    write_checkpoint(tmp_path / "b", 0, [99, 10])
    write_checkpoint(tmp_path / "b", 1, [99])
    logs = read_logs([tmp_path / "a", tmp_path / "b"], [0, 1])
    assert logs.epoch_s == (2 + 5) / 2  # of 1, 2, 5, 10
    assert logs.notes == ()
    curves = [(curves.fold, len(curves.train_losses)) for curves in logs.curves]
    assert curves == [("0", 3), ("1", 2), ("0", 2), ("1", 1)]


def test_curves_are_those_that_the_trainer_logged(tmp_path):
    write_checkpoint(tmp_path, "all", [1, 1, 1])
    (curves,) = read_logs([tmp_path], ["all"]).curves
    assert curves == Curves("all", [0, -1, -2], [0, -0.5, -1], pytest.approx([0, 0.1, 0.2]))
    assert {type(value) for value in curves.train_losses} == {float}  # JSON takes no numpy numbers


def test_numpys_numbers_of_any_width_and_release_are_read(tmp_path):
    losses = [np.float16(1), np.float64(2), np.int64(3)]
    checkpoint = write_checkpoint(tmp_path, 0, [1, 1, 1], _best_ema=np.float64(0.5))
    content = torch.load(checkpoint, weights_only=False)
    content["logging"]["train_losses"] = losses
    torch.save(content, checkpoint)
    assert read_logs([tmp_path], [0]).curves[0].train_losses == [1, 2, 3]
    as_numpy_1 = tmp_path / "numpy_1" / "fold_0" / checkpoint.name
    as_numpy_1.parent.mkdir(parents=True)
    with zipfile.ZipFile(checkpoint) as ours, zipfile.ZipFile(as_numpy_1, "w") as other:
        for name in ours.namelist():
            other.writestr(name, ours.read(name).replace(b"numpy._core.multi", b"numpy.core.multi"))
    assert read_logs([as_numpy_1.parents[1]], [0]).curves[0].train_losses == [1, 2, 3]


def test_a_checkpoint_that_nnunet_wrote_is_unpickled():
    with pytest.raises(UserError, match="does not hold what nnU-Net's trainers log"):  # its log was taken out
        read_logs([DATA / "checkpoint_v2"], [0])


class Malicious:
    """Unpickled without care, it makes a folder."""

    def __init__(self, witness: Path) -> None:
        self.witness = witness

    def __reduce__(self):
        return os.mkdir, (str(self.witness),)


def test_a_malicious_checkpoint_is_refused_and_runs_nothing(tmp_path):
    witness = tmp_path / "witness"
    checkpoint = write_checkpoint(tmp_path, 0, [1, 1], init_args=Malicious(witness))
    with pytest.raises(
        UserError, match=rf"{re.escape(str(checkpoint))} is no .*it holds \w+.mkdir, which .* nothing in it"
    ) as refused:
        read_logs([tmp_path], [0])
    assert "weights_only" not in str(refused.value)
    assert not witness.exists()
    torch.load(checkpoint, weights_only=False)  # so the file would have done it
    assert witness.exists()


def test_one_epoch_has_no_epoch_time(tmp_path):
    write_checkpoint(tmp_path, 0, [99])
    logs = read_logs([tmp_path], [0])
    assert logs.epoch_s is None
    assert logs.notes == ("No epoch time: the first epoch of a fold is left out, and there is no other.",)


def test_an_unfinished_fold_is_named(tmp_path):
    missing = tmp_path / "fold_3" / "checkpoint_final.pth"
    with pytest.raises(UserError, match=re.escape(f"{missing} is not there: finish the training of this fold with")):
        read_logs([tmp_path], [3])


@pytest.mark.parametrize("logging", [None, {}, 5, {"train_losses": [1.0], "val_losses": [1.0]}])
def test_a_checkpoint_without_a_log_is_named(tmp_path, logging):
    checkpoint = write_checkpoint(tmp_path, 0, [1, 1], logging=logging)
    named = rf"{re.escape(str(checkpoint))} does not hold what nnU-Net's trainers log \(.*epoch_start_timestamps"
    with pytest.raises(UserError, match=named):
        read_logs([tmp_path], [0])


@pytest.mark.parametrize("value", [None, "x", 10**400])
def test_a_log_of_anything_but_numbers_is_named(tmp_path, value):
    logging = {key: [1.0, 2.0] for key in LOGGED} | {"val_losses": [1.0, value]}
    write_checkpoint(tmp_path, 0, [1, 1], logging=logging)
    with pytest.raises(UserError, match=r"does not hold what nnU-Net's trainers log \(val_losses\)"):
        read_logs([tmp_path], [0])
