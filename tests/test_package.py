"""What `import nnunetv2_cfnet` gives."""

import subprocess
import sys
from pathlib import Path

import pytest

import nnunetv2_cfnet
from nnunetv2_cfnet.architecture import cfnet


def test_cfnet_is_imported_from_the_package():
    assert nnunetv2_cfnet.CFNet is cfnet.CFNet
    with pytest.raises(AttributeError, match="no attribute 'CFNets'"):
        nnunetv2_cfnet.CFNets  # noqa: B018


def test_importing_the_package_imports_neither_torch_nor_nnunetv2():
    code = "import sys, nnunetv2_cfnet; assert not {'torch', 'nnunetv2', 'numpy'} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_citation_names_this_version():
    citation = Path(__file__).parents[1] / "CITATION.cff"
    assert f"\nversion: {nnunetv2_cfnet.__version__}\n" in citation.read_text()
