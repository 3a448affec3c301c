"""Short names of models: what all of them share is left out.

nnUNetTrainerCFNet__nnUNetPlans, nnUNetTrainer__nnUNetPlans -> CFNet, U-Net
.., nnUNetTrainer__nnUNetResEncUNetMPlans                   -> CFNet, U-Net, U-Net ResEncUNetM
.., nnUNetTrainer_250epochs__nnUNetPlans                    -> CFNet, U-Net, U-Net 250epochs
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace

from nnunetv2_cfnet.errors import UserError
from nnunetv2_cfnet.report.comparison import Comparison, PairedTest

TRAINER, OWN_NETWORK = "nnUNetTrainer", "U-Net"  # without more to its name, it trains the network of nnU-Net's plans
VARIANT = re.compile(r"(ModalityDropout|_[^_]+)")


def short_names(names: Sequence[str]) -> list[str]:
    """Of TRAINER__PLANS each; of other names, and where short ones would be the same, the names as they are."""
    parts = [name.split("__") for name in names]
    if any(len(part) != 2 for part in parts):
        return list(names)
    trainers, plans = zip(*parts, strict=True)
    if len(set(trainers)) == 1:
        short = [_short_plans(plan) or "default" for plan in plans]
    else:
        beside = [""] * len(plans) if len(set(plans)) == 1 else map(_short_plans, plans)
        short = [f"{trainer} {plan}".strip() for trainer, plan in zip(_short_trainers(trainers), beside, strict=True)]
    return short if len(set(short)) == len(names) else list(names)


def choose_names(names: Sequence[str], given: Sequence[str]) -> dict[str, str]:
    """The name of each model as pages have it: the given ones, or if there are none, short ones.

    Raises:
        UserError: they are not one for each model, or not distinct.
    """
    if not given:
        return dict(zip(names, short_names(names), strict=True))
    if len(given) != len(names) or len(set(given)) < len(given) or not all(given):
        raise UserError(
            f"--names {' '.join(given)}: give each of the {len(names)} models a name of its own, in the order of "
            f"{', '.join(names)}."
        )
    return dict(zip(names, given, strict=True))


def renamed(comparison: Comparison, names: Mapping[str, str]) -> Comparison:
    """The same with other names of the models, and the full ones in its provenance."""
    return replace(
        comparison,
        models=[replace(model, name=names[model.name]) for model in comparison.models],
        tests=renamed_tests(comparison.tests, names),
        ranks={names[model]: rank for model, rank in comparison.ranks.items()},
        provenance=full_names(names) | dict(comparison.provenance),
    )


def renamed_tests(tests: Sequence[PairedTest], names: Mapping[str, str]) -> list[PairedTest]:
    return [replace(test, other=names[test.other]) for test in tests]


def full_names(names: Mapping[str, str]) -> dict[str, str]:
    """For the provenance: what stands for what."""
    return {f"model {short}": full for full, short in names.items() if short != full}


def _short_trainers(trainers: Sequence[str]) -> list[str]:
    """Without nnU-Net's prefix and the variants at the end that all of them are."""
    words = []  # of each trainer its network, and its variants
    for trainer in trainers:
        network, *variants = VARIANT.split(trainer.removeprefix(TRAINER))
        words.append([network or OWN_NETWORK, *(variant.removeprefix("_") for variant in variants if variant)])
    while all(variants for _, *variants in words) and len({last for *_, last in words}) == 1:
        words = [rest for *rest, _ in words]
    return list(map(" ".join, words))


def _short_plans(plans: str) -> str:
    return plans.removeprefix("nnUNet").removesuffix("Plans")
