"""Commands killed at random moments: `python benchmarks/kills.py [--kills N] [--commands COMMAND ..] [--seed K]`.

Each command runs on phantoms in a temporary folder, twice undisturbed, which tells how long it takes and what it
writes; content that differs between these two (times, logs) is left out of what follows. Then it is killed again and
again, each time in a folder without results, at a moment drawn from its duration: half the time its process group by
SIGKILL, otherwise its process alone, by SIGKILL or SIGTERM. At once the same command runs again. After both, the
result must be that of an undisturbed run, without hidden files and without processes that go on; and a killed command
that exited with 0 must have left the whole result by itself.

All commands are the console script and nnU-Net's own, on one thread each. So that the benchmark takes half a minute,
its trainers have one epoch of one step, from a seed, and its fingerprint and plans, of narrow networks, are there
already. Exits with 1 if anything failed. Needs Linux, whose /proc tells which processes are left.
"""

import argparse
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from nnunetv2_cfnet.files.children import ending_with_us
from nnunetv2_cfnet.files.digests import content_digest

PROJECT = Path(__file__).parents[1]
SCRIPTS = sysconfig.get_path("scripts")
OURS = [f"{SCRIPTS}/nnunetv2_cfnet"]
DATASET = "Dataset001_Phantom"
NUM_CASES = 24  # of the release that is converted, and exported
PLANS = "nnUNetPlans"
MODELS = ("nnUNetTrainerCFNetSeeded", "nnUNetTrainerSeeded")
TRAINERS = """
import multiprocessing
import sys

import numpy as np
import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2_cfnet.training.trainers import nnUNetTrainerCFNet

if "nnUNetv2_" in sys.argv[0]:  # which would take all cores, and spawn helpers that import torch anew
    torch.set_num_threads(1)
    get_context = multiprocessing.get_context
    multiprocessing.get_context = lambda method=None: get_context("fork" if method == "spawn" else method)


class Seeded:
    def __init__(self, plans, configuration, fold, dataset_json, device=torch.device("cuda")):
        super().__init__(plans, configuration, fold, dataset_json, device)
        self.num_epochs = self.num_iterations_per_epoch = self.num_val_iterations_per_epoch = 1
        torch.manual_seed(0)
        np.random.seed(0)


class nnUNetTrainerCFNetSeeded(Seeded, nnUNetTrainerCFNet):
    pass


class nnUNetTrainerSeeded(Seeded, nnUNetTrainer):
    pass
"""
# of nnU-Net: training and validation in few processes, and nothing compiled
QUICK = {"nnUNet_n_proc_DA": "0", "nnUNet_def_n_proc": "1", "nnUNet_compile": "false"}
MARK = "NNUNETV2_CFNET_KILLS"  # the variable that tells our processes from others
PATIENCE_S = 30  # for what has to end
BY_USER_ERROR = 2
Content = dict[str, str]  # file -> digest


class Command(NamedTuple):
    """What is killed.

    run: the command.
    prepare: called with the folder of its results, to put there what it needs.
    """

    run: list[str]
    environment: Mapping[str, str] = {}
    prepare: Callable[[Path], object] = lambda results: None


class Outcome(NamedTuple):
    """How a command ended: its exit code, or minus a signal's number."""

    code: int
    output: str
    seconds: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20, help="of each command (default: %(default)s)")
    parser.add_argument("--commands", nargs="+", choices=COMMANDS, default=list(COMMANDS), metavar="COMMAND")
    parser.add_argument("--seed", type=int, default=0, help="of the moments (default: %(default)s)")
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    rng = random.Random(options.seed)
    print(f"{'command':<16}{'kills':>6}{'whole at once':>15}{'went on':>9}{'failures':>10}")
    num_failures = 0
    with tempfile.TemporaryDirectory() as folder:
        for name in options.commands:
            command = COMMANDS[name](Path(folder, "inputs"))
            ends = kill_often(command, Path(folder, "results"), options.kills, rng, name)
            whole, went_on = ends.count(WHOLE), ends.count(WENT_ON)
            failures = len(ends) - whole - went_on
            print(f"{name:<16}{len(ends):>6}{whole:>15}{went_on:>9}{failures:>10}", flush=True)
            num_failures += failures
    sys.exit(num_failures > 0)


# Killing

WHOLE, WENT_ON = "whole at once", "went on"


def kill_often(command: Command, results: Path, kills: int, rng: random.Random, title: str) -> list[str]:
    """How each kill ended: WHOLE, WENT_ON, or what is wrong."""
    outcomes, contents = zip(*(undisturbed(command, results) for _ in range(2)), strict=True)
    expected = {file: digest if contents[1].get(file) == digest else "" for file, digest in contents[0].items()}
    seconds = min(outcome.seconds for outcome in outcomes)
    ends = []
    for _ in tqdm(range(kills), title, unit="kill"):
        ends.append(kill_once(command, results, expected, rng.uniform(0, seconds), rng))
        if ends[-1] not in (WHOLE, WENT_ON):
            tqdm.write(f"{title}, {ends[-1]}", file=sys.stderr)
    return ends


def undisturbed(command: Command, results: Path) -> tuple[Outcome, Content]:
    refresh(command, results)
    outcome = run(command, results)
    if outcome.code:
        sys.exit(f"{command.run} exited with {outcome.code}, undisturbed:\n{outcome.output}")
    return outcome, content(results)


def kill_once(command: Command, results: Path, expected: Content, after_s: float, rng: random.Random) -> str:
    """Kill a command, run it again, and compare."""
    refresh(command, results)
    number, group = (
        (signal.SIGKILL, True) if rng.random() < 0.5 else (rng.choice((signal.SIGKILL, signal.SIGTERM)), False)
    )
    killed = run(command, results, lambda process: kill(process, after_s, number, group))
    whole = not differences(results, expected)
    again = run(command, results)
    problems = differences(results, expected)
    if killed.code == 0 and not whole:
        problems.append("the killed command exited with 0, and its result was not whole")
    if again.code not in ((0, BY_USER_ERROR) if whole else (0,)):
        problems.append(f"the same command exited with {again.code}")
    problems += [f"{path} was left" for path in results.rglob(".*")]
    problems += [f"process {process} was left" for process in left_processes()]
    if not problems:
        return WHOLE if whole else WENT_ON
    how = f"{number.name} to {'the group' if group else 'the process'} after {after_s:.2f} s (exit code {killed.code})"
    return f"{how}: {'; '.join(problems)}\n{killed.output}\nThe same command again:\n{again.output}"


def refresh(command: Command, results: Path) -> None:
    shutil.rmtree(results, ignore_errors=True)
    results.mkdir()
    command.prepare(results)


def run(command: Command, results: Path, disturb: Callable[[subprocess.Popen], None] = lambda process: None) -> Outcome:
    environment = {**os.environ, **command.environment, MARK: str(os.getpid())}
    start = time.monotonic()
    with tempfile.TemporaryFile("w+", errors="replace") as output:
        with (
            subprocess.Popen(
                command.run, env=environment, cwd=results, stdout=output, stderr=output, start_new_session=True
            ) as process,
            ending_with_us(process),
        ):
            disturb(process)
        seconds = time.monotonic() - start
        output.seek(0)
        return Outcome(process.returncode, output.read()[-2000:], seconds)


def kill(process: subprocess.Popen, after_s: float, number: signal.Signals, group: bool) -> None:
    time.sleep(after_s)
    if process.poll() is None:
        (os.killpg if group else os.kill)(process.pid, number)
    try:
        process.wait(PATIENCE_S)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)


# What is left


def differences(results: Path, expected: Content) -> list[str]:
    found = content(results)
    return [
        f"{file} {problem}"
        for files, problem in (
            (expected.keys() - found.keys(), "is missing"),
            (found.keys() - expected.keys(), "is too much"),
            ({file for file, digest in found.items() if expected.get(file, "") not in ("", digest)}, "differs"),
        )
        for file in sorted(files)
    ]


def content(results: Path) -> Content:
    """Digests of all files that are not hidden, nor records of what happened to trainings, by names without dates."""
    return {
        re.sub(r"_[\d_]{9,}", "_DATE", file.relative_to(results).as_posix()): _digest(file)
        for file in results.rglob("*")
        if file.is_file()
        and not any(part.startswith(".") or part == "jobs" for part in file.relative_to(results).parts)
    }


def _digest(file: Path) -> str:
    if not zipfile.is_zipfile(file):
        return content_digest(file)
    with zipfile.ZipFile(file) as archive:  # which has times
        return str([(entry.filename, entry.CRC) for entry in archive.infolist()])


def left_processes() -> list[str]:
    """Those that were started here and do not end."""
    deadline = time.monotonic() + PATIENCE_S
    while (left := _our_processes()) and time.monotonic() < deadline:
        time.sleep(0.1)
    return left


def _our_processes() -> list[str]:
    mark, ours = f"{MARK}={os.getpid()}".encode(), []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if mark in (folder / "environ").read_bytes().split(b"\0"):
                ours.append((folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace"))
        except OSError:  # it has ended, or is another user's
            continue
    return ours


# The commands


def convert_brats(inputs: Path) -> Command:
    return Command([*OURS, "convert_brats", str(release(inputs)), "-d", "7", "-np", "2"], {"nnUNet_raw": "."})


def export_brats(inputs: Path) -> Command:
    predictions = inputs / "predictions"
    do([*OURS, "convert_brats", release(inputs), "-d", "7", "-np", "2"], nnUNet_raw=inputs)
    dataset = inputs / "Dataset007_BraTS2021"
    shutil.copytree(dataset / "labelsTr", predictions)
    shutil.copy(dataset / "dataset.json", predictions)
    return Command([*OURS, "export_brats", str(predictions), "-o", "submission", "--zip"])


def import_weights(inputs: Path) -> Command:
    checkpoint = inputs / "release.pth"
    write_checkpoint(checkpoint)
    return Command([*OURS, "import_weights", str(checkpoint), "-o", "model"])


def compare(inputs: Path) -> Command:
    environment = workspace(inputs)
    names = [f"{trainer}__{PLANS}" for trainer in MODELS]
    for trainer in MODELS:
        do([f"{SCRIPTS}/nnUNetv2_train", "1", "2d", "0", "-tr", trainer, "-device", "cpu"], **environment)
    return Command(
        [*OURS, "compare", "-d", "1", "-c", "2d", "--models", *names, "--folds", "0", "-o", "report", "-np", "1"],
        environment,
    )


def benchmark(inputs: Path) -> Command:
    """From plans on; preprocessing and training are its own."""
    environment = workspace(inputs)

    def prepare(results: Path) -> None:
        data = shutil.ignore_patterns(f"{PLANS}_2d")
        shutil.copytree(inputs / "preprocessed", results / "preprocessed", ignore=data)

    return Command(
        [*OURS, *f"benchmark -d 1 -c 2d --folds 0 -device cpu -np 1 -o out --trainers {' '.join(MODELS)}".split()],
        {**environment, "nnUNet_preprocessed": "preprocessed"},
        prepare,
    )


COMMANDS = {command.__name__: command for command in (convert_brats, export_brats, import_weights, compare, benchmark)}


def release(inputs: Path) -> Path:
    folder = inputs / "release"
    if not folder.exists():
        do([*OURS, "make_phantom", "--edition", "2021", "--cases", NUM_CASES, "-o", folder])
    return folder


def write_checkpoint(file: Path) -> None:
    """As the release's training saves it, with random weights."""
    import torch

    state = {}
    for line in (PROJECT / "tests" / "data" / "parity" / "state_dict.tsv").read_text().splitlines()[1:]:
        name, shape, *_ = line.split("\t")
        state[name] = torch.tensor(7) if shape == "scalar" else torch.rand([int(size) for size in shape.split("x")])
    file.parent.mkdir(parents=True, exist_ok=True)
    torch.save(state, file)


def workspace(inputs: Path) -> dict[str, str]:
    """nnU-Net's variables, for a planned and preprocessed phantom of five cases."""
    folders = {f"nnUNet_{name}": inputs / name for name in ("raw", "preprocessed", "results")}
    environment = {
        **{name: str(folder) for name, folder in folders.items()},
        "nnUNet_extTrainer": str(inputs / "trainers"),
    }
    if not (inputs / "trainers").exists():
        from nnunetv2_cfnet.demo.phantom import write_dataset

        for folder in folders.values():
            folder.mkdir(parents=True)
        write_dataset(inputs / "raw" / DATASET, 5, 0, seed=0, shape=(32, 32, 32))
        do(
            [f"{SCRIPTS}/nnUNetv2_plan_and_preprocess", *["-d", "1", "-c", "2d", "-npfp", "1", "-np", "1"]],
            **environment,
        )
        narrow(inputs / "preprocessed" / DATASET / f"{PLANS}.json")
        (inputs / "trainers").mkdir()
        (inputs / "trainers" / "seeded_trainers.py").write_text(TRAINERS)
    return {**environment, **QUICK}


def narrow(plans_file: Path) -> None:
    """So that a training step takes a fraction of a second."""
    plans = json.loads(plans_file.read_text())
    configuration = plans["configurations"]["2d"]
    arguments = configuration["architecture"]["arch_kwargs"]
    arguments["features_per_stage"] = [min(4 * 2**stage, 32) for stage in range(arguments["n_stages"])]
    configuration["batch_size"] = 2
    plans_file.write_text(json.dumps(plans))


def do(command: list[object], **environment: object) -> None:
    """A command of the preparations."""
    variables = {name: str(value) for name, value in environment.items()}
    words = [str(word) for word in command]
    outcome = subprocess.run(words, env={**os.environ, **variables}, capture_output=True, text=True, check=False)
    if outcome.returncode:
        sys.exit(f"{words} exited with {outcome.returncode}:\n{outcome.stdout}\n{outcome.stderr}")


if __name__ == "__main__":
    main()
