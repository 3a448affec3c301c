"""Reading and writing volumes: where their voxels lie, and whether their files are whole."""

import gzip
import os
import zlib
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import nibabel
import numpy as np
import SimpleITK
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError

from nnunetv2_cfnet.errors import UserError

# Headers are the same up to these; NIfTI stores them as 32-bit floats, tools round them again.
ORIGIN_TOLERANCE_MM = 1e-3
DIRECTION_TOLERANCE = 1e-3  # of a direction cosine
SPACING_TOLERANCE = 1e-3  # of the spacing


class NIfTI2Error(ValueError):
    """A file of NIfTI-2, which SimpleITK does not read."""


# What nibabel, gzip and SimpleITK raise for a broken file.
BROKEN = (
    OSError,
    EOFError,
    ValueError,
    RuntimeError,
    OverflowError,
    MemoryError,
    zlib.error,
    ImageFileError,
    HeaderDataError,
)


class Geometry(NamedTuple):
    """Where a 3D volume lies, in SimpleITK's order (x, y, z)."""

    size: tuple[int, ...]
    spacing_mm: tuple[float, ...]
    origin_mm: tuple[float, ...]
    direction: tuple[float, ...]

    def differences(self, other: "Geometry") -> str:
        """What of the header differs by more than the tolerances, with both values."""
        differing = []
        if not np.allclose(self.spacing_mm, other.spacing_mm, rtol=SPACING_TOLERANCE, atol=0):
            differing.append(("spacing", self.spacing_mm, other.spacing_mm))
        if not np.allclose(self.origin_mm, other.origin_mm, rtol=0, atol=ORIGIN_TOLERANCE_MM):
            differing.append(("origin", self.origin_mm, other.origin_mm))
        if not np.allclose(self.direction, other.direction, rtol=0, atol=DIRECTION_TOLERANCE):
            differing.append(("direction", self.direction, other.direction))
        return ", ".join(f"{name} {listing(own)} against {listing(theirs)}" for name, own, theirs in differing)

    def fits(self, other: "Geometry") -> bool:
        """Tell whether voxels lie where the other's do."""
        return self.size == other.size and not self.differences(other)

    @property
    def is_lost(self) -> bool:
        """Tell whether this is what writers leave that were given no header, or nibabel's identity."""
        directions = [tuple(np.diag(diagonal).ravel()) for diagonal in ((1, 1, 1), (-1, -1, 1))]  # of ITK, of nibabel
        return self.spacing_mm == (1, 1, 1) and self.origin_mm == (0, 0, 0) and self.direction in directions


def shared_geometry(geometries: Sequence[Geometry]) -> Geometry:
    """The one that most of them are near, the first of equally many: what the others are measured against."""
    return max(geometries, key=lambda one: sum(one.fits(other) for other in geometries))


def files_by_case(folder: Path, ending: str) -> dict[str, Path]:
    """The files with that ending by the rest of their names, in order; hidden ones, as macOS adds them, left out.

    Raises:
        UserError: SimpleITK can't be given the path of one: it would end the whole process.
    """
    files = {
        path.name.removesuffix(ending): path
        for path in sorted(folder.glob(f"*{ending}"))
        if not path.name.startswith(".") and path.is_file()
    }
    for path in files.values():
        try:
            name_for_itk(path)
        except OSError:
            raise UserError(
                f"{path}: this path is not in UTF-8, so that no image there can be read: rename it."
            ) from None
    return files


def geometry_of(image: SimpleITK.Image | SimpleITK.ImageFileReader) -> Geometry:
    """The geometry of an image, or of what a reader has read the header of; of a 4D image's volumes."""
    dimension = image.GetDimension()
    direction = np.reshape(image.GetDirection(), (dimension, dimension))[:3, :3]
    return Geometry(image.GetSize()[:3], image.GetSpacing()[:3], image.GetOrigin()[:3], tuple(direction.ravel()))


def in_axis_order_of(geometry: Geometry, image: SimpleITK.Image) -> SimpleITK.Image:
    """The image with its axes swapped and flipped to run as the geometry's do; each voxel stays where it lies."""
    order = SimpleITK.DICOMOrientImageFilter.GetOrientationFromDirectionCosines(geometry.direction)
    return SimpleITK.DICOMOrient(image, order)


def read_geometry(path: Path) -> Geometry:
    """The geometry in a file's header; voxels are not read.

    Raises:
        OSError: it can't be read.
    """
    reader = SimpleITK.ImageFileReader()
    reader.SetFileName(name_for_itk(path))
    try:
        _check_header(nibabel.load(path))
        reader.ReadImageInformation()
    except BROKEN as error:
        raise OSError(f"{path} can't be read ({reason(error)})") from error
    return geometry_of(reader)


def count_non_finite(path: Path) -> int:
    """Read a file to its end and count the voxels that are NaN or infinite.

    Not by SimpleITK: of a file that was cut off it reads what there is, and it reads NaN as 0.

    Raises:
        BROKEN: the file ends too early, or its check sum is wrong.
    """
    with path.open("rb"):  # nibabel does not say that reading is not allowed
        image: Any = nibabel.load(path)
    _check_header(image)
    dtype, offset = image.get_data_dtype(), image.dataobj.offset
    expected = int(np.prod(image.shape)) * dtype.itemsize
    found = num_bad = 0
    with gzip.open(path) if path.name.lower().endswith(".gz") else path.open("rb") as file:
        file.read(offset)
        while chunk := file.read(dtype.itemsize << 18):
            found += len(chunk)
            if dtype.kind == "f" and len(chunk) % dtype.itemsize == 0:
                num_bad += int(np.count_nonzero(~np.isfinite(np.frombuffer(chunk, dtype))))
    if found < expected:
        raise EOFError(f"it has {found} bytes of voxels and should have {expected}")
    return num_bad


def _check_header(image: Any) -> None:
    """What nibabel reads and SimpleITK does not, or only with pages of complaints.

    Raises:
        ValueError: a header of NIfTI-2, or one with NaN in it.
    """
    if isinstance(image, nibabel.Nifti2Image):
        raise NIfTI2Error("it is NIfTI-2, and NIfTI-1 is what is read here")
    if not isinstance(image, nibabel.Nifti1Image):
        return
    header = image.header
    used = [header["pixdim"][1:4]]
    if header["qform_code"] > 0:
        used += [[header[f"quatern_{c}"], header[f"qoffset_{axis}"]] for c, axis in zip("bcd", "xyz", strict=True)]
    if header["sform_code"] > 0:
        used += [header[f"srow_{axis}"] for axis in "xyz"]
    if not np.isfinite(np.concatenate(used)).all():
        raise ValueError("its header has NaN or infinity where it should say how the image lies")


def read_label_map(file: Path) -> SimpleITK.Image:
    """Read a segmentation of three dimensions, to its end, which SimpleITK alone does not need.

    Raises:
        UserError: it can't be read, or is none.
    """
    try:
        count_non_finite(file)
        image = SimpleITK.ReadImage(name_for_itk(file))
    except BROKEN as error:
        raise UserError(unreadable(file, error, "Make it again, or remove it.")) from None
    if image.GetDimension() != 3 or image.GetNumberOfComponentsPerPixel() != 1:
        raise UserError(f"{file} is no segmentation in three dimensions: its size is {image.GetSize()}.")
    return image


def write_volume(image: SimpleITK.Image, geometry: Geometry, path: Path) -> None:
    """Write an image with another header, compressed.

    Raises:
        OSError: it can't be written.
    """
    image.SetSpacing(geometry.spacing_mm)
    image.SetOrigin(geometry.origin_mm)
    image.SetDirection(geometry.direction)
    write_image(image, path)


def write_image(image: SimpleITK.Image, path: Path) -> None:
    """Write an image, compressed, and read it to its end: SimpleITK says nothing of a disk that is full.

    Raises:
        OSError: it can't be written.
    """
    name = name_for_itk(path)
    try:
        SimpleITK.WriteImage(image, name, True)
        count_non_finite(path)
    except BROKEN as error:
        raise OSError(f"{path} can't be written (a full disk?): {reason(error)}") from error


def name_for_itk(path: Path) -> str:
    """A path as SimpleITK takes it, whose library ends the process at a text that is not plain Unicode.

    Such is the path of a file with other characters than ASCII where Python takes names for ASCII (LC_ALL=C).

    Raises:
        OSError: its bytes are not UTF-8.
    """
    try:
        return os.fsencode(path).decode("utf-8")
    except UnicodeDecodeError:
        raise OSError(f"the name {os.fsencode(path)!r} is not UTF-8: rename it") from None


def is_broken_link(path: Path) -> bool:
    """Tell whether it links to nothing, as git-annex leaves links to what it has not fetched."""
    return path.is_symlink() and not os.path.exists(path)


def unreadable(path: Path, error: Exception, remedy: str) -> str:
    """A message for a file that can't be read.

    Args:
        error: one of BROKEN, or what another library raised.
        remedy: what to do where the file itself is broken, a sentence.
    """
    why = reason(error)
    if is_broken_link(path):
        why, remedy = f"a link to {path.readlink()}, which is not there", "Fetch that, as with: git annex get"
    elif isinstance(error, PermissionError):
        why, remedy = "permission denied", "Allow it, as with: chmod +r"
    elif isinstance(error, NIfTI2Error):
        remedy = "Save it as NIfTI-1, as with nibabel: Nifti1Image.from_image(nibabel.load(file)).to_filename(file)"
    else:
        start = b""
        with suppress(OSError), path.open("rb") as file:
            start = file.read(400)
        if start.startswith(b"version https://git-lfs"):
            why, remedy = "Git LFS's pointer to a file, not the file", "Fetch that with: git lfs pull"
        elif path.name.lower().endswith(".gz") and start[344:347] in (b"n+1", b"ni1"):
            why, remedy = (
                "not compressed, though its name ends in .gz",
                f"Rename it to {path.name[:-3]}.",
            )
    return f"{path} can't be read ({why}). {remedy}"


def reason(error: Exception) -> str:
    """Why a file is broken, in one line without the place in ITK's source, as in: it has 0 bytes."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[-1].removeprefix("sitk::ERROR: ").strip().rstrip(".")


def listing(values: tuple[float, ...]) -> str:
    """As in (1, 1, 1.5), and 0 for -0."""
    return f"({', '.join(f'{value + 0:g}' for value in values)})"
