"""Figures of a comparison: boxes of each model's cases, paired differences, training curves.

A model has the same colour in all of them. Colours are those of Okabe and Ito ("Color Universal Design", 2008), which
people with any colour vision tell apart.
"""

import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import cycle, pairwise
from textwrap import wrap
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter

from nnunetv2_cfnet.errors import printable
from nnunetv2_cfnet.evaluation.metrics import METRICS
from nnunetv2_cfnet.report.comparison import MAIN_METRICS, Comparison, Model, PairedTest
from nnunetv2_cfnet.report.statistics import case_differences, centre

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
# Five plots of this size, as text in a page, leave 23 of 25 MB to its cases (case_sheets.py).
MAX_BYTES = 200_000
RESOLUTIONS_DPI = (130, 110, 90, 75, 60, 45, 30)
WIDTH_INCHES = 10.0
MOST_LETTERS = 60  # of a name
MOST_REGIONS = 8  # of a picture: more of them would be too narrow to read, and take matplotlib their square to lay out
LINEAR_MM = 1.0  # up to here an axis of distances is linear, beyond it logarithmic


@dataclass(frozen=True)
class Picture:
    """A figure as it is written.

    name: of its file, without ending.
    alt: what it shows, for those who do not see it.
    """

    name: str
    title: str
    alt: str
    png: bytes


class Part(NamedTuple):
    """The regions of one picture, and what it adds to the name and title where they take several."""

    regions: Sequence[str]
    name: str
    title: str


def parts_of(regions: Sequence[str]) -> list[Part]:
    """The regions in as few pictures as have room for them, and as evenly as may be."""
    num_parts = math.ceil(len(regions) / MOST_REGIONS)
    if num_parts == 1:
        return [Part(regions, "", "")]
    bounds = [len(regions) * number // num_parts for number in range(num_parts + 1)]
    return [
        Part(regions[start:stop], f"_{number}", f", {number} of {num_parts}")
        for number, (start, stop) in enumerate(pairwise(bounds), start=1)
    ]


def box_plots(comparison: Comparison) -> list[Picture]:
    """For Dice and HD95: a box of each model's cases in each region, with the cases as points."""
    parts = parts_of(list(comparison.regions))
    return [_box_plot(comparison, metric, part) for metric in MAIN_METRICS for part in parts]


def difference_plots(comparison: Comparison) -> list[Picture]:
    """For Dice and HD95: the sorted differences of the cases, the first model minus each other one."""
    parts = parts_of(list(comparison.regions))
    return [_difference_plot(comparison, metric, part) for metric in MAIN_METRICS for part in parts]


def training_curves(comparison: Comparison) -> list[Picture]:
    """Losses and pseudo Dice over epochs: each fold thin, the folds' mean thick. Nothing where no model has any."""
    if not any(model.curves for model in comparison.models):
        return []
    panels: dict[str, Callable] = {
        "Training loss": lambda curves: curves.train_losses,
        "Validation loss": lambda curves: curves.val_losses,
        "Pseudo Dice": lambda curves: curves.pseudo_dice,
    }
    figure, grid = new_figure(1, len(panels), height=3.6)
    colours = model_colours(comparison.models)
    last = []
    for axes, (title, values_of) in zip(grid[0], panels.items(), strict=True):
        for model in comparison.models:
            folds = [np.array(values_of(curves), dtype=float) for curves in model.curves]
            _draw_curves(axes, [fold for fold in folds if len(fold)], colours[model.name])
        axes.set(title=title, xlabel="epoch")
        axes.grid(alpha=0.3)
    for model in comparison.models:
        ends = [curves.pseudo_dice[-1] for curves in model.curves if len(curves.pseudo_dice)]
        if ends:
            last.append(f"{model.name} ends at a mean pseudo Dice of {np.mean(ends):.3f} over {len(ends)} folds")
    model_legend(figure, comparison.models)
    alt = f"Training and validation loss and pseudo Dice over epochs. {'; '.join(last)}."
    return [Picture("training_curves", "Training curves", alt, to_png(figure))]


def new_figure(
    num_rows: int,
    num_columns: int,
    height: float,
    width: float = WIDTH_INCHES,
    width_ratios: Sequence[float] | None = None,
) -> tuple[Figure, np.ndarray]:
    """A figure of that many inches and its grid of axes, as wide as each other unless other ratios are given."""
    figure = Figure(figsize=(width, height), layout="constrained", facecolor="white")
    return figure, figure.subplots(num_rows, num_columns, squeeze=False, width_ratios=width_ratios)


def to_png(figure: Figure, max_bytes: int = MAX_BYTES) -> bytes:
    """Draw at the highest resolution that is small enough."""
    for resolution in RESOLUTIONS_DPI:
        buffer = io.BytesIO()
        figure.savefig(buffer, dpi=resolution, format="png", metadata={"Software": None})
        if buffer.tell() <= max_bytes:
            break
    return buffer.getvalue()


def model_colours(models: Sequence[Model]) -> dict[str, str]:
    return dict(zip((model.name for model in models), cycle(COLOURS), strict=False))


def model_legend(figure: Figure, models: Sequence[Model]) -> None:
    handles = [Patch(color=colour, label=as_text(name)) for name, colour in model_colours(models).items()]
    add_legend(figure, handles)


def add_legend(figure: Figure, handles: Sequence[Patch | Line2D]) -> None:
    """Below the axes, in as many columns as the labels leave room for."""
    lengths = sorted((len(str(handle.get_label())) + 6 for handle in handles), reverse=True)
    room = figure.get_figwidth() * 13  # letters of this size
    num_columns = max([1, *(number for number in range(1, len(handles) + 1) if sum(lengths[:number]) <= room)])
    figure.legend(handles=handles, loc="outside lower center", ncols=num_columns, frameon=False, fontsize=9)


def as_text(name: str) -> str:
    """A name as matplotlib draws it letter by letter, which takes what is between two $ for a formula."""
    return _shortened(name).replace("$", r"\$")


def wrapped(name: str, width: float) -> str:
    """A name in lines that fit into that many inches; a trainer and its plans on lines of their own."""
    parts = _shortened(name).replace("__", "__\n").split("\n")
    lines = [line for part in parts for line in wrap(part, max(8, int(14 * width)))]
    return "\n".join(lines).replace("$", r"\$")


def _shortened(name: str) -> str:
    """A name without its middle where it would leave the axes no room."""
    text = printable(name)
    return text if len(text) <= MOST_LETTERS else f"{text[: MOST_LETTERS // 2]} .. {text[-MOST_LETTERS // 2 :]}"


def axis_label(metric: str) -> str:
    """As beside an axis, with the unit."""
    title = METRICS[metric].title
    return title if METRICS[metric].bounded else f"{title} (mm, logarithmic beyond {LINEAR_MM:g})"


def _box_plot(comparison: Comparison, metric: str, part: Part) -> Picture:
    models, regions = comparison.models, part.regions
    colours = model_colours(models)
    figure, ((axes,),) = new_figure(1, 1, height=4.2)
    generator = np.random.default_rng(0)
    width = min(0.3, 0.8 / len(models))
    medians = []
    for index, model in enumerate(models):
        by_region = {name: rows[metric].dropna().to_numpy() for name, rows in model.rows.groupby("region")}
        values = [by_region[region] for region in regions]
        positions = np.arange(len(regions)) + (index - (len(models) - 1) / 2) * width
        boxes = axes.boxplot(
            values,
            positions=positions,
            widths=0.8 * width,
            showfliers=False,
            patch_artist=True,
            medianprops={"color": "black", "linewidth": 1.5},
            manage_ticks=False,
        )
        for box in boxes["boxes"]:
            box.set(facecolor=colours[model.name], alpha=0.45)
        for position, cases in zip(positions, values, strict=True):
            _draw_points(axes, position + generator.uniform(-0.3, 0.3, len(cases)) * width, cases, colours[model.name])
        listed = ", ".join(
            f"{region} {np.median(cases):.3g}" for region, cases in zip(regions, values, strict=True) if len(cases)
        )
        medians.append(f"{model.name}: {listed}")
    room = 0.9 * WIDTH_INCHES / len(regions)
    axes.set_xticks(range(len(regions)), [wrapped(region, room) for region in regions])
    axes.set(ylabel=axis_label(metric), xlim=(-0.6, len(regions) - 0.4))
    axes.grid(axis="y", alpha=0.3)
    if not METRICS[metric].bounded:
        # whole dots at 0 and at the penalty
        _stretch(axes, -0.1 * LINEAR_MM, 1.3 * max(axes.get_ylim()[1], LINEAR_MM))
    model_legend(figure, models)
    title = f"{METRICS[metric].title} of all cases{part.title}"
    alt = f"Box plots of {METRICS[metric].title} by region and model. Medians of {'; '.join(medians)}."
    return Picture(f"{metric}_boxes{part.name}", title, alt, to_png(figure))


def _draw_points(axes: Axes, x: np.ndarray, y: np.ndarray, colour: str) -> None:
    if len(y) > 200:  # behind the box, which they would hide
        axes.scatter(x, y, s=3, color=colour, alpha=0.3, linewidths=0, zorder=1)
    else:
        axes.scatter(x, y, s=10, color=colour, alpha=0.8, linewidths=0, zorder=3)


def _difference_plot(comparison: Comparison, metric: str, part: Part) -> Picture:
    first, *others = comparison.models
    regions = part.regions
    tests = {(test.other, test.region): test for test in comparison.tests if test.metric == metric}
    figure, grid = new_figure(len(others), len(regions), height=0.9 + 2.6 * len(others))
    counts = []
    for row, other in zip(grid, others, strict=True):
        of_regions = case_differences(first, other, regions, metric)
        for axes, region in zip(row, regions, strict=True):
            differences = np.sort(of_regions[region].to_numpy())
            test = tests.get((other.name, region))
            _draw_differences(axes, differences, metric, test)
            axes.set_title(wrapped(region, 0.75 * WIDTH_INCHES / len(regions)), fontsize=9)
            if test:
                counts.append(f"{other.name}, {region}: {test.wins} wins, {test.ties} ties, {test.losses} losses")
        row[0].set_ylabel(f"minus {wrapped(other.name, 2.3)}", fontsize=9)
    heading = f"{axis_label(metric)}: {as_text(first.name)} minus the other model; a dot for each case, sorted"
    figure.suptitle(heading, fontsize=11)
    mean = "mean" if METRICS[metric].bounded else "median"
    names = {"#009E73": "first model better", "#767676": "equal", "#D55E00": "first model worse"}
    dots = [Line2D([], [], marker="o", linestyle="", color=colour, label=name) for colour, name in names.items()]
    band = Patch(color="#56B4E9", alpha=0.5, label=f"{mean} with its 95 % interval")
    add_legend(figure, [*dots, band])
    alt = f"Differences in {METRICS[metric].title} by case, {first.name} minus the other. Against {'; '.join(counts)}."
    title = f"Paired differences in {METRICS[metric].title}{part.title}"
    return Picture(f"{metric}_differences{part.name}", title, alt, to_png(figure))


def _draw_differences(axes: Axes, differences: np.ndarray, metric: str, test: PairedTest | None) -> None:
    gains = differences if METRICS[metric].larger_is_better else -differences
    colours = np.select([gains > 0, gains < 0], ["#009E73", "#D55E00"], "#767676")
    x = np.arange(1, len(differences) + 1)
    if len(differences) <= 100:
        axes.vlines(x, 0, differences, colors=colours, linewidth=1, alpha=0.5)
    axes.scatter(x, differences, s=12 if len(differences) <= 100 else 4, c=colours, linewidths=0, zorder=3)
    axes.axhline(0, color="black", linewidth=1)
    if len(differences):
        axes.axhline(float(centre(differences, metric)), color="#0072B2", linewidth=1.5)
    if test and test.interval:
        axes.axhspan(*test.interval, color="#56B4E9", alpha=0.35, zorder=0, linewidth=0)
    axes.set_xticks([])
    axes.tick_params(labelsize=8)
    axes.grid(axis="y", alpha=0.3)
    # zero in sight, as much above as below
    extent = max(abs(limit) for limit in axes.get_ylim())
    if METRICS[metric].bounded:
        axes.set_ylim(-extent, extent)
    else:
        _stretch(axes, -1.1 * extent, 1.1 * extent)


def _stretch(axes: Axes, low: float, high: float) -> None:
    """Show distances of 0.5 mm and the penalty of 373 mm on one axis: linear up to LINEAR_MM, logarithmic beyond."""
    axes.set_yscale("symlog", linthresh=LINEAR_MM)
    axes.set_ylim(low, high)
    marks = (0.5, 1, 2, 5, 10) if high <= 15 else (1, 3, 10, 30, 100, 300)
    ticks = [sign * mark for mark in marks for sign in (-1, 1)]
    axes.set_yticks([0, *(tick for tick in ticks if low <= tick <= high)])
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.minorticks_off()


def _draw_curves(axes: Axes, folds: Sequence[np.ndarray], colour: str) -> None:
    if not folds:
        return
    for fold in folds:
        axes.plot(fold, color=colour, linewidth=0.6, alpha=0.45, marker="." if len(fold) < 2 else None)
    # Only as far as all folds went: their mean would jump where one of them ends.
    mean = np.mean([fold[: min(map(len, folds))] for fold in folds], axis=0)
    axes.plot(mean, color=colour, linewidth=2, marker="o" if len(mean) < 2 else None)
