"""A model for any subset of its sequences, by nnU-Net's own commands: trained, and predicting where files are gone."""

import json

import pytest

from nnunetv2_cfnet.planning.plans import CFNET

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(("network", "configuration"), [("", "3d_fullres"), ("CFNet", "3d_fullres"), ("CFNet", "2d")])
def test_a_deleted_channel_is_filled_in_predicted_without_and_evaluated(make_workspace, network, configuration):
    workspace = make_workspace()
    trainer = f"nnUNetTrainer{network}ModalityDropoutTiny"
    processes = "2" if configuration == "2d" else "0"  # with workers that are forked, and without
    workspace.train(configuration, 0, trainer=trainer, nnUNet_n_proc_DA=processes)
    model = workspace.model(trainer, configuration)
    architecture = json.loads((model / "plans.json").read_text())["configurations"][configuration]["architecture"]
    assert architecture["arch_kwargs"].get("mask_missing_groups") == (True if network else None)
    assert (architecture["network_class_name"] == CFNET) == bool(network)

    # the images of a training case, whose reference is known: without T1ce and FLAIR, a whole group
    incomplete = workspace.root / "incomplete"
    incomplete.mkdir()
    for image in (workspace.raw / workspace.dataset / "imagesTr").glob("phantom_tr_00[12]_000[02].nii.gz"):
        (incomplete / image.name).symlink_to(image)
    filled = workspace.run("nnunetv2_cfnet", "fill_missing", "-i", incomplete, "-o", "filled", "-d", 1, "-np", 1).stdout
    assert "2 of 2 cases lack a sequence: T1ce 2, FLAIR 2." in filled
    workspace.run(
        *("nnUNetv2_predict", "-i", "filled", "-o", "predicted", "-d", 1, "-c", configuration, "-tr", trainer),
        *("-f", 0, "-device", "cpu", "-npp", 1, "-nps", 1),
    )
    reference = workspace.root / "reference"
    reference.mkdir()
    for name in ("phantom_tr_001.nii.gz", "phantom_tr_002.nii.gz"):
        (reference / name).symlink_to(workspace.raw / workspace.dataset / "labelsTr" / name)
    workspace.run(
        *("nnUNetv2_evaluate_folder", reference, "predicted", "-np", 1),
        *("-djfile", model / "dataset.json", "-pfile", model / "plans.json"),
    )
    summary = json.loads((workspace.root / "predicted" / "summary.json").read_text())
    assert len(summary["metric_per_case"]) == 2


def test_nnunet_takes_a_release_whose_missing_sequences_were_filled_in(new_workspace):
    workspace = new_workspace()
    workspace.run("nnunetv2_cfnet", "make_phantom", "-o", "release", "--edition", "2020", "--cases", 3)
    next((workspace.root / "release").rglob("*_t1ce.nii*")).unlink()
    refused = workspace.run("nnunetv2_cfnet", "convert_brats", "release", "-d", 1, "-np", 1, check=False)
    assert refused.returncode == 2
    assert "--allow-missing" in refused.stderr
    converted = workspace.run("nnunetv2_cfnet", "convert_brats", "release", "-d", 1, "-np", 1, "--allow-missing").stdout
    assert "1 of 4 cases lack a sequence, zero images stand for it: T1ce 1." in converted
    (dataset,) = workspace.raw.glob("Dataset001_*/")
    workspace.dataset = dataset.name
    workspace.extract_fingerprint()
    verified = workspace.run(
        "nnUNetv2_plan_and_preprocess", "-d", 1, "-npfp", 1, "--no_pp", "--verify_dataset_integrity"
    )
    assert "verify_dataset_integrity Done." in verified.stdout
