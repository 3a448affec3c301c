"""nnU-Net's ResEnc planner with CFNet in the U-Net's place: patch, batch and topology follow from CFNet's own size."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from nnunetv2.experiment_planning.experiment_planners.residual_unets.residual_encoder_unet_planners import (
    ResEncUNetPlanner,
)
from nnunetv2.paths import nnUNet_preprocessed
from nnunetv2.utilities.json_export import recursive_fix_for_json_export
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager
from nnunetv2.utilities.utils import get_filenames_of_train_images_and_targets

from nnunetv2_cfnet.errors import UserError
from nnunetv2_cfnet.files.json_files import in_json_types
from nnunetv2_cfnet.files.whole import whole_file
from nnunetv2_cfnet.planning.modality_groups import channel_names_of, named_groups, resolve_modality_groups
from nnunetv2_cfnet.planning.plans import cfnet_architecture, network_on_meta, read_plans

DEFAULT_PLANS = "nnUNetPlans"  # of nnU-Net's default planner
FINGERPRINT = "dataset_fingerprint"
NOT_PLANS = ("dataset", FINGERPRINT, "splits_final")  # JSON files beside the plans
DEFAULT_PREPROCESSOR = "DefaultPreprocessor"
# what the preprocessed data depend on, beside transpose and intensities, which all configurations of a plan share
PREPROCESSING = (
    "spacing",
    "preprocessor_name",
    "normalization_schemes",
    "use_mask_for_norm",
    "resampling_fn_data",
    "resampling_fn_data_kwargs",
    "resampling_fn_seg",
    "resampling_fn_seg_kwargs",
)
INTENSITIES = "foreground_intensity_properties_per_channel"  # of a fingerprint, and of plans made from it
# the parts of CFNet that plans can do without, and the arguments that say so
SWITCHED_OFF: dict[str, dict[str, Any]] = {
    "fusion": {"fusion": "concatenation"},
    "context": {"context": False},
    "communication": {"communication": False},
}


class Reference(NamedTuple):
    """How many values the feature maps of one sample may have in a GPU of `gb` GB: at a batch of 2 in 3D, 12 in 2D."""

    gb: float
    values_3d: float
    values_2d: float

    def memory_gb(self, values: int, batch_size: int, dim: int) -> float:
        """The GB that a batch of samples with this many values takes by this reference."""
        reference, reference_batch = (self.values_3d, 2) if dim == 3 else (self.values_2d, 12)
        return self.gb * values * batch_size / (reference * reference_batch)


class CFNetPlanner(ResEncUNetPlanner):
    """Plans that name CFNet with every argument, so that stock trainers build it too. Presets are the subclasses.

    Args:
        dataset_name_or_id: as nnU-Net's planners take it.
        gpu_memory_target_in_gb: on nnU-Net's scale; None: the preset's.
        preprocessor_name: class of nnunetv2.preprocessing.
        plans_name: name of the plans file; None: the preset's.
        overwrite_target_spacing: in mm, in the order of the image's axes.
        suppress_transpose: leave the axes in their order.
        modality_groups: two lists of channel names or indices; None: see resolve_modality_groups.
        without: parts of CFNet to plan without, keys of SWITCHED_OFF.

    Raises:
        ValueError: wrong groups or parts, or a GPU memory target that no patch fits.
    """

    preset_plans_name: str
    reference: Reference

    def __init__(
        self,
        dataset_name_or_id: str | int,
        gpu_memory_target_in_gb: float | None = None,
        preprocessor_name: str = DEFAULT_PREPROCESSOR,
        plans_name: str | None = None,
        overwrite_target_spacing: Sequence[float] | None = None,
        suppress_transpose: bool = False,
        modality_groups: Sequence[Sequence[str | int]] | None = None,
        without: Sequence[str] = (),
    ) -> None:
        super().__init__(
            dataset_name_or_id,
            self.reference.gb if gpu_memory_target_in_gb is None else gpu_memory_target_in_gb,
            preprocessor_name,
            plans_name or self.preset_plans_name,
            overwrite_target_spacing,
            suppress_transpose,
        )
        self.UNet_reference_val_corresp_GB = self.reference.gb
        self.UNet_reference_val_3d = self.reference.values_3d
        self.UNet_reference_val_2d = self.reference.values_2d
        self.max_dataset_covered = 1  # as in the ResEnc presets

        arguments = switched_off(without)
        if modality_groups is None:
            arguments["modality_groups"] = resolve_modality_groups(self.dataset_json, {}).groups
        else:
            names = channel_names_of(self.dataset_json)
            arguments["modality_groups"] = named_groups(modality_groups, names, f"modality_groups={modality_groups!r}")
        self.cfnet_arguments = arguments
        default_plans = Path(nnUNet_preprocessed, self.dataset_name, f"{DEFAULT_PLANS}.json")
        self.default_plans = read_plans(default_plans) if default_plans.is_file() else None

    def static_estimate_VRAM_usage(  # noqa: N802 - nnU-Net's name
        self,
        patch_size: Sequence[int],
        input_channels: int,
        output_channels: int,
        arch_class_name: str,
        arch_kwargs: Mapping,
        arch_kwargs_req_import: Sequence[str],
    ) -> int:
        """Count CFNet's feature maps instead of the U-Net's.

        On the meta device: nnU-Net allocates the network, with as many threads as there are augmentation workers.
        """
        unet = {
            "network_class_name": arch_class_name,
            "arch_kwargs": arch_kwargs,
            "_kw_requires_import": arch_kwargs_req_import,
        }
        network = network_on_meta(self._cfnet(unet, patch_size), input_channels, output_channels)
        return network.compute_conv_feature_map_size(patch_size)

    def get_plans_for_configuration(
        self, spacing: Any, median_shape: Any, data_identifier: str, approximate_n_voxels_dataset: float, _cache: dict
    ) -> dict:
        """Name CFNet where nnU-Net's planner names its U-Net, and the data where they can be shared.

        This is where a configuration's spacing is known.
        """
        plan = super().get_plans_for_configuration(
            spacing, median_shape, data_identifier, approximate_n_voxels_dataset, _cache
        )
        plan["architecture"] = self._cfnet(plan["architecture"], plan["patch_size"])
        plan["data_identifier"] = self._shared_data(data_identifier, plan) or data_identifier
        return plan

    def generate_data_identifier(self, configuration_name: str) -> str:
        """Name the plan's own data: which are shared, the ResEnc planners say here, before the spacing is known."""
        return f"{self.plans_identifier}_{configuration_name}"

    def save_plans(self, plans: dict) -> None:
        """Write what nnU-Net writes, custom configurations of an earlier file included, but the file whole or not."""
        recursive_fix_for_json_export(plans)
        file = Path(nnUNet_preprocessed, self.dataset_name, f"{self.plans_identifier}.json")
        if file.is_file():
            plans["configurations"] = read_plans(file)["configurations"] | plans["configurations"]
        with whole_file(file) as unfinished:
            unfinished.write_text(json.dumps(plans, indent=4))
        print(f"Plans were saved to {file}")

    def _cfnet(self, architecture: Mapping, patch_size: Sequence[int]) -> dict:
        if architecture["arch_kwargs"]["n_stages"] < 2 or min(patch_size) < 1:
            raise UserError(
                f"{self.dataset_name}: no patch in which CFNet has two scales fits {self.UNet_vram_target_GB:g} GB "
                f"(the last one tried has {' x '.join(map(str, patch_size))} voxels). Raise -gpu_memory_target, or use "
                "larger images."
            )
        given = {**architecture, "arch_kwargs": {**architecture["arch_kwargs"], **self.cfnet_arguments}}
        configuration = ConfigurationManager({"architecture": given, "patch_size": patch_size})
        where = f"plans {self.plans_identifier!r}"
        return cfnet_architecture(configuration, self.dataset_json, plans={}, where=where)[0]

    def _shared_data(self, own_identifier: str, plan: Mapping) -> str | None:
        """The identifier of nnUNetPlans' data where preprocessing for this plan would make the same."""
        name = own_identifier.removeprefix(f"{self.plans_identifier}_")
        if self.default_plans is None:
            # the default planner would choose these two spacings; that of 3d_lowres depends on the patch
            would_be_same = (
                name in ("2d", "3d_fullres")
                and self.overwrite_target_spacing is None
                and self.preprocessor_name == DEFAULT_PREPROCESSOR
            )
            return f"{DEFAULT_PLANS}_{name}" if would_be_same else None
        default = self.default_plans["configurations"].get(name, {})
        ours = {key: plan[key] for key in PREPROCESSING}
        theirs = {key: default.get(key) for key in PREPROCESSING}
        ours["transpose_forward"] = self.determine_transpose()[0]
        theirs["transpose_forward"] = self.default_plans.get("transpose_forward")
        ours[INTENSITIES] = self.dataset_fingerprint[INTENSITIES]
        theirs[INTENSITIES] = self.default_plans.get(INTENSITIES)
        return default.get("data_identifier") if in_json_types(ours) == in_json_types(theirs) else None


class nnUNetPlannerCFNetM(CFNetPlanner):
    """For 8 GB, as nnU-Net's default and ResEnc M."""

    preset_plans_name = "nnUNetCFNetPlansM"
    reference = Reference(gb=8, values_3d=680e6, values_2d=135e6)


class nnUNetPlannerCFNetL(CFNetPlanner):
    """For 24 GB, as ResEnc L."""

    preset_plans_name = "nnUNetCFNetPlansL"
    reference = Reference(gb=24, values_3d=2100e6, values_2d=380e6)


class nnUNetPlannerCFNetXL(CFNetPlanner):
    """For 40 GB, as ResEnc XL."""

    preset_plans_name = "nnUNetCFNetPlansXL"
    reference = Reference(gb=40, values_3d=3600e6, values_2d=560e6)


PLANNERS = {planner.__name__: planner for planner in (nnUNetPlannerCFNetM, nnUNetPlannerCFNetL, nnUNetPlannerCFNetXL)}


def switched_off(without: Sequence[str]) -> dict[str, Any]:
    """CFNet's arguments for a network without some of its parts; UserError for an unknown part."""
    arguments: dict[str, Any] = {}
    for part in without:
        if part not in SWITCHED_OFF:
            raise UserError(f"--without {part}: unknown; CFNet can be planned without {', '.join(SWITCHED_OFF)}.")
        arguments |= SWITCHED_OFF[part]
    return arguments


def is_preprocessed(data: Path, raw: Path) -> bool:
    """Whether the folder that a data_identifier names has every case of the raw dataset, to its end."""
    # nnU-Net writes a case's properties last
    return all((data / f"{case}.pkl").is_file() for case in get_filenames_of_train_images_and_targets(str(raw)))
