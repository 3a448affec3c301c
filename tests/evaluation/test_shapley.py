"""Shapley values: their axioms, and a game worked out by hand."""

from itertools import combinations

import numpy as np
import pytest

from nnunetv2_cfnet.evaluation.shapley import shapley_values

SUBSETS = [subset for size in range(5) for subset in combinations(range(4), size)]


def random_scores(seed=0):
    return dict(zip(SUBSETS, np.random.default_rng(seed).uniform(size=16), strict=True))


def test_two_channels_by_hand():
    """Channel 0 adds 0.5 when it is first and 0.1 when it is second; channel 1 adds 0.8 and 0.4."""
    values = shapley_values({(): 0.1, (0,): 0.6, (1,): 0.9, (0, 1): 1.0}, 2)
    assert values == pytest.approx([0.3, 0.6])


def test_they_sum_to_all_less_none():
    scores = random_scores()
    assert sum(shapley_values(scores, 4)) == pytest.approx(scores[0, 1, 2, 3] - scores[()])


def test_channels_that_are_alike_have_the_same_value():
    of_size = random_scores()
    values = shapley_values({subset: of_size[tuple(range(len(subset)))] for subset in SUBSETS}, 4)
    assert values == pytest.approx([values[0]] * 4)


def test_a_channel_that_changes_nothing_is_worth_nothing():
    scores = random_scores()
    without = {subset: scores[tuple(channel for channel in subset if channel != 2)] for subset in SUBSETS}
    values = shapley_values(without, 4)
    assert values[2] == 0
    assert min(map(abs, values[:2])) > 0


def test_scores_of_some_subsets_are_not_enough():
    with pytest.raises(ValueError, match="scores of 2 channels: 1 of their 4 subsets are missing"):
        shapley_values({(): 0, (0,): 1, (1,): 1}, 2)
