"""Defects, planted into the files of a case that make_phantom wrote."""

import gzip
from collections.abc import Callable
from pathlib import Path

import numpy as np
import SimpleITK
from images import read

from nnunetv2_cfnet.brats.findings import Kind
from nnunetv2_cfnet.brats.sources import SourceCase

RAS = (-1, 0, 0, 0, -1, 0, 0, 0, 1)  # where BraTS has LPS


def change(
    path: Path,
    voxels: Callable[[np.ndarray], np.ndarray] = lambda array: array,
    header: Callable[[SimpleITK.Image], object] = lambda image: None,
) -> None:
    """Write a file anew, with other voxels or another header."""
    before = SimpleITK.ReadImage(str(path))
    image = SimpleITK.GetImageFromArray(voxels(SimpleITK.GetArrayFromImage(before)), isVector=False)
    for copy in ("Spacing", "Origin", "Direction"):
        getattr(image, f"Set{copy}")(getattr(before, f"Get{copy}")())
    header(image)
    SimpleITK.WriteImage(image, str(path), True)


def plant(case: SourceCase, kind: Kind) -> None:
    """Give a case a defect: its T1ce, its segmentation where that is meant or T1ce is in a 4D file's header, or all."""
    image, segmentation = case.files["T1ce"][0], case.files["seg"][0]
    is_4d = image == case.files["T1"][0]
    misfit = segmentation if is_4d else image
    t1ce = read(image)[2] if is_4d else read(image)  # msd: FLAIR, T1, T1ce, T2
    brain = t1ce > 0

    def change_t1ce(voxels: Callable[[np.ndarray], np.ndarray]) -> None:
        change(image, lambda array: np.stack([*array[:2], voxels(array[2]), array[3]]) if is_4d else voxels(array))

    if kind is Kind.MISSING and is_4d:
        change(image, lambda array: array[[0, 1, 3]])
    elif kind is Kind.MISSING:
        image.unlink()
    elif kind is Kind.UNREADABLE:
        image.write_bytes(image.read_bytes()[: image.stat().st_size // 2])
    elif kind is Kind.DUPLICATE:
        image.with_suffix("").write_bytes(gzip.decompress(image.read_bytes()))
    elif kind is Kind.SHAPE:
        change(misfit, lambda array: array[:-1])
    elif kind is Kind.GEOMETRY:
        change(misfit, lambda array: misplaced(array, brain), lambda image: image.SetOrigin((5, -239, 0)))
    elif kind is Kind.HEADER:
        change(misfit, header=turn)
    elif kind is Kind.LABELS:
        change(segmentation, lambda array: with_first(array, array > 0, 7))
    elif kind is Kind.NON_FINITE:
        change_t1ce(lambda array: with_first(array.astype(np.float32), brain, np.nan))
    elif kind is Kind.EMPTY:
        change_t1ce(np.zeros_like)
    elif kind is Kind.OUTSIDE:
        change(segmentation, lambda array: moved_outside(array, brain))
    elif kind is Kind.CLIPPED:  # all slices above the middle of the brain are gone
        occupied = np.flatnonzero(brain.any(axis=(1, 2)))
        for path in {paths[0] for paths in case.files.values()}:
            change(path, lambda array: array[..., : (occupied[0] + occupied[-1] + 1) // 2, :, :])
    elif kind is Kind.SATURATED:
        change_t1ce(lambda array: np.minimum(array, int(np.quantile(array[brain], 0.95))))
    elif kind is Kind.BRAIN:  # a tenth of it is missing
        top = int(np.quantile(np.nonzero(brain)[0], 0.9))
        change_t1ce(lambda array: np.where(np.arange(len(array))[:, None, None] > top, 0, array))
    elif kind is Kind.SEQUENCE and is_4d:
        change(image, lambda array: array[[1, 0, 2, 3]])
    elif kind is Kind.SEQUENCE:
        t1, flair = case.files["T1"][0], case.files["FLAIR"][0]
        first, second = read(t1), read(flair)
        change(t1, lambda _: second)
        change(flair, lambda _: first)
    elif kind is Kind.ELSEWHERE:
        change(segmentation, lambda array: mirrored(array, brain))
    elif kind is Kind.FEW_LABELS:
        change(segmentation, np.zeros_like)
    elif kind is Kind.MEANING:
        change(segmentation, lambda array: relabelled(array, {1: array.max(), array.max(): 1}))
    elif kind is Kind.UNCLAIMED:
        SimpleITK.WriteImage(
            SimpleITK.GetImageFromArray(t1ce), str(image.parent.parent / f"{case.name}_brainmask.nii.gz")
        )


def turn(image: SimpleITK.Image) -> None:
    """RAS for LPS around the same voxels."""
    x, y, z = image.GetOrigin()
    image.SetOrigin((-x, -y, z))
    image.SetDirection(RAS)


def with_first(array: np.ndarray, where: np.ndarray, value: float) -> np.ndarray:
    """One voxel changed."""
    array[tuple(np.argwhere(where)[0])] = value
    return array


def misplaced(array: np.ndarray, brain: np.ndarray) -> np.ndarray:
    """Mirrored, and the octants of the brain's box swapped: nothing is where it should be.

    Mirrored alone, a brain would cover itself. The box keeps it off the image's edge, which would be another defect.
    """
    box = tuple(slice(indices.min(), indices.max() + 1) for indices in np.nonzero(brain))
    inside = np.flip(array[box])
    array[box] = np.roll(inside, [length // 2 for length in inside.shape], axis=(0, 1, 2))
    return array


def mirrored(array: np.ndarray, brain: np.ndarray) -> np.ndarray:
    """Left to right within the brain's box."""
    box = tuple(slice(indices.min(), indices.max() + 1) for indices in np.nonzero(brain))
    array[box] = np.flip(array[box], 2).copy() * brain[box]
    return array


def relabelled(array: np.ndarray, meanings: dict[int, int]) -> np.ndarray:
    table = np.arange(256, dtype=array.dtype)
    table[list(meanings)] = list(meanings.values())
    return table[array]


def moved_outside(array: np.ndarray, brain: np.ndarray) -> np.ndarray:
    """30 % of the segmentation outside the brain."""
    labelled, outside = np.flatnonzero(array), np.flatnonzero(~brain)
    num_moved = round(0.3 * len(labelled))
    array.flat[outside[:num_moved]] = array.flat[labelled[:num_moved]]
    array.flat[labelled[:num_moved]] = 0
    return array
