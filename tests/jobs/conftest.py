"""nnU-Net's commands, stood in for: nothing is trained."""

import json
import zipfile
from functools import cache
from pathlib import Path

import pytest
import torch

from nnunetv2_cfnet.demo.phantom import write_dataset
from nnunetv2_cfnet.jobs import epochs, steps
from nnunetv2_cfnet.jobs import matched_training as module

DATASET = "Dataset001_Phantom"
num_epochs = cache(epochs._num_epochs)  # nnU-Net's search takes a while for each of many names


class FakeNnunet:
    """Stands in for `steps.run_command` and the comparison: notes what is run and leaves what nnU-Net would leave."""

    def __init__(self, root: Path, plans: dict) -> None:
        self.plans = plans
        self.commands: list[str] = []
        self.root = root
        self.results: list[str] = []
        self.fails_at: str | None = None  # a part of the command, whose training stops half-way
        self.compared: dict | None = None

    def __call__(self, command, environment, log, on_line) -> int:
        name, *arguments = Path(command[0]).name, *command[1:]
        self.commands.append(" ".join((name, *arguments)))
        preprocessed = self.root / "nnUNet_preprocessed" / DATASET
        if name == "nnUNetv2_extract_fingerprint":
            preprocessed.mkdir(parents=True)
            (preprocessed / "dataset_fingerprint.json").touch()
        elif name == "nnUNetv2_plan_experiment":
            plans = "nnUNetResEncUNetMPlans" if "-pl" in arguments else "nnUNetPlans"
            (preprocessed / f"{plans}.json").write_text(json.dumps(self.plans))
            raw = self.root / "nnUNet_raw" / DATASET
            (preprocessed / "dataset.json").write_text((raw / "dataset.json").read_text())
        elif name == "nnUNetv2_preprocess":
            data = preprocessed / "nnUNetPlans_3d_fullres"
            data.mkdir()
            for label in (self.root / "nnUNet_raw" / DATASET / "labelsTr").iterdir():
                (data / label.name.replace(".nii.gz", ".pkl")).touch()
        elif name == "nnUNetv2_train":
            self.results.append(environment["nnUNet_results"])
            _, configuration, fold, _, trainer, _, plans, *_ = arguments
            folder = Path(
                environment["nnUNet_results"], DATASET, f"{trainer}__{plans}__{configuration}", f"fold_{fold}"
            )
            (folder / "validation").mkdir(parents=True, exist_ok=True)
            with zipfile.ZipFile(folder / "checkpoint_latest.pth", "w") as checkpoint:
                checkpoint.writestr("data.pkl", "weights")
            if self.fails_at and self.fails_at in self.commands[-1]:
                log.write_text("CUDA out of memory\n")
                return 1
            (folder / "validation" / "summary.json").write_text("{}")
        return 0

    def compare(self, dataset_id, configuration, names, **more) -> None:
        self.compared = {"dataset_id": dataset_id, "configuration": configuration, "names": names, **more}


@pytest.fixture
def nnunet(tmp_path, monkeypatch, make_plans) -> FakeNnunet:
    plans = make_plans()
    del plans["configurations"]["3d_lowres"]
    plans["configurations"]["3d_fullres"]["data_identifier"] = "nnUNetPlans_3d_fullres"
    fake = FakeNnunet(tmp_path, plans)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        monkeypatch.setenv(name, str(tmp_path / name))
    write_dataset(tmp_path / "nnUNet_raw" / DATASET, 5, 0, seed=0, shape=(20, 20, 20))
    monkeypatch.setattr(steps, "run_command", fake)
    monkeypatch.setattr(module, "compare_models", fake.compare)
    monkeypatch.setattr(epochs, "_num_epochs", num_epochs)
    return fake
