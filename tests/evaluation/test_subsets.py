"""Subsets: the order of papers, what a user may ask for, and which means are shown."""

import re

import pytest

from nnunetv2_cfnet.errors import UserError
from nnunetv2_cfnet.evaluation.subsets import all_subsets, check_channels, choose_subsets, means_of_subsets, subset_name

BRATS = ["T1", "T1ce", "T2", "FLAIR"]
GROUPS = [[0, 2], [1, 3]]


def names(subsets, channels=BRATS):
    return [subset_name(subset, channels) for subset in subsets]


def test_brats_subsets_are_in_the_order_of_papers():
    assert names(all_subsets(BRATS)) == [
        *("T2", "T1ce", "T1", "FLAIR"),
        *("T1ce+T2", "T1+T1ce", "T1+FLAIR", "T1+T2", "T2+FLAIR", "T1ce+FLAIR"),
        *("T1+T1ce+FLAIR", "T1+T2+FLAIR", "T1ce+T2+FLAIR", "T1+T1ce+T2", "T1+T1ce+T2+FLAIR"),
    ]


def test_other_spellings_and_orders_of_the_four_are_in_it_too():
    msd = ["FLAIR", "T1w", "T1gd", "T2w"]
    assert names(all_subsets(msd), msd)[:6] == ["T2w", "T1gd", "T1w", "FLAIR", "T1gd+T2w", "T1w+T1gd"]


@pytest.mark.parametrize("channels", [["CT", "PET", "T1"], ["T1", "T1w", "T2", "FLAIR"]])
def test_other_channels_are_by_size_and_then_by_channel(channels):
    subsets = all_subsets(channels)
    assert subsets == sorted(subsets, key=lambda subset: (len(subset), subset))
    assert len(subsets) == 2 ** len(channels) - 1


def test_named_subsets_are_matched_in_any_case_and_put_in_order():
    assert choose_subsets("flair, t1 ; T1CE", BRATS) == [(1,), (0, 3)]
    assert choose_subsets("ALL", BRATS) == choose_subsets(None, BRATS) == all_subsets(BRATS)


@pytest.mark.parametrize(
    ("text", "channels", "message"),
    [
        ("T1;T5,T2", BRATS, "--subsets: 'T5' is no channel of dataset.json, which has T1, T1ce, T2, FLAIR."),
        ("T1;", BRATS, "--subsets: '' is no channel"),
        ("T1,T2;T2,T1", BRATS, r"--subsets T1,T2;T2,T1: T1\+T2 is given twice."),
        (None, list("abcdef"), '6 channels have 63 subsets: give --subsets those to evaluate, as in "a;a,b", or all.'),
    ],
)
def test_what_can_not_be_meant_is_refused(text, channels, message):
    with pytest.raises(UserError, match=message):
        choose_subsets(text, channels)


def test_all_subsets_of_many_channels_are_evaluated_when_asked_for():
    assert len(choose_subsets("all", list("abcdef"))) == 63


def test_means_of_brats_are_over_15_8_7_and_6_subsets():
    means = means_of_subsets(all_subsets(BRATS), BRATS, GROUPS)
    assert list(means) == [
        *("mean of 15, all", "mean of 8, with T1ce", "mean of 7, without T1ce", "mean of 6, without a whole group")
    ]
    assert names(means["mean of 6, without a whole group"]) == ["T2", "T1ce", "T1", "FLAIR", "T1+T2", "T1ce+FLAIR"]


def test_other_channels_have_no_mean_of_t1ce_and_no_mean_is_over_nothing():
    assert list(means_of_subsets([(0,), (0, 1)], ["CT", "PET"], [[0], [1]])) == [
        *("mean of 2, all", "mean of 1, without a whole group")
    ]
    assert list(means_of_subsets([(0, 1)], ["CT", "PET"], [[0], [1]])) == ["mean of 1, all"]


@pytest.mark.parametrize("name", ["T1+T2", "T1,T2", "T1;T2", "mean of T1", "Mean of 2, all"])
def test_channels_that_are_named_like_subsets_or_means_are_refused(name):
    check_channels(BRATS, "dataset.json")
    with pytest.raises(
        UserError, match=f"dataset.json: the channel '{re.escape(name)}' can't .* rename it in channel_names"
    ):
        check_channels(["T1", name], "dataset.json")
