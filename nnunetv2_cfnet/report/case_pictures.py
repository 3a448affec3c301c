"""Pictures of cases: the first model's best, median and worst one, with reference and each model's contours.

compare.md shows them; report.html has all slices of these and of more cases instead (case_sheets.py).
A picture has a row for each of two images (FLAIR and T1ce, or the first two channels) and a column for the reference
and each model: the reference's regions are filled, the model's are lines of the same colour. It shows the axial slice
(of a 2D case the whole) where the reference is largest.
"""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from itertools import cycle
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.lines import Line2D

from nnunetv2_cfnet.files.volumes import BROKEN
from nnunetv2_cfnet.planning.modality_groups import sequence_of
from nnunetv2_cfnet.report.case_volumes import foreground, labels_of, read_volumes
from nnunetv2_cfnet.report.chosen_cases import notable_cases
from nnunetv2_cfnet.report.comparison import Comparison
from nnunetv2_cfnet.report.figures import Picture, add_legend, as_text, new_figure, to_png, wrapped

# Bright on grey, and distinct to people with any colour vision; after Paul Tol's "Colour Schemes", 2021.
REGION_COLOURS = ("#66CCEE", "#CCBB44", "#EE6677", "#44DD66", "#EE99EE", "#FF9933")
NO_IMAGE = "no image: reference's mask"
MAX_CASE_BYTES = 700_000  # images take more than plots


class Slice(NamedTuple):
    """What is drawn of a case: background by channel name, reference and predictions by model, all of one shape.

    aspect: height of a pixel by its width.
    place: "slice 12 of 155", or nothing in 2D.
    """

    backgrounds: Mapping[str, np.ndarray]
    reference: np.ndarray
    predictions: Mapping[str, np.ndarray]
    aspect: float
    place: str


def case_pictures(comparison: Comparison) -> list[Picture]:
    """Draw the first model's best, median and worst case by mean Dice over the regions, BraTS's rule.

    A case whose files can't be read is left out: make_sheets, which reads all of these, says why.
    """
    pictures = []
    for rank, (case, dice) in notable_cases(comparison.models[0]).items():
        with suppress(*BROKEN):
            pictures.append(_draw_case(comparison, rank, case, dice))
    return pictures


def choose_channels(names: Sequence[str]) -> list[str]:
    """FLAIR and T1ce if both are there, else the first two channels."""
    found = [next((name for name in names if sequence_of(name) == wanted), None) for wanted in ("FLAIR", "T1ce")]
    return [name for name in found if name] if all(found) else list(names[:2])


def read_slice(comparison: Comparison, case: str) -> Slice:
    """Read a case's files and cut them where the reference (if it is empty, the predictions) is largest.

    Raises:
        BROKEN: a file can't be read, or is not as large as the reference.
    """
    volumes = read_volumes(comparison, case, choose_channels(list(comparison.images.get(case, {}))))
    labels = labels_of(comparison.regions)
    sizes = np.isin(volumes.reference, labels).sum(axis=(1, 2))
    if not sizes.any():
        sizes = np.sum([np.isin(volume, labels).sum(axis=(1, 2)) for volume in volumes.predictions.values()], axis=0)
    index = int(np.argmax(sizes)) if sizes.any() else len(sizes) // 2
    return Slice(
        backgrounds={name: image[index] for name, image in volumes.images.items()},
        reference=volumes.reference[index],
        predictions={name: prediction[index] for name, prediction in volumes.predictions.items()},
        aspect=volumes.aspect,
        place="" if volumes.is_2d else f"slice {index + 1} of {len(sizes)}",
    )


def _draw_case(comparison: Comparison, rank: str, case: str, dice: float) -> Picture:
    drawn = _cropped(read_slice(comparison, case))
    first = comparison.models[0].name
    backgrounds = drawn.backgrounds or {NO_IMAGE: (drawn.reference > 0).astype(float)}
    rows, columns = len(backgrounds), 1 + len(drawn.predictions)
    height, width = drawn.reference.shape
    panel = min(2.6, 10 / columns)
    panel_height = float(np.clip(panel * drawn.aspect * height / width, 0.5 * panel, 1.6 * panel))
    figure, grid = new_figure(rows, columns, height=rows * panel_height + 0.9, width=panel * columns)
    for row, (channel, image) in zip(grid, backgrounds.items(), strict=True):
        for axes in row:
            _draw_image(axes, image, drawn.aspect)
            _fill(axes, drawn.reference, comparison.regions, alpha=0.45 if axes is row[0] else 0.25)
        row[0].set_ylabel(as_text(channel))
        for axes, prediction in zip(row[1:], drawn.predictions.values(), strict=True):
            _outline(axes, prediction, comparison.regions)
    for axes, title in zip(grid[0], ["reference", *drawn.predictions], strict=True):
        axes.set_title(wrapped(title, panel), fontsize=9)
    colours = _region_colours(comparison.regions)
    add_legend(
        figure, [Line2D([], [], color=colour, linewidth=3, label=as_text(name)) for name, colour in colours.items()]
    )
    place = f", {drawn.place}" if drawn.place else ""
    title = f"{rank.capitalize()} case of {first}: {case}, mean Dice {dice:.3f}{place}"
    missing = "" if drawn.backgrounds else " The images are not there: the background is the reference's mask."
    alt = (
        f"{title}. {' and '.join(backgrounds) if drawn.backgrounds else 'Masks'} with the reference's regions filled, "
        f"and the outlines of {', '.join(drawn.predictions)}.{missing}"
    )
    return Picture(f"case_{rank}", title, alt, to_png(figure, MAX_CASE_BYTES))


def _cropped(drawn: Slice) -> Slice:
    """Without the empty border, with some margin."""
    content = (drawn.reference > 0) | np.any([prediction > 0 for prediction in drawn.predictions.values()], axis=0)
    for image in drawn.backgrounds.values():
        content |= foreground(image)
    if not content.any():
        return drawn
    window = []
    for axis in (0, 1):
        places = np.flatnonzero(content.any(axis=1 - axis))
        margin = max(2, (places[-1] - places[0]) // 12)
        window.append(slice(max(0, places[0] - margin), places[-1] + margin + 1))
    rows, columns = window
    return drawn._replace(
        backgrounds={name: image[rows, columns] for name, image in drawn.backgrounds.items()},
        reference=drawn.reference[rows, columns],
        predictions={name: prediction[rows, columns] for name, prediction in drawn.predictions.items()},
    )


def _draw_image(axes: Axes, image: np.ndarray, aspect: float) -> None:
    inside = image[foreground(image)]
    low, high = np.percentile(inside, [1, 99.5]) if inside.size else (0, 0)
    if high > low:
        low -= 0.1 * (high - low)  # so that tissue is not as black as air
    else:  # a mask, in grey
        low, high = image.min(), image.min() + 2 * max(np.ptp(image), 1)
    axes.imshow(image, cmap="gray", vmin=low, vmax=high, aspect=aspect)
    axes.set(xticks=[], yticks=[])
    axes.autoscale(False)  # contours would widen it


def _fill(axes: Axes, labels: np.ndarray, regions: Mapping[str, tuple[int, ...]], alpha: float) -> None:
    """Each voxel in the colour of the smallest region that it is in."""
    overlay = np.zeros((*labels.shape, 4))
    colours = _region_colours(regions)
    for region in _outer_first(labels, regions):
        overlay[np.isin(labels, regions[region])] = to_rgba(colours[region], alpha)
    axes.imshow(overlay, aspect=axes.get_aspect(), interpolation="nearest")


def _outline(axes: Axes, labels: np.ndarray, regions: Mapping[str, tuple[int, ...]]) -> None:
    colours = _region_colours(regions)
    for region in _outer_first(labels, regions):
        mask = np.isin(labels, regions[region])
        if mask.any():
            # a frame of background closes the lines of what touches the border
            padded = np.pad(mask, 1).astype(float)
            places = [np.arange(size) - 1 for size in padded.shape]
            axes.contour(places[1], places[0], padded, levels=[0.5], colors=colours[region], linewidths=1.3)


def _outer_first(labels: np.ndarray, regions: Mapping[str, tuple[int, ...]]) -> list[str]:
    return sorted(regions, key=lambda region: -int(np.isin(labels, regions[region]).sum()))


def _region_colours(regions: Mapping[str, tuple[int, ...]]) -> dict[str, str]:
    return dict(zip(regions, cycle(REGION_COLOURS), strict=False))
