"""Plans as nnU-Net's planners write them, and a small workspace used through nnU-Net's own console commands."""

import csv
import json
import os
import shutil
import subprocess
import sysconfig
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from unittest import mock
from zlib import crc32

# One thread each, here and in the processes that tests start, since pytest's workers share the cores: before torch.
os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
import pytest
import torch
from filelock import FileLock

from nnunetv2_cfnet.demo.phantom import write_dataset

torch.set_num_threads(1)

DATA = Path(__file__).parent / "data"
TRAINERS = DATA / "trainers"

# Files and folders whose tests mostly start nnU-Net (its planning, its search), processes or environments, or build
# large networks, and the fixtures that start nnU-Net. Other tests are marked where they stand.
HOST_PLACES = (
    *("end_to_end", "benchmarks", "jobs", "test_install.py", "test_planners.py", "test_browser.py", "test_ddp.py"),
    *("test_processes.py", "test_published.py", "test_published_weights.py"),
)
HOST_FIXTURES = {"new_workspace", "make_workspace"}
# Workers take files in this order, the longest first, so that none is left alone with one of them in the end.
LONGEST_FIRST = (
    "test_commands.py",
    "test_demo.py",
    "test_published_training.py",
    "test_training.py",
    "test_install.py",
    "end_to_end",
    "test_import_weights.py",
    "test_planners.py",
)


@pytest.hookimpl(tryfirst=True)  # before -m is applied
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    def rank(item: pytest.Item) -> int:
        return next((i for i, place in enumerate(LONGEST_FIRST) if place in item.path.parts), len(LONGEST_FIRST))

    for item in items:
        if (
            item.get_closest_marker("slow")
            or not HOST_FIXTURES.isdisjoint(item.fixturenames)
            or not set(HOST_PLACES).isdisjoint(item.path.parts)
        ):
            item.add_marker("host")
    items.sort(key=rank)


@dataclass
class Workspace:
    """nnUNet_raw, _preprocessed and _results below one folder, and the commands that work in it."""

    root: Path
    dataset: str = "Dataset001_Phantom"

    @property
    def raw(self) -> Path:
        return self.root / "nnUNet_raw"

    @property
    def preprocessed(self) -> Path:
        return self.root / "nnUNet_preprocessed"

    @property
    def results(self) -> Path:
        return self.root / "nnUNet_results"

    @property
    def plans_file(self) -> Path:
        return self.preprocessed / self.dataset / "nnUNetPlans.json"

    def model(self, trainer: str, configuration: str, plans: str = "nnUNetPlans") -> Path:
        return self.results / self.dataset / f"{trainer}__{plans}__{configuration}"

    @property
    def environment(self) -> dict[str, str]:
        """nnU-Net's variables, with the tiny trainers on nnUNet_extTrainer."""
        extra = [TRAINERS, *filter(None, os.environ.get("nnUNet_extTrainer", "").split(os.pathsep))]
        return {
            **os.environ,
            "PATH": os.pathsep.join((sysconfig.get_path("scripts"), os.environ["PATH"])),
            "nnUNet_raw": str(self.raw),
            "nnUNet_preprocessed": str(self.preprocessed),
            "nnUNet_results": str(self.results),
            "nnUNet_extTrainer": os.pathsep.join(map(str, extra)),
            "nnUNet_def_n_proc": "1",  # validation starts that many exporting processes
        }

    def run(self, *command: object, check: bool = True, **variables: str) -> subprocess.CompletedProcess:
        """Run a console command of the running environment."""
        result = subprocess.run(
            [shutil.which(command[0], path=self.environment["PATH"]), *map(str, command[1:])],
            env={**self.environment, **variables},
            cwd=self.root,
            capture_output=True,
            text=True,
            check=False,
        )
        if check and result.returncode:
            pytest.fail(f"{command} exited with {result.returncode}:\n{result.stdout}\n{result.stderr}")
        return result

    def write_phantom(self, num_training: int, num_test: int) -> None:
        write_dataset(self.raw / self.dataset, num_training, num_test, seed=0, shape=(32, 32, 32))
        self.extract_fingerprint()

    def extract_fingerprint(self) -> None:
        """As planning would if it were not there, but not from 10^8 voxels drawn with replacement: half a minute."""
        from nnunetv2.experiment_planning.dataset_fingerprint.fingerprint_extractor import DatasetFingerprintExtractor

        with mock.patch.dict(os.environ, self.environment):
            extractor = DatasetFingerprintExtractor(self.dataset, num_processes=1)
            extractor.num_foreground_voxels_for_intensitystats = 10**5
            extractor.run()

    def shrink_plans(self, name: str = "nnUNetPlans") -> None:
        """Narrow the planned networks so that a training step takes a fraction of a second."""
        plans_file = self.plans_file.with_name(f"{name}.json")
        plans = json.loads(plans_file.read_text())
        for configuration in plans["configurations"].values():
            if "architecture" in configuration:
                arguments = configuration["architecture"]["arch_kwargs"]
                arguments["features_per_stage"] = [min(4 * 2**s, 32) for s in range(arguments["n_stages"])]
                # these follow from the widths; only CFNet's plans have them
                arguments |= {
                    name: None for name in ("encoder_features_per_stage", "fusion_heads") if name in arguments
                }
                configuration["batch_size"] = 2
        plans_file.write_text(json.dumps(plans))

    def set_patch_size_2d(self, *patch_size: int) -> None:
        """For the published network, whose patches 16 has to divide; the phantom's planned ones it does not."""
        plans = json.loads(self.plans_file.read_text())
        plans["configurations"]["2d"]["patch_size"] = patch_size
        self.plans_file.write_text(json.dumps(plans))

    def train(self, configuration: str, fold: object, *flags: object, trainer: str = "nnUNetTrainerCFNetTiny", **more):
        arguments = (1, configuration, fold, "-tr", trainer, "-device", "cpu", *flags)
        # epochs are two steps long: augment in the training process
        return self.run("nnUNetv2_train", *arguments, **{"nnUNet_n_proc_DA": "0", **more})

    def predict(
        self, output: Path, configuration: str, *flags: object, trainer: str = "nnUNetTrainerCFNetTiny", **more
    ):
        images = self.raw / self.dataset / "imagesTs"
        arguments = ("-i", images, "-o", output, "-d", 1, "-c", configuration, "-tr", trainer, "-device", "cpu")
        return self.run("nnUNetv2_predict", *arguments, "--disable_tta", "-npp", 1, "-nps", 1, *flags, **more)

    def probabilities(self, model: Path, output: Path) -> dict[str, np.ndarray]:
        """What a model folder predicts for the cases to predict, in this process: quicker than nnU-Net's command."""
        from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

        with mock.patch.dict(os.environ, self.environment):
            predictor = nnUNetPredictor(use_mirroring=False, device=torch.device("cpu"), allow_tqdm=False)
            predictor.initialize_from_trained_model_folder(str(model), (0,))
            output.mkdir(exist_ok=True)
            images = self.raw / self.dataset / "imagesTs"
            predictor.predict_from_files_sequential(str(images), str(output), save_probabilities=True)
        return {path.name: np.load(path)["probabilities"] for path in sorted(output.glob("*.npz"))}


@pytest.fixture(scope="session")
def new_workspace(tmp_path_factory) -> Callable[[], Workspace]:
    """Makes an empty workspace."""

    def make() -> Workspace:
        workspace = Workspace(tmp_path_factory.mktemp("workspace"))
        for folder in (workspace.raw, workspace.preprocessed, workspace.results):
            folder.mkdir()
        return workspace

    return make


@pytest.fixture(scope="session")
def planned(tmp_path_factory) -> Path:
    """The root of a workspace to copy: a phantom, planned (narrower than nnU-Net would) and preprocessed.

    Made by the first of pytest's workers that needs it, for all of them.
    """
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent
    root = folder / "planned"
    with FileLock(folder / "planned.lock"):
        if not root.exists():
            workspace = Workspace(tmp_path_factory.mktemp("unfinished"))
            workspace.write_phantom(num_training=5, num_test=2)
            workspace.run("nnUNetv2_plan_and_preprocess", "-d", 1, "-c", "2d", "3d_fullres", "-npfp", 1, "-np", 1, 1)
            workspace.shrink_plans()
            workspace.root.rename(root)
    return root


@pytest.fixture(scope="session")
def make_workspace(planned, new_workspace) -> Callable[[], Workspace]:
    """Makes a workspace with five training cases and two to predict, ready to be trained on in 2d and 3d_fullres."""

    def make() -> Workspace:
        workspace = new_workspace()
        shutil.copytree(planned, workspace.root, dirs_exist_ok=True)
        return workspace

    return make


DATASET_JSON = {
    "channel_names": {"0": "T1", "1": "T1ce", "2": "T2", "3": "FLAIR"},
    "labels": {"background": 0, "oedema": 1, "core": 2, "enhancing": 3},
    "numTraining": 5,
    "file_ending": ".nii.gz",
}


def _architecture(dim: int, residual: bool) -> dict:
    blocks = (
        {"n_blocks_per_stage": [1, 3, 4, 6], "n_conv_per_stage_decoder": [1, 1, 1]}
        if residual
        else {"n_conv_per_stage": [2, 2, 2, 2], "n_conv_per_stage_decoder": [2, 2, 2]}
    )
    return {
        "network_class_name": "dynamic_network_architectures.architectures.unet."
        + ("ResidualEncoderUNet" if residual else "PlainConvUNet"),
        "arch_kwargs": {
            "n_stages": 4,
            "features_per_stage": [8, 16, 32, 64],
            "conv_op": f"torch.nn.modules.conv.Conv{dim}d",
            "kernel_sizes": [[3] * dim] * 4,
            "strides": [[1] * dim, [2] * dim, [2] * dim, [2] * dim],
            "conv_bias": True,
            "norm_op": f"torch.nn.modules.instancenorm.InstanceNorm{dim}d",
            "norm_op_kwargs": {"eps": 1e-05, "affine": True},
            "dropout_op": None,
            "dropout_op_kwargs": None,
            "nonlin": "torch.nn.LeakyReLU",
            "nonlin_kwargs": {"inplace": True},
            **blocks,
        },
        "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
    }


def _configuration(dim: int, residual: bool, **more) -> dict:
    return {
        "data_identifier": f"nnUNetPlans_{dim}d",
        "patch_size": [32] * dim,
        "batch_size": 2,
        "batch_dice": False,
        "architecture": _architecture(dim, residual),
        **more,
    }


@pytest.fixture
def dataset_json() -> dict:
    return deepcopy(DATASET_JSON)


@pytest.fixture
def make_plans() -> Callable[..., dict]:
    def make(residual: bool = False) -> dict:
        return {
            "dataset_name": "Dataset001_Phantom",
            "plans_name": "nnUNetPlans",
            "label_manager": "LabelManager",
            "continue_training": False,
            "configurations": {
                "2d": _configuration(2, residual),
                "3d_lowres": _configuration(3, residual, next_stage="3d_cascade_fullres"),
                "3d_fullres": _configuration(3, residual),
                "3d_cascade_fullres": {"inherits_from": "3d_fullres", "previous_stage": "3d_lowres"},
            },
        }

    return make


@pytest.fixture(scope="session")
def parity_folder() -> Path:
    return DATA / "parity"


@pytest.fixture(scope="session")
def published_values() -> Callable[[str, tuple[int, ...]], torch.Tensor]:
    """The rule that fills the release's weights for the parity data: (name in the release, shape) -> float64."""

    def fill(name: str, shape: tuple[int, ...]) -> torch.Tensor:
        phase = (crc32(name.encode()) % 1000) / 100
        s = np.sin(0.1 * np.arange(1, np.prod(shape, dtype=int) + 1, dtype=np.float64) + phase)
        if name.endswith("running_var"):
            filled = 1 + 0.1 * np.abs(s)
        elif len(shape) >= 2:
            filled = s * np.sqrt(1 / np.prod(shape[1:]))
        elif name.endswith("weight"):
            filled = 1 + 0.1 * s
        else:
            filled = 0.1 * s
        return torch.from_numpy(filled.reshape(shape))

    return fill


@pytest.fixture(scope="session")
def release_entries(parity_folder) -> dict[str, tuple[tuple[int, ...], bool]]:
    """The release's state dict: shape of each entry, and whether its forward uses it."""
    with open(parity_folder / "state_dict.tsv") as table:
        return {
            row["name"]: (
                () if row["shape"] == "scalar" else tuple(map(int, row["shape"].split("x"))),
                row["used_in_forward"] == "1",
            )
            for row in csv.DictReader(table, delimiter="\t")
        }


@pytest.fixture(scope="session")
def release_state_dict(release_entries, published_values) -> dict[str, torch.Tensor]:
    """A checkpoint of the release by the parity data's rule. What is not used takes no memory; don't change it."""
    state = {}
    for name, (shape, used) in release_entries.items():
        if not shape:
            state[name] = torch.tensor(7)
        else:
            state[name] = published_values(name, shape).float() if used else torch.zeros(1).expand(shape)
    return state
