"""Paired statistics: is the first model better than another one, and how sure is that?

Cases are paired by name. For each metric of each region, of the cases' differences d = first - other:

    difference   mean of d for metrics within 0 and 1, median for distances, whose penalty of 373 mm for a region that
                 only one of reference and prediction has would be all that a mean shows
    interval     95 % bootstrap interval of that (evaluation/bootstrap.py)
    p_value      Wilcoxon's signed-rank test (Biometrics Bulletin 1945, doi:10.2307/3001968); cases without a difference
                 are split evenly between both sides
    p_holm       the same after Holm's correction over all tests of the report (Scandinavian Journal of Statistics 1979)
    verdict      by the interval alone: "better" or "worse" where it excludes zero

The rank follows BraTS: models are ranked for each case, region and for Dice and HD95, and the mean of all these ranks
is shown. Source: Bakas et al., "Identifying the Best Machine Learning Algorithms for Brain Tumor Segmentation,
Progression Assessment, and Overall Survival Prediction in the BRATS Challenge", 2018 (arXiv:1811.02629). That ties
share their mean rank is our choice; BraTS's permutation test between ranks is left out.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import pandas
import scipy.stats

from nnunetv2_cfnet.evaluation.bootstrap import MIN_CASES, bootstrap_interval
from nnunetv2_cfnet.evaluation.metrics import METRICS
from nnunetv2_cfnet.report.comparison import MAIN_METRICS, Model, PairedTest

# nnU-Net's Dice is NaN where a region is empty, which is no value to pair; and where neither direction is better,
# nothing can be won.
TESTED_METRICS = tuple(
    name for name, metric in METRICS.items() if metric.larger_is_better is not None and name != "dice_nnunet"
)
DECIMALS = 9  # of differences and ranked values: what is beyond them is noise of floating-point numbers


def paired_tests(
    models: Sequence[Model], regions: Iterable[str], metrics: Sequence[str] = TESTED_METRICS
) -> list[PairedTest]:
    """Test the first model against each other one, in each region and metric.

    A metric without any pair of values has no test. A case where one of the two lacks a value is left out of a test:
    `num_cases` counts the others.

    Raises:
        ValueError: models have different cases.
    """
    regions = list(regions)
    first, *others = [_values(model) for model in models]
    tests = []
    for model, other in zip(models[1:], others, strict=True):
        if not first.index.sort_values().equals(other.index.sort_values()):
            raise ValueError(f"{models[0].name} and {model.name} have different cases or regions: they can't be paired")
        all_differences = first - other.reindex(first.index)
        for region in regions:
            for metric in metrics:
                differences = all_differences.loc[region, metric].dropna().round(DECIMALS).to_numpy()
                if len(differences):
                    tests.append(_test(model.name, region, metric, differences))
    return _with_holm(tests)


def brats_ranks(models: Sequence[Model]) -> dict[str, float]:
    """Mean rank of each model over cases, regions, Dice and HD95; 1 is best, ties share the mean of their ranks."""
    reference = _values(models[0])
    ranks = []
    for metric in MAIN_METRICS:
        values = np.stack([_values(model)[metric].reindex(reference.index) for model in models])
        sign = -1 if METRICS[metric].larger_is_better else 1
        ranks.append(scipy.stats.rankdata(sign * np.round(values, DECIMALS), axis=0))
    means = np.concatenate(ranks, axis=1).mean(axis=1)
    return {model.name: float(mean) for model, mean in zip(models, means, strict=True)}


def case_differences(first: Model, other: Model, regions: Iterable[str], metric: str) -> dict[str, pandas.Series]:
    """Of each region, first minus other by case; cases where one of them lacks a value are left out."""
    differences = (_values(first)[metric] - _values(other)[metric]).dropna().round(DECIMALS)
    return {region: differences[differences.index.get_level_values("region") == region] for region in regions}


def centre(differences: np.ndarray, metric: str, axis: int = -1) -> np.ndarray:
    """The mean of the differences, or the median of distances."""
    return np.mean(differences, axis=axis) if METRICS[metric].bounded else np.median(differences, axis=axis)


def wilcoxon_p(differences: np.ndarray) -> float:
    """Two-sided p of Wilcoxon's signed-rank test; 1 where no case differs."""
    if not differences.any():
        return 1.0
    return float(scipy.stats.wilcoxon(differences, zero_method="zsplit").pvalue)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down correction: the smallest of n times n, the next times n - 1, ..; monotone, and at most 1."""
    order = np.argsort(p_values)
    corrected = np.empty(len(order))
    factors = np.arange(len(order), 0, -1)
    corrected[order] = np.minimum(np.maximum.accumulate(np.asarray(p_values)[order] * factors), 1)
    return corrected.tolist()


def verdict(interval: tuple[float, float] | None, larger_is_better: bool) -> str:
    """What the interval of first minus other says of the first model."""
    if interval is None or interval[0] <= 0 <= interval[1]:
        return "no difference shown"
    return "better" if (interval[0] > 0) == larger_is_better else "worse"


def _values(model: Model) -> pandas.DataFrame:
    return model.rows.set_index(["region", "case"]).sort_index()


def _test(other: str, region: str, metric: str, differences: np.ndarray) -> PairedTest:
    """One row of the statistics, yet without Holm's correction."""
    enough = len(differences) >= MIN_CASES
    interval = bootstrap_interval(differences, partial(centre, metric=metric)) if enough else None
    larger_is_better = bool(METRICS[metric].larger_is_better)
    gains = differences if larger_is_better else -differences
    return PairedTest(
        other=other,
        region=region,
        metric=metric,
        num_cases=len(differences),
        difference=float(centre(differences, metric)),
        interval=interval,
        p_value=wilcoxon_p(differences) if enough else None,
        p_holm=None,
        wins=int((gains > 0).sum()),
        ties=int((gains == 0).sum()),
        losses=int((gains < 0).sum()),
        verdict=verdict(interval, larger_is_better),
    )


def _with_holm(tests: Sequence[PairedTest]) -> list[PairedTest]:
    corrected = iter(holm([test.p_value for test in tests if test.p_value is not None]))
    return [test if test.p_value is None else replace(test, p_holm=next(corrected)) for test in tests]
