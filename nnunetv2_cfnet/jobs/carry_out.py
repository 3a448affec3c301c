"""An experiment on this machine: prepared, trained with as many trainings at a time as there are GPUs, concluded."""

import os
import shlex
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from queue import SimpleQueue

from nnunetv2_cfnet.errors import UserError, lines_of
from nnunetv2_cfnet.files.children import end_children
from nnunetv2_cfnet.files.lock import locked
from nnunetv2_cfnet.jobs.experiment import Experiment, Training
from nnunetv2_cfnet.jobs.preparation import missing_steps, prepare
from nnunetv2_cfnet.jobs.records import CANCELLED, CONCLUSION, DONE, FAILED, PREPARATION, Records
from nnunetv2_cfnet.jobs.steps import StepError, choose_device
from nnunetv2_cfnet.jobs.training import train, workers_for


def carry_out(experiment: Experiment) -> None:
    """Prepare, train what is missing, and conclude. A training that fails does not stop the others.

    Raises:
        UserError: bad input, before anything is run; or what failed.
    """
    records = Records(experiment.out)
    with locked(records.folder):
        missing_steps(experiment)  # what it refuses leaves no records
        _refuse_submitted(experiment, records)
        if not all(training.is_done for training in experiment.trainings):
            choose_device(experiment.device)  # which has to be here for trainings alone
        records.forget_submitted([training.name for training in experiment.trainings])
        records.expect(experiment.trainings, (PREPARATION, CONCLUSION))
        with records.running(PREPARATION):
            prepare(experiment)
        for results in experiment.results:
            print(f"\nexport nnUNet_results={shlex.quote(str(results))}")
        _train_all(experiment, places(experiment.device))
        with records.running(CONCLUSION):
            conclude_if_complete(experiment)


def conclude_if_complete(experiment: Experiment) -> None:
    """Conclude, or record and say which trainings are missing, in a UserError: nothing trains them any more."""
    trainings = experiment.trainings
    missing = [training for training in trainings if not training.is_done]
    if missing:
        for training in missing:
            Records(experiment.out).give_up(training.name)
        raise UserError(
            f"{len(missing)} of {len(trainings)} trainings are missing; nnunetv2_cfnet status {experiment.out} says "
            f"why, and the same command as before trains them:{lines_of([training.title for training in missing])}"
        )
    experiment.conclude()


def places(device: str) -> list[dict[str, str]]:
    """The variables of each training that can run at a time: one for each GPU that this process may use."""
    if device != "cuda":
        return [{}]
    import torch

    num_gpus = torch.cuda.device_count()
    if num_gpus < 2:
        return [{}]
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    gpus = named.split(",")[:num_gpus] if named else [str(gpu) for gpu in range(num_gpus)]
    workers = workers_for((os.cpu_count() or 1) // num_gpus)
    return [{"CUDA_VISIBLE_DEVICES": gpu, **workers} for gpu in gpus]


def _refuse_submitted(experiment: Experiment, records: Records) -> None:
    """A UserError where a training is in a scheduler's hands, by its record: of this experiment, or other folds."""
    titles = {training.name: training.title for training in experiment.trainings if not training.is_done}
    others = {*records.submitted()} - {training.name for training in experiment.trainings} - {PREPARATION, CONCLUSION}
    for name, job in records.submitted().items():
        if (name in titles or name in others) and records.read(name).state not in (DONE, FAILED, CANCELLED):
            raise UserError(
                f"{titles.get(name, name)} was submitted as job {job}: let it end, or end it with this command's "
                "--cancel, and then train here."
            )


def _train_all(experiment: Experiment, variables_of_places: Sequence[Mapping[str, str]]) -> None:
    """Train what is missing, each on the next place that is free."""
    free: SimpleQueue[int] = SimpleQueue()
    for place in range(len(variables_of_places)):
        free.put(place)
    several = len(variables_of_places) > 1

    def train_at_free_place(training: Training) -> None:
        place = free.get()
        try:
            train(training, experiment.out, variables_of_places[place], bar_position=place if several else None)
        finally:
            free.put(place)

    pool = ThreadPoolExecutor(len(variables_of_places))
    futures: list[Future[None]] = []
    for training in experiment.trainings:
        if training.is_done:
            print(f"# {training.title} is done already")
        else:
            futures.append(pool.submit(train_at_free_place, training))
    try:
        for future in futures:
            try:
                future.result()
            except StepError as error:
                print(f"\n{error}\n", flush=True)
    except BaseException:  # Ctrl-C, among others
        pool.shutdown(wait=False, cancel_futures=True)
        while not all(future.done() for future in futures):
            end_children()
            time.sleep(0.1)
        raise
    pool.shutdown()
