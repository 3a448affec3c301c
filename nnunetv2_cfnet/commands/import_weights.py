"""`nnunetv2_cfnet import_weights`: a checkpoint of the published release -> a model folder for nnU-Net's prediction."""

import argparse
import json
import shlex
from pathlib import Path

from nnunetv2_cfnet.brats.editions import CHANNELS
from nnunetv2_cfnet.errors import UserError, listing_of
from nnunetv2_cfnet.files.whole import check_new_folder, whole_folder

MODALITY_GROUPS = [[0, 2], [1, 3]]
LABELS = {"background": 0, "NCR/NET": 1, "ED": 2, "ET": 3}  # the release trains BraTS's label 4 as 3
SLICE = (240, 240)
ASSUMED = (
    "The release's preprocessing is not published: each sequence's z-score over the brain's voxels is assumed, in "
    "axial slices as SimpleITK reads them. So figures of these predictions are not the paper's."
)

DESCRIPTION = (
    "Make a model folder from a checkpoint of the published CFNet, for nnUNetv2_predict_from_modelfolder -m "
    "MODEL_FOLDER -f 0, on cases named CASE_0000 .. CASE_0003 (T1, T1ce, T2, FLAIR). Labels are the release's: "
    f"1 = NCR/NET, 2 = ED, 3 = ET. {ASSUMED}"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "checkpoint", type=Path, metavar="CHECKPOINT", help="what the release's training saved; nothing in it is run"
    )
    parser.add_argument(
        "-o", type=Path, required=True, metavar="MODEL_FOLDER", help="to be written; new, or an empty folder"
    )


def run(options: argparse.Namespace) -> int:
    import_weights(options.checkpoint, options.o)
    return 0


def import_weights(checkpoint: Path, model_folder: Path) -> None:
    """Write a model folder with a release checkpoint as its fold 0, and say what was loaded and how to predict.

    Args:
        checkpoint: a file that the release's training saved.
        model_folder: must be new or empty; it is there complete or not at all.

    Raises:
        UserError: a folder with something in it, or a checkpoint that does not fit; nothing is written then.
    """
    checkpoint, model_folder = checkpoint.expanduser(), model_folder.expanduser()
    check_new_folder(model_folder)
    if not checkpoint.is_file():
        raise UserError(f"{checkpoint} is no file: give the checkpoint that the release's training saved.")

    import torch
    from nnunetv2.dataset_conversion.generate_dataset_json import generate_dataset_json

    from nnunetv2_cfnet.architecture.published import PublishedCFNet
    from nnunetv2_cfnet.architecture.published_weights import RELEASE_UNUSED, load_published_state_dict
    from nnunetv2_cfnet.training.trainers import nnUNetTrainerCFNetPublished

    network = PublishedCFNet(len(CHANNELS), len(LABELS), MODALITY_GROUPS)
    weights = load_published_state_dict(network, checkpoint)
    plans = release_plans()

    with whole_folder(model_folder) as folder:
        fold = folder / "fold_0"
        fold.mkdir()
        generate_dataset_json(
            str(folder),
            channel_names=dict(enumerate(CHANNELS)),
            labels=dict(LABELS),
            num_training_cases=0,
            file_ending=".nii.gz",
            dataset_name=plans["dataset_name"],
            description=f"The published CFNet, from {checkpoint.name}. {ASSUMED}",
            reference="https://doi.org/10.1016/j.bspc.2024.106876",
            license="the checkpoint's",
            converted_by="nnunetv2_cfnet import_weights",
        )
        (folder / "plans.json").write_text(json.dumps(plans, indent=4))
        contents = {
            "network_weights": network.state_dict(),
            "trainer_name": nnUNetTrainerCFNetPublished.__name__,
            "init_args": {"configuration": "2d", "fold": 0},
            "inference_allowed_mirroring_axes": None,  # the release predicts each slice once
        }
        try:
            torch.save(contents, fold / "checkpoint_final.pth")
        except RuntimeError as error:  # torch's writer does not raise an OSError where the disk is full
            raise UserError(f"{model_folder} can't hold the weights (a full disk?): {error}") from error

    print(f"{len(weights.loaded)} entries loaded: all that the network uses.")
    for names, reason in ((weights.unused, "which the release never uses"), (weights.unknown, "which are not its own")):
        if names:
            parts = dict.fromkeys(match[0] if (match := RELEASE_UNUSED.match(name)) else name for name in names)
            print(f"{len(names)} entries ignored, {reason}: {listing_of(parts)}.")
    print(f"Labels: {', '.join(f'{value} = {name}' for name, value in LABELS.items())}. {ASSUMED}")
    print(
        f"Predict cases named CASE_0000.nii.gz .. CASE_0003.nii.gz ({', '.join(CHANNELS)}) with:\n"
        f"  nnUNetv2_predict_from_modelfolder -i IMAGES -o PREDICTIONS -m {shlex.quote(str(model_folder))} -f 0"
    )


def release_plans() -> dict:
    """Plans for whole axial slices of BraTS, as the release takes them: nnU-Net crops to the brain and pads to 240."""
    from nnunetv2_cfnet.planning.plans import published_architecture

    resample = {"is_seg": False, "order": 3, "order_z": 0, "force_separate_z": None}
    seg_resample = {"is_seg": True, "order": 1, "order_z": 0, "force_separate_z": None}
    probability_resample = {"is_seg": False, "order": 1, "order_z": 0, "force_separate_z": None}
    function = "resample_data_or_seg_to_shape"
    return {
        "dataset_name": "PublishedCFNet",
        "plans_name": "PublishedCFNetPlans",
        "original_median_spacing_after_transp": [1.0, 1.0, 1.0],
        "original_median_shape_after_transp": [155, *SLICE],
        "image_reader_writer": "SimpleITKIO",
        "transpose_forward": [0, 1, 2],
        "transpose_backward": [0, 1, 2],
        "configurations": {
            "2d": {
                "data_identifier": "PublishedCFNetPlans_2d",
                "preprocessor_name": "DefaultPreprocessor",
                "batch_size": 12,
                "patch_size": list(SLICE),
                "median_image_size_in_voxels": list(SLICE),
                "spacing": [1.0, 1.0],
                "normalization_schemes": ["ZScoreNormalization"] * len(CHANNELS),
                "use_mask_for_norm": [True] * len(CHANNELS),
                "resampling_fn_data": function,
                "resampling_fn_data_kwargs": resample,
                "resampling_fn_seg": function,
                "resampling_fn_seg_kwargs": seg_resample,
                "resampling_fn_probabilities": function,
                "resampling_fn_probabilities_kwargs": probability_resample,
                "architecture": published_architecture(MODALITY_GROUPS),
                "batch_dice": True,
            }
        },
        "experiment_planner_used": "nnunetv2_cfnet import_weights",
        "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": {str(channel): {} for channel in range(len(CHANNELS))},
    }
