"""The tables of docs/missing_sequences.md, from what benchmarks/missing_sequences.py wrote."""

from collections.abc import Mapping, Sequence

import numpy as np
from ablation_tables import interval_text, markdown_table, provenance, student_interval

from nnunetv2_cfnet.evaluation.subsets import Subset, all_subsets, means_of_subsets, subset_name

# which network less which other
DIFFERENCES = (
    ("U-Net, dropout", "U-Net"),
    ("CFNet, dropout, masked", "CFNet"),
    ("CFNet, dropout, masked", "CFNet, dropout"),
    ("CFNet, dropout, masked", "U-Net, dropout"),
)


def tables(results: Mapping) -> str:
    """Markdown."""
    setting = results["setting"]
    subsets = all_subsets(setting["channels"])
    means = means_of_subsets(subsets, setting["channels"], setting["modality_groups"])
    means["all sequences"] = subsets[-1:]
    networks, regions = results["networks"], _regions(results)
    dice = {name: _dice(results, name) for name in networks}  # (seeds, subsets, regions) of each, means over cases
    rows = {subset: row for row, subset in enumerate(subsets)}

    def mean(name: str, over: Sequence[Subset]) -> np.ndarray:
        """Of each seed, over regions and subsets."""
        return dice[name][:, [rows[subset] for subset in over]].mean(axis=(1, 2))

    return "\n\n".join(
        (
            provenance(results),
            "Mean Dice over regions, cases and seeds:",
            markdown_table(
                ("network", *means, *(f"{region}, all subsets" for region in regions)),
                [
                    [
                        name,
                        *(f"{mean(name, over).mean():.3f}" for over in means.values()),
                        *(f"{value:.3f}" for value in dice[name].mean(axis=(0, 1))),
                    ]
                    for name in networks
                ],
            ),
            "Differences of it, with 95 % intervals over the seeds (Student's t):",
            markdown_table(
                ("network", "minus", *means),
                [
                    [
                        name,
                        other,
                        *(
                            f"{difference.mean():+.3f} ({interval_text(student_interval(difference))})"
                            for difference in (mean(name, over) - mean(other, over) for over in means.values())
                        ),
                    ]
                    for name, other in DIFFERENCES
                ],
            ),
            "Every subset:",
            markdown_table(
                ("present", *networks),
                [
                    [
                        subset_name(subset, setting["channels"]),
                        *(f"{mean(name, [subset]).mean():.3f}" for name in networks),
                    ]
                    for subset in subsets
                ],
            ),
        )
    )


def _regions(results: Mapping) -> list[str]:
    return list(next(iter(next(iter(results["runs"][0]["dice"].values())).values())))


def _dice(results: Mapping, network: str) -> np.ndarray:
    """Means over cases: (seeds, subsets, regions), seeds rising."""
    runs = sorted((run for run in results["runs"] if run["network"] == network), key=lambda run: run["seed"])
    channels = results["setting"]["channels"]
    return np.array(
        [
            [
                np.mean([list(case.values()) for case in run["dice"][subset_name(subset, channels)].values()], axis=0)
                for subset in all_subsets(channels)
            ]
            for run in runs
        ]
    )
