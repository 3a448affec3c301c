"""Five folds of a dataset's cases, as nnU-Net's splits_final.json has them."""

import warnings
from collections import Counter
from collections.abc import Sequence

from nnunetv2_cfnet.brats.sources import SourceCase

NUM_FOLDS = 5
SEED = 12345  # nnU-Net's, for its own splits


def make_splits(cases: Sequence[SourceCase]) -> list[dict[str, list[str]]] | None:
    """Five folds that keep a patient's cases together and have each grade in equal shares.

    Args:
        cases: those with a segmentation.

    Returns:
        {"train": names, "val": names} for each fold, or None for fewer than five patients.
    """
    from sklearn.model_selection import StratifiedGroupKFold

    cases = sorted(cases, key=lambda case: case.name)
    patients = [case.patient for case in cases]
    if len(set(patients)) < NUM_FOLDS:
        return None
    grades = [case.grade or "unknown" for case in cases]
    num_patients = Counter(grade for _, grade in set(zip(patients, grades, strict=True)))
    if max(num_patients.values()) < NUM_FOLDS:
        grades = ["any"] * len(cases)  # where each grade is that rare, balancing them can leave a fold empty
    folds = StratifiedGroupKFold(NUM_FOLDS, shuffle=True, random_state=SEED)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The least populated class", category=UserWarning)
        parts = list(folds.split(cases, grades, patients))
    return [
        {"train": [cases[index].name for index in train], "val": [cases[index].name for index in val]}
        for train, val in parts
    ]
