"""A case to look through in the page: every axial slice of its images and segmentations, in a few pictures.

    volumes -> without what is empty around -> sheets of slices, row by row; images as WebP, labels as PNG

A voxel's label is red + 256 * green. The page's script (report.js) cuts a slice out of each sheet, and draws the
outlines of regions from the labels.
"""

import base64
import io
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.image import imsave

from nnunetv2_cfnet.files.volumes import BROKEN
from nnunetv2_cfnet.report.case_volumes import CaseVolumes, foreground, labels_of, read_volumes
from nnunetv2_cfnet.report.comparison import Comparison

# Of a case; eight of them, as text, and the plots (figures.py) leave a page below 25 MB.
MAX_BYTES = 1_500_000
# Every how many-th voxel of a row and column is shown, and WebP's quality, until a case is small enough.
SETTINGS = ((1, 85), (1, 65), (1, 45), (2, 65), (2, 45), (3, 45), (4, 45), (6, 45), (8, 30))
PIXELS_PER_BYTE = 16  # more than WebP gets into one at these qualities
MARGIN = 4  # voxels


def make_sheets(comparison: Comparison, cases: Mapping[str, str]) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """What the page needs to show each of these cases, and why some can't be shown.

    Args:
        comparison: with their files.
        cases: with what each is, for the message.
    """
    sheets, problems = {}, []
    for case, what in cases.items():
        try:
            sheets[case] = _sheets_of(comparison, case)
        except BROKEN as error:
            mark = f", {what}," if what else ""
            problems.append(f"{case}{mark} can't be shown: {str(error).strip()}")
    return sheets, problems


def _sheets_of(comparison: Comparison, case: str) -> dict[str, Any]:
    whole = read_volumes(comparison, case, list(comparison.images.get(case, {})))
    window = content_window(whole)
    volumes = whole.cut(*window)
    errors = [
        wrong_voxels(volumes.reference, prediction, comparison.regions, comparison.ignore_label)
        for prediction in volumes.predictions.values()
    ]
    images = {name: _windowed(image)[window] for name, image in whole.images.items()}
    for step, quality in SETTINGS:
        small = {name: image[:, ::step, ::step] for name, image in images.items()}
        num_pixels = sum(image.size for image in small.values())
        if num_pixels > PIXELS_PER_BYTE * MAX_BYTES and (step, quality) != SETTINGS[-1]:
            continue
        pictures = {name: _webp(sheet_of(image), quality) for name, image in small.items()}
        segmentations = (volumes.reference, *volumes.predictions.values())
        labels = [_png(sheet_of(segmentation[:, ::step, ::step])) for segmentation in segmentations]
        if sum(map(len, [*pictures.values(), *labels])) <= MAX_BYTES:
            break
    num_slices, height, width = volumes.reference[:, ::step, ::step].shape
    return {
        "width": width,
        "height": height,
        "columns": columns_of(num_slices, height, width),
        "aspect": volumes.aspect,
        "step": step,
        "slices": num_slices,
        "first": window[0].start + 1,
        "of": len(whole.reference),
        "start": start_slice(np.max(errors, axis=0), volumes.reference, comparison.regions),
        "errors": [of_model.tolist() for of_model in errors],
        "images": [{"name": name, "sheet": _data_url("webp", picture)} for name, picture in pictures.items()],
        "labels": [_data_url("png", picture) for picture in labels],  # the reference's, each model's
    }


def content_window(volumes: CaseVolumes) -> tuple[slice, slice, slice]:
    """The box that holds all that is not background, in images and segmentations; all where nothing is."""
    content = volumes.reference > 0
    for prediction in volumes.predictions.values():
        content = content | (prediction > 0)
    for image in volumes.images.values():
        content |= foreground(image)
    if not content.any():
        content[:] = True
    window = []
    for axis in range(3):
        places = np.flatnonzero(content.any(axis=tuple({0, 1, 2} - {axis}))).tolist()
        margin = 0 if axis == 0 else MARGIN
        window.append(slice(max(0, places[0] - margin), min(places[-1] + margin + 1, content.shape[axis])))
    slices, rows, columns = window
    return slices, rows, columns


def wrong_voxels(
    reference: np.ndarray,
    prediction: np.ndarray,
    regions: Mapping[str, tuple[int, ...]],
    ignore_label: int | None = None,
) -> np.ndarray:
    """In each slice, the voxels that are of a region in one of both alone, over all regions."""
    counts = reference != ignore_label if ignore_label is not None else True
    wrong = [(np.isin(reference, labels) != np.isin(prediction, labels)) & counts for labels in regions.values()]
    return np.sum(wrong, axis=(0, 2, 3))


def start_slice(errors: np.ndarray, reference: np.ndarray, regions: Mapping[str, tuple[int, ...]]) -> int:
    """The slice with most wrong voxels; where none is wrong, with most of the reference, else in the middle."""
    sizes = np.isin(reference, labels_of(regions)).sum(axis=(1, 2))
    for counts in (errors, sizes):
        if counts.any():
            return int(np.argmax(counts))
    return len(reference) // 2


def columns_of(num_slices: int, height: int, width: int) -> int:
    """Of a sheet that is about as wide as high."""
    return max(1, min(num_slices, round(math.sqrt(num_slices * height / width))))


def sheet_of(volume: np.ndarray) -> np.ndarray:
    """(slices, rows, columns) -> one picture with the slices side by side, from left to right and top to bottom."""
    num_slices, height, width = volume.shape
    columns = columns_of(num_slices, height, width)
    rows = math.ceil(num_slices / columns)
    padded = np.zeros((rows * columns, height, width), volume.dtype)
    padded[:num_slices] = volume
    return padded.reshape(rows, columns, height, width).swapaxes(1, 2).reshape(rows * height, columns * width)


def _windowed(image: np.ndarray) -> np.ndarray:
    """As bytes, between the 1st and the 99.8th percentile of what is not background."""
    image = image.astype(np.float32)
    inside = image[foreground(image)]
    low, high = np.percentile(inside, [1, 99.8]) if inside.size else (0, 1)
    low -= 0.1 * (high - low)  # so that tissue is not as black as air
    if high <= low:  # a mask
        low, high = float(image.min()), float(image.min() + 2 * max(np.ptp(image), 1))
    return np.clip((image - low) * (255 / (high - low)), 0, 255).astype(np.uint8)


def _webp(sheet: np.ndarray, quality: int) -> bytes:
    picture = io.BytesIO()
    options = {"quality": quality, "method": 2}  # fast: 4, the default, takes twice as long for 5 % less
    imsave(picture, sheet, format="webp", origin="upper", cmap="gray", vmin=0, vmax=255, pil_kwargs=options)
    return picture.getvalue()


def _png(sheet: np.ndarray) -> bytes:
    labels = sheet.astype(np.uint16)
    picture = io.BytesIO()
    colours = np.stack([labels % 256, labels // 256, np.zeros_like(labels)], axis=-1).astype(np.uint8)
    imsave(picture, colours, format="png", origin="upper")
    return picture.getvalue()


def _data_url(kind: str, picture: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(picture).decode('ascii')}"
