"""Figures of the subsets' report: dots that say which sequences there are, as in an UpSet plot, and Dice beside them.

Source: Lex et al., "UpSet: Visualization of Intersecting Sets", 2014 (doi:10.1109/TVCG.2014.2346248).
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes

from nnunetv2_cfnet.report.figures import (
    WIDTH_INCHES,
    Part,
    Picture,
    model_colours,
    model_legend,
    new_figure,
    parts_of,
    to_png,
    wrapped,
)

if TYPE_CHECKING:
    from nnunetv2_cfnet.report.subsets import Scores, Shares, SubsetComparison

PRESENT, ABSENT, STRIPE = "#222222", "#d5d9de", "#f4f6f8"
LINE_INCHES = 0.27  # of a subset
CHANNEL_INCHES = 0.42


def subset_plots(comparison: "SubsetComparison", scores: "Scores") -> list[Picture]:
    """A line for each subset: dots for its sequences, and each model's mean Dice in each region."""
    return [_subset_plot(comparison, scores, part) for part in parts_of(comparison.regions)]


def shapley_plots(comparison: "SubsetComparison", shares: "Shares") -> list[Picture]:
    """Bars of each sequence's Shapley value in each region."""
    return [_shapley_plot(comparison, shares, part) for part in parts_of(comparison.regions)]


def _subset_plot(comparison: "SubsetComparison", scores: "Scores", part: Part) -> Picture:
    names, models = comparison.names, comparison.models
    of_dots = CHANNEL_INCHES * len(comparison.channels)
    of_panel = max(1.0, (WIDTH_INCHES - of_dots) / len(part.regions))
    ratios = [of_dots, *[of_panel] * len(part.regions)]
    figure, ((dots, *panels),) = new_figure(1, len(ratios), height=1.5 + LINE_INCHES * len(names), width_ratios=ratios)
    _draw_dots(dots, comparison)
    lines = np.arange(len(names))
    for axes, region in zip(panels, part.regions, strict=True):
        for model in models:
            values = scores[model.name].loc[names, region]
            axes.plot(values, lines, "o", color=model_colours(models)[model.name], markersize=6, alpha=0.85)
        axes.set_title(wrapped(region, 0.9 * of_panel), fontsize=9)
        axes.set_xlabel("mean Dice", fontsize=8)
        axes.tick_params(labelsize=8)
        axes.set_yticks([])
        axes.grid(axis="x", alpha=0.3)
    for axes in (dots, *panels):
        axes.set_ylim(len(names) - 0.5, -0.5)  # the first one on top
        for line in lines[::2]:
            axes.axhspan(line - 0.5, line + 0.5, color=STRIPE, zorder=0, linewidth=0)
    model_legend(figure, models)
    extremes = [
        f"{model.name}, {region}: from {values.min():.3f} ({values.idxmin()}) to {values.max():.3f} ({values.idxmax()})"
        for model in models
        for region, values in scores[model.name].loc[names, list(part.regions)].items()
    ]
    alt = f"Mean Dice of each subset of the sequences by model and region. {'; '.join(extremes)}."
    return Picture(f"subsets{part.name}", f"Dice by the sequences that are there{part.title}", alt, to_png(figure))


def _draw_dots(axes: Axes, comparison: "SubsetComparison") -> None:
    """Dark dots where a sequence is there, joined by a line."""
    channels = np.arange(len(comparison.channels))
    for line, subset in enumerate(comparison.subsets):
        axes.scatter(channels, [line] * len(channels), s=38, color=ABSENT, zorder=2)
        axes.plot(subset, [line] * len(subset), "o-", color=PRESENT, markersize=6, linewidth=1.5, zorder=3)
    labels = [wrapped(channel, 1.0) for channel in comparison.channels]
    axes.set_xticks(channels, labels, rotation=90, fontsize=8)
    axes.set(xlim=(-0.6, len(channels) - 0.4), yticks=[])
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)


def _shapley_plot(comparison: "SubsetComparison", shares: "Shares", part: Part) -> Picture:
    models, channels = comparison.models, comparison.channels
    figure, (panels,) = new_figure(1, len(part.regions), height=3.4)
    width = 0.8 / len(models)
    places = np.arange(len(channels))
    for axes, region in zip(panels, part.regions, strict=True):
        for index, model in enumerate(models):
            shift = (index - (len(models) - 1) / 2) * width
            axes.bar(places + shift, shares[model.name][region], width, color=model_colours(models)[model.name])
        axes.axhline(0, color="black", linewidth=0.8)
        axes.set_xticks(places, [wrapped(channel, 1.0) for channel in channels], rotation=90, fontsize=8)
        axes.set_title(wrapped(region, 0.9 * WIDTH_INCHES / len(part.regions)), fontsize=9)
        axes.tick_params(labelsize=8)
        axes.grid(axis="y", alpha=0.3)
    panels[0].set_ylabel("Shapley value, Dice", fontsize=9)
    model_legend(figure, models)
    alt = f"What each sequence adds to the models' mean Dice, by region. {'; '.join(_listed(shares, channels, part))}."
    title = f"What a sequence adds to this model's score on these cases{part.title}"
    return Picture(f"shapley{part.name}", title, alt, to_png(figure))


def _listed(shares: Mapping[str, Mapping[str, Sequence[float]]], channels: Sequence[str], part: Part) -> list[str]:
    return [
        f"{model}, {region}: "
        + ", ".join(f"{channel} {value:+.3f}" for channel, value in zip(channels, of_model[region], strict=True))
        for model, of_model in shares.items()
        for region in part.regions
    ]
