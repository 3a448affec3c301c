"""`evaluate_subsets` on a trained model, against nnUNetv2_predict's own predictor on folders with images of zeros."""

import json
import os
import shutil
import subprocess
import time
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
from images import read, write_image

from nnunetv2_cfnet.evaluation.metrics import region_metrics
from nnunetv2_cfnet.report.collect_subsets import RECORDS

TRAINER = "nnUNetTrainerCFNetTiny"
COMMAND = (
    *("nnunetv2_cfnet", "evaluate_subsets", "-d", 1, "-c", "3d_fullres", "--models", f"{TRAINER}__nnUNetPlans"),
    *("--folds", 0, "--disable_tta", "-device", "cpu", "-np", 1),
)


@pytest.fixture(scope="module")
def workspace(make_workspace):
    workspace = make_workspace()
    workspace.train("3d_fullres", 0)
    return workspace


def predicted_by_nnunet(workspace, case: str, present: tuple[int, ...], folder: Path) -> np.ndarray:
    """Labels of a case whose other images are written as zeros."""
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    images = workspace.raw / workspace.dataset / "imagesTr"
    for channel in range(4):
        image = images / f"{case}_{channel:04d}.nii.gz"
        write_image(read(image) * (channel in present), folder / "in" / image.name)
    with mock.patch.dict(os.environ, workspace.environment):
        predictor = nnUNetPredictor(use_mirroring=False, device=torch.device("cpu"), allow_tqdm=False)
        predictor.initialize_from_trained_model_folder(str(workspace.model(TRAINER, "3d_fullres")), (0,))
        (folder / "out").mkdir()
        predictor.predict_from_files_sequential(str(folder / "in"), str(folder / "out"))
    return read(folder / "out" / f"{case}.nii.gz")


def num_recorded(out: Path) -> int:
    """Predictions whose record is there as a whole line."""
    lines = (out / RECORDS).read_bytes().splitlines(keepends=True) if (out / RECORDS).exists() else []
    return sum(line.endswith(b"}\n") for line in lines)


@pytest.mark.slow
def test_a_killed_run_goes_on_and_its_figures_are_those_of_zero_filled_folders(workspace, tmp_path):
    out = tmp_path / "out"
    command = [shutil.which(COMMAND[0], path=workspace.environment["PATH"]), *map(str, COMMAND[1:]), "-o", str(out)]
    with subprocess.Popen(
        command, env=workspace.environment, cwd=workspace.root, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as running:
        while running.poll() is None and not num_recorded(out):
            time.sleep(0.05)
        running.kill()
    num_done = num_recorded(out)  # on a fast machine it may be all of them
    assert num_done >= 1
    with (out / RECORDS).open("a") as file:
        file.write('{"case": "torn')

    output = workspace.run(*COMMAND, "-o", out).stdout
    assert f"{num_done} of 15 predictions are taken over." in output
    assert "1 cases, 15 subsets, 1 models. Written: " in output
    report = json.loads((out / "subsets.json").read_text())
    assert report["subsets"][:5] == ["T2", "T1ce", "T1", "FLAIR", "T1ce+T2"]
    assert {path.name for path in (out / "figures").iterdir()} == {"subsets.png", "shapley.png"}

    (model,) = report["models"]
    case = model["cases"][0]["case"]
    reference = read(workspace.raw / workspace.dataset / "labelsTr" / f"{case}.nii.gz")
    for name, present in {"T1ce": (1,), "T1+FLAIR": (0, 3)}.items():
        predicted = predicted_by_nnunet(workspace, case, present, tmp_path / name)
        expected = region_metrics(reference > 0, predicted > 0, (1, 1, 1))
        (found,) = (row for row in model["cases"] if (row["subset"], row["region"]) == (name, "whole_tumor"))
        assert {metric: found[metric] for metric in expected} == expected

    done_before = (out / RECORDS).read_text()
    assert "15 of 15 predictions are taken over." in workspace.run(*COMMAND, "-o", out).stdout
    assert (out / RECORDS).read_text() == done_before
