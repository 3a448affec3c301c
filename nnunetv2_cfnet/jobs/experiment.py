"""What is to be trained: each model's folds, in each replicate, and where they go."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from nnunetv2_cfnet.files.json_files import is_json
from nnunetv2_cfnet.jobs.steps import Step, has_checkpoint


@dataclass(frozen=True)
class Training:
    """One fold of a model, in one replicate.

    Args:
        name: Tells it from the others of its experiment, and names its log and its record.
        dataset_id: As in 1.
        configuration: Of the plans.
        model: TRAINER__PLANS.
        fold: From 0 on.
        results: Folder in the place of nnUNet_results.
        fold_folder: Where nnU-Net trains it.
        device: cpu or cuda.
        num_epochs: That it takes.
        npz: Whether the validation's probabilities are kept.
    """

    name: str
    dataset_id: int
    configuration: str
    model: str
    fold: int
    results: Path
    fold_folder: Path
    device: str
    num_epochs: int
    npz: bool

    @property
    def product(self) -> Path:
        """The last that nnU-Net writes: training and validation are done."""
        return self.fold_folder / "validation" / "summary.json"

    @property
    def is_done(self) -> bool:
        """Whether the product is there, and was not cut short."""
        return is_json(self.product)

    @property
    def title(self) -> str:
        return f"{self.results.name}, {self.model}, fold {self.fold}"

    def step(self) -> Step:
        """nnU-Net's command, which goes on where there is a checkpoint."""
        trainer, plans = self.model.split("__")
        what = [str(self.dataset_id), self.configuration, str(self.fold), "-tr", trainer, "-p", plans]
        more = ["--npz"] if self.npz else []
        resume = ["--c"] if has_checkpoint(self.fold_folder) else []
        return Step(
            name=self.name,
            command=["nnUNetv2_train", *what, "-device", self.device, *more, *resume],
            product=self.product,
            num_epochs=self.num_epochs,
        )


@dataclass(frozen=True)
class Experiment:
    """Trainings, and where what belongs to all of them lies.

    Args:
        dataset_id: As in 1.
        dataset: Its name.
        configuration: Of the plans.
        models: TRAINER__PLANS of each.
        folds: Of each model.
        results: Folders in the place of nnUNet_results, one for each replicate.
        out: Folder of the logs and records.
        target: What is made of all trainings in the end.
        conclude: Makes it.
        command: nnunetv2_cfnet's own, which carries all of it out on one machine.
        device: cpu or cuda.
        num_epochs: Of each training.
        npz: Whether the validations' probabilities are kept.
    """

    dataset_id: int
    dataset: str
    configuration: str
    models: Sequence[str]
    folds: Sequence[int]
    results: Sequence[Path]
    out: Path
    target: Path
    conclude: Callable[[], None]
    command: Sequence[str]
    device: str
    num_epochs: int
    npz: bool = False

    @property
    def logs(self) -> Path:
        return self.out / "logs"

    @property
    def trainings(self) -> list[Training]:
        """Replicate by replicate, model by model."""
        return [self._training(*which) for which in product(self.results, self.models, self.folds)]

    @property
    def model_folders(self) -> list[tuple[str, Path]]:
        """Each model and where nnU-Net trains it, replicate by replicate."""
        return [(model, self._model_folder(results, model)) for results, model in product(self.results, self.models)]

    def _model_folder(self, results: Path, model: str) -> Path:
        return results / self.dataset / f"{model}__{self.configuration}"

    def _training(self, results: Path, model: str, fold: int) -> Training:
        fold_folder = self._model_folder(results, model) / f"fold_{fold}"
        return Training(
            name=fold_folder.name if fold_folder.parent == self.out else f"{results.name}_{model}_{fold_folder.name}",
            dataset_id=self.dataset_id,
            configuration=self.configuration,
            model=model,
            fold=fold,
            results=results,
            fold_folder=fold_folder,
            device=self.device,
            num_epochs=self.num_epochs,
            npz=self.npz,
        )
