"""Writing volumes."""

import resource
import subprocess
import sys

import numpy as np
import pytest

from nnunetv2_cfnet.files.volumes import Geometry, shared_geometry

WRITE_NOISE = """
import sys, numpy, SimpleITK
from pathlib import Path
from nnunetv2_cfnet.files.volumes import write_image
noise = numpy.random.default_rng(0).integers(0, 1000, (20, 20, 20)).astype(numpy.int16)
write_image(SimpleITK.GetImageFromArray(noise), Path(sys.argv[1]))
"""


@pytest.mark.parametrize(("limit", "is_written"), [(2048, False), (10**6, True)])
def test_a_disk_that_is_full_is_an_error(tmp_path, limit, is_written):
    """SimpleITK itself writes what it can, and says nothing."""
    result = subprocess.run(
        [sys.executable, "-c", WRITE_NOISE, tmp_path / "noise.nii.gz"],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
        capture_output=True,
        text=True,
    )
    assert (result.returncode == 0) is is_written
    assert ("OSError" in result.stderr and "can't be written (a full disk?)" in result.stderr) is not is_written


def test_the_shared_geometry_is_what_most_have_and_the_first_of_equally_many():
    eye = tuple(np.eye(3).ravel())
    one, near, other = (Geometry((4, 4, 4), (1, 1, 1), (x, 0, 0), eye) for x in (0.0, 1e-4, 5.0))
    assert shared_geometry([other, one, near]) == one
    assert shared_geometry([other, one]) == other
