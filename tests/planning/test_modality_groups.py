"""Groups by channel name, the overrides' precedence, and what is said of wrong ones."""

import pytest

from nnunetv2_cfnet.planning.modality_groups import PUBLISHED_PAIRING, describe_groups, resolve_modality_groups


def dataset(*names: str, **more) -> dict:
    return {"channel_names": {str(index): name for index, name in enumerate(names)}, **more}


@pytest.mark.parametrize(
    ("names", "groups", "published"),
    [
        (("T1", "T1ce", "T2", "FLAIR"), [[0, 1], [2, 3]], [[0, 2], [1, 3]]),  # nnU-Net's BraTS converters
        (("t1n", "t1c", "t2w", "t2f"), [[0, 1], [2, 3]], [[0, 2], [1, 3]]),  # BraTS 2023
        (("FLAIR", "T1w", "t1gd", "T2w"), [[1, 2], [0, 3]], [[1, 3], [0, 2]]),  # MSD Task01
        (("T1", "T2", "Flair"), [[0], [1, 2]], [[0, 1], [2]]),
        (("T1", "FLAIR"), [[0], [1]], [[0], [1]]),
    ],
)
def test_known_names_are_paired(names, groups, published):
    chosen = resolve_modality_groups(dataset(*names), {})
    assert chosen.groups == groups
    assert chosen.reason == "the pairing (T1, T1ce) and (T2, FLAIR), by channel name"
    chosen = resolve_modality_groups(dataset(*names), {}, pairing=PUBLISHED_PAIRING)
    assert chosen.groups == published
    assert chosen.reason == "the paper's pairing (T1, T2) and (T1ce, FLAIR), by channel name"


@pytest.mark.parametrize(
    ("names", "groups"),
    [
        (("T1post", "t1"), [[0], [1]]),  # the pairing would leave the second group empty
        (("CT", "PET"), [[0], [1]]),
        (("T1", "T1ce", "T2", "FLAIR", "ADC"), [[0, 1, 2], [3, 4]]),
        (("a", "b", "c"), [[0, 1], [2]]),
    ],
)
def test_other_names_give_halves(names, groups):
    chosen = resolve_modality_groups(dataset(*names), {})
    assert chosen.groups == groups
    assert "first half, second half" in chosen.reason


def test_one_channel_goes_to_both_encoders():
    chosen = resolve_modality_groups(dataset("CT"), {})
    assert chosen.groups == [[0], [0]]
    assert "both encoders see it" in chosen.reason


def test_ten_channels_are_ordered_by_number():
    names = {str(index): f"c{index}" for index in (10, *range(10))}
    assert resolve_modality_groups({"channel_names": names}, {}).groups == [list(range(6)), list(range(6, 11))]


def test_plans_come_before_dataset_before_names():
    of_dataset = dataset("T1", "T1ce", "T2", "FLAIR", cfnet_modality_groups=[["t1", "T1ce"], [2, 3]])
    assert resolve_modality_groups(of_dataset, {}).groups == [[0, 1], [2, 3]]
    chosen = resolve_modality_groups(of_dataset, {"cfnet_modality_groups": [["FLAIR"], ["T1", "T1ce", "T2"]]})
    assert chosen.groups == [[3], [0, 1, 2]]
    assert chosen.reason == "named by the plans file"
    named = resolve_modality_groups(of_dataset, {}, named=[[1, 2], [0, 3]])
    assert (named.groups, named.reason) == ([[1, 2], [0, 3]], "named by the plans file")


def test_two_groupings_in_the_plans_are_refused():
    plans = {"cfnet_modality_groups": [["FLAIR"], ["T1", "T1ce", "T2"]]}
    with pytest.raises(
        ValueError, match=r"names two groupings, modality_groups=.* and cfnet_modality_groups=.*remove one"
    ):
        resolve_modality_groups(dataset("T1", "T1ce", "T2", "FLAIR"), plans, named=[[0, 2], [1, 3]])
    same = resolve_modality_groups(dataset("T1", "T1ce", "T2", "FLAIR"), plans, named=[[3], [0, 1, 2]])
    assert same.groups == [[3], [0, 1, 2]]


def test_a_dataset_without_channel_names_is_named():
    with pytest.raises(ValueError, match=r'dataset\.json has no "channel_names"'):
        resolve_modality_groups({}, {})


@pytest.mark.parametrize(
    ("override", "problem"),
    [
        ([["T1", "PD"], ["T1ce", "FLAIR"]], r"'PD' is none of the 4 channel\(s\)"),
        ([[0, 1], [2, 4]], r"4 is none of the 4 channel\(s\)"),
        ([["T1"], ["T1ce", "FLAIR"]], r"channels \['T2'\] are in no group"),
        ([["T1", "T2", "T1ce", "FLAIR"], []], "two non-empty groups are needed"),
        ([["T1"], ["T2"], ["T1ce", "FLAIR"]], "two non-empty groups are needed"),
        ([], "two non-empty groups are needed"),
        ([["T1", "T1", "T2"], ["T1ce", "FLAIR"]], "a group names a channel twice"),
        ("T1,T1ce|T2,FLAIR", "is not two lists"),
        (["T1", "T2"], "is not two lists"),
        (3, "is not two lists"),
        (None, "is not two lists"),
        ([[True, 2], [1, 3]], r"True is none of the 4 channel\(s\)"),
    ],
)
def test_wrong_overrides_are_named_with_what_to_do(override, problem):
    with pytest.raises(ValueError, match=rf"cfnet_modality_groups=.* in dataset\.json.*{problem}.*Give two lists"):
        resolve_modality_groups(dataset("T1", "T1ce", "T2", "FLAIR", cfnet_modality_groups=override), {})


def test_fewer_channels_than_a_group_names_is_an_error():
    with pytest.raises(ValueError, match=r"'T2' is none of the 2 channel\(s\).*channels: \['T1', 'FLAIR'\]"):
        resolve_modality_groups(dataset("T1", "FLAIR", cfnet_modality_groups=[["T1", "T2"], ["FLAIR"]]), {})


def test_ambiguous_names_are_refused():
    with pytest.raises(ValueError, match="'MRI' is the name of several channels"):
        resolve_modality_groups(dataset("MRI", "MRI", cfnet_modality_groups=[["MRI"], [1]]), {})


def test_groups_are_described_by_name():
    assert describe_groups([[0, 2], [1, 3]], ["T1", "T1ce", "T2", "FLAIR"]) == "(T1, T2) and (T1ce, FLAIR)"
