"""Short names: what models share is left out, and no two models are called the same."""

import pytest

from nnunetv2_cfnet.errors import UserError
from nnunetv2_cfnet.report.names import choose_names, short_names

PLANS = "nnUNetPlans"


@pytest.mark.parametrize(
    ("names", "short"),
    [
        ([f"nnUNetTrainerCFNet__{PLANS}", f"nnUNetTrainer__{PLANS}"], ["CFNet", "U-Net"]),
        ([f"nnUNetTrainerCFNet_250epochs__{PLANS}", f"nnUNetTrainer_250epochs__{PLANS}"], ["CFNet", "U-Net"]),
        (
            [f"nnUNetTrainerCFNet_5epochs__{PLANS}", f"nnUNetTrainer_250epochs__{PLANS}"],
            ["CFNet 5epochs", "U-Net 250epochs"],
        ),
        (
            [f"nnUNetTrainerCFNetModalityDropout__{PLANS}", f"nnUNetTrainerModalityDropout__{PLANS}"],
            ["CFNet", "U-Net"],
        ),
        (
            [f"nnUNetTrainerCFNet__{PLANS}", f"nnUNetTrainerCFNetModalityDropout__{PLANS}"],
            ["CFNet", "CFNet ModalityDropout"],
        ),
        (
            [f"nnUNetTrainerCFNet__{PLANS}", f"nnUNetTrainerModalityDropout_5epochs__{PLANS}"],
            ["CFNet", "U-Net ModalityDropout 5epochs"],
        ),
        (
            [f"nnUNetTrainer_5epochs__{PLANS}", f"nnUNetTrainer__{PLANS}"],
            ["U-Net 5epochs", "U-Net"],
        ),
        (
            [f"nnUNetTrainerCFNet__{PLANS}", f"nnUNetTrainer__{PLANS}", "nnUNetTrainer__nnUNetResEncUNetMPlans"],
            ["CFNet", "U-Net", "U-Net ResEncUNetM"],
        ),
        ([f"nnUNetTrainerCFNet__{PLANS}", "nnUNetTrainerCFNet__nnUNetCFNetPlansM"], ["default", "CFNetPlansM"]),
        ([f"nnUNetTrainer__{PLANS}", "nnUNetTrainer__nnUNetResEncUNetMPlans"], ["default", "ResEncUNetM"]),
        ([f"nnUNetTrainerSegResNet__{PLANS}", f"nnUNetTrainerResNet__{PLANS}"], ["SegResNet", "ResNet"]),
        ([f"MyTrainer__{PLANS}", f"nnUNetTrainer__{PLANS}"], ["MyTrainer", "U-Net"]),
        (["good", "poor"], ["good", "poor"]),
        ([f"nnUNetTrainer__{PLANS}", "theirs"], [f"nnUNetTrainer__{PLANS}", "theirs"]),
    ],
)
def test_what_all_share_is_left_out(names, short):
    assert short_names(names) == short


def test_names_that_would_be_the_same_stay_full():
    names = ["nnUNetTrainer__nnUNetPlans", "nnUNetTrainer__Plans", "A__nnUNetPlans"]
    assert short_names(names) == names
    assert short_names(names[:2]) == names[:2]


def test_given_names_override():
    assert choose_names(["good", "poor"], ["A", "B"]) == {"good": "A", "poor": "B"}
    assert choose_names(["good", "poor"], []) == {"good": "good", "poor": "poor"}


@pytest.mark.parametrize("given", [["A"], ["A", "A"], ["A", ""], ["A", "B", "C"]])
def test_other_numbers_of_names_and_equal_ones_are_refused(given):
    with pytest.raises(UserError, match="give each of the 2 models a name of its own, in the order of good, poor"):
        choose_names(["good", "poor"], given)
