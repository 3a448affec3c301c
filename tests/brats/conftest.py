"""Phantom releases, each made once and copied for every test."""

import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
from defects import plant

from nnunetv2_cfnet.brats.findings import Kind
from nnunetv2_cfnet.brats.sources import find_cases
from nnunetv2_cfnet.demo.brats_phantom import make_phantom


@pytest.fixture(scope="session")
def clean_release(tmp_path_factory) -> Callable[[str, int], Path]:
    @cache
    def make(edition: str, num_cases: int) -> Path:
        folder = tmp_path_factory.mktemp("clean") / "release"
        make_phantom(folder, edition, num_cases)
        return folder

    return make


@pytest.fixture
def write_release(clean_release, tmp_path) -> Callable[..., Path]:
    """Writes a phantom release, with a defect in as many of its first cases as kinds are given."""

    def write(
        edition: str = "2021", num_cases: int = 2, defects: tuple[Kind, ...] = (), folder: Path = tmp_path / "release"
    ) -> Path:
        shutil.copytree(clean_release(edition, num_cases), folder)
        for case, kind in zip(find_cases(folder, edition).cases, defects, strict=False):
            plant(case, kind)
        return folder

    return write
