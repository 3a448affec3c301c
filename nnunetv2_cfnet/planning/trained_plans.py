"""The guard of trained model folders: their plans win over newly translated ones, or the training is refused."""

import inspect
import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from copy import deepcopy
from pathlib import Path

from dynamic_network_architectures.architectures.unet import PlainConvUNet, ResidualEncoderUNet
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunetv2_cfnet.errors import UserError, listing_of
from nnunetv2_cfnet.files.checkpoints import read_checkpoint
from nnunetv2_cfnet.files.whole import whole_file
from nnunetv2_cfnet.planning.modality_groups import OVERRIDE_KEY
from nnunetv2_cfnet.planning.plans import ARGUMENTS, CFNET, MALFORMED, CFNetPlans, check_buildable

# arguments that no U-Net plan has: this package chooses them where the plans do not
OWN_ARGUMENTS = ARGUMENTS.keys() - set().union(
    *(inspect.signature(unet).parameters for unet in (PlainConvUNet, ResidualEncoderUNet))
)
# a change of the version is refused, so that it is never filled in
CFNET_DEFAULTS = {name: ARGUMENTS[name] for name in OWN_ARGUMENTS - {"architecture_version"}}


def keep_trained_plans(
    ours: CFNetPlans, plans: Mapping, dataset_json: Mapping, configuration: str, trained: Path
) -> CFNetPlans:
    """Let the plans of a model folder that holds a training win over newly translated ones, or refuse.

    Every fold's start rewrites the folder's plans.json, and prediction builds the network of all folds from it. So
    a plan or group setting that was changed since is an error. Arguments that the plan does not set and this
    release would choose otherwise are taken from the folder.

    A plans.json that a full disk or a kill cut short (earlier versions had nnU-Net write it in place) is written anew,
    if all checkpoints that can be read were trained with the same plans; nothing in these is run.

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
        recorded = _view(json.loads(trained.read_text()), configuration)
    except (ValueError, *MALFORMED) as error:
        kept = _rebuild(ours, plans, dataset_json, configuration, trained, problem=f"{type(error).__name__}: {error}")
        content = {key: value for key, value in kept.plans.items() if key != "continue_training"}  # of one start
        # but not where another fold, or another process of this one, is just writing the same
        with suppress(UserError), whole_file(trained) as unfinished:
            unfinished.write_text(json.dumps(content, indent=4))
        return kept
    return _keep(ours, plans, dataset_json, configuration, trained, recorded)


def _rebuild(
    ours: CFNetPlans, plans: Mapping, dataset_json: Mapping, configuration: str, trained: Path, problem: str
) -> CFNetPlans:
    """The plans of a model folder whose plans.json can't be read, by what every checkpoint in it was trained with."""
    kept, used, unreadable = ours, [], []
    for checkpoint in sorted(trained.parent.glob("fold_*/checkpoint_*.pth")):
        try:
            recorded = _view(read_checkpoint(checkpoint, remedy="")["init_args"]["plans"], configuration)
        except (OSError, ValueError, *MALFORMED) as error:  # or another fold is just writing or removing it
            unreadable.append(f"{checkpoint}: {error}")
            continue
        kept = _keep(kept, plans, dataset_json, configuration, checkpoint, recorded)
        used.append(str(checkpoint.relative_to(trained.parent)))
    if unreadable and not used:
        raise ValueError(
            f"{trained} can't be read ({problem}), and neither can a checkpoint say what was trained there: "
            f"{listing_of(unreadable)}. If plans and modality groups are still those that it was trained with, remove "
            f"{trained.name}: it is made anew. If not, restore it, or move its folder away to train anew."
        )
    source = f"from the dataset's plans, which agree with {listing_of(used)}" if used else "from the dataset's plans"
    return CFNetPlans(
        kept.plans, [*kept.notes, f"{trained} could not be read ({problem}). It was written anew {source}."]
    )


def _keep(
    ours: CFNetPlans, plans: Mapping, dataset_json: Mapping, configuration: str, source: Path, recorded_view: Mapping
) -> CFNetPlans:
    """Our plans with the arguments that were recorded in a source; a ValueError where it had other settings."""
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
            f"{source.parent} was trained with other settings than it would be continued with:\n{listing}\n"
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
    return CFNetPlans(kept, [*ours.notes, f"CFNet's arguments are kept as {source} has them: {listing}."])


def _view(plans: Mapping, configuration: str) -> dict:
    """What a training of one configuration depends on; its modality groups are in the architecture."""
    resolved = PlansManager(deepcopy(dict(plans))).get_configuration(configuration).configuration
    architecture = resolved["architecture"]
    if architecture["network_class_name"] == CFNET:
        # plans lack the arguments that are younger than they are, and build their defaults
        architecture["arch_kwargs"] = CFNET_DEFAULTS | architecture["arch_kwargs"]
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
