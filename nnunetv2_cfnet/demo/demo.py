"""The demo: nnU-Net's own commands, from raw images to Dice, on a phantom dataset with CFNet as the trainer.

Everything lies in one folder, OUT. Each command is printed before it runs, so that the demo doubles as a lesson in
nnU-Net's interface; its output goes to OUT/logs. A step that has finished leaves a `.done` file beside its log, which
says of what data, so a second run starts where the first one stopped.
"""

import os
import shlex
import time
from collections.abc import Iterator
from itertools import product
from pathlib import Path

import numpy as np

from nnunetv2_cfnet.brats.editions import CHANNELS, REGIONS
from nnunetv2_cfnet.demo.phantom import FILE_ENDING, write_dataset
from nnunetv2_cfnet.errors import UserError
from nnunetv2_cfnet.files.digests import content_digest
from nnunetv2_cfnet.files.lock import locked
from nnunetv2_cfnet.files.paths import resolved
from nnunetv2_cfnet.files.volumes import files_by_case, name_for_itk
from nnunetv2_cfnet.files.whole import check_place, whole_file
from nnunetv2_cfnet.host import VARIABLES
from nnunetv2_cfnet.jobs.steps import Step, choose_device, drop_torn_checkpoints, find_command, has_checkpoint, run_step

DATASET = "Dataset001_Phantom"
CONFIGURATION = "3d_fullres"
PLANS = "nnUNetPlans"
TRAINER, BASELINE = "nnUNetTrainerCFNetDemo", "nnUNetTrainerCFNetDemoBaseline"  # trained as long as each other
FOLDS = (0, 1)
NUM_TRAINING, NUM_HELD_OUT = 25, 4  # two folds leave out ten cases, which a comparison takes at least
SHAPE = (40, 40, 40)  # holds a brain of 32 voxels along each axis: nnU-Net plans a patch of 32^3
SEED = 0

COMMANDS = (
    "nnUNetv2_plan_and_preprocess",
    "nnUNetv2_train",
    "nnUNetv2_predict",
    "nnUNetv2_evaluate_folder",
    "nnunetv2_cfnet",
)
OWNER_FILE = "nnunetv2_cfnet_demo.txt"  # marks OUT as the demo's own

PICTURE_CASES = 3
LABEL_STYLES = {1: ("oedema (ED)", "#31a354"), 2: ("core (NCR/NET)", "#de2d26"), 3: ("enhancing (ET)", "#ffd92f")}


class Workplace:
    """The paths of a demo folder, and the environment that its commands run in."""

    def __init__(self, out: Path) -> None:
        self.out = out
        self.folders = {name: str(out / name) for name in VARIABLES}
        self.raw, self.preprocessed, self.results = (Path(folder, DATASET) for folder in self.folders.values())
        self.predictions = out / "predictions"
        self.summary = self.predictions / "summary.json"
        self.comparison = out / "comparison"
        self.report = self.comparison / "report.html"
        self.picture = out / "demo.png"
        self.logs = out / "logs"

    def fold(self, fold: int, trainer: str = TRAINER) -> Path:
        return self.results / f"{trainer}__{PLANS}__{CONFIGURATION}" / f"fold_{fold}"

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


def run_demo(out: Path, device: str) -> None:
    """Make the phantom dataset, train, predict, evaluate and compare; print Dice, draw a picture.

    Args:
        out: The demo's folder: new, empty, or an earlier demo's. The user's nnUNet_* folders stay unused.
        device: auto, cpu or cuda.
    """
    start = time.monotonic()
    device = choose_device(device)
    for command in COMMANDS:
        find_command(command)
    work = Workplace(resolved(out))
    claim_folder(work.out)

    with locked(work.picture) as made_in:
        run_steps(work, device)
        print_dice(work)
        draw_picture(work, made_in)
    print(f"\nPicture: {work.picture}\nCFNet and a U-Net, trained as long as each other: {work.report}")
    print(f"Finished in {(time.monotonic() - start) / 60:.1f} minutes. To start afresh, delete {work.out}", flush=True)


def run_steps(work: Workplace, device: str) -> None:
    """Make the phantom dataset and run nnU-Net's commands, but for what was done on the same data before."""
    print("nnU-Net's folders, for the demo's commands only:")
    for variable, folder in work.folders.items():
        print(f"  export {variable}={shlex.quote(folder)}")
    if work.raw.exists():
        print(f"\n{DATASET} is there already")
    else:
        print(f"\nMaking {DATASET}: {NUM_TRAINING} training and {NUM_HELD_OUT} held-out cases", flush=True)
        write_dataset(work.raw, NUM_TRAINING, NUM_HELD_OUT, seed=SEED, shape=SHAPE)
    data = digests_of(work.raw)
    something_ran = False  # every step builds on the ones before it
    for step in plan_steps(work, device):
        done = work.logs / f"{step.name}.done"
        if not something_ran and step.product.exists() and done.exists() and done.read_text() == data:
            print(f"{step.name} is done already")
            continue
        something_ran = True
        done.unlink(missing_ok=True)
        run_step(step, work.environment, work.logs)
        done.write_text(data)


def digests_of(folder: Path) -> str:
    """A line for each file in a folder: its content's digest and where it is."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return "".join(f"{content_digest(file)} {file.relative_to(folder)}\n" for file in files)


def claim_folder(out: Path) -> None:
    """Make `out` the demo's folder; refuse one that holds anything else."""
    owner_file = out / OWNER_FILE
    if out.is_dir() and not owner_file.exists() and any(out.iterdir()):
        raise UserError(f"{out} holds files that are not the demo's; choose a new or empty folder with -o")
    check_place(out, [OWNER_FILE])
    out.mkdir(parents=True, exist_ok=True)
    owner_file.write_text("Made by `nnunetv2_cfnet demo`, which continues here. Delete the folder to start afresh.\n")
    (out / "logs").mkdir(exist_ok=True)


def plan_steps(work: Workplace, device: str) -> Iterator[Step]:
    """The commands in their order: nnU-Net's, and the comparison with its own trainer. Each is asked for in its turn,
    since a training goes on from the checkpoints that are there by then."""
    from nnunetv2_cfnet.training.trainers import DEMO_EPOCHS

    dataset_id = str(int(DATASET[7:10]))
    data = ["-d", dataset_id, "-c", CONFIGURATION]
    folds = [str(fold) for fold in FOLDS]
    images, labels, predictions = str(work.raw / "imagesTs"), str(work.raw / "labelsTs"), str(work.predictions)
    dataset_json, plans_json = str(work.predictions / "dataset.json"), str(work.predictions / "plans.json")
    yield Step(
        name="plan_and_preprocess",
        command=["nnUNetv2_plan_and_preprocess", *data, "--verify_dataset_integrity", "-npfp", "2", "-np", "2"],
        product=work.preprocessed / "nnUNetPlans.json",
        obstacles=[work.preprocessed, work.results],  # models of other data
    )
    for trainer, fold in product((TRAINER, BASELINE), FOLDS):
        drop_torn_checkpoints(work.fold(fold, trainer))
        resume = ["--c"] if has_checkpoint(work.fold(fold, trainer)) else []
        network = ["-tr", trainer, "-device", device]
        yield Step(
            name=f"train_{'cfnet' if trainer == TRAINER else 'baseline'}_fold_{fold}",
            command=["nnUNetv2_train", dataset_id, CONFIGURATION, str(fold), *network, *resume],
            product=work.fold(fold, trainer) / "validation" / "summary.json",
            num_epochs=DEMO_EPOCHS,
        )
    network = ["-tr", TRAINER, "-device", device]
    yield Step(
        name="predict",
        command=["nnUNetv2_predict", "-i", images, "-o", predictions, *data, "-f", *folds, *network],
        product=work.predictions / "plans.json",
        obstacles=[work.predictions],
    )
    yield Step(
        name="evaluate",
        command=["nnUNetv2_evaluate_folder", labels, predictions, "-djfile", dataset_json, "-pfile", plans_json],
        product=work.summary,
    )
    models = [f"{trainer}__{PLANS}" for trainer in (TRAINER, BASELINE)]
    report = [
        "--names",
        "CFNet",
        "U-Net",
        "--folds",
        *folds,
        "-np",
        "1",
        "-o",
        str(work.comparison),
    ]  # a case takes less than starting a process
    yield Step(
        name="compare",
        command=["nnunetv2_cfnet", "compare", *data, "--models", *models, *report],
        product=work.report,
    )


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


def draw_picture(work: Workplace, made_in: Path) -> None:
    """Draw some held-out cases: the four sequences, the reference and the prediction, in the largest tumour slice."""
    import SimpleITK
    from matplotlib.colors import BoundaryNorm, ListedColormap
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    def read(path: Path) -> np.ndarray:
        return SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(name_for_itk(path)))

    cases = list(files_by_case(work.raw / "labelsTs", FILE_ENDING))[-PICTURE_CASES:]
    colours = ListedColormap([colour for _, colour in LABEL_STYLES.values()])
    norm = BoundaryNorm([0.5, 1.5, 2.5, 3.5], ncolors=3)
    titles = [*CHANNELS, "reference", "prediction"]
    figure = Figure(figsize=(2 * len(titles), 2 * len(cases) + 1), layout="constrained", facecolor="white")
    grid = figure.subplots(len(cases), len(titles), squeeze=False)
    for row, case in zip(grid, cases, strict=True):
        reference = read(work.raw / "labelsTs" / f"{case}{FILE_ENDING}")
        prediction = read(work.predictions / f"{case}{FILE_ENDING}")
        z = int(np.argmax((reference > 0).sum(axis=(1, 2))))
        slices = [read(work.raw / "imagesTs" / f"{case}_{index:04d}{FILE_ENDING}")[z] for index in range(len(CHANNELS))]
        t1ce = slices[CHANNELS.index("T1ce")]
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
    with whole_file(work.picture, made_in) as unfinished:
        figure.savefig(unfinished, dpi=100, format="png")
