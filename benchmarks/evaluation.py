"""What evaluating a BraTS case costs: `python benchmarks/evaluation.py [--runs N]`.

Makes two segmentations of 240 x 240 x 155 voxels at 1 mm with three nested regions, and measures on one core: seconds
to check a case (read both files to their end, geometry, values), to evaluate it (read them again, all metrics) and the
part of that which is lesion-wise, and the peak memory of a process that does it. Each run is a new process. Needs
Linux, whose /proc has the peak.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

ONE_CORE = {name: "1" for name in ("OMP_NUM_THREADS", "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS")}
SHAPE = (155, 240, 240)  # (z, y, x)
CENTRE, RADIUS = (70, 120, 90), 38  # of a large whole tumour: about 230 ml
FALSE_ISLANDS = ((30, 60, 160), (100, 180, 150))
REGIONS = {"whole_tumor": (1, 2, 3), "tumor_core": (2, 3), "enhancing_tumor": (3,)}
PACKAGES = ("numpy", "scipy", "monai", "torch", "SimpleITK", "nnunetv2")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=3, help="processes, whose median is shown (default: %(default)s)")
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)  # in a process of its own
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(options.measure)))
        return
    with tempfile.TemporaryDirectory() as folder:
        write_case(Path(folder))
        command = [sys.executable, __file__, "--measure", folder]
        runs = [run(command) for _ in range(options.runs)]
    print(f"{platform.platform()}, {cpu()}, one core; {', '.join(f'{name} {version(name)}' for name in PACKAGES)}")
    for name in runs[0]:
        values = [values[name] for values in runs]
        print(f"{name:<40} {statistics.median(values):8.2f}   ({', '.join(f'{value:.2f}' for value in values)})")


def write_case(folder: Path) -> None:
    """A reference with rough surfaces, and a prediction that is wrong along them and has two false islands."""
    import numpy as np
    import SimpleITK
    from scipy.ndimage import gaussian_filter

    rng = np.random.default_rng(0)
    radius = np.linalg.norm(np.indices(SHAPE) - np.reshape(CENTRE, (3, 1, 1, 1)), axis=0)
    rough = gaussian_filter(rng.normal(size=SHAPE), 4)
    for name in ("reference", "prediction"):
        if name == "prediction":
            rough = rough + 0.5 * gaussian_filter(rng.normal(size=SHAPE), 4)
        surface = radius + 4 * rough / rough.std()
        labels = sum((surface < RADIUS * share).astype(np.uint8) for share in (1, 0.65, 0.4))
        if name == "prediction":
            for island in FALSE_ISLANDS:
                labels[tuple(slice(start, start + 5) for start in island)] = 1
        SimpleITK.WriteImage(SimpleITK.GetImageFromArray(labels), str(folder / f"{name}.nii.gz"), True)


def run(command: list[str]) -> dict[str, float]:
    result = subprocess.run(command, env={**os.environ, **ONE_CORE}, capture_output=True, text=True, check=False)
    if result.returncode:
        sys.exit(result.stderr)
    return json.loads(result.stdout)


def measure(folder: Path) -> dict[str, float]:
    """Figures of one run, in this process."""
    import nnunetv2.imageio.simpleitk_reader_writer as readers

    from nnunetv2_cfnet.evaluation import cases, metrics, segmentations

    pair = cases.Pair(folder / "reference.nii.gz", folder / "prediction.nii.gz")
    arguments = (pair, segmentations.Labelling(REGIONS), readers.SimpleITKIO)
    imported = peak_mib()
    checking = seconds(lambda: cases._check_pair(*arguments))
    lesion_seconds = []
    lesion_metrics = metrics.lesion_metrics

    def timed(*masks: object) -> dict[str, float]:
        begin = time.perf_counter()
        values = lesion_metrics(*masks)
        lesion_seconds.append(time.perf_counter() - begin)
        return values

    metrics.lesion_metrics = timed
    evaluating = seconds(lambda: cases._evaluate_pair(*arguments))
    return {
        "s, checking a case": checking,
        "s, evaluating without lesion-wise": evaluating - sum(lesion_seconds),
        "s, lesion-wise": sum(lesion_seconds),
        "s, whole case": checking + evaluating,
        "MiB, peak after imports": imported,
        "MiB, peak": peak_mib(),
    }


def seconds(function: Callable[[], object]) -> float:
    begin = time.perf_counter()
    function()
    return time.perf_counter() - begin


def peak_mib() -> float:
    """Of this process; getrusage's would be that of the one it was forked from."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def cpu() -> str:
    info = Path("/proc/cpuinfo").read_text()
    return info.split("model name")[1].split("\n")[0].lstrip("\t :") if "model name" in info else "unknown CPU"


if __name__ == "__main__":
    main()
