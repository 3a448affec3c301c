"""Made-up comparisons: models with invented metrics, and small masks and images on disk."""

from collections.abc import Callable, Sequence
from itertools import cycle
from pathlib import Path

import numpy as np
import pandas
import pytest
from images import write_image
from scipy.ndimage import gaussian_filter

from nnunetv2_cfnet.evaluation import bootstrap
from nnunetv2_cfnet.evaluation.metrics import METRICS
from nnunetv2_cfnet.evaluation.subsets import all_subsets, means_of_subsets
from nnunetv2_cfnet.report import figures
from nnunetv2_cfnet.report.comparison import Comparison, Cost, Curves, Model
from nnunetv2_cfnet.report.statistics import brats_ranks, paired_tests
from nnunetv2_cfnet.report.subsets import SubsetComparison
from nnunetv2_cfnet.report.write import write_report

REGIONS = {"whole_tumor": (1, 2, 3), "tumor_core": (2, 3), "enhancing_tumor": (3,)}
NUM_FILES = 4  # of each kind; more cases share them
CHANNELS = ("T1", "T1ce", "T2", "FLAIR")
MODELS = ("nnUNetTrainerCFNet", "nnUNetTrainer", "nnUNetTrainer__nnUNetResEncUNetMPlans", "four", "five")


@pytest.fixture
def make_model() -> Callable[..., Model]:
    """Makes a model of given values: {region: {metric: [a value for each case]}}, or those of one region."""

    def make(name: str, values: dict, region: str = "tumour") -> Model:
        by_region = values if isinstance(next(iter(values.values())), dict) else {region: values}
        tables = []
        for region_name, columns in by_region.items():
            table = pandas.DataFrame(columns)
            table.insert(0, "case", [f"case_{index}" for index in range(len(table))])
            table.insert(1, "region", region_name)
            tables.append(table)
        rows = pandas.concat(tables, ignore_index=True)
        return Model(name, rows.reindex(columns=["case", "region", *METRICS]), {})

    return make


@pytest.fixture(scope="session")
def make_comparison(tmp_path_factory) -> Callable[..., Comparison]:
    """Makes a comparison with everything that a report can show."""

    def make(
        num_cases: int = 14,  # for fewer scipy tries all signs, which takes seconds
        num_models: int = 2,
        regions: dict[str, tuple[int, ...]] = REGIONS,
        shape: tuple[int, ...] = (10, 32, 28),
        images: bool = True,
        suffix: str = ".nii.gz",
        names: tuple[str, ...] = MODELS,
        **changes,
    ) -> Comparison:
        folder = tmp_path_factory.mktemp("comparison")
        generator = np.random.default_rng(0)
        cases = [f"case_{index:03d}" for index in range(num_cases)]
        difficulty = generator.beta(2, 6, (num_cases, len(regions)))
        models = tuple(
            Model(
                name=name,
                rows=_rows(cases, regions, difficulty * (1 + 0.2 * index), generator),
                predictions=_write(folder / f"predictions_{index}", cases, suffix, shape, generator, len(REGIONS)),
                cost=Cost(
                    parameters=31_195_594 + index,
                    forward_flops=10**12,
                    epoch_s=None if index else 93.4,
                    step_peak_bytes=4 << 30,
                    device="made-up GPU",
                    notes=("epoch time: its checkpoints are gone",) if index else (),
                ),
                curves=[_curves(str(fold), generator) for fold in range(3)],
                replicate_rows=[_rows(cases, regions, difficulty * (1 + 0.2 * index), generator) for _ in range(2)],
            )
            for index, name in enumerate(names[:num_models])
        )
        arguments = {
            "title": "Dataset001_Phantom, 3d_fullres, folds 0 to 2",
            "regions": regions,
            "models": models,
            "ranks": brats_ranks(models),
            "references": _write(folder / "references", cases, suffix, shape, generator, len(REGIONS)),
            "images": _write_images(folder / "images", cases, suffix, shape, generator) if images else {},
            "notes": ("All values are made up.",),
            "provenance": {"nnunetv2": "2.8.1", "command": "nnunetv2_cfnet compare -d 1 -c 3d_fullres"},
        }
        if "tests" not in changes:  # they take time
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(bootstrap, "NUM_RESAMPLES", 99)  # the intervals themselves are test_bootstrap.py's
                arguments["tests"] = paired_tests(models, regions)
        return Comparison(**{**arguments, **changes})

    return make


@pytest.fixture(scope="session")
def make_subsets() -> Callable[..., SubsetComparison]:
    """Makes BraTS's 15 subsets, with invented Dice of 12 cases; three references are empty but for the first region."""

    def make(num_models: int, regions: Sequence[str] = ("wt", "et")) -> SubsetComparison:
        every = all_subsets(CHANNELS)
        generator = np.random.default_rng(0)
        models = []
        for number in range(num_models):
            rows = [
                {"subset": "+".join(CHANNELS[index] for index in subset), "case": f"case_{case}", "region": region}
                | dict.fromkeys(METRICS, generator.uniform(0.1, 0.2) + 0.2 * len(subset))
                | {"volume_reference_ml": float(region == regions[0] or case >= 3)}
                for subset in every
                for case in range(12)
                for region in regions
            ]
            models.append(Model(f"model_{number}", pandas.DataFrame(rows), {}))
        means = means_of_subsets(every, CHANNELS, [[0, 2], [1, 3]])
        return SubsetComparison("Made up", CHANNELS, every, means, regions, models, [], {})

    return make


@pytest.fixture(scope="session")
def comparison(make_comparison) -> Comparison:
    return make_comparison(num_models=3)


@pytest.fixture(scope="session")
def report(comparison, tmp_path_factory) -> Path:
    """The folder of its report, which is drawn as users get it."""
    out = tmp_path_factory.mktemp("report") / "new" / "out"
    write_report(comparison, out)
    return out


@pytest.fixture
def quick_drawing(monkeypatch) -> None:
    monkeypatch.setattr(figures, "RESOLUTIONS_DPI", (30,))


def _rows(cases: list[str], regions: dict, difficulty: np.ndarray, generator: np.random.Generator) -> pandas.DataFrame:
    rows = []
    for case_index, case in enumerate(cases):
        for region_index, region in enumerate(regions):
            dice = float(np.clip(1 - difficulty[case_index, region_index] + generator.normal(0, 0.02), 0, 1))
            last = region_index == len(regions) - 1
            hd95 = 20 * (1 - dice) + generator.uniform()
            volume, predicted, dice_nnunet = 40.0, 40 + generator.normal(), dice
            if last and case_index == 1:  # missed
                dice, dice_nnunet, hd95, predicted = 0.0, 0.0, 373.13, 0.0
            if last and case_index == 2:  # rightly left out
                dice, dice_nnunet, hd95, volume, predicted = 1.0, float("nan"), 0.0, 0.0, 0.0
            values = dict.fromkeys(METRICS, dice) | {
                "dice_nnunet": dice_nnunet,
                "hd95": hd95,
                "hd95_max": hd95,
                "assd": hd95 / 3,
                "specificity": 1 - 1e-4 * generator.uniform(),
                "lesion_hd95": hd95,
                "volume_reference_ml": volume,
                "volume_prediction_ml": predicted,
            }
            rows.append({"case": case, "region": region, **values})
    return pandas.DataFrame(rows)


def _curves(fold: str, generator: np.random.Generator) -> Curves:
    falling = np.exp(-np.arange(50) / 15)
    return Curves(
        fold=fold,
        train_losses=list(falling - 0.8 + generator.normal(0, 0.02, 50)),
        val_losses=list(falling - 0.7 + generator.normal(0, 0.03, 50)),
        pseudo_dice=list(0.9 - falling + generator.normal(0, 0.02, 50)),
    )


def _write(
    folder: Path, cases: list[str], suffix: str, shape: tuple[int, ...], generator: np.random.Generator, num_labels: int
) -> dict[str, Path]:
    """A mask for each case: ellipsoids within each other, labels 1 to `num_labels` from outside to inside."""
    files = []
    for case in cases[:NUM_FILES]:
        mask = np.zeros(shape, np.uint8)
        centre = np.array(shape) / 2 + generator.normal(0, 1, len(shape))
        offsets = (np.moveaxis(np.indices(shape), 0, -1) - centre) / shape
        distance = np.linalg.norm(offsets, axis=-1)
        for label in range(1, num_labels + 1):
            mask[distance < 0.36 * (1 - (label - 1) / num_labels)] = label
        files.append(folder / f"{case}{suffix}")
        write_image(mask, files[-1], Spacing=(1.0, 1.0, 3.0)[: len(shape)])
    return dict(zip(cases, cycle(files), strict=False))


def _write_images(
    folder: Path, cases: list[str], suffix: str, shape: tuple[int, ...], generator: np.random.Generator
) -> dict[str, dict[str, Path]]:
    files = []
    for case in cases[:NUM_FILES]:
        files.append({channel: folder / f"{case}_{channel}{suffix}" for channel in CHANNELS})
        for file in files[-1].values():
            image = (120 + 150 * gaussian_filter(generator.normal(size=shape), 2)).clip(60, 250).astype(np.uint8)
            image[..., :2] = 0
            write_image(image, file, Spacing=(1.0, 1.0, 3.0)[: len(shape)])
    return dict(zip(cases, cycle(files), strict=False))
