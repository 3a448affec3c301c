"""`nnunetv2_cfnet cross_validate`: the folds of one model, trained into the user's nnUNet_results, and put together.

fingerprint, plans, preprocessed data where they are missing -> nnUNetv2_train for each fold
-> nnUNetv2_accumulate_crossval_results, which nnUNetv2_find_best_configuration starts from
"""

import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from nnunetv2_cfnet.errors import UserError
from nnunetv2_cfnet.files.names import is_plain_name
from nnunetv2_cfnet.host import dataset_name, nnunet_folder
from nnunetv2_cfnet.jobs.epochs import epochs_of
from nnunetv2_cfnet.jobs.experiment import Experiment
from nnunetv2_cfnet.jobs.preparation import check_trainable
from nnunetv2_cfnet.jobs.steps import Step, run_step


def cross_validation(
    dataset_id: int, configuration: str, trainer: str, plans: str, *, folds: Sequence[int], npz: bool, device: str
) -> Experiment:
    """The trainings of a model's folds, concluded by nnU-Net's accumulate_crossval_results.

    Args:
        dataset_id: of a dataset in nnUNet_raw.
        configuration: of its plans.
        trainer: by the name that nnU-Net finds.
        plans: as in nnUNetPlans.
        folds: to be trained.
        npz: keep the validations' probabilities, which ensembles need.
        device: cpu or cuda.

    Raises:
        UserError: bad input.
    """
    if not is_plain_name(plans) or "__" in plans:
        raise UserError(f"-p {plans}: give the name of plans, as in nnUNetPlans.")
    num_epochs = epochs_of(trainer)
    model = f"{trainer}__{plans}"
    check_trainable(configuration, [model], folds)
    dataset, results = dataset_name(dataset_id), nnunet_folder("nnUNet_results").resolve()
    folder = results / dataset / f"{model}__{configuration}"
    target = folder / f"crossval_results_folds_{'_'.join(map(str, folds))}"  # nnU-Net's name
    which = ["-c", configuration, "-tr", trainer, "-p", plans]
    step = Step(
        name="accumulate_crossval_results",
        command=["nnUNetv2_accumulate_crossval_results", str(dataset_id), *which, "-f", *map(str, folds)],
        product=target / "summary.json",
    )
    more = ["--npz"] if npz else []
    return Experiment(
        dataset_id=dataset_id,
        dataset=dataset,
        configuration=configuration,
        models=[model],
        folds=folds,
        results=[results],
        out=folder,
        target=target,
        conclude=partial(_accumulate, step, results, folder / "logs"),
        command=[
            *("nnunetv2_cfnet", "cross_validate", "-d", str(dataset_id), *which, "--folds", *map(str, folds), *more),
            *("-device", device),
        ],
        device=device,
        num_epochs=num_epochs,
        npz=npz,
    )


def _accumulate(step: Step, results: Path, logs: Path) -> None:
    run_step(step, {**os.environ, "nnUNet_results": str(results)}, logs)
    print(f"Written: {step.product}")
