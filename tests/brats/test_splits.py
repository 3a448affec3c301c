import warnings
from collections import Counter

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from nnunetv2_cfnet.brats.sources import SourceCase
from nnunetv2_cfnet.brats.splits import make_splits


def cases_of(patients: list[tuple[int, str | None]]) -> list[SourceCase]:
    """Cases of patients, each with its number of time points and its grade."""
    return [
        SourceCase(f"case_{patient:03d}_{time}", patient=f"patient_{patient}", grade=grade)
        for patient, (num_times, grade) in enumerate(patients)
        for time in range(num_times)
    ]


grades = st.sampled_from(["HGG", "LGG", None])
many_patients = st.lists(st.tuples(st.integers(1, 4), grades), min_size=5, max_size=40)


@settings(max_examples=100, deadline=None)
@given(many_patients)
@example([(1, None), (1, "LGG"), (3, "LGG"), (3, "HGG"), (3, "HGG")])
def test_every_case_is_validated_once_and_no_patient_is_split(patients):
    cases = cases_of(patients)
    splits = make_splits(cases)
    assert len(splits) == 5
    assert Counter(name for fold in splits for name in fold["val"]) == {case.name: 1 for case in cases}
    patient = {case.name: case.patient for case in cases}
    for fold in splits:
        assert fold["val"]
        assert sorted(fold["train"] + fold["val"]) == sorted(patient)
        assert fold["train"] == sorted(fold["train"])
        assert fold["val"] == sorted(fold["val"])
        assert not {patient[name] for name in fold["train"]} & {patient[name] for name in fold["val"]}


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 60), st.integers(0, 60).filter(lambda number: number not in range(1, 5)))
def test_grades_are_balanced(num_high, num_low):
    """With a case for each patient, folds differ by one case of a grade at most."""
    num_high = max(num_high, 5)
    cases = cases_of([(1, "HGG")] * num_high + [(1, "LGG")] * num_low)
    grade = {case.name: case.grade for case in cases}
    for wanted, number in (("HGG", num_high), ("LGG", num_low)):
        for fold in make_splits(cases):
            assert sum(grade[name] == wanted for name in fold["val"]) in (number // 5, -(-number // 5))


def test_brats_2020s_grades_and_twins_are_shared_out():
    """369 patients, 293 HGG and 76 LGG."""
    cases = cases_of([(1, "HGG")] * 293 + [(1, "LGG")] * 76)
    for case in cases[1:6]:
        case.patient = cases[0].patient
    grade = {case.name: case.grade for case in cases}
    splits = make_splits(cases)
    assert sorted(len(fold["val"]) for fold in splits) == [73, 74, 74, 74, 74]
    assert {sum(grade[name] == "LGG" for name in fold["val"]) for fold in splits} == {15, 16}
    assert sum(bool({case.name for case in cases[:6]} & set(fold["val"])) for fold in splits) == 1


def test_the_order_of_the_cases_does_not_matter_and_equal_cases_have_equal_splits():
    cases = cases_of([(2, "HGG"), (1, "LGG")] * 10)
    assert make_splits(cases) == make_splits(cases[::-1]) == make_splits(cases_of([(2, "HGG"), (1, "LGG")] * 10))


@pytest.mark.parametrize("patients", [[], [(1, None)] * 4, [(5, "HGG"), (5, "LGG")]])
def test_fewer_than_five_patients_have_no_splits(patients):
    assert make_splits(cases_of(patients)) is None


@pytest.mark.parametrize("patients", [[(1, "HGG")] * 3 + [(1, "LGG")] * 2, [(1, "HGG")] * 20 + [(1, "LGG")]])
def test_rare_grades_raise_no_warnings(patients):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert make_splits(cases_of(patients)) is not None
