"""What this package adds to a start of Python: `python benchmarks/startup.py [--starts N]`.

Two new environments, one with the package and one without, start an empty program in turns, in random order; the
difference of the medians is the cost. Both ways of installing are measured. Downloads nothing.
"""

import argparse
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import venv
from pathlib import Path

PROJECT = Path(__file__).parents[1]
PIP_OPTIONS = ("--no-deps", "--no-index", "--quiet", "--disable-pip-version-check")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--starts", type=int, default=300, help="starts of each environment (default: %(default)s)")
    starts = parser.parse_args().starts
    with tempfile.TemporaryDirectory() as folder:
        for name, wheel in _build_wheels(Path(folder)).items():
            without, installed = (_environment(Path(folder, name + suffix)) for suffix in (" without", " with"))
            _run(sys.executable, "-m", "pip", "--python", installed, "install", *PIP_OPTIONS, wheel)
            seconds: dict[str, list[float]] = {without: [], installed: []}
            for _ in range(starts):
                for python in random.sample(list(seconds), k=2):
                    seconds[python].append(_time_start(python))
            before, after = (1000 * statistics.median(durations) for durations in seconds.values())
            print(
                f"{name}: {before:.2f} ms without, {after:.2f} ms with, {after - before:+.2f} ms ({starts} starts each)"
            )


def _build_wheels(folder: Path) -> dict[str, Path]:
    """Build both kinds of wheel from a copy of the project: a build leaves files, which the next one would take in."""
    copy = shutil.copytree(PROJECT, folder / "project", ignore=shutil.ignore_patterns(".*", "build", "__pycache__"))
    wheels = {}
    for name, function in {"pip install .": "build_wheel", "pip install -e .": "build_editable"}.items():
        out = folder / function
        out.mkdir()
        code = f"import setuptools.build_meta as backend; backend.{function}({str(out)!r})"
        _run(sys.executable, "-c", code, cwd=copy)
        wheels[name] = next(out.glob("*.whl"))
    return wheels


def _environment(folder: Path) -> str:
    venv.create(folder, with_pip=False, symlinks=os.name != "nt")
    return str(folder / ("Scripts" if os.name == "nt" else "bin") / "python")


def _time_start(python: str) -> float:
    begin = time.perf_counter()
    subprocess.run([python, "-c", "pass"], check=True)
    return time.perf_counter() - begin


def _run(*command: str | Path, cwd: Path | None = None) -> None:
    subprocess.run([str(part) for part in command], cwd=cwd, check=True, capture_output=True)


if __name__ == "__main__":
    main()
