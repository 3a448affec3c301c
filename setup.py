"""The one build step that pyproject.toml cannot say: a .pth file beside the package, in site-packages."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

PACKAGE = "nnunetv2_cfnet"
PTH_FILE = f"{PACKAGE}.pth"


class BuildPyWithPth(build_py):
    """`build_py` that also installs the .pth file through which nnU-Net finds our trainers.

    It lies at the root of the wheel, so pip puts it into site-packages, lists it in RECORD and uninstalls it.
    """

    def run(self) -> None:
        # What an older build left would be installed with the rest, modules that were deleted since among it.
        built = Path(self.build_lib, PACKAGE)
        if not self.editable_mode and built.exists() and not built.samefile(PACKAGE):
            shutil.rmtree(built)
        super().run()
        # An editable build leaves build_lib out of the wheel; what it takes in is the folder of the install command.
        wheel_root = self.get_finalized_command("install").install_lib if self.editable_mode else self.build_lib
        self.mkpath(wheel_root)
        self.copy_file(PTH_FILE, str(Path(wheel_root, PTH_FILE)))

    def get_outputs(self, include_bytecode: bool = True) -> list[str]:
        outputs = super().get_outputs(include_bytecode)
        return outputs if self.editable_mode else [*outputs, str(Path(self.build_lib, PTH_FILE))]

    def get_source_files(self) -> list[str]:
        """Also the .pth file, so that a source distribution carries it."""
        return [*super().get_source_files(), PTH_FILE]


setup(cmdclass={"build_py": BuildPyWithPth})
