"""The demo: nnU-Net's own commands, from raw images to Dice, on a phantom dataset with CFNet as the trainer.

Everything lies in one folder, OUT. Each command is printed before it runs, so that the demo doubles as a lesson in
nnU-Net's interface; its output goes to OUT/logs. A step that has finished leaves a `.done` file beside its log, so a
second run starts where the first one stopped.
"""

import os
import shlex
import shutil
import time
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np

from nnunetv2_cfnet.demo.phantom import CHANNEL_NAMES, FILE_ENDING, REGIONS, write_dataset
from nnunetv2_cfnet.errors import UserError
from nnunetv2_cfnet.files.whole import check_place, whole_file
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

    def fold(self, fold: int, trainer: str = TRAINER) -> Path:
        return self.results / f"{trainer}__{PLANS}__{CONFIGURATION}" / f"fold_{fold}"

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
    def comparison(self) -> Path:
        return self.out / "comparison"

    @property
    def report(self) -> Path:
        return self.comparison / "report.html"

    @property
    def logs(self) -> Path:
        return self.out / "logs"


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
        run_step(step, work.environment, work.logs)
        done.touch()

    print_dice(work)
    draw_picture(work)
    print(f"\nPicture: {work.picture}\nCFNet and a U-Net, trained as long as each other: {work.report}")
    print(f"Finished in {(time.monotonic() - start) / 60:.1f} minutes. To start afresh, delete {work.out}", flush=True)


def claim_folder(out: Path) -> None:
    """Make `out` the demo's folder; refuse one that holds anything else."""
    owner_file = out / OWNER_FILE
    if out.is_dir() and not owner_file.exists() and any(out.iterdir()):
        raise UserError(f"{out} holds files that are not the demo's; choose a new or empty folder with -o")
    check_place(out, [OWNER_FILE])
    (out / "logs").mkdir(parents=True, exist_ok=True)
    owner_file.write_text("Made by `nnunetv2_cfnet demo`, which continues here. Delete the folder to start afresh.\n")


def plan_steps(work: Workplace, device: str) -> list[Step]:
    """List the commands in their order: nnU-Net's, and the comparison with its own trainer."""
    from nnunetv2_cfnet.training.trainers import DEMO_EPOCHS

    dataset_id = str(int(DATASET[7:10]))
    data = ["-d", dataset_id, "-c", CONFIGURATION]
    folds = [str(fold) for fold in FOLDS]
    images, labels, predictions = str(work.raw / "imagesTs"), str(work.raw / "labelsTs"), str(work.predictions)
    dataset_json, plans_json = str(work.predictions / "dataset.json"), str(work.predictions / "plans.json")
    preprocess = Step(
        name="plan_and_preprocess",
        command=["nnUNetv2_plan_and_preprocess", *data, "--verify_dataset_integrity", "-npfp", "2", "-np", "2"],
        product=work.preprocessed / "nnUNetPlans.json",
        obstacles=[work.preprocessed],
    )
    trainings = []
    for trainer, fold in product((TRAINER, BASELINE), FOLDS):
        drop_torn_checkpoints(work.fold(fold, trainer))
        resume = ["--c"] if has_checkpoint(work.fold(fold, trainer)) else []
        network = ["-tr", trainer, "-device", device]
        training = Step(
            name=f"train_{'cfnet' if trainer == TRAINER else 'baseline'}_fold_{fold}",
            command=["nnUNetv2_train", dataset_id, CONFIGURATION, str(fold), *network, *resume],
            product=work.fold(fold, trainer) / "validation" / "summary.json",
            num_epochs=DEMO_EPOCHS,
        )
        trainings.append(training)
    network = ["-tr", TRAINER, "-device", device]
    predict = Step(
        name="predict",
        command=["nnUNetv2_predict", "-i", images, "-o", predictions, *data, "-f", *folds, *network],
        product=work.predictions / "plans.json",
        obstacles=[work.predictions],
    )
    evaluate = Step(
        name="evaluate",
        command=["nnUNetv2_evaluate_folder", labels, predictions, "-djfile", dataset_json, "-pfile", plans_json],
        product=work.summary,
    )
    models = [f"{trainer}__{PLANS}" for trainer in (TRAINER, BASELINE)]
    report = ["--folds", *folds, "-np", "1", "-o", str(work.comparison)]  # a case takes less than starting a process
    compare = Step(
        name="compare",
        command=["nnunetv2_cfnet", "compare", *data, "--models", *models, *report],
        product=work.report,
    )
    return [preprocess, *trainings, predict, evaluate, compare]


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
    with whole_file(work.picture) as unfinished:
        figure.savefig(unfinished, dpi=100, format="png")
