"""Subsets of a dataset's channels: their names and order, those that a user asks for, and the means over them.

With BraTS's four sequences the order is that in which papers print the 15 subsets, such as RFNet (Ding et al., "RFNet:
Region-Aware Fusion Network for Incomplete Multi-Modal Brain Tumor Segmentation", ICCV 2021) and mmFormer (Zhang et al.,
MICCAI 2022); with other channels it is by size, and then by the channels' order.
"""

from collections.abc import Sequence
from itertools import combinations

from nnunetv2_cfnet.errors import UserError, listing_of
from nnunetv2_cfnet.planning.modality_groups import sequence_of

Subset = tuple[int, ...]  # channel indices, rising

ALL = "all"
MOST_CHANNELS = 5  # whose 31 subsets are all evaluated unless a user asks for fewer
PRINTED_ORDER = (
    *("T2", "T1ce", "T1", "FLAIR"),
    *("T1ce+T2", "T1+T1ce", "T1+FLAIR", "T1+T2", "T2+FLAIR", "T1ce+FLAIR"),
    *("T1+T1ce+FLAIR", "T1+T2+FLAIR", "T1ce+T2+FLAIR", "T1+T1ce+T2"),
    "T1+T1ce+T2+FLAIR",
)


def all_subsets(channels: Sequence[str]) -> list[Subset]:
    """Every non-empty subset, in the order of reports."""
    indices = range(len(channels))
    by_size = [subset for size in range(1, len(channels) + 1) for subset in combinations(indices, size)]
    sequences = [sequence_of(channel) for channel in channels]
    place = {frozenset(name.split("+")): number for number, name in enumerate(PRINTED_ORDER)}
    if set(sequences) != set(PRINTED_ORDER[-1].split("+")) or len(channels) > len(set(sequences)):
        return by_size
    return sorted(by_size, key=lambda subset: place[frozenset(str(sequences[index]) for index in subset)])


def subset_name(subset: Subset, channels: Sequence[str]) -> str:
    """As in T1+FLAIR."""
    return "+".join(channels[index] for index in subset)


def choose_subsets(text: str | None, channels: Sequence[str]) -> list[Subset]:
    """The subsets that a user asks for, in the order of reports.

    Args:
        text: "all", or subsets as in "T1,T2;FLAIR", in any case; None: all, of up to MOST_CHANNELS channels.

    Raises:
        UserError: unknown channels, a subset given twice, or too many channels for all without having asked for them.
    """
    every = all_subsets(channels)
    if text is None and len(channels) > MOST_CHANNELS:
        raise UserError(
            f"{len(channels)} channels have {len(every)} subsets: give --subsets those to evaluate, as in "
            f'"{channels[0]};{channels[0]},{channels[1]}", or all.'
        )
    if text is None or text.strip().lower() == ALL:
        return every
    chosen = [_named_subset(part.split(","), channels) for part in text.split(";")]
    if repeated := {subset_name(subset, channels) for subset in chosen if chosen.count(subset) > 1}:
        raise UserError(f"--subsets {text}: {listing_of(sorted(repeated))} is given twice.")
    return [subset for subset in every if subset in chosen]


def _named_subset(names: Sequence[str], channels: Sequence[str]) -> Subset:
    by_name = {channel.lower(): index for index, channel in enumerate(channels)}
    wanted = [name.strip().lower() for name in names]
    if unknown := [name.strip() for name in names if name.strip().lower() not in by_name]:
        raise UserError(
            f"--subsets: {unknown[0]!r} is no channel of dataset.json, which has {', '.join(channels)}. Write subsets "
            f'as in "{channels[0]},{channels[-1]};{channels[0]}".'
        )
    return tuple(sorted({by_name[name] for name in wanted}))


def means_of_subsets(
    subsets: Sequence[Subset], channels: Sequence[str], groups: Sequence[Sequence[int]]
) -> dict[str, list[Subset]]:
    """The means that a report shows -> the subsets that each is over; none over nothing.

    Those with and without T1ce are told apart where there is one: what enhances is seen on it alone, so that one mean
    of the enhancing tumour would be of two regimes.

    Args:
        groups: channel indices of the modality groups.
    """
    means = {"all": list(subsets)}
    contrast = [index for index, channel in enumerate(channels) if sequence_of(channel) == "T1ce"]
    for index in contrast[:1]:
        means[f"with {channels[index]}"] = [subset for subset in subsets if index in subset]
        means[f"without {channels[index]}"] = [subset for subset in subsets if index not in subset]
    means["without a whole group"] = [
        subset for subset in subsets if any(not set(group) & set(subset) for group in groups)
    ]
    return {f"mean of {len(over)}, {name}": over for name, over in means.items() if over}


def check_channels(channels: Sequence[str], source: object) -> None:
    """A UserError where channels can't be told apart by their names, in any case, or can't name subsets."""
    lowered = [channel.lower() for channel in channels]
    if repeated := sorted({channel for channel in channels if lowered.count(channel.lower()) > 1}):
        raise UserError(f"{source}: channel_names has {listing_of(repeated)} several times: give each its own name.")
    for channel in channels:
        if any(mark in channel for mark in "+,;") or channel.lower().startswith("mean of"):
            raise UserError(
                f"{source}: the channel {channel!r} can't be told from subsets (A+B), lists of them (A,B;C) or means "
                '(mean of ..): rename it in channel_names, as in {"0": "T1", "1": "FLAIR"}.'
            )
