"""What `nnunetv2_cfnet show` prints: CFNet beside the plan's U-Net, for each configuration of a plan."""

import inspect
from collections.abc import Mapping, Sequence

from dynamic_network_architectures.architectures.unet import PlainConvUNet, ResidualEncoderUNet
from nnunetv2.utilities.label_handling.label_handling import determine_num_input_channels
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunetv2_cfnet.architecture.cost import count_forward_flops, count_parameters
from nnunetv2_cfnet.errors import UserError, printable
from nnunetv2_cfnet.host import dataset_name, nnunet_folder
from nnunetv2_cfnet.planning.datasets import read_dataset
from nnunetv2_cfnet.planning.modality_groups import channel_names_of, describe_groups
from nnunetv2_cfnet.planning.planners import (
    NOT_PLANS,
    PLANNERS,
    SWITCHED_OFF,
    Reference,
    nnUNetPlannerCFNetM,
)
from nnunetv2_cfnet.planning.plans import MALFORMED, cfnet_plans, network_on_meta, read_plans

# of nnU-Net's default planner (default_experiment_planner.py); CFNet's planners plan no plain encoders
PLAIN_REFERENCE = Reference(gb=8, values_3d=560e6, values_2d=85e6)
LEGEND = """\
FLOPs: of a forward pass of one sample. Estimated memory: of a training step, from the count of
feature maps, on the scale of nnU-Net's GPU memory targets; not measured."""


def show(dataset_ids: Sequence[int], plans_name: str) -> None:
    """Print plans that exist, of CFNet or of nnU-Net; nothing is written.

    Raises:
        UserError: there are none of that name, or files that can't be read.
    """
    for number in dataset_ids:
        folder = nnunet_folder("nnUNet_preprocessed") / dataset_name(number)
        file = folder / f"{plans_name}.json"
        if plans_name in NOT_PLANS or not file.is_file():
            names = sorted(path.stem for path in folder.glob("[!.]*.json") if path.stem not in NOT_PLANS)
            there = f"For -p there are {', '.join(names)}." if names else "No plans are there."
            raise UserError(
                f"-p {plans_name}: there are no such plans in {folder}. {there} CFNet's are made "
                f"by: nnunetv2_cfnet plan -d {number}; nnU-Net's by: "
                f"nnUNetv2_plan_experiment -d {number}"
            )
        dataset_json = read_dataset(folder / "dataset.json", "Planning copies it from nnUNet_raw.")
        print(f"{printable(describe_plans(read_plans(file), dataset_json))}\n")


def describe_plans(plans: Mapping, dataset_json: Mapping) -> str:
    """A block for each configuration, as CFNet trains it; nothing is written.

    Args:
        plans: of CFNet, or such that CFNet can take the network's place.
        dataset_json: nnU-Net's dataset.json.

    Raises:
        UserError: CFNet can be trained with none of the configurations; says why for each.
    """
    num_shown = 0
    blocks = [f"{plans.get('plans_name')} of {plans.get('dataset_name')}"]
    for name in plans["configurations"]:
        try:
            ours = cfnet_plans(plans, dataset_json, name).plans
            lines = _describe_configuration(ours, dataset_json, name)
            num_shown += 1
        except ValueError as error:
            lines = [f"not for CFNet: {error}"]
        except MALFORMED as error:
            lines = [f"can't be read as nnU-Net's planners write it ({type(error).__name__}: {error})"]
        blocks.append("\n  ".join([name, *lines]))
    if not num_shown:
        raise UserError(
            "CFNet can be trained with none of the configurations of these plans.\n\n" + "\n\n".join(blocks)
        )
    return "\n\n".join([*blocks, LEGEND])


def _describe_configuration(plans: dict, dataset_json: Mapping, name: str) -> list[str]:
    manager = PlansManager(plans)
    configuration = manager.get_configuration(name)
    architecture, arguments = configuration.configuration["architecture"], configuration.network_arch_init_kwargs
    patch_size, batch_size = configuration.patch_size, configuration.batch_size
    input_channels = determine_num_input_channels(manager, configuration, dataset_json)
    num_classes = manager.get_label_manager(dataset_json).num_segmentation_heads

    unet = PlainConvUNet if arguments["n_blocks_per_stage"] is None else ResidualEncoderUNet
    as_unet = {
        **architecture,
        "network_class_name": f"{unet.__module__}.{unet.__name__}",
        "arch_kwargs": {key: value for key, value in arguments.items() if key in inspect.signature(unet).parameters},
    }
    if unet is ResidualEncoderUNet:
        planner = str(manager.plans.get("experiment_planner_used"))  # nnU-Net's preset of the same size counts as well
        reference = PLANNERS.get(planner.replace("ResEnc", "CFNet"), nnUNetPlannerCFNetM).reference
    else:
        reference = PLAIN_REFERENCE
    columns = [("", "parameters", "forward FLOPs", "estimated memory")]
    for title, entry in (("CFNet", architecture), (unet.__name__, as_unet)):
        network = network_on_meta(entry, input_channels, num_classes)
        values = network.compute_conv_feature_map_size(patch_size)
        columns.append(
            (
                title,
                f"{count_parameters(network) / 1e6:.1f} M",
                f"{count_forward_flops(network, input_channels, patch_size) / 1e9:.1f} G",
                f"{reference.memory_gb(values, batch_size, len(patch_size)):.1f} GB",
            )
        )
    facts = {
        "patch size": " x ".join(map(str, patch_size)),
        "batch size": batch_size,
        "stages": arguments["n_stages"],
        "widths": _listed(arguments["features_per_stage"]),
        "encoders": "residual" if arguments["n_conv_per_stage"] is None or arguments["residual_encoders"] else "plain",
        "encoder widths": f"{_listed(arguments['encoder_features_per_stage'])} (each of two)",
        "groups": describe_groups(arguments["modality_groups"], channel_names_of(dataset_json)),
    }
    without = [part for part, off in SWITCHED_OFF.items() if off.items() <= arguments.items()]
    if without:
        facts["without"] = ", ".join(without)
    return [
        *(f"{fact:<18}{value}" for fact, value in facts.items()),
        *(f"{row:<18}{cfnet:>12}{of_plan:>22}" for row, cfnet, of_plan in zip(*columns, strict=True)),
    ]


def _listed(widths: int | list[int]) -> str:
    return str(widths) if isinstance(widths, int) else ", ".join(map(str, widths))
