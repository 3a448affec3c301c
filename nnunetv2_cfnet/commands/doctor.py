"""`nnunetv2_cfnet doctor`: whether training with CFNet would work here, a line for each thing that it takes.

It exists for broken environments: what is not of the standard library is imported where it is checked.
"""

import argparse
import os
import platform
import sys
from collections.abc import Callable
from functools import partial
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TextIO

from nnunetv2_cfnet.errors import UserError
from nnunetv2_cfnet.files.whole import check_place
from nnunetv2_cfnet.host import VARIABLES, find_trainer, supported_versions

DESCRIPTION = "Check that training with CFNet would work here: a line for each thing it takes; exits 1 if not."
LIBRARIES = ("numpy", "filelock", "nnunetv2", "dynamic-network-architectures", "torch")
TRAINER = "nnUNetTrainerCFNet"
SEARCH_VARIABLE = "nnUNet_extTrainer"
HOOK_FOLDER = Path(__file__).parents[1] / "training" / "hook"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """There are none."""


def run(options: argparse.Namespace) -> int:
    return run_doctor()


def run_doctor(stream: TextIO | None = None) -> int:
    """Print one line for each check, with what to do where one failed; return the exit code, 1 if any did."""
    stream = stream or sys.stdout
    # each returns what it found, or raises: a UserError where it knows what to do
    checks: dict[str, Callable[[], str]] = {
        "python": lambda: f"{platform.python_version()} at {sys.executable}",
        **{library: partial(_library, library) for library in LIBRARIES},
        "device": _device,
        "trainer": _trainer,
        **{variable: partial(_folder, variable) for variable in VARIABLES},
    }
    num_failed = 0
    for name, check in checks.items():
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


def check_version(distribution: str) -> str:
    """The installed version; a UserError, with the pip command that mends it, if it is missing or not supported."""
    supported = supported_versions(distribution)
    remedy = f'(supported: {supported or "any version"}); fix it with: pip install "{distribution}{supported}"'
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
            f"fix it with: pip install --force-reinstall {distribution}=={installed}"
        ) from error
    return f"{installed} at {Path(module.__file__ or '').parent}"


def _device() -> str:
    try:
        import torch
    except Exception as error:
        raise UserError(f"none without torch ({type(error).__name__}: {error}); fix torch first") from error
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
        raise UserError(f"no search without nnunetv2 ({type(error).__name__}: {error}); fix nnunetv2 first") from error
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
            f"nnU-Net's search for {TRAINER} stops with {type(error).__name__}: {error}; fix that module, or take its "
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
    value = os.environ.get(variable)
    if not value:
        raise UserError(f"is not set; fix it with: export {variable}=/path/to/a/folder")
    folder = Path(value).absolute()
    if variable == "nnUNet_raw" and not folder.exists():
        raise UserError(f"{value} does not exist; fix it with: mkdir -p {value}, and put your datasets there")
    try:
        check_place(folder, (), flag=variable)
    except UserError as error:
        raise UserError(f"{error} Fix it with: export {variable}=/path/to/a/writable/folder") from None
    return value if folder.exists() else f"{value} (will be made by nnU-Net)"  # as it does with the other two


def _encodable(line: str, stream: TextIO) -> str:
    """Put plain ASCII in the place of what the terminal cannot show: the marks, and letters in paths."""
    encoding = getattr(stream, "encoding", None) or "utf-8"
    try:
        line.encode(encoding)
    except UnicodeEncodeError:
        line = line.replace("✓", "[ok]", 1).replace("✗", "[FAILED]", 1)
    return line.encode(encoding, "backslashreplace").decode(encoding)
