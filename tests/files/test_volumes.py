import gzip
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK

from nnunetv2_cfnet.files.volumes import (
    Geometry,
    count_non_finite,
    listing,
    read_geometry,
    shared_geometry,
    write_image,
)


def test_the_shared_geometry_is_what_most_have_and_the_first_of_equally_many():
    eye = tuple(np.eye(3).ravel())
    one, near, other = (Geometry((4, 4, 4), (1, 1, 1), (x, 0, 0), eye) for x in (0.0, 1e-4, 5.0))
    assert shared_geometry([other, one, near]) == one
    assert shared_geometry([other, one]) == other


@pytest.mark.parametrize(
    ("place", "is_refused"), [(80, True), (256, True), (268, True), (280, True), (312, True), (60, False)]
)
def test_a_header_with_nan_is_refused_before_simpleitk_complains_of_it(place, is_refused, tmp_path, capfd):
    """pixdim, quatern_b, qoffset_x, srow_x and srow_z; intent_p2 says nothing of how the image lies."""
    file: Path = tmp_path / "image.nii.gz"
    image = nibabel.Nifti1Image(np.ones((4, 4, 4), np.float32), np.eye(4))
    image.set_qform(np.eye(4), 1)
    image.to_filename(file)
    content = bytearray(gzip.decompress(file.read_bytes()))
    content[place : place + 4] = np.float32(np.nan).tobytes()
    file.write_bytes(gzip.compress(bytes(content)))
    if is_refused:
        with pytest.raises(ValueError, match="its header has NaN or infinity"):
            count_non_finite(file)
        with pytest.raises(OSError, match=r"image\.nii\.gz can't be read \(its header has NaN or infinity"):
            read_geometry(file)
    else:
        assert count_non_finite(file) == 0
        assert read_geometry(file).spacing_mm == (1, 1, 1)
    assert capfd.readouterr() == ("", "")


def test_listings_have_no_minus_zero():
    assert listing((-0.0, -1.5, 0.0)) == "(0, -1.5, 0)"


def test_a_full_disk_is_suspected_only_where_it_can_be(tmp_path):
    image = SimpleITK.Image(2, 2, 2, SimpleITK.sitkUInt8)
    with pytest.raises(OSError, match=r"nii\.gz can't be written \(a full disk\?\): "):
        write_image(image, Path("/dev/full/image.nii.gz"))
    with pytest.raises(OSError, match=r"^the name b'.*caf\\xe9\.nii\.gz' is not UTF-8: rename it$"):
        write_image(image, tmp_path / "caf\udce9.nii.gz")
