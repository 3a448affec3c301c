"""The guard of trained model folders: their plans win over newly translated ones, or the training is refused."""

import inspect
import json
import time
from collections.abc import Iterator, Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

from dynamic_network_architectures.architectures.unet import PlainConvUNet, ResidualEncoderUNet
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunetv2_cfnet.planning.modality_groups import OVERRIDE_KEY
from nnunetv2_cfnet.planning.plans import ARGUMENTS, MALFORMED, CFNetPlans, check_buildable

# arguments that no U-Net plan has: this package chooses them where the plans do not
OWN_ARGUMENTS = ARGUMENTS.keys() - set().union(
    *(inspect.signature(unet).parameters for unet in (PlainConvUNet, ResidualEncoderUNet))
)
# nnU-Net writes plans.json in place, at the start of each fold: what another fold is writing is read again
READINGS = 8
PAUSE_SECONDS = 0.25


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
        ValueError: the folder was trained with other settings; names them, the file and what to do.
    """
    if not trained.is_file():
        return ours
    try:
        recorded_view = _view(_read(trained), configuration)
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
    check_buildable(kept, configuration, dataset_json)
    listing = ", ".join(f"{name}={value}" for name, value in arguments.items())
    return CFNetPlans(kept, [*ours.notes, f"CFNet's arguments are kept as {trained} has them: {listing}."])


def _read(trained: Path) -> Any:
    """Read plans.json, again where it is half written."""
    for _ in range(READINGS - 1):
        try:
            return json.loads(trained.read_text())
        except ValueError:
            time.sleep(PAUSE_SECONDS)
    return json.loads(trained.read_text())


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
