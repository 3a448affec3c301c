import numpy as np

from nnunetv2_cfnet.files.volumes import Geometry, shared_geometry


def test_the_shared_geometry_is_what_most_have_and_the_first_of_equally_many():
    eye = tuple(np.eye(3).ravel())
    one, near, other = (Geometry((4, 4, 4), (1, 1, 1), (x, 0, 0), eye) for x in (0.0, 1e-4, 5.0))
    assert shared_geometry([other, one, near]) == one
    assert shared_geometry([other, one]) == other
