"""nnU-Net's whole path for two trainers: five folds, the best configuration, ensemble, postprocessing, evaluation."""

import json

import pytest
from batchgenerators.utilities.file_and_folder_operations import load_json

pytestmark = pytest.mark.slow

CONFIGURATION = "3d_fullres"
TRAINERS = ("nnUNetTrainerCFNetTiny", "nnUNetTrainerTiny")


@pytest.fixture(scope="module")
def workspace(make_workspace):
    """Both trainers trained on five folds of five cases."""
    workspace = make_workspace((CONFIGURATION,), num_training=5, num_test=2)
    for trainer in TRAINERS:
        for fold in range(5):
            workspace.train(CONFIGURATION, fold, "--npz", trainer=trainer)
    return workspace


def test_best_configuration_is_found_predicted_ensembled_postprocessed_and_evaluated(workspace, tmp_path):
    output = workspace.run(
        "nnUNetv2_find_best_configuration", 1, "-c", CONFIGURATION, "-tr", *TRAINERS, "-np", 1
    ).stdout
    for trainer in TRAINERS:
        assert f"{trainer}__nnUNetPlans__{CONFIGURATION}" in output
    information = json.loads((workspace.results / "Dataset001_Phantom" / "inference_information.json").read_text())
    assert set(information["all_results"]) >= {f"{trainer}__nnUNetPlans__{CONFIGURATION}" for trainer in TRAINERS}

    for trainer in TRAINERS:
        workspace.predict(tmp_path / trainer, CONFIGURATION, "--save_probabilities", trainer=trainer)
    ensembled, postprocessed = tmp_path / "ensembled", tmp_path / "postprocessed"
    workspace.run("nnUNetv2_ensemble", "-i", *(tmp_path / trainer for trainer in TRAINERS), "-o", ensembled, "-np", 1)
    best = information["best_model_or_ensemble"]
    workspace.run(
        *("nnUNetv2_apply_postprocessing", "-i", ensembled, "-o", postprocessed, "-np", 1),
        *("-pp_pkl_file", best["postprocessing_file"], "-plans_json", best["some_plans_file"]),
        *("-dataset_json", workspace.model(TRAINERS[0], CONFIGURATION) / "dataset.json"),
    )
    labels = workspace.raw / "Dataset001_Phantom" / "labelsTs"
    workspace.run(
        *("nnUNetv2_evaluate_folder", labels, postprocessed, "-np", 1),
        *("-djfile", workspace.raw / "Dataset001_Phantom" / "dataset.json"),
        *("-pfile", workspace.preprocessed / "Dataset001_Phantom" / "nnUNetPlans.json"),
    )
    summary = load_json(str(postprocessed / "summary.json"))
    assert len(summary["metric_per_case"]) == 2
    assert set(summary["mean"]) == {"(1, 2, 3)", "(2, 3)", "3"}
