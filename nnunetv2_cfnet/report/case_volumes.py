"""The files of a case, all of them turned as radiologists look at axial slices."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import SimpleITK

from nnunetv2_cfnet.files.volumes import name_for_itk
from nnunetv2_cfnet.report.comparison import Comparison

MUCH = 0.1  # of an image's voxels, as zeros: those are what is empty around


class CaseVolumes(NamedTuple):
    """Images by channel, reference, and predictions by model.

    aspect: height of a pixel of a slice by its width.
    is_2d: a single image, which is one slice.

    Shape:
        All (slices, rows, columns), and the same.
    """

    images: Mapping[str, np.ndarray]
    reference: np.ndarray
    predictions: Mapping[str, np.ndarray]
    aspect: float
    is_2d: bool

    def cut(self, *window: slice) -> "CaseVolumes":
        """A part of all of them."""
        return self._replace(
            images={name: image[window] for name, image in self.images.items()},
            reference=self.reference[window],
            predictions={name: prediction[window] for name, prediction in self.predictions.items()},
        )


def read_volumes(comparison: Comparison, case: str, channels: Sequence[str]) -> CaseVolumes:
    """Read a case's files.

    Args:
        channels: of its images.

    Raises:
        BROKEN: a file can't be read, or is not as large as the reference.
    """
    reference = SimpleITK.ReadImage(name_for_itk(comparison.references[case]))
    spacing = _turned(reference).GetSpacing()
    images = comparison.images.get(case, {})
    return CaseVolumes(
        images={name: _array(images[name], like=reference) for name in channels},
        reference=_slices(reference),
        predictions={model.name: _array(model.predictions[case], like=reference) for model in comparison.models},
        aspect=spacing[1] / spacing[0],
        is_2d=reference.GetDimension() == 2,
    )


def labels_of(regions: Mapping[str, tuple[int, ...]]) -> list[int]:
    """All that make up regions."""
    return [label for labels in regions.values() for label in labels]


def foreground(image: np.ndarray) -> np.ndarray:
    """Where an image, or a slice of it, is not background: 0 if many voxels are, else the most frequent value at the
    borders of its slices. Its minimum says nothing: filters leave some negative voxels in images that are 0 around."""
    background = 0
    if np.mean(image == 0) <= MUCH:
        border = np.concatenate([image[..., [0, -1], :].ravel(), image[..., [0, -1]].ravel()])
        values, counts = np.unique(border, return_counts=True)
        background = values[np.argmax(counts)]
    return (image != background) & np.isfinite(image)


def _array(path: Path, like: SimpleITK.Image) -> np.ndarray:
    """The voxels of a file, turned as a reference's are.

    Headers of one case sometimes disagree although the voxels align, so that the reference's is taken for all.
    """
    image = SimpleITK.ReadImage(name_for_itk(path))
    if image.GetSize() != like.GetSize():
        raise ValueError(f"{path} has the size {image.GetSize()}, and the reference {like.GetSize()}")
    image.CopyInformation(like)
    return _slices(image)


def _slices(image: SimpleITK.Image) -> np.ndarray:
    array = SimpleITK.GetArrayFromImage(_turned(image))
    if image.GetNumberOfComponentsPerPixel() > 1:  # a colour image
        array = array.mean(axis=-1)
    return array if image.GetDimension() == 3 else array[np.newaxis]


def _turned(image: SimpleITK.Image) -> SimpleITK.Image:
    """A volume with axial slices, shown as radiologists do; a 2D image as it is."""
    return SimpleITK.DICOMOrient(image, "LPS") if image.GetDimension() == 3 else image
