"""The tables and the figure of docs/ablation.md, from what benchmarks/ablation.py wrote."""

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import scipy.stats

from nnunetv2_cfnet.evaluation.bootstrap import bootstrap_interval

FINAL_POINTS = 5  # of a loss curve, whose mean is the final loss
MEAN = "mean"  # of a case's regions
PRESENT = "mean of those present"  # the same without regions that the reference lacks, whose Dice is 0 or 1
GREY, BLUE = "#8a8a8a", "#1f77b4"


def tables(results: Mapping) -> str:
    """Markdown: the experiments one after the other."""
    return "\n\n".join(_tables_of_one(experiment) for experiment in results["experiments"])


def _tables_of_one(results: Mapping) -> str:
    networks = list(results["costs"])
    first, *others = networks
    return "\n\n".join(
        (
            f"### {title(results['setting'])}",
            provenance(results),
            "Cost and result:",
            markdown_table(
                (
                    "network",
                    "seeds",
                    "parameters",
                    "forward",
                    "stored",
                    "final loss",
                    *_regions(results),
                    MEAN,
                    PRESENT,
                ),
                [_result(results, network) for network in networks],
            ),
            f"{first} minus each other network:",
            markdown_table(
                (
                    "network",
                    "mean Dice",
                    "95 % over cases",
                    "95 % over seeds",
                    PRESENT,
                    "95 % over seeds",
                    "seeds won",
                    "final loss",
                    "95 % over seeds",
                    *_regions(results),
                ),
                [_difference(results, first, other) for other in others],
            ),
            f"What the weights of {first}'s parts do, and the scales that they learn (mean ± standard deviation):",
            markdown_table(
                (
                    "part",
                    "mean weight",
                    "spread over inputs and voxels",
                    "change of probabilities",
                    "change of Dice",
                    "scales, before → after",
                ),
                _parts(results, first),
            ),
        )
    )


def title(setting: Mapping) -> str:
    """Of an experiment. Its note is added by hand where the networks have changed since, so that it is kept."""
    return ", ".join(filter(None, (setting["dataset"], f"{setting['steps']} steps", setting.get("note"))))


def provenance(results: Mapping) -> str:
    """Of which data, trainings and machine the results are."""
    setting, environment = results["setting"], results["environment"]
    patch = " × ".join(map(str, setting["patch_size"]))
    seeds = sorted({run["seed"] for run in results["runs"]})
    machine = environment["gpu"] or f"{environment['cores']} cores of {environment['cpu']}"
    commits = sorted({run["commit"] or "unknown" for run in results["runs"]})
    versions = ", ".join(f"{name} {version}" for name, version in environment["versions"].items())
    return (
        f"{setting['dataset']}, size {setting['size']}: patches of {patch}, batch {setting['batch_size']}, "
        f"{setting['steps']} steps, seeds {', '.join(map(str, seeds))}. "
        f"{environment['date']}, commit {', '.join(commits)}, {machine}; {versions}."
    )


def figure(results: Mapping, file: Path) -> None:
    """The differences of the second table in PRESENT, with each seed's, as an SVG."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    first, *others = results["costs"]
    with mpl.rc_context({"svg.hashsalt": "ablation", "font.size": 9}):
        drawing = Figure(figsize=(7, 0.6 + 0.38 * len(others)), layout="constrained")
        axes = drawing.subplots()
        for row, other in enumerate(others[::-1]):
            by_seed = _by_seed(_differences(results, first, other, PRESENT))
            if interval := student_interval(by_seed):
                axes.plot(interval, [row, row], color=BLUE, linewidth=2)
            axes.plot(by_seed.mean(), row, "o", color=BLUE)
            axes.plot(by_seed, [row] * len(by_seed), "|", color=GREY, markersize=9)
        axes.axvline(0, color="black", linewidth=0.8)
        axes.set_yticks(range(len(others)), others[::-1])
        axes.set_xlabel(
            f"mean Dice of the regions that are there, {first} minus the network\n"
            f"(right: {first} is better; ticks: each seed's)"
        )
        drawing.savefig(file, format="svg", metadata={"Date": None})


def _result(results: Mapping, network: str) -> list[str]:
    cost, cases = results["costs"][network], _dice(results, network)
    means = [np.nanmean([case[region] for case in cases.values()]) for region in (*_regions(results), MEAN, PRESENT)]
    losses = list(_final_losses(results, network).values())
    return [
        network,
        str(len(losses)),
        f"{cost['parameters'] / 1e6:.2f} M",
        f"{cost['forward_flops'] / 1e9:.2f} GFLOP",
        f"{cost['saved_bytes'] / 2**20:.0f} MiB",
        f"{np.mean(losses):.3f}",
        *(f"{mean:.3f}" for mean in means),
    ]


def _difference(results: Mapping, first: str, other: str) -> list[str]:
    differences = _differences(results, first, other)
    by_seed = _by_seed(differences)
    present = _by_seed(_differences(results, first, other, PRESENT))
    own, theirs = _final_losses(results, first), _final_losses(results, other)
    losses = np.array([own[seed] - theirs[seed] for seed in own.keys() & theirs.keys()])
    return [
        other,
        f"{_pooled(differences).mean():+.3f}",
        interval_text(bootstrap_interval(_pooled(differences))),
        interval_text(student_interval(by_seed)),
        f"{present.mean():+.3f}",
        interval_text(student_interval(present)),
        f"{int((by_seed > 0).sum())} of {len(by_seed)}",
        f"{losses.mean():+.3f}",
        interval_text(student_interval(losses)),
        *(f"{_pooled(_differences(results, first, other, region)).mean():+.3f}" for region in _regions(results)),
    ]


def _parts(results: Mapping, network: str) -> list[list[str]]:
    runs = [run["parts"] for run in results["runs"] if run["network"] == network]

    def scales(part: str) -> str:
        recorded = runs[0][part].get("scales", ())  # not in the oldest results
        means = {scale: np.mean([run[part]["scales"][scale] for run in runs], axis=0) for scale in recorded}
        return ", ".join(
            f"{scale} {before[0]:.3f} → {after[0]:.3f} ± {after[1]:.3f}" for scale, (before, after) in means.items()
        )

    return [
        [
            part,
            *(f"{np.mean([run[part][name] for run in runs]):.3g}" for name in ("mean", "spread", "changed", "dice")),
            scales(part),
        ]
        for part in runs[0]
    ]


def _regions(results: Mapping) -> list[str]:
    return list(next(iter(results["runs"][0]["dice"].values())))


def _dice(results: Mapping, network: str) -> dict[tuple[int, str], dict[str, float]]:
    """Dice of each region, and their means, by seed and case."""

    def of_present(case: str, regions: Mapping[str, float]) -> float:
        present = [dice for region, dice in regions.items() if region not in results["absent"].get(case, ())]
        return float(np.mean(present)) if present else math.nan

    return {
        (run["seed"], case): {
            **regions,
            MEAN: float(np.mean(list(regions.values()))),
            PRESENT: of_present(case, regions),
        }
        for run in results["runs"]
        if run["network"] == network
        for case, regions in run["dice"].items()
    }


def _differences(results: Mapping, first: str, other: str, region: str = MEAN) -> dict[int, list[float]]:
    """First minus other in the cases that both predicted (and that have a region, for PRESENT), by seed."""
    own, theirs = _dice(results, first), _dice(results, other)
    differences: dict[int, list[float]] = {}
    for seed, case in sorted(own.keys() & theirs.keys()):
        if not math.isnan(own[seed, case][region]):
            differences.setdefault(seed, []).append(own[seed, case][region] - theirs[seed, case][region])
    return differences


def _by_seed(differences: Mapping[int, Sequence[float]]) -> np.ndarray:
    return np.array([np.mean(values) for values in differences.values()])


def _pooled(differences: Mapping[int, Sequence[float]]) -> np.ndarray:
    return np.concatenate(list(differences.values()))


def _final_losses(results: Mapping, network: str) -> dict[int, float]:
    return {
        run["seed"]: float(np.mean(run["loss"][-FINAL_POINTS:])) for run in results["runs"] if run["network"] == network
    }


def student_interval(values: np.ndarray) -> tuple[float, float] | None:
    """95 % interval of the mean over seeds, by Student's t; None for a single seed."""
    if len(values) < 2:
        return None
    half = scipy.stats.t.ppf(0.975, len(values) - 1) * scipy.stats.sem(values)
    return float(values.mean() - half), float(values.mean() + half)


def interval_text(interval: tuple[float, float] | None) -> str:
    return f"{interval[0]:+.3f} to {interval[1]:+.3f}" if interval else "n/a"


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
