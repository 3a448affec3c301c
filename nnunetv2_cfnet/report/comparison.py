"""What a comparison of models consists of, before anything is drawn or written."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pandas

MAIN_METRICS = ("dice", "hd95")  # those of verdicts, ranks and plots


@dataclass(frozen=True)
class Cost:
    """What training a model costs; None where it could not be measured, `notes` say why.

    parameters: numbers in the network.
    forward_flops: of one patch, two for each multiply-add.
    epoch_s: median time of an epoch in seconds, without the first of each fold.
    step_peak_bytes: peak memory of one training step, measured on `device`.
    """

    parameters: int | None = None
    forward_flops: int | None = None
    epoch_s: float | None = None
    step_peak_bytes: int | None = None
    device: str = ""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Curves:
    """What nnU-Net's trainer logged in one fold, a number for each epoch."""

    fold: str
    train_losses: Sequence[float]
    val_losses: Sequence[float]
    pseudo_dice: Sequence[float]


@dataclass(frozen=True)
class Model:
    """One of the models that are compared.

    name: as the report calls it.
    rows: pandas table with the columns case, region and those of METRICS, one row for each case and region; with
        several replicates, their mean. Every model of a comparison has the same cases and regions.
    predictions: file of each case (of the first replicate).
    replicate_rows: the same for each replicate; empty where there is one.
    """

    name: str
    rows: pandas.DataFrame
    predictions: Mapping[str, Path]
    cost: Cost | None = None
    curves: Sequence[Curves] = ()
    replicate_rows: Sequence[pandas.DataFrame] = ()


@dataclass(frozen=True)
class PairedTest:
    """The first model against another one, in one metric of one region, by case.

    difference: of the cases' differences, first minus other, the mean (bounded metrics) or the median (distances).
    interval: 95 % bootstrap interval of that; None where there are too few cases.
    p_value, p_holm: Wilcoxon's signed-rank test, and with Holm's correction over all tests of the report.
    wins, ties, losses: cases in which the first model is better, equal, worse.
    verdict: "better", "worse" or "no difference shown", of the first model.
    """

    other: str
    region: str
    metric: str
    num_cases: int
    difference: float
    interval: tuple[float, float] | None
    p_value: float | None
    p_holm: float | None
    wins: int
    ties: int
    losses: int
    verdict: str


@dataclass(frozen=True)
class Comparison:
    """Everything that the report shows.

    title: what was compared, on what.
    regions: in the dataset's order, name -> its labels.
    models: the first is compared with each of the others.
    tests: a row of the statistics each.
    ranks: BraTS-style mean rank of each model over cases, regions, Dice and HD95; 1 is best.
    references: the file of each case.
    images: for each case its images by channel name; empty where they are not there.
    ignore_label: of voxels of the reference that count for nothing.
    notes: what a reader has to know, a sentence each.
    provenance: name -> value, as in "nnunetv2": "2.8.1", "command": "..".
    """

    title: str
    regions: Mapping[str, tuple[int, ...]]
    models: Sequence[Model]
    tests: Sequence[PairedTest]
    ranks: Mapping[str, float]
    references: Mapping[str, Path]
    images: Mapping[str, Mapping[str, Path]] = field(default_factory=dict)
    ignore_label: int | None = None
    notes: Sequence[str] = ()
    provenance: Mapping[str, str] = field(default_factory=dict)
