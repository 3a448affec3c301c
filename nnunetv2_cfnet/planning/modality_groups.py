"""Which MRI sequences go into which of CFNet's two encoders.

The network's own arguments are imported where groups are checked, since torch takes seconds: channels are asked for by
their names elsewhere, too.
"""

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

# A key of dataset.json or of a plans file: two lists of channel names or indices.
OVERRIDE_KEY = "cfnet_modality_groups"
EXAMPLE = '[["T1", "T1ce"], ["T2", "FLAIR"]]'
# The names that BraTS and MSD releases give the sequences.
SEQUENCES = {
    "T1": frozenset({"t1", "t1n", "t1w"}),
    "T1ce": frozenset({"t1ce", "t1c", "t1gd", "t1post"}),
    "T2": frozenset({"t2", "t2w"}),
    "FLAIR": frozenset({"flair", "t2f"}),
}


class ModalityGroups(NamedTuple):
    """Channel indices of the two groups, and why they were chosen."""

    groups: list[list[int]]
    reason: str


class Pairing(NamedTuple):
    """Which sequences go together."""

    name: str
    groups: tuple[tuple[str, str], tuple[str, str]]


# Enhancement is what T1ce shows and T1 does not, and oedema is told from fluid by FLAIR beside T2: with these pairs one
# encoder forms either difference from its first conv on. On a phantom they were better in short trainings, and not told
# apart from the published ones in longer ones (docs/ablation.md).
CONTRAST_PAIRING = Pairing("the pairing (T1, T1ce) and (T2, FLAIR)", (("T1", "T1ce"), ("T2", "FLAIR")))
PUBLISHED_PAIRING = Pairing("the paper's pairing (T1, T2) and (T1ce, FLAIR)", (("T1", "T2"), ("T1ce", "FLAIR")))


def channel_names_of(dataset_json: Mapping) -> list[str]:
    """Channel names in channel order ("modality" is what nnU-Net v1 called the key)."""
    names = dataset_json.get("channel_names") or dataset_json.get("modality")
    if not names or not isinstance(names, Mapping):
        raise ValueError('dataset.json has no "channel_names" by index: add them, as in {"0": "T1", "1": "T1ce"}.')
    return [names[index] for index in sorted(names, key=int)]


def sequence_of(channel: str) -> str | None:
    """The MRI sequence that a channel is named after, one of SEQUENCES, in any of its spellings."""
    key = re.sub(r"[^a-z0-9]", "", channel.lower())
    return next((sequence for sequence, spellings in SEQUENCES.items() if key in spellings), None)


def resolve_modality_groups(
    dataset_json: Mapping, plans: Mapping, named: object = None, pairing: Pairing = CONTRAST_PAIRING
) -> ModalityGroups:
    """Choose the groups: those of the plans, else dataset.json's override, else by the channel names.

    Args:
        dataset_json: nnU-Net's dataset.json; may have the key "cfnet_modality_groups".
        plans: nnU-Net's plans; may have the key "cfnet_modality_groups".
        named: modality_groups of an architecture in the plans that is CFNet already; None if there are none.
        pairing: of channels with the usual names.

    Raises:
        ValueError: groups that name no channel of the dataset, leave one out, or are not two; two different groupings
            in the plans.
    """
    from nnunetv2_cfnet.architecture.arguments import default_modality_groups

    names = channel_names_of(dataset_json)
    of_plans = [
        named_groups(groups, names, f"{key}={groups!r} in the plans file")
        for key, groups in (("modality_groups", named), (OVERRIDE_KEY, plans.get(OVERRIDE_KEY)))
        if groups is not None
    ]
    if of_plans:
        if of_plans[0] != of_plans[-1]:
            raise ValueError(
                f"The plans file names two groupings, modality_groups={named!r} in the architecture and "
                f"{OVERRIDE_KEY}={plans[OVERRIDE_KEY]!r}: remove one."
            )
        return ModalityGroups(of_plans[0], "named by the plans file")
    if OVERRIDE_KEY in dataset_json:
        override = dataset_json[OVERRIDE_KEY]
        groups = named_groups(override, names, f"{OVERRIDE_KEY}={override!r} in dataset.json")
        return ModalityGroups(groups, f"{OVERRIDE_KEY} of dataset.json")
    if len(names) == 1:
        return ModalityGroups(default_modality_groups(1), "there is one channel: both encoders see it")
    sequences = [sequence_of(name) for name in names]
    groups = [[i for i, sequence in enumerate(sequences) if sequence in group] for group in pairing.groups]
    if all(groups) and sum(map(len, groups)) == len(names):
        return ModalityGroups(groups, f"{pairing.name}, by channel name")
    return ModalityGroups(
        default_modality_groups(len(names)),
        f"the channel names are not those of {pairing.name}: first half, second half",
    )


def describe_groups(groups: Sequence[Sequence[int]], names: Sequence[str]) -> str:
    """The groups by channel name, as in "(T1, T2) and (T1ce, FLAIR)"."""
    return " and ".join(f"({', '.join(names[channel] for channel in group)})" for group in groups)


def named_groups(override: object, names: list[str], where: str, example: str = EXAMPLE) -> list[list[int]]:
    """Channel indices of two lists of channel names or indices.

    Args:
        override: the two lists.
        names: of all channels, in channel order.
        where: says in an error what was given and in which file.
        example: of what should be given there.

    Raises:
        ValueError: not two lists, unknown channels, or channels that are left out; names them and what to do.
    """
    from nnunetv2_cfnet.architecture.arguments import check_modality_groups

    advice = f"Give two lists of channel names or indices, as in {example}; channels: {names}."

    def index_of(channel: object) -> int:
        if isinstance(channel, int) and not isinstance(channel, bool) and 0 <= channel < len(names):
            return channel
        matches = [i for i, name in enumerate(names) if isinstance(channel, str) and name.lower() == channel.lower()]
        if len(matches) != 1:
            problem = "is the name of several channels" if matches else f"is none of the {len(names)} channel(s)"
            raise ValueError(f"{where}: {channel!r} {problem}. {advice}")
        return matches[0]

    if not isinstance(override, list) or not all(isinstance(group, list) for group in override):
        raise ValueError(f"{where} is not two lists. {advice}")
    groups = [[index_of(channel) for channel in group] for group in override]
    try:
        check_modality_groups(groups, len(names))
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error
    left_out = [name for index, name in enumerate(names) if not any(index in group for group in groups)]
    if left_out:
        raise ValueError(f"{where}: channels {left_out} are in no group. {advice}")
    return groups
