"""Images on disk, as tests write and read them."""

from pathlib import Path

import numpy as np
import SimpleITK


def write_image(array: np.ndarray, path: Path, **header: object) -> None:
    """header: what SimpleITK sets, as in Spacing=(1.0, 1.0, 3.0)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = SimpleITK.GetImageFromArray(array)
    for name, value in header.items():
        getattr(image, f"Set{name}")(value)
    SimpleITK.WriteImage(image, str(path), True)


def read(path: Path) -> np.ndarray:
    return SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(path)))


def geometry(path: Path) -> tuple:
    image = SimpleITK.ReadImage(str(path))
    return image.GetSize(), image.GetSpacing(), image.GetOrigin(), image.GetDirection()
