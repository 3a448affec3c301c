"""What each channel adds to a score: Shapley values, exactly, from the scores with every subset of the channels.

    phi_i = sum over S without i of |S|! (C - |S| - 1)! / C! * (v(S + i) - v(S))

the mean, over all orders in which C channels may be added one after the other, of what channel i adds when its turn
comes. They sum to v(all) - v(none), and tell of one model's score on these cases, not of what a sequence is worth to a
reader or to another model. Source: Shapley, "A Value for n-Person Games", 1953 (doi:10.1515/9781400881970-018).
"""

from collections.abc import Mapping
from itertools import combinations
from math import factorial

from nnunetv2_cfnet.evaluation.subsets import Subset


def shapley_values(scores: Mapping[Subset, float], num_channels: int) -> list[float]:
    """Of each channel, in their order.

    Args:
        scores: of each of the 2^C subsets, that of the empty one, (), included.
        num_channels: C.

    Raises:
        ValueError: a subset has no score.
    """
    if missing := 2**num_channels - len(scores):
        raise ValueError(f"scores of {num_channels} channels: {missing} of their {2**num_channels} subsets are missing")
    values = []
    for channel in range(num_channels):
        others = [index for index in range(num_channels) if index != channel]
        value = 0.0
        for size in range(num_channels):
            weight = factorial(size) * factorial(num_channels - size - 1) / factorial(num_channels)
            for subset in combinations(others, size):
                value += weight * (scores[tuple(sorted((*subset, channel)))] - scores[subset])
        values.append(value)
    return values
