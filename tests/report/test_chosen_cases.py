"""Which cases come first: those that are good, bad or different by values that can be worked out by hand."""

import pytest

from nnunetv2_cfnet.report.chosen_cases import chosen_cases, largest_differences, notable_cases, order_of_cases

FIRST = {"dice": [0.9, 0.2, 0.5, 0.7, 0.6]}  # in order: case 0, 3, 4, 2, 1
OTHER = {"dice": [0.9, 0.3, 0.1, 0.9, 0.5]}  # differences: 0, -0.1, +0.4, -0.2, +0.1


def test_best_median_and_worst_case_by_mean_dice_over_regions(make_model):
    # means 0.5, 0.9, 0.7, 0.3, 0.6: in order case 1, 2, 4, 0, 3
    core, whole = [0.4, 0.9, 0.6, 0.3, 0.6], [0.6, 0.9, 0.8, 0.3, 0.6]
    model = make_model("a", {"core": {"dice": core}, "whole": {"dice": whole}})
    assert notable_cases(model) == {
        "best": ("case_1", pytest.approx(0.9)),
        "median": ("case_4", pytest.approx(0.6)),
        "worst": ("case_3", pytest.approx(0.3)),
    }


def test_of_few_cases_none_is_shown_twice(make_model):
    assert list(notable_cases(make_model("a", {"dice": [0.5]}))) == ["only"]
    assert [case for case, _ in notable_cases(make_model("a", {"dice": [0.5, 0.7]})).values()] == ["case_1", "case_0"]


def test_chosen_are_the_best_median_and_worst_case_and_those_that_differ_most(make_model):
    models = [make_model("a", FIRST), make_model("b", OTHER)]
    assert chosen_cases(models, 2) == {
        "case_0": "best",
        "case_4": "median",
        "case_1": "worst",
        "case_2": "most different",
        "case_3": "",
    }
    assert list(chosen_cases(models, 0)) == ["case_0", "case_4", "case_1"]


def test_all_cases_are_chosen_if_asked_for(make_model):
    same = [make_model("a", {"dice": [0.5] * 9}), make_model("b", {"dice": [0.5] * 9})]
    assert len(chosen_cases(same, 5)) == 3
    assert len(chosen_cases(same, None)) == 9


def test_a_case_can_be_two_things(make_model):
    models = [make_model("a", {"dice": [0.9, 0.5, 0.1]}), make_model("b", {"dice": [0.9, 0.5, 0.8]})]
    assert chosen_cases(models, 5)["case_2"] == "worst, most different"


def test_a_single_model_differs_from_none(make_model):
    assert list(largest_differences([make_model("a", FIRST)])) == [0] * 5


def test_of_a_single_model_the_worst_cases_are_chosen(make_model):
    model = make_model("a", {"dice": [0.5 + 0.01 * ((7 * case) % 12) for case in range(12)]})
    # 7 case % 12 is 11; 6, the sixth of 12 from the best; 0, 1, 2, 3
    assert chosen_cases([model], 4) == {
        **{"case_5": "best", "case_6": "median", "case_0": "worst"},
        **dict.fromkeys(["case_7", "case_2", "case_9"], ""),
    }
    assert list(chosen_cases([model], 0)) == ["case_5", "case_6", "case_0"]
    assert len(chosen_cases([model], None)) == 12


def test_the_largest_difference_is_that_to_the_model_that_differs_most(make_model):
    models = [make_model(name, {"dice": [dice]}) for name, dice in (("a", 0.5), ("b", 0.6), ("c", 0.1))]
    assert list(largest_differences(models)) == [pytest.approx(0.4)]


def test_the_worst_and_the_most_different_cases_come_first_in_turn(make_model):
    models = [make_model("a", FIRST), make_model("b", OTHER)]
    # worst first 1, 2, 4, 3, 0; most different first 2, 3, 1 and 4, 0
    assert order_of_cases(models)[:2] == ["case_1", "case_2"]
    assert order_of_cases(models)[2] == "case_3"
    assert order_of_cases(models)[-1] == "case_0"


def test_where_nothing_differs_the_worst_cases_come_first(make_model):
    for models in ([make_model("a", FIRST)], [make_model("a", FIRST), make_model("b", FIRST)]):
        assert order_of_cases(models) == ["case_1", "case_2", "case_4", "case_3", "case_0"]
