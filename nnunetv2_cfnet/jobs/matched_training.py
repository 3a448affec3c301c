"""`nnunetv2_cfnet benchmark`: CFNet and its baselines, trained at a matched budget by nnU-Net's commands, and compared.

    fingerprint, plans, preprocessed data where they are missing -> nnUNetv2_train for each replicate, model and fold
    -> the report of `nnunetv2_cfnet compare` over all replicates

Data and plans are the user's, in nnUNet_raw and nnUNet_preprocessed. Models are trained into OUT/replicate_0,
OUT/replicate_1, .., each in the place of nnUNet_results; they differ by chance, since nnU-Net sets no seed. What is
there already is not done again, so an interrupted benchmark goes on.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from nnunetv2_cfnet.errors import UserError
from nnunetv2_cfnet.files.paths import resolved
from nnunetv2_cfnet.files.processes import check_num_processes
from nnunetv2_cfnet.host import dataset_name
from nnunetv2_cfnet.jobs.epochs import matched
from nnunetv2_cfnet.jobs.experiment import Experiment
from nnunetv2_cfnet.jobs.preparation import check_trainable
from nnunetv2_cfnet.planning.planners import DEFAULT_PLANS
from nnunetv2_cfnet.report.collect import compare_models
from nnunetv2_cfnet.report.write import check_report_place

DEFAULT_MODELS = (
    "nnUNetTrainerCFNet__nnUNetPlans",
    "nnUNetTrainer__nnUNetPlans",
    "nnUNetTrainer__nnUNetResEncUNetMPlans",
)
COMPARISON = "comparison"  # folder of the report


def matched_training(
    dataset_id: int,
    configuration: str,
    trainers: Sequence[str],
    *,
    folds: Sequence[int],
    num_epochs: int | None,
    replicates: int,
    out: Path,
    device: str,
    num_processes: int,
) -> Experiment:
    """The trainings of a benchmark, concluded by the comparison.

    Args:
        dataset_id: of a dataset in nnUNet_raw.
        configuration: of its plans.
        trainers: TRAINER__PLANS of each model, or TRAINER alone for nnUNetPlans; the first is compared with the others.
        folds: of each model.
        num_epochs: what the trainers have, or have a variant for; None: what all of them have.
        replicates: how often each is trained.
        out: folder of the trained models, the logs and the report.
        device: cpu or cuda.
        num_processes: of the evaluation.

    Raises:
        UserError: bad input.
    """
    models, num_epochs = _models(trainers, num_epochs)
    if len(set(models)) < max(2, len(models)):
        raise UserError(f"--trainers {' '.join(models)}: give two models or more, each once.")
    if replicates < 1:
        raise UserError(f"--replicates {replicates}: give at least 1.")
    check_trainable(configuration, models, folds)
    dataset = dataset_name(dataset_id)
    out = resolved(out)
    check_report_place(out / COMPARISON)
    check_num_processes(num_processes)
    results = [out / f"replicate_{replicate}" for replicate in range(replicates)]
    return Experiment(
        dataset_id=dataset_id,
        dataset=dataset,
        configuration=configuration,
        models=models,
        folds=folds,
        results=results,
        out=out,
        target=out / COMPARISON,
        conclude=partial(
            compare_models,
            dataset_id,
            configuration,
            models,
            folds=folds,
            out=out / COMPARISON,
            num_processes=num_processes,
            results=results,
        ),
        command=[
            *("nnunetv2_cfnet", "benchmark", "-d", str(dataset_id), "-c", configuration, "--trainers", *models),
            *("--folds", *map(str, folds), "--replicates", str(replicates), "-o", str(out), "-device", device),
            *("-np", str(num_processes)),
        ],
        device=device,
        num_epochs=num_epochs,
    )


def _models(trainers: Sequence[str], num_epochs: int | None) -> tuple[list[str], int]:
    """TRAINER__PLANS of each, where TRAINER is the one given or its variant, so that all have the same epochs, and how
    many these are."""
    given = []
    for name in trainers:
        trainer, _, plans = name.partition("__")
        if not trainer or "__" in plans:
            raise UserError(f"--trainers {name}: give TRAINER or TRAINER__PLANS, as in {DEFAULT_MODELS[-1]}.")
        given.append((trainer, plans or DEFAULT_PLANS))
    variants, num_epochs = matched(list(dict.fromkeys(trainer for trainer, _ in given)), num_epochs)
    return [f"{variants[trainer]}__{plans}" for trainer, plans in given], num_epochs
