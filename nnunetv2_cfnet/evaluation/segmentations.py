"""Segmentations: what a dataset's labels mean, files as nnU-Net's readers have them, and what is wrong with one."""

import io
import json
import math
from collections.abc import Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas
from nibabel.affines import voxel_sizes

from nnunetv2_cfnet.errors import UserError, listing_of
from nnunetv2_cfnet.files.json_files import read_dataset_json
from nnunetv2_cfnet.files.volumes import BROKEN, Geometry, count_non_finite, name_for_itk, unreadable

if TYPE_CHECKING:
    from nnunetv2.imageio.base_reader_writer import BaseReaderWriter

REMEDY = "Make it again."  # where a file is broken


@dataclass(frozen=True)
class Labelling:
    """What the values in a dataset's segmentations mean.

    regions: name -> labels, in the dataset's order, without background.
    ignore_label: marks voxels of the reference that count for nothing.
    least_voxels: region -> a prediction of it with fewer voxels counts as empty.
    """

    regions: Mapping[str, tuple[int, ...]]
    ignore_label: int | None = None
    least_voxels: Mapping[str, int] = field(default_factory=dict)

    @property
    def values(self) -> list[int]:
        """All that may occur."""
        ignored = () if self.ignore_label is None else (self.ignore_label,)
        return sorted({0, *ignored}.union(*self.regions.values()))


class Images(NamedTuple):
    """Channels of a case as nnU-Net reads them: (C, z, y, x), and what its reader notes of them."""

    channels: np.ndarray
    properties: dict[str, Any]

    @property
    def geometry(self) -> Geometry:
        """Where they lie."""
        return geometry_in(self.properties)


class Segmentation(NamedTuple):
    """A file as nnU-Net reads it: (z, y, x), the spacing of these axes, and where it lies."""

    labels: np.ndarray
    spacing_mm: tuple[float, ...]
    geometry: Geometry


def read_labelled_dataset(file: Path, remedy: str) -> tuple[dict[str, Any], Labelling]:
    """A dataset.json, which has a file ending, and what its labels mean.

    Args:
        remedy: for the message, what to do if the file is not there.

    Raises:
        UserError: it is not there, or has no such content.
    """
    dataset_json = read_dataset_json(file, remedy)
    labels = dataset_json.get("labels")
    pairs = labels.items() if isinstance(labels, dict) else ()
    values = {name: tuple(value) if isinstance(value, list) else (value,) for name, value in pairs}
    are_numbers = all(values.values()) and all(type(label) is int for value in values.values() for label in value)
    ignored = values.pop("ignore", ())
    regions = {name: value for name, value in values.items() if value != (0,)}
    if not (regions and are_numbers and len(ignored) <= 1):
        raise UserError(
            f"{file}: labels are {json.dumps(labels)}; they must give each name a number or, for regions, several, "
            'such as {"background": 0, "whole_tumor": [1, 2, 3], "enhancing_tumor": [3]}.'
        )
    return dataset_json, Labelling(regions, ignored[0] if ignored else None)


def choose_reader(dataset_json: Mapping[str, Any], files: Sequence[Path]) -> "type[BaseReaderWriter]":
    """nnU-Net's reader for the first of the files that any reader takes.

    Raises:
        UserError: there is none.
    """
    from nnunetv2.imageio.base_reader_writer import BaseReaderWriter
    from nnunetv2.imageio.reader_writer_registry import determine_reader_writer_from_dataset_json
    from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO

    read_by_itk = dataset_json["file_ending"].lower() in SimpleITKIO.supported_file_endings
    for file in files:
        name = name_for_itk(file) if read_by_itk else str(file)
        try:
            with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):  # it prints tracebacks
                reader = determine_reader_writer_from_dataset_json(dataset_json, name, verbose=False)
        except RuntimeError:
            continue
        if isinstance(reader, type) and issubclass(reader, BaseReaderWriter):  # it finds other names in there, too
            return reader
    raise UserError(
        f"No reader of nnU-Net takes any of the files ({files[0]}, ..): check that they are whole, and file_ending "
        f"{dataset_json['file_ending']} and overwrite_image_reader_writer in dataset.json."
    )


def check_segmentation(
    file: Path, labelling: Labelling, reader: "type[BaseReaderWriter]"
) -> tuple[list[str], Segmentation | None]:
    """What is wrong with a file, a sentence each; and what is in it, if it can be read."""
    problems = []
    try:
        # SimpleITK reads NaN in NIfTI as 0, and takes files for whole that were cut off
        num_bad = count_non_finite(file) if file.name.endswith((".nii", ".nii.gz")) else 0
        if num_bad:
            problems.append(f"{file} has {num_bad} voxels that are NaN or infinite. Make it again.")
        segmentation = read_segmentation(file, reader)
    except UserError as error:
        return [*problems, str(error)], None
    except BROKEN as error:
        return [unreadable(file, error, REMEDY)], None
    return [*problems, *_find_unknown_values(file, segmentation.labels, labelling)], segmentation


def read_segmentation(file: Path, reader: "type[BaseReaderWriter]") -> Segmentation:
    """Read a file by one of nnU-Net's readers.

    Raises:
        UserError: it can't be read or is no segmentation.
    """
    from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO

    try:
        name = name_for_itk(file) if issubclass(reader, SimpleITKIO) else str(file)
        with redirect_stdout(io.StringIO()):  # warnings, that would break the bar
            array, properties = reader().read_seg(name)
    except Exception as error:  # every format's library has its own
        raise UserError(unreadable(file, error, REMEDY)) from error
    spacing_mm = tuple(float(spacing) for spacing in properties["spacing"])
    if len(array) != 1:
        raise UserError(f"{file} has {len(array)} channels, and a segmentation has one. Save it with one.")
    if not all(0 < spacing < math.inf for spacing in spacing_mm):
        raise UserError(f"{file} has the spacing {spacing_mm}, which is not positive. Mend its header.")
    return Segmentation(array[0], spacing_mm, geometry_in(properties))


def read_images(files: Sequence[Path], reader: "type[BaseReaderWriter]") -> Images:
    """Read the channels of a case, which have one geometry, by read_image."""
    images = [read_image(file, reader) for file in files]
    return Images(np.concatenate([image.channels for image in images]), images[0].properties)


def read_image(file: Path, reader: "type[BaseReaderWriter]", remedy: str = "Fetch it anew.") -> Images:
    """Read one channel of a case, to the end of its file, by one of nnU-Net's readers.

    Args:
        remedy: what to do if it is broken, a sentence for the message.

    Raises:
        UserError: it can't be read, or holds several channels.
    """
    from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO

    try:
        if file.name.endswith((".nii", ".nii.gz")):
            count_non_finite(file)  # SimpleITK takes files for whole that were cut off
        name = name_for_itk(file) if issubclass(reader, SimpleITKIO) else str(file)
        with redirect_stdout(io.StringIO()):  # warnings, that would break the bar
            image = Images(*reader().read_images([name]))
    except Exception as error:  # every format's library has its own
        raise UserError(unreadable(file, error, remedy)) from error
    if len(image.channels) != 1:
        raise UserError(f"{file} holds {len(image.channels)} channels, and a file of nnU-Net's one: split it.")
    return image


def _find_unknown_values(file: Path, labels: np.ndarray, labelling: Labelling) -> list[str]:
    unknown = sorted(set(pandas.unique(labels.ravel()).tolist()) - set(labelling.values))
    if not unknown:
        return []
    values, known = listing_of([f"{value:g}" for value in unknown]), ", ".join(map(str, labelling.values))
    return [
        f"{file} has the values {values}, which are no labels of dataset.json ({known}). Use the dataset.json that "
        "belongs to it, or mend the file."
    ]


def geometry_in(properties: Mapping[str, Any]) -> Geometry:
    """Where an image lies, as far as its reader of nnU-Net's knows; the size is left to the array."""
    if "sitk_stuff" in properties:
        stuff = properties["sitk_stuff"]
        return Geometry((), stuff["spacing"], stuff["origin"], stuff["direction"])
    if "nibabel_stuff" in properties:
        stuff = properties["nibabel_stuff"]
        affine = stuff.get("reoriented_affine", stuff["original_affine"])
        spacing = voxel_sizes(affine)
        return Geometry((), tuple(spacing), tuple(affine[:3, 3]), tuple((affine[:3, :3] / spacing).ravel()))
    return Geometry((), tuple(properties["spacing"]), (), ())
