"""An nnU-Net plan -> the same plan with CFNet's architecture, every argument spelled out."""

import inspect
import math
import pydoc
from collections.abc import Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any, NamedTuple

import dynamic_network_architectures.architectures as ARCHITECTURES
import numpy as np
import torch
from dynamic_network_architectures.architectures.abstract_arch import AbstractDynamicNetworkArchitectures
from dynamic_network_architectures.architectures.unet import PlainConvUNet, ResidualEncoderUNet
from dynamic_network_architectures.building_blocks.helper import convert_dim_to_conv_op
from nnunetv2.utilities.find_class_by_name import recursive_find_python_class
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
from nnunetv2.utilities.label_handling.label_handling import determine_num_input_channels
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager

from nnunetv2_cfnet.architecture.arguments import can_be_residual, complete_arguments
from nnunetv2_cfnet.architecture.cfnet import CFNet
from nnunetv2_cfnet.architecture.published import TOTAL_STRIDE, PublishedCFNet
from nnunetv2_cfnet.errors import UserError
from nnunetv2_cfnet.files.json_files import read_json_object
from nnunetv2_cfnet.files.names import is_plain_name
from nnunetv2_cfnet.planning.modality_groups import (
    PUBLISHED_PAIRING,
    channel_names_of,
    describe_groups,
    resolve_modality_groups,
)

CFNET = f"{CFNet.__module__}.{CFNet.__name__}"
PUBLISHED = f"{PublishedCFNet.__module__}.{PublishedCFNet.__name__}"
TRANSLATED = (PlainConvUNet.__name__, ResidualEncoderUNet.__name__)
# what plans that no planner wrote raise while they are read
MALFORMED = (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError)
# where classes that plans name may lie: of anything else, an import alone would run code
TRUSTED = ("torch", "dynamic_network_architectures", "nnunetv2_cfnet")
# of a patch, 812 cubed: 32 maps of that size, in half precision, take 34 GB
MOST_VOXELS = 2**29
# convs or blocks of an encoder or decoder: ten times those of nnU-Net's largest plans
MOST_LAYERS = 1000
# given by nnU-Net when it builds a network, never by the plans
GIVEN_BY_NNUNET = ("input_channels", "num_classes", "deep_supervision")
# what a plans file names, with CFNet's defaults
ARGUMENTS = {
    name: parameter.default
    for name, parameter in inspect.signature(CFNet).parameters.items()
    if name not in GIVEN_BY_NNUNET
}


def read_plans(file: Path, remedy: str = "Restore it, or delete it to plan anew.") -> dict[str, Any]:
    """A plans file.

    Args:
        remedy: what to do if it can't be read, a sentence for the message.

    Raises:
        UserError: it is missing, can't be one, or has names that lead elsewhere.
    """
    plans = read_json_object(file, remedy)
    if not isinstance(plans.get("configurations"), dict):
        raise UserError(f"{file} has no configurations. {remedy}")
    try:
        check_names(plans)
    except ValueError as error:
        raise UserError(f"{file}: {error}") from None
    return plans


def check_names(plans: Mapping) -> None:
    """nnU-Net makes, empties and reads folders of names in plans; see that each is a folder's name and no path.

    Raises:
        ValueError: it is none; names it.
    """
    names = [(key, plans.get(key)) for key in ("dataset_name", "plans_name")]
    for configuration, content in plans["configurations"].items():
        names.append(("configuration", configuration))
        for key in ("data_identifier", "previous_stage", "next_stage"):
            given = content.get(key) if isinstance(content, Mapping) else None
            names += [(f"{key} of {configuration!r}", name) for name in (given if isinstance(given, list) else [given])]
    for key, name in names:
        if name is not None and not is_plain_name(name):
            raise ValueError(f"{key} is {name!r}, and must be a name without a folder: correct it in the plans file.")


def check_sizes(configuration: Mapping) -> None:
    """Refuse what no machine could train, before time or memory is spent on building it.

    Raises:
        ValueError: a patch or a number of layers that is too large, or is none; names it.
    """
    patch_size, arguments = configuration["patch_size"], configuration["architecture"]["arch_kwargs"]
    if not all(type(size) is int and size > 0 for size in patch_size) or math.prod(patch_size) > MOST_VOXELS:
        raise ValueError(
            f"patch_size {patch_size} is no patch of 1 to {MOST_VOXELS} voxels: correct it in the plans file."
        )
    n_stages = arguments.get("n_stages")
    for name in ("n_stages", "n_conv_per_stage", "n_blocks_per_stage", "n_conv_per_stage_decoder"):
        given = arguments.get(name)
        num_stages = n_stages if isinstance(n_stages, int) and name != "n_stages" else 1
        counts = given if isinstance(given, list) else [given] * min(num_stages, MOST_LAYERS)
        if sum(max(count, 0) for count in counts if isinstance(count, int)) > MOST_LAYERS:
            raise ValueError(f"{name} asks for more than {MOST_LAYERS} layers in all: correct it in the plans file.")


class CFNetPlans(NamedTuple):
    """Plans that name CFNet wherever it can take the network's place, and lines for the training log that say how."""

    plans: dict
    notes: list[str]


def cfnet_plans(plans: Mapping, dataset_json: Mapping, configuration: str) -> CFNetPlans:
    """Translate a plan of PlainConvUNet or ResidualEncoderUNet; one that names CFNet keeps what it says.

    Args:
        plans: nnU-Net's plans; left unchanged.
        dataset_json: nnU-Net's dataset.json, for the channel names.
        configuration: the one to be trained; its network is built on the meta device as a check. Others that can't
            be translated keep their architecture.

    Raises:
        ValueError: another architecture, a patch size that the strides do not divide, wrong modality groups, or
            arguments that CFNet refuses, names that lead elsewhere; names the plans, the configuration and what to do.
    """
    check_names(plans)
    translated, manager = deepcopy(dict(plans)), PlansManager(deepcopy(dict(plans)))
    notes = []
    for name in manager.available_configurations:
        where = f"plans {manager.plans_name!r}, configuration {name!r}"
        try:
            # inheritance and nnU-Net's old formats are resolved, so that each configuration names its own CFNet
            planned = manager.get_configuration(name)
            check_sizes(planned.configuration)
            architecture, reason = cfnet_architecture(planned, dataset_json, plans, where)
        except (ValueError, *MALFORMED) as error:
            problem = _describe(error, where)
            if name == configuration:
                raise ValueError(problem) from error
            notes.append(f"Configuration {name!r} is left as it is: {problem}")
            continue
        translated["configurations"][name]["architecture"] = architecture
        if name == configuration:
            groups = describe_groups(architecture["arch_kwargs"]["modality_groups"], channel_names_of(dataset_json))
            notes.append(f"CFNet's modality groups: {groups} - {reason}.")
    check_buildable(translated, configuration, dataset_json)
    return CFNetPlans(translated, notes)


def masked_plans(plans: Mapping, dataset_json: Mapping, configuration: str) -> CFNetPlans:
    """cfnet_plans with mask_missing_groups wherever they name CFNet: for training with missing sequences.

    Args and Raises: see cfnet_plans.
    """
    ours = cfnet_plans(plans, dataset_json, configuration)
    for content in ours.plans["configurations"].values():
        architecture = content.get("architecture", {})
        if architecture.get("network_class_name") == CFNET:
            architecture["arch_kwargs"]["mask_missing_groups"] = True
    return ours


def published_plans(plans: Mapping, dataset_json: Mapping, configuration: str) -> CFNetPlans:
    """Put the published network into one 2D configuration, whatever network is planned there.

    Args:
        plans: nnU-Net's plans; left unchanged.
        dataset_json: nnU-Net's dataset.json, for the channel names.
        configuration: the one to be trained. Others are left as they are.

    Raises:
        ValueError: a configuration that is not 2D, a patch that 16 does not divide, or modality groups that are wrong
            or of different size, names that lead elsewhere; names the plans, the configuration and what to do.
    """
    check_names(plans)
    translated, manager = deepcopy(dict(plans)), PlansManager(deepcopy(dict(plans)))
    where = f"plans {manager.plans_name!r}, configuration {configuration!r}"
    try:
        planned = manager.get_configuration(configuration)
        if len(planned.patch_size) != 2:
            raise ValueError(
                f"{where}: the published CFNet is 2D, the patch is {list(planned.patch_size)}. Train the configuration "
                "2d, or nnUNetTrainerCFNet."
            )
        check_sizes(planned.configuration)
        _check_divisible(planned.patch_size, [[TOTAL_STRIDE] * 2], where)
        named = planned.network_arch_init_kwargs.get("modality_groups")
        groups, reason = resolve_modality_groups(dataset_json, plans, named, PUBLISHED_PAIRING)
    except (ValueError, *MALFORMED) as error:
        raise ValueError(_describe(error, where)) from error
    translated["configurations"][configuration]["architecture"] = published_architecture(groups)
    check_buildable(translated, configuration, dataset_json)
    names = describe_groups(groups, channel_names_of(dataset_json))
    return CFNetPlans(translated, [f"The published CFNet's modality groups: {names} - {reason}."])


def published_architecture(groups: list[list[int]]) -> dict:
    """The architecture entry of the published network."""
    return {"network_class_name": PUBLISHED, "arch_kwargs": {"modality_groups": groups}, "_kw_requires_import": []}


def cfnet_architecture(
    configuration: ConfigurationManager, dataset_json: Mapping, plans: Mapping, where: str
) -> tuple[dict, str]:
    """CFNet's architecture entry for one configuration, and why its modality groups were chosen.

    Args:
        configuration: with patch_size and the architecture of a U-Net or of CFNet; inheritance is resolved.
        dataset_json: nnU-Net's dataset.json, for the channel names.
        plans: the plans that it is from, for groups that they may name.
        where: says in an error which plans and configuration it is.

    Raises:
        ValueError: see cfnet_plans.
    """
    architecture = configuration.configuration["architecture"]
    class_name, given = architecture["network_class_name"], architecture["arch_kwargs"]
    if class_name != CFNET and class_name.rsplit(".", 1)[-1] not in TRANSLATED:
        raise ValueError(
            f"{where}: CFNet can't take the place of {class_name}. Use plans of {' or '.join(TRANSLATED)}, as "
            "nnU-Net's planners make (-p nnUNetPlans, nnUNetResEncUNetMPlans, ..), or train these with the trainer "
            "that they are for."
        )
    unknown = {name: value for name, value in given.items() if name not in ARGUMENTS and value is not None}
    unknown.pop("deep_supervision", None)
    if unknown:
        raise ValueError(f"{where}: CFNet has no argument for {unknown} of {class_name}. Remove it from the plans.")
    required = [name for name, default in ARGUMENTS.items() if default is inspect.Parameter.empty]
    missing = [name for name in required if given.get(name) is None]
    if missing:
        raise ValueError(f"{where}: {class_name} lacks the arguments {missing}. Plan the dataset anew.")

    groups, reason = resolve_modality_groups(dataset_json, plans, given.get("modality_groups"))
    arguments = ARGUMENTS | {name: value for name, value in given.items() if name in ARGUMENTS and value is not None}
    n_conv, patch_size = arguments["n_conv_per_stage"], configuration.patch_size
    # plans that already name CFNet may be of a model that was trained with plain encoders
    if n_conv is not None and class_name != CFNET and given.get("residual_encoders") is None:
        # not in 2D: there they were not trained, and a step would take a twentieth longer (docs/benchmarks.md)
        arguments["residual_encoders"] = len(patch_size) == 3 and can_be_residual(n_conv, arguments["nonlin_first"])
    arguments["modality_groups"] = groups  # as indices, where the plans have names
    as_built = {
        **arguments,
        "conv_op": convert_dim_to_conv_op(len(patch_size)),
        "input_channels": len(channel_names_of(dataset_json)),
    }
    try:
        complete = vars(complete_arguments(as_built, patch_size))
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error
    _check_divisible(patch_size, complete["strides"], where)
    # a plan's own values stay as they are written there
    arguments |= {name: complete[name] for name, value in arguments.items() if value is None}
    return {**architecture, "network_class_name": CFNET, "arch_kwargs": arguments}, reason


def check_classes(architecture: Mapping) -> None:
    """nnU-Net imports and calls what an architecture entry names; see that these are networks and layers.

    Raises:
        ValueError: something else, or what can't be imported; names it.
    """
    arguments = {name: architecture["arch_kwargs"][name] for name in architecture["_kw_requires_import"]}
    for name, path in {"network_class_name": architecture["network_class_name"], **arguments}.items():
        if path is None:
            continue
        try:
            found = pydoc.locate(path) if path.split(".")[0] in TRUSTED else object
        except pydoc.ErrorDuringImport as error:
            raise ValueError(f"{name}={path!r} can't be imported ({error.value}); name another class.") from error
        if found is None and name in arguments:  # nnU-Net would build without it
            raise ValueError(f"{name}={path!r} can't be imported; name the class with its module.")
        if found is None:  # nnU-Net would search for a network of that name, and call whatever has it
            found = recursive_find_python_class(ARCHITECTURES.__path__[0], path.split(".")[-1], ARCHITECTURES.__name__)
        if found is not None and not (isinstance(found, type) and issubclass(found, torch.nn.Module)):
            raise ValueError(
                f"{name}={path!r} is no network or layer (torch.nn.Module) of {', '.join(TRUSTED)}: not called. "
                "Name one of these, or plan the dataset anew."
            )


def network_on_meta(
    architecture: Mapping, input_channels: int, num_classes: int
) -> AbstractDynamicNetworkArchitectures:
    """The network that nnU-Net builds from an architecture entry, on the meta device: no memory is touched.

    Raises:
        ValueError: see check_classes.
    """
    check_classes(architecture)
    with torch.device("meta"):
        return get_network_from_plans(
            architecture["network_class_name"],
            architecture["arch_kwargs"],
            architecture["_kw_requires_import"],
            input_channels,
            num_classes,
            allow_init=False,
        )


def check_buildable(plans: dict, configuration: str, dataset_json: Mapping) -> None:
    """Build a configuration's network on the meta device.

    Raises:
        ValueError: it names something else than layers, or CFNet refuses its arguments; names the plans and the
            configuration.
    """
    manager = PlansManager(plans)
    architecture = manager.get_configuration(configuration)
    where = f"plans {manager.plans_name!r}, configuration {configuration!r}"
    try:
        input_channels = determine_num_input_channels(manager, architecture, dataset_json)
        network_on_meta(architecture.configuration["architecture"], input_channels, num_classes=1)
    except (ValueError, *MALFORMED) as error:
        raise ValueError(_describe(error, where)) from error


def _describe(error: Exception, where: str) -> str:
    if isinstance(error, ValueError):
        return str(error) if str(error).startswith(where) else f"{where}: {error}"
    problem = f"{type(error).__name__}: {error}"
    return f"{where}: can't be read as nnU-Net's planners write it ({problem}). Plan the dataset anew."


def _check_divisible(patch_size: Sequence[int], strides: Sequence[Sequence[int]], where: str) -> None:
    for axis, (size, stride) in enumerate(zip(patch_size, np.prod(strides, axis=0), strict=True)):
        if size % stride:
            nearest = [int(n * stride) for n in (size // stride, size // stride + 1) if n]
            raise ValueError(
                f"{where}: patch_size {list(patch_size)} has {size} voxels on axis {axis}, which the strides' product "
                f"{stride} does not divide. Set it to {' or '.join(map(str, nearest))} in the plans file."
            )
