"""An nnU-Net plan -> the same plan with CFNet's architecture, every argument spelled out."""

import inspect
import json
import pydoc
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from dynamic_network_architectures.architectures.abstract_arch import AbstractDynamicNetworkArchitectures
from dynamic_network_architectures.architectures.unet import PlainConvUNet, ResidualEncoderUNet
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
from nnunetv2.utilities.label_handling.label_handling import determine_num_input_channels
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager

from nnunetv2_cfnet.architecture.cfnet import DILATIONS, CFNet, default_fusion_heads
from nnunetv2_cfnet.architecture.encoders import default_encoder_features
from nnunetv2_cfnet.architecture.published import TOTAL_STRIDE, PublishedCFNet
from nnunetv2_cfnet.planning.modality_groups import (
    OVERRIDE_KEY,
    channel_names_of,
    describe_groups,
    resolve_modality_groups,
)

CFNET = f"{CFNet.__module__}.{CFNet.__name__}"
PUBLISHED = f"{PublishedCFNet.__module__}.{PublishedCFNet.__name__}"
TRANSLATED = (PlainConvUNet.__name__, ResidualEncoderUNet.__name__)
# what plans that no planner wrote raise while they are read
MALFORMED = (AttributeError, IndexError, KeyError, RuntimeError, TypeError)
# arguments that no U-Net plan has: this package chooses them where the plans do not
OWN_ARGUMENTS = inspect.signature(CFNet).parameters.keys() - set().union(
    *(inspect.signature(unet).parameters for unet in (PlainConvUNet, ResidualEncoderUNet))
)
# given by nnU-Net when it builds a network, never by the plans
GIVEN_BY_NNUNET = ("input_channels", "num_classes", "deep_supervision")
# what a plans file names, with CFNet's defaults
ARGUMENTS = {
    name: parameter.default
    for name, parameter in inspect.signature(CFNet).parameters.items()
    if name not in GIVEN_BY_NNUNET
}


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
            arguments that CFNet refuses; names the plans, the configuration and the way out.
    """
    translated, manager = deepcopy(dict(plans)), PlansManager(deepcopy(dict(plans)))
    notes = []
    for name in manager.available_configurations:
        where = f"plans {manager.plans_name!r}, configuration {name!r}"
        try:
            # inheritance and nnU-Net's old formats are resolved, so that each configuration names its own CFNet
            architecture, reason = cfnet_architecture(manager.get_configuration(name), dataset_json, plans, where)
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
    _check_buildable(translated, configuration, dataset_json)
    return CFNetPlans(translated, notes)


def published_plans(plans: Mapping, dataset_json: Mapping, configuration: str) -> CFNetPlans:
    """Put the published network into one 2D configuration, whatever network is planned there.

    Args:
        plans: nnU-Net's plans; left unchanged.
        dataset_json: nnU-Net's dataset.json, for the channel names.
        configuration: the one to be trained. Others are left as they are.

    Raises:
        ValueError: a configuration that is not 2D, a patch that 16 does not divide, or modality groups that are wrong
            or of different size; names the plans, the configuration and the way out.
    """
    translated, manager = deepcopy(dict(plans)), PlansManager(deepcopy(dict(plans)))
    where = f"plans {manager.plans_name!r}, configuration {configuration!r}"
    try:
        planned = manager.get_configuration(configuration)
        if len(planned.patch_size) != 2:
            raise ValueError(
                f"{where}: the published CFNet is 2D, the patch is {list(planned.patch_size)}. Train the configuration "
                "2d, or nnUNetTrainerCFNet."
            )
        _check_divisible(planned.patch_size, [[TOTAL_STRIDE] * 2], where)
        named = planned.network_arch_init_kwargs.get("modality_groups")
        groups, reason = resolve_modality_groups(dataset_json, plans, named)
    except (ValueError, *MALFORMED) as error:
        raise ValueError(_describe(error, where)) from error
    translated["configurations"][configuration]["architecture"] = published_architecture(groups)
    _check_buildable(translated, configuration, dataset_json)
    names = describe_groups(groups, channel_names_of(dataset_json))
    return CFNetPlans(translated, [f"The published CFNet's modality groups: {names} - {reason}."])


def published_architecture(groups: list[list[int]]) -> dict:
    """The architecture entry of the published network."""
    return {"network_class_name": PUBLISHED, "arch_kwargs": {"modality_groups": groups}, "_kw_requires_import": []}


def keep_trained_plans(
    ours: CFNetPlans, plans: Mapping, dataset_json: Mapping, configuration: str, trained: Path
) -> CFNetPlans:
    """Let the plans of a model folder that holds a training win over newly translated ones, or refuse.

    Every fold's start rewrites the folder's plans.json, and prediction builds the network of all folds from it. So
    a plan or group setting that was changed since is an error. Arguments that the plan does not set and this
    release would choose otherwise are taken from the folder.

    Args:
        ours: what cfnet_plans made of `plans`.
        plans: the plans that the training was started with.
        dataset_json: nnU-Net's dataset.json.
        configuration: the one to be trained.
        trained: plans.json of the model folder; need not exist.

    Raises:
        ValueError: the folder was trained with other settings; names them, the file and the way out.
    """
    if not trained.is_file():
        return ours
    try:
        recorded = json.loads(trained.read_text())
        recorded_view = _view(recorded, configuration)
    except (ValueError, *MALFORMED) as error:
        raise ValueError(
            f"{trained} can't be read as CFNet's plans of {configuration!r} ({error}). Restore it, or move its folder "
            "away to train anew."
        ) from error

    set_by_plan = PlansManager(deepcopy(dict(plans))).get_configuration(configuration).network_arch_init_kwargs
    chosen_here = {
        f"configuration.architecture.arch_kwargs.{name}"
        for name in OWN_ARGUMENTS - {"modality_groups", "architecture_version"}
        if set_by_plan.get(name) is None
    }
    now, before = dict(_flatten(_view(ours.plans, configuration))), dict(_flatten(recorded_view))
    differing = [key for key in sorted(now.keys() | before.keys()) if now.get(key) != before.get(key)]
    refused = [key for key in differing if key not in chosen_here]
    if refused:
        listing = "\n".join(f"  {key}: trained with {before.get(key)}, now {now.get(key)}" for key in refused)
        raise ValueError(
            f"{trained.parent} was trained with other settings than it would be continued with:\n{listing}\n"
            "Undo the change (in the plans, or the modality groups in dataset.json), give the changed plans a name of "
            "their own (plans_name and -p), or move the folder away to train anew."
        )
    if not differing:
        return ours
    kept = deepcopy(ours.plans)
    recorded_arguments = recorded_view["configuration"]["architecture"]["arch_kwargs"]
    names = [key.rsplit(".", 1)[-1] for key in differing]
    arguments = {name: recorded_arguments[name] for name in names if recorded_arguments.get(name) is not None}
    kept["configurations"][configuration]["architecture"]["arch_kwargs"] |= arguments
    _check_buildable(kept, configuration, dataset_json)
    listing = ", ".join(f"{name}={value}" for name, value in arguments.items())
    return CFNetPlans(kept, [*ours.notes, f"CFNet's arguments are kept as {trained} has them: {listing}."])


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

    patch_size, n_stages = configuration.patch_size, given["n_stages"]
    features = _expand(given["features_per_stage"], n_stages)
    strides = [_expand(stride, len(patch_size)) for stride in _expand(given["strides"], n_stages)]
    if len(features) != n_stages or len(strides) != n_stages or any(len(s) != len(patch_size) for s in strides):
        raise ValueError(
            f"{where}: n_stages={n_stages!r}, features_per_stage={features}, strides={strides} and patch_size "
            f"{list(patch_size)} do not fit each other. Plan the dataset anew, or make their lengths agree."
        )
    _check_divisible(patch_size, strides, where)
    groups, reason = resolve_modality_groups(dataset_json, plans, given.get("modality_groups"))
    bottleneck = np.asarray(patch_size) // np.prod(strides, axis=0)
    chosen = {
        "encoder_features_per_stage": default_encoder_features(features, strides),
        # a tap that is further away than the map is wide would only ever see padding
        "context_dilations": [[int(min(d, max(1, size - 1))) for size in bottleneck] for d in DILATIONS],
    }
    arguments: dict[str, Any] = {
        name: given[name] if given.get(name) is not None else chosen.get(name, default)
        for name, default in ARGUMENTS.items()
    }
    arguments["modality_groups"] = groups  # as indices, where the plans have names
    widths = _expand(arguments["encoder_features_per_stage"], n_stages)
    if len(widths) != n_stages:
        raise ValueError(f"{where}: encoder_features_per_stage={widths} needs {n_stages} entries, one a stage.")
    if arguments["fusion_heads"] is None:
        arguments["fusion_heads"] = default_fusion_heads(widths, strides)
    return {**architecture, "network_class_name": CFNET, "arch_kwargs": arguments}, reason


def network_on_meta(
    architecture: Mapping, input_channels: int, num_classes: int
) -> AbstractDynamicNetworkArchitectures:
    """The network that nnU-Net builds from an architecture entry, on the meta device: no memory is touched."""
    with torch.device("meta"):
        return get_network_from_plans(
            architecture["network_class_name"],
            architecture["arch_kwargs"],
            architecture["_kw_requires_import"],
            input_channels,
            num_classes,
            allow_init=False,
        )


def _describe(error: Exception, where: str) -> str:
    if isinstance(error, ValueError):
        return str(error) if str(error).startswith(where) else f"{where}: {error}"
    problem = f"{type(error).__name__}: {error}"
    return f"{where}: can't be read as nnU-Net's planners write it ({problem}). Plan the dataset anew."


def _expand(value: int | Sequence, length: int) -> list:
    return [value] * length if isinstance(value, int) else list(value)


def _check_divisible(patch_size: Sequence[int], strides: Sequence[Sequence[int]], where: str) -> None:
    for axis, (size, stride) in enumerate(zip(patch_size, np.prod(strides, axis=0), strict=True)):
        if size % stride:
            nearest = [int(n * stride) for n in (size // stride, size // stride + 1) if n]
            raise ValueError(
                f"{where}: patch_size {list(patch_size)} has {size} voxels on axis {axis}, which the strides' product "
                f"{stride} does not divide. Set it to {' or '.join(map(str, nearest))} in the plans file."
            )


def _check_buildable(plans: dict, configuration: str, dataset_json: Mapping) -> None:
    manager = PlansManager(plans)
    architecture = manager.get_configuration(configuration)
    where = f"plans {manager.plans_name!r}, configuration {configuration!r}"
    try:
        for name in architecture.network_arch_init_kwargs_req_import:
            path = architecture.network_arch_init_kwargs[name]
            if path is not None and pydoc.locate(path) is None:  # nnU-Net would build without it
                raise ValueError(f"{name}={path!r} can't be imported; name the class with its module.")
        input_channels = determine_num_input_channels(manager, architecture, dataset_json)
        network_on_meta(architecture.configuration["architecture"], input_channels, num_classes=1)
    except (ValueError, *MALFORMED) as error:
        raise ValueError(_describe(error, where)) from error


def _view(plans: Mapping, configuration: str) -> dict:
    """What a training of one configuration depends on; its modality groups are in the architecture."""
    resolved = PlansManager(deepcopy(dict(plans))).get_configuration(configuration).configuration
    own = {
        key: value for key, value in plans.items() if key not in ("configurations", "continue_training", OVERRIDE_KEY)
    }
    return {**own, "configuration": resolved}


def _flatten(tree: Mapping, prefix: str = "") -> Iterator[tuple[str, object]]:
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", json.dumps(value)  # NaN, which nnU-Net's fingerprints can hold, equals itself
