"""Paired statistics with values worked out by hand."""

from dataclasses import replace

import numpy as np
import pytest

from nnunetv2_cfnet.evaluation.metrics import METRICS
from nnunetv2_cfnet.report.statistics import (
    TESTED_METRICS,
    brats_ranks,
    case_differences,
    holm,
    paired_tests,
    verdict,
    wilcoxon_p,
)

BETTER_DICE = [0.9, 0.8, 0.7, 0.6, 0.9, 0.8, 0.7, 0.5, 0.9, 0.8]
WORSE_DICE = [0.8, 0.6, 0.7, 0.5, 0.7, 0.7, 0.4, 0.6, 0.8, 0.6]


def only_test(first, other, metric="dice"):
    (test,) = [test for test in paired_tests([first, other], ["tumour"]) if test.metric == metric]
    return test


def test_difference_wins_ties_and_losses_are_seen_from_the_first_model(make_model):
    # differences 0.1, 0.2, 0, 0.1, 0.2, 0.1, 0.3, -0.1, 0.1, 0.2: their sum is 1.2
    test = only_test(make_model("a", {"dice": BETTER_DICE}), make_model("b", {"dice": WORSE_DICE}))
    assert (test.other, test.region, test.num_cases) == ("b", "tumour", 10)
    assert test.difference == pytest.approx(0.12)
    assert (test.wins, test.ties, test.losses) == (8, 1, 1)
    assert test.verdict == "better"


def test_a_smaller_distance_wins_and_its_difference_is_the_median(make_model):
    # differences -1, -1, -1, -2, -2, -3, 370, -1, -1, -2: median -1, mean 35.6
    first = make_model("a", {"hd95": [1, 2, 3, 4, 5, 6, 373, 8, 9, 10]})
    other = make_model("b", {"hd95": [2, 3, 4, 6, 7, 9, 3, 9, 10, 12]})
    test = only_test(first, other, "hd95")
    assert test.difference == -1
    assert (test.wins, test.ties, test.losses) == (9, 0, 1)
    assert test.verdict == "better"
    assert only_test(other, first, "hd95").verdict == "worse"


def test_cases_are_paired_by_name_whatever_their_order_and_the_same_give_the_same_interval(make_model):
    first, other = make_model("a", {"dice": BETTER_DICE}), make_model("b", {"dice": WORSE_DICE})
    shuffled = replace(other, rows=other.rows.sort_values("dice"))
    assert only_test(first, shuffled) == only_test(first, other)


def test_models_with_different_cases_are_refused(make_model):
    first, other = make_model("a", {"dice": BETTER_DICE}), make_model("b", {"dice": WORSE_DICE[:-1]})
    with pytest.raises(ValueError, match="a and b have different cases or regions"):
        paired_tests([first, other], ["tumour"])


def test_an_interval_around_zero_shows_no_difference_although_the_means_differ(make_model):
    first = make_model("a", {"dice": [0.9, 0.5, 0.9, 0.5, 0.9, 0.5, 0.9, 0.5, 0.9, 0.9]})
    other = make_model("b", {"dice": [0.5, 0.9, 0.5, 0.9, 0.5, 0.9, 0.5, 0.9, 0.6, 0.8]})
    test = only_test(first, other)
    assert test.difference == pytest.approx(0.04)
    assert test.interval[0] < 0 < test.interval[1]
    assert test.verdict == "no difference shown"


@pytest.mark.parametrize(
    ("interval", "larger_is_better", "expected"),
    [
        ((0.1, 0.2), True, "better"),
        ((0.1, 0.2), False, "worse"),
        ((-0.2, -0.1), True, "worse"),
        ((-0.2, -0.1), False, "better"),
        ((-0.1, 0.2), True, "no difference shown"),
        ((0.0, 0.2), True, "no difference shown"),
        ((-0.2, 0.0), False, "no difference shown"),
        (None, True, "no difference shown"),
    ],
)
def test_the_verdict_follows_the_interval_and_the_direction(interval, larger_is_better, expected):
    assert verdict(interval, larger_is_better) == expected


def test_below_ten_cases_nothing_is_claimed(make_model):
    for num_cases, claimed in ((9, False), (10, True)):
        first, other = make_model("a", {"dice": [0.9] * num_cases}), make_model("b", {"dice": [0.1] * num_cases})
        test = only_test(first, other)
        assert (test.difference, test.wins) == (pytest.approx(0.8), num_cases)
        assert [value is not None for value in (test.interval, test.p_value, test.p_holm)] == [claimed] * 3
        assert test.verdict == ("better" if claimed else "no difference shown")


def test_equal_differences_give_that_value_twice(make_model):
    # 0.9 - 0.8 and 0.5 - 0.4 differ in the last bits only
    first, other = make_model("a", {"dice": [0.9, 0.5] * 5}), make_model("b", {"dice": [0.8, 0.4] * 5})
    test = only_test(first, other)
    assert test.interval == (0.1, 0.1)
    assert test.verdict == "better"
    assert test.p_value == pytest.approx(2 / 2**10)  # all ten on one side


def test_equal_models_tie_in_every_case(make_model):
    assert 0.1 + 0.2 != 0.3
    test = only_test(make_model("a", {"dice": [0.1 + 0.2] * 10}), make_model("b", {"dice": [0.3] * 10}))
    assert (test.wins, test.ties, test.losses) == (0, 10, 0)
    assert (test.difference, test.interval, test.p_value) == (0, (0, 0), 1)
    assert test.verdict == "no difference shown"


def test_wilcoxon_splits_zeros_between_both_sides():
    # Six wins have p = 2 / 2^6. With a zero instead of one of them p is larger (how much, versions of scipy do not
    # agree on: exact or by the normal distribution).
    assert wilcoxon_p(np.array([1.0, 2, 3, 4, 5, 6])) == pytest.approx(2 / 64)
    assert 2 / 64 < wilcoxon_p(np.array([0.0, 1, 2, 3, 4, 5])) < 0.1
    assert wilcoxon_p(np.zeros(6)) == 1


def test_holm_corrects_over_all_tests(make_model):
    # p of dice: all ten better, 2 / 1024. p of sensitivity: all equal, 1. Holm: 2 * 2 / 1024 and 1.
    ones = [1.0] * 10
    first = make_model("a", {"dice": ones, "sensitivity": ones})
    other = make_model("b", {"dice": [0.05 * number for number in range(10)], "sensitivity": ones})
    tests = {test.metric: test for test in paired_tests([first, other], ["tumour"])}
    assert tests.keys() == {"dice", "sensitivity"}
    assert tests["dice"].p_value == pytest.approx(2 / 1024)
    assert tests["dice"].p_holm == pytest.approx(4 / 1024)
    assert tests["sensitivity"].p_holm == 1


@pytest.mark.parametrize("num_tests", [1, 2, 54])
def test_holm_is_that_of_statsmodels(num_tests):
    reason = "statsmodels is not installed: pip install -e .[dev]"
    multitest = pytest.importorskip("statsmodels.stats.multitest", reason=reason)
    p_values = np.random.default_rng(0).choice([0.0, 1e-5, 0.001, 0.004, 0.03, 0.5, 1.0], num_tests)
    np.testing.assert_allclose(holm(p_values), multitest.multipletests(p_values, method="holm")[1])


def test_every_other_model_region_and_metric_with_a_direction_is_tested(comparison):
    assert len(comparison.tests) == 2 * 3 * 9
    assert {test.metric for test in comparison.tests} == set(TESTED_METRICS)
    assert not {"dice_nnunet", "volume_reference_ml", "volume_prediction_ml"} & set(TESTED_METRICS)
    assert len(TESTED_METRICS) + 3 == len(METRICS)


def test_a_case_without_a_value_is_left_out_and_not_counted(make_model):
    first, other = make_model("a", {"assd": [1, 2, 3]}), make_model("b", {"assd": [2, 2, float("nan")]})
    assert only_test(first, other, "assd").num_cases == 2
    assert list(case_differences(first, other, ["tumour"], "assd")["tumour"]) == [-1, 0]


def test_ranks_with_ties_by_hand(make_model):
    # Dice: case 0 ranks a 1, b 2, c 3; case 1: a and b tie for 1 and 2, c 3. HD95, smaller is better: case 0 a 3, b 1,
    # c 2; case 1 all tie at 2.
    models = [
        make_model("a", {"dice": [0.9, 0.8], "hd95": [5.0, 2.0]}),
        make_model("b", {"dice": [0.8, 0.8], "hd95": [1.0, 2.0]}),
        make_model("c", {"dice": [0.7, 0.1], "hd95": [3.0, 2.0]}),
    ]
    assert brats_ranks(models) == {
        "a": pytest.approx((1 + 1.5 + 3 + 2) / 4),
        "b": pytest.approx((2 + 1.5 + 1 + 2) / 4),
        "c": pytest.approx((3 + 3 + 2 + 2) / 4),
    }


def test_ranks_are_averaged_over_regions(make_model):
    good, bad = {"dice": [0.9], "hd95": [1.0]}, {"dice": [0.5], "hd95": [9.0]}
    models = [make_model("a", {"core": good, "whole": bad}), make_model("b", {"core": bad, "whole": bad})]
    assert brats_ranks(models) == {"a": 1.25, "b": 1.75}
