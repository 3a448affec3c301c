"""The demo: nnU-Net's own commands, from raw images to Dice, on a phantom dataset with CFNet as the trainer.

Everything lies in one folder, OUT. Each command is printed before it runs, so that the demo doubles as a lesson in
nnU-Net's interface; its output goes to OUT/logs. A step that has finished leaves a `.done` file beside its log, so a
second run starts where the first one stopped.
"""

import os
import re
import shlex
import shutil
import signal
import subprocess
import sysconfig
import time
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from tqdm import tqdm

from nnunetv2_cfnet.data.phantom import CHANNEL_NAMES, FILE_ENDING, REGIONS, write_dataset
from nnunetv2_cfnet.errors import UserError

DATASET = "Dataset001_Phantom"
CONFIGURATION = "3d_fullres"
TRAINER = "nnUNetTrainerCFNetDemo"
FOLDS = (0, 1)
NUM_TRAINING, NUM_HELD_OUT = 20, 4
SHAPE = (40, 40, 40)  # holds a brain of 32 voxels along each axis: nnU-Net plans a patch of 32^3
SEED = 0

COMMANDS = ("nnUNetv2_plan_and_preprocess", "nnUNetv2_train", "nnUNetv2_predict", "nnUNetv2_evaluate_folder")
OWNER_FILE = "nnunetv2_cfnet_demo.txt"  # marks OUT as the demo's own
NUM_LOG_LINES = 15  # shown when a command fails

PICTURE_CASES = 3
LABEL_STYLES = {1: ("oedema (ED)", "#31a354"), 2: ("core (NCR/NET)", "#de2d26"), 3: ("enhancing (ET)", "#ffd92f")}


@dataclass(frozen=True)
class Workplace:
    """The paths of a demo folder, and the environment that its commands run in."""

    out: Path

    @property
    def folders(self) -> dict[str, str]:
        """nnU-Net's three variables."""
        return {name: str(self.out / name) for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")}

    @property
    def environment(self) -> dict[str, str]:
        """The user's environment, with nnU-Net's folders inside the demo's and settings that suit a short run."""
        num_workers = str(min(4, max(1, (os.cpu_count() or 1) // 2)))
        return {
            **os.environ,
            **self.folders,
            "nnUNet_n_proc_DA": num_workers,
            "nnUNet_def_n_proc": num_workers,
            "nnUNet_npp": "1",
            "nnUNet_nps": "1",
            "nnUNet_compile": "false",  # compiling would take longer than this training
            "nnUNet_wandb_enabled": "0",
            # OpenMP threads that spin while they wait take the cores from the data loader's worker.
            "OMP_WAIT_POLICY": "PASSIVE",
            "PYTHONUNBUFFERED": "1",  # progress is read from the output while it is written
        }

    @property
    def raw(self) -> Path:
        return self.out / "nnUNet_raw" / DATASET

    @property
    def preprocessed(self) -> Path:
        return self.out / "nnUNet_preprocessed" / DATASET

    @property
    def results(self) -> Path:
        return self.out / "nnUNet_results" / DATASET

    def fold(self, fold: int) -> Path:
        return self.results / f"{TRAINER}__nnUNetPlans__{CONFIGURATION}" / f"fold_{fold}"

    @property
    def predictions(self) -> Path:
        return self.out / "predictions"

    @property
    def summary(self) -> Path:
        return self.predictions / "summary.json"

    @property
    def picture(self) -> Path:
        return self.out / "demo.png"

    @property
    def logs(self) -> Path:
        return self.out / "logs"


@dataclass(frozen=True)
class Step:
    """One nnU-Net command and what it leaves behind.

    Args:
        name: Names the log and the `.done` file.
        command: The command as a user would type it.
        product: The last thing that the command writes.
        obstacles: What an interrupted run of this step may have left and a new one must not find.
        num_epochs: Of a training, for its progress bar.
    """

    name: str
    command: list[str]
    product: Path
    obstacles: list[Path] = field(default_factory=list)
    num_epochs: int | None = None


def run_demo(out: Path, device: str) -> None:
    """Make the phantom dataset, train, predict and evaluate with nnU-Net's commands; print Dice, draw a picture.

    Args:
        out: The demo's folder: new, empty, or an earlier demo's. The user's nnUNet_* folders stay unused.
        device: auto, cpu or cuda.
    """
    start = time.monotonic()
    device = choose_device(device)
    executables = {command: find_command(command) for command in COMMANDS}
    work = Workplace(out.expanduser().resolve())
    claim_folder(work.out)

    print("nnU-Net's folders, for the demo's commands only:")
    for name, folder in work.folders.items():
        print(f"  export {name}={shlex.quote(folder)}")
    something_ran = not work.raw.exists()  # every step builds on the ones before it
    if not something_ran:
        print(f"\n{DATASET} is there already")
    else:
        print(f"\nMaking {DATASET}: {NUM_TRAINING} training and {NUM_HELD_OUT} held-out cases", flush=True)
        shutil.rmtree(work.results, ignore_errors=True)  # trained on data that is gone
        write_dataset(work.raw, NUM_TRAINING, NUM_HELD_OUT, seed=SEED, shape=SHAPE)

    for step in plan_steps(work, device):
        done = work.logs / f"{step.name}.done"
        if done.exists() and step.product.exists() and not something_ran:
            print(f"{step.name} is done already")
            continue
        something_ran = True
        done.unlink(missing_ok=True)
        run_step(step, executables[step.command[0]], work)
        done.touch()

    print_dice(work)
    draw_picture(work)
    print(f"\nPicture: {work.picture}")
    print(f"Finished in {(time.monotonic() - start) / 60:.1f} minutes. To start afresh, delete {work.out}", flush=True)


def choose_device(device: str) -> str:
    """Turn auto into cuda or cpu, and refuse what this machine does not have."""
    import torch

    if device not in ("auto", "cpu", "cuda"):
        raise UserError(f"device must be auto, cpu or cuda, got {device!r}")
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError(
            "device cuda was asked for, but torch finds no CUDA device here; choose --device cpu (or auto), or install "
            "a driver and a torch build with CUDA"
        )
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return device


def find_command(name: str) -> str:
    """Find a console command, first beside the running interpreter, then on PATH."""
    scripts = sysconfig.get_path("scripts")
    path = shutil.which(name, path=scripts) or shutil.which(name)
    if path is None:
        raise UserError(
            f"nnU-Net's command {name} is neither in {scripts} nor on PATH; install nnunetv2 into this environment "
            f"with: pip install nnunetv2"
        )
    return path


def claim_folder(out: Path) -> None:
    """Make `out` the demo's folder; refuse one that holds anything else."""
    owner_file = out / OWNER_FILE
    try:
        if out.exists() and not owner_file.exists() and any(out.iterdir()):
            raise UserError(f"{out} holds files that are not the demo's; choose a new or empty folder with --out")
        (out / "logs").mkdir(parents=True, exist_ok=True)
        owner_file.write_text(
            "Made by `nnunetv2_cfnet demo`, which continues here. Delete the folder to start afresh.\n"
        )
    except OSError as error:
        raise UserError(f"cannot write the demo's folder {out} ({error}); choose another one with --out") from error


def plan_steps(work: Workplace, device: str) -> list[Step]:
    """List nnU-Net's commands in their order."""
    from nnunetv2_cfnet.training.trainers import nnUNetTrainerCFNetDemo

    dataset_id = str(int(DATASET[7:10]))
    data = ["-d", dataset_id, "-c", CONFIGURATION]
    network = ["-tr", TRAINER, "-device", device]
    images, labels, predictions = str(work.raw / "imagesTs"), str(work.raw / "labelsTs"), str(work.predictions)
    dataset_json, plans_json = str(work.predictions / "dataset.json"), str(work.predictions / "plans.json")
    preprocess = Step(
        name="plan_and_preprocess",
        command=["nnUNetv2_plan_and_preprocess", *data, "--verify_dataset_integrity", "-npfp", "2", "-np", "2"],
        product=work.preprocessed / "nnUNetPlans.json",
        obstacles=[work.preprocessed],
    )
    trainings = []
    for fold in FOLDS:
        resume = ["--c"] if has_checkpoint(work.fold(fold)) else []
        training = Step(
            name=f"train_fold_{fold}",
            command=["nnUNetv2_train", dataset_id, CONFIGURATION, str(fold), *network, *resume],
            product=work.fold(fold) / "validation" / "summary.json",
            num_epochs=nnUNetTrainerCFNetDemo.epochs,
        )
        trainings.append(training)
    predict = Step(
        name="predict",
        command=["nnUNetv2_predict", "-i", images, "-o", predictions, *data, "-f", *map(str, FOLDS), *network],
        product=work.predictions / "plans.json",
        obstacles=[work.predictions],
    )
    evaluate = Step(
        name="evaluate",
        command=["nnUNetv2_evaluate_folder", labels, predictions, "-djfile", dataset_json, "-pfile", plans_json],
        product=work.summary,
    )
    return [preprocess, *trainings, predict, evaluate]


def has_checkpoint(fold_folder: Path) -> bool:
    """Tell whether a training can continue, after removing checkpoints that an interruption cut short."""
    checkpoints = list(fold_folder.glob("checkpoint_*.pth"))
    whole = [path for path in checkpoints if zipfile.is_zipfile(path)]  # torch's checkpoints are zip archives
    for path in set(checkpoints) - set(whole):
        path.unlink()
    return bool(whole)


def run_step(step: Step, executable: str, work: Workplace) -> None:
    """Run one command with its progress shown and its output logged; a UserError if it fails."""
    for obstacle in step.obstacles:
        shutil.rmtree(obstacle, ignore_errors=True)
    log = work.logs / f"{step.name}.log"
    print(f"\n$ {shlex.join(step.command)}", flush=True)
    start = time.monotonic()
    if step.num_epochs is None:
        bar = tqdm(bar_format="  {elapsed}  {desc}", leave=False, disable=None)  # only where a person watches
        follow = follow_lines(bar)
    else:
        bar = tqdm(total=step.num_epochs, unit="epoch", desc=step.name)
        follow = follow_epochs(bar)
    with bar:
        exit_code = run_command([executable, *step.command[1:]], work.environment, log, follow)
    if exit_code != 0:
        last_lines = "".join(log.read_text().splitlines(keepends=True)[-NUM_LOG_LINES:])
        raise UserError(
            f"{step.command[0]} failed with exit code {exit_code}. The last lines of {log}:\n\n{last_lines}\n"
            f"Once the cause is mended, the same demo command continues with this step."
        )
    print(f"  done in {time.monotonic() - start:.0f} s (log: {log})", flush=True)


def run_command(command: list[str], environment: dict[str, str], log: Path, on_line: Callable[[str], None]) -> int:
    """Run a command, append its output to `log`, hand each line on, and return the exit code."""
    with (
        log.open("a") as log_file,
        subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
        ) as process,
    ):
        assert process.stdout is not None
        try:
            for line in process.stdout:
                log_file.write(line)
                log_file.flush()
                on_line(line)
        except KeyboardInterrupt:
            process.send_signal(signal.SIGINT)  # a terminal's Ctrl-C has reached it already, a `kill -INT` has not
            process.communicate()
            raise
    return process.returncode


def follow_lines(bar: tqdm) -> Callable[[str], None]:
    """Make a reader that shows the latest line of output."""

    def on_line(line: str) -> None:
        bar.set_description_str(line.strip()[:80])

    return on_line


def follow_epochs(bar: tqdm) -> Callable[[str], None]:
    """Make a reader of nnU-Net's training log that moves the bar."""

    def on_line(line: str) -> None:
        if match := re.search(r": Epoch (\d+)\s*$", line):
            bar.update(int(match[1]) - bar.n)  # a continued training starts at a later epoch
        elif match := re.search(r": train_loss (\S+)", line):
            bar.set_postfix_str(f"loss {match[1]}", refresh=False)
        elif match := re.search(r": Pseudo dice (.+)", line):
            dice = " ".join(f"{float(value):.2f}" for value in re.findall(r"\d\.\d+|nan", match[1]))
            bar.set_postfix_str(f"{bar.postfix}, Dice {dice}", refresh=False)
        elif ": Epoch time" in line:
            bar.update(1)
        elif ": predicting" in line:
            bar.set_description("validating")

    return on_line


def print_dice(work: Workplace) -> None:
    """Print nnU-Net's mean Dice of each region over the held-out cases."""
    from nnunetv2.evaluation.evaluate_predictions import load_summary_json

    summary = load_summary_json(str(work.summary))
    cases = summary["metric_per_case"]
    print(f"\nDice on {len(cases)} held-out phantom cases, {len(FOLDS)} folds ensembled:")
    for name, region in REGIONS.items():
        dice = [case["metrics"][region]["Dice"] for case in cases]
        num_empty = int(np.isnan(dice).sum())  # nnU-Net's NaN: neither the reference nor the prediction has the region
        num_false = sum(case["metrics"][region]["n_ref"] == 0 for case in cases) - num_empty
        mean = "n/a" if num_empty == len(cases) else f"{summary['mean'][region]['Dice']:.3f}"
        notes = []
        if num_empty:
            notes.append(f"{num_empty} without this region, rightly predicted empty, left out of the mean")
        if num_false:
            notes.append(f"{num_false} without this region, but predicted with it, counted as 0")
        print(f"  {name:<16} {mean:>5}  {'; '.join(notes)}".rstrip())


def draw_picture(work: Workplace) -> None:
    """Draw some held-out cases: the four sequences, the reference and the prediction, in the largest tumour slice."""
    import SimpleITK
    from matplotlib.colors import BoundaryNorm, ListedColormap
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    def read(path: Path) -> np.ndarray:
        return SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(path)))

    cases = [path.name.removesuffix(FILE_ENDING) for path in sorted((work.raw / "labelsTs").glob(f"*{FILE_ENDING}"))]
    cases = cases[-PICTURE_CASES:]
    colours = ListedColormap([colour for _, colour in LABEL_STYLES.values()])
    norm = BoundaryNorm([0.5, 1.5, 2.5, 3.5], ncolors=3)
    titles = [*CHANNEL_NAMES.values(), "reference", "prediction"]
    figure = Figure(figsize=(2 * len(titles), 2 * len(cases) + 1), layout="constrained", facecolor="white")
    grid = figure.subplots(len(cases), len(titles), squeeze=False)
    for row, case in zip(grid, cases, strict=True):
        reference = read(work.raw / "labelsTs" / f"{case}{FILE_ENDING}")
        prediction = read(work.predictions / f"{case}{FILE_ENDING}")
        z = int(np.argmax((reference > 0).sum(axis=(1, 2))))
        slices = [read(work.raw / "imagesTs" / f"{case}_{int(index):04d}{FILE_ENDING}")[z] for index in CHANNEL_NAMES]
        t1ce = slices[list(CHANNEL_NAMES.values()).index("T1ce")]
        for axes, image in zip(row, [*slices, t1ce, t1ce], strict=True):
            axes.imshow(image, cmap="gray")
            axes.set(xticks=[], yticks=[])
        for axes, labels in zip(row[-2:], [reference[z], prediction[z]], strict=True):
            axes.imshow(np.ma.masked_equal(labels, 0), cmap=colours, norm=norm, alpha=0.7, interpolation="nearest")
        row[0].set_ylabel(f"{case}, slice {z}", fontsize=8)
    for axes, title in zip(grid[0], titles, strict=True):
        axes.set_title(title)
    figure.suptitle("CFNet on held-out phantom cases (reference and prediction over T1ce)")
    legend = [Patch(color=colour, label=name) for name, colour in LABEL_STYLES.values()]
    figure.legend(handles=legend, loc="outside lower center", ncols=len(legend), frameon=False)
    unfinished = work.picture.with_name(f".{work.picture.name}")
    figure.savefig(unfinished, dpi=100, format="png")
    unfinished.replace(work.picture)
