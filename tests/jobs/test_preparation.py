"""What is written before trainings start, against what nnU-Net's first training writes."""

import json
import os
from pathlib import Path
from unittest import mock

import pytest

from nnunetv2_cfnet.demo.phantom import write_dataset
from nnunetv2_cfnet.errors import UserError
from nnunetv2_cfnet.jobs.experiment import Experiment
from nnunetv2_cfnet.jobs.preparation import missing_steps, write_shared_files

MODELS = ("nnUNetTrainerCFNetTiny__nnUNetPlans", "nnUNetTrainerTiny__nnUNetPlans")
FILES = ("plans.json", "dataset.json", "dataset_fingerprint.json")


def experiment_of(workspace, *results: Path) -> Experiment:
    return Experiment(
        dataset_id=1,
        dataset=workspace.dataset,
        configuration="3d_fullres",
        models=MODELS,
        folds=[0],
        results=results,
        out=workspace.root / "out",
        target=workspace.root / "out" / "comparison",
        conclude=print,
        command=[],
        device="cpu",
        num_epochs=2,
    )


def test_splits_and_model_folders_are_what_nnunet_would_write(make_workspace):
    workspace = make_workspace()
    ours = workspace.root / "ours"
    splits = workspace.preprocessed / workspace.dataset / "splits_final.json"
    with mock.patch.dict(os.environ, workspace.environment):
        experiment = experiment_of(workspace, ours)
        assert missing_steps(experiment) == []
        write_shared_files(experiment)
        written = json.loads(splits.read_text())
        splits.unlink()
        for model in MODELS:
            workspace.train("3d_fullres", 0, trainer=model.partition("__")[0])
    assert json.loads(splits.read_text()) == written
    for model in MODELS:
        for name in FILES:
            folder = f"{workspace.dataset}/{model}__3d_fullres"
            by_nnunet = json.loads((workspace.results / folder / name).read_text())
            assert json.loads((ours / folder / name).read_text()) == by_nnunet, (model, name)


def test_splits_and_the_files_of_trained_models_are_left_as_they_are(make_workspace):
    workspace = make_workspace()
    splits = workspace.preprocessed / workspace.dataset / "splits_final.json"
    splits.write_text("[]")
    with mock.patch.dict(os.environ, workspace.environment):
        experiment = experiment_of(workspace, workspace.results)
        (_, folder), _ = experiment.model_folders
        (folder / "fold_0").mkdir(parents=True)
        (folder / "plans.json").write_text("{}")
        write_shared_files(experiment)
        assert (folder / "plans.json").read_text() != "{}"  # nothing was trained with them
        (folder / "fold_0" / "checkpoint_best.pth").touch()
        (folder / "plans.json").write_text("{}")
        write_shared_files(experiment)
    assert splits.read_text() == "[]"
    assert (folder / "plans.json").read_text() == "{}"


def test_too_few_cases_for_nnunets_splits_are_named(new_workspace):
    workspace = new_workspace()
    write_dataset(workspace.raw / workspace.dataset, 2, 0, seed=0, shape=(20, 20, 20))
    too_few = pytest.raises(UserError, match="has 2 training cases, and nnU-Net splits 5 or more")
    with mock.patch.dict(os.environ, workspace.environment), too_few:
        write_shared_files(experiment_of(workspace, workspace.results))
