"""`nnunetv2_cfnet doctor`: whether training with CFNet would work here, a line for each thing that it takes."""

import argparse
import os
import platform
import sys
import tempfile
from collections.abc import Callable
from importlib import import_module
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import TextIO

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from nnunetv2_cfnet.errors import UserError
from nnunetv2_cfnet.host import find_trainer, nnunet_variable

DESCRIPTION = "Check that training with CFNet would work here: a line for each thing it takes; exits 1 if not."
OURSELVES = "nnunetv2_cfnet"
TRAINER = "nnUNetTrainerCFNet"
SEARCH_VARIABLE = "nnUNet_extTrainer"
HOOK_FOLDER = Path(__file__).parents[1] / "training" / "hook"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """None: it looks at everything."""


def run(options: argparse.Namespace) -> int:
    return run_doctor()


def run_doctor(stream: TextIO | None = None) -> int:
    """Print one line for each check, with what to do where one failed; return the exit code, 1 if any did."""
    stream = stream or sys.stdout
    num_failed = 0
    for name, check in _checks().items():
        try:
            mark, finding = "✓", check()
        # A half-installed library can raise anything while it is imported; it is what we are here to report.
        except Exception as error:
            mark, finding = "✗", str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
            num_failed += 1
        # One line for each check, whatever a library puts into its messages.
        print(_encodable(f"{mark} {name}: {' '.join(finding.split())}", stream), file=stream)
    verdict = f"{num_failed} of these would stop nnU-Net" if num_failed else "Ready to train"
    print(f"{verdict}.", file=stream)
    return 1 if num_failed else 0


def _checks() -> dict[str, Callable[[], str]]:
    """Each check by its name: it returns what it found, or raises: a UserError where it knows what to do."""
    return {
        "python": _interpreter,
        "nnunetv2": lambda: _library("nnunetv2"),
        "dynamic-network-architectures": lambda: _library("dynamic-network-architectures"),
        "torch": lambda: _library("torch"),
        "device": _device,
        "trainer": _trainer,
        "nnUNet_raw": lambda: _folder("nnUNet_raw"),
        "nnUNet_preprocessed": lambda: _folder("nnUNet_preprocessed"),
        "nnUNet_results": lambda: _folder("nnUNet_results"),
    }


def _interpreter() -> str:
    return f"{platform.python_version()} at {sys.executable}"


def supported_versions(distribution: str) -> SpecifierSet:
    """The versions that this package's own requirements (pyproject.toml) allow, so that they are written once."""
    try:
        requirements = [Requirement(line) for line in requires(OURSELVES) or []]
    except PackageNotFoundError:
        raise UserError(
            f"{OURSELVES} is not installed in this Python; mend it with: pip install . in its source folder"
        ) from None
    return next(
        requirement.specifier
        for requirement in requirements
        if canonicalize_name(requirement.name) == canonicalize_name(distribution)
    )


def check_version(distribution: str) -> str:
    """The installed version; a UserError, with the pip command that mends it, if it is missing or not supported."""
    supported = supported_versions(distribution)
    remedy = f'(supported: {supported or "any version"}); mend it with: pip install "{distribution}{supported}"'
    try:
        installed = version(distribution)
    except PackageNotFoundError:
        raise UserError(f"{distribution} is not installed {remedy}") from None
    if not supported.contains(installed, prereleases=True):
        raise UserError(f"{distribution} {installed} is not supported {remedy}")
    return installed


def _library(distribution: str) -> str:
    installed = check_version(distribution)
    try:
        module = import_module(distribution.replace("-", "_"))
    except Exception as error:
        raise UserError(
            f"{installed} is installed but cannot be imported ({type(error).__name__}: {error}); "
            f"mend it with: pip install --force-reinstall {distribution}=={installed}"
        ) from error
    return f"{installed} at {Path(module.__file__ or '').parent}"


def _device() -> str:
    try:
        import torch
    except Exception as error:
        raise UserError(f"none without torch ({type(error).__name__}: {error}); mend torch first") from error
    if torch.cuda.is_available():
        return f"CUDA, {torch.cuda.get_device_name()}"
    if torch.backends.mps.is_available():
        return "MPS (train and predict with -device mps)"
    return "CPU only: training works with -device cpu, but is slow"


def _trainer() -> str:
    """Ask nnU-Net's own search, and compare with the class of this package."""
    try:
        import_module("nnunetv2.utilities.find_objects")
    except Exception as error:
        raise UserError(f"no search without nnunetv2 ({type(error).__name__}: {error}); mend nnunetv2 first") from error
    try:
        found = find_trainer(TRAINER)
    except RuntimeError as error:  # nnU-Net's own "Could not find"
        raise UserError(
            f"nnU-Net does not find {TRAINER}: nnunetv2_cfnet.pth did not run when Python started; install "
            f'nnunetv2_cfnet again with pip (not with --target), or: export {SEARCH_VARIABLE}="{HOOK_FOLDER}"'
        ) from error
    # any module on the search path can fail to import, or call sys.exit, and nnU-Net then stops
    except (Exception, SystemExit) as error:
        raise UserError(
            f"nnU-Net's search for {TRAINER} stops with {type(error).__name__}: {error}; mend that module, or take its "
            f"folder off {SEARCH_VARIABLE}={os.environ.get(SEARCH_VARIABLE, '')}"
        ) from error
    ours = getattr(import_module("nnunetv2_cfnet.training.trainers"), TRAINER)
    if found is not ours:
        raise UserError(
            f"nnU-Net finds another {TRAINER} first, in a module named {found.__module__}; rename it, or take its "
            f"folder off {SEARCH_VARIABLE}={os.environ.get(SEARCH_VARIABLE, '')}"
        )
    return f"{TRAINER} found by nnU-Net's own search"


def _folder(variable: str) -> str:
    value = nnunet_variable(variable)
    folder = value.absolute()
    if variable == "nnUNet_raw" and not folder.exists():
        raise UserError(f"{value} does not exist; mend it with: mkdir -p {value}, and put your datasets there")
    # nnU-Net makes the other two itself, so what has to be there is a folder to make them in.
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    try:
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as error:
        raise UserError(
            f"{value} cannot be written to ({existing}: {error.strerror}); "
            f"change its permissions, or mend it with: export {variable}=/path/to/a/writable/folder"
        ) from error
    return str(value) if existing == folder else f"{value} (will be made by nnU-Net)"


def _encodable(line: str, stream: TextIO) -> str:
    """Put plain ASCII in the place of what the terminal cannot show: the marks, and letters in paths."""
    encoding = getattr(stream, "encoding", None) or "utf-8"
    try:
        line.encode(encoding)
    except UnicodeEncodeError:
        line = line.replace("✓", "[ok]", 1).replace("✗", "[FAILED]", 1)
    return line.encode(encoding, "backslashreplace").decode(encoding)
