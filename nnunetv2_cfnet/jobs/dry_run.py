"""What an experiment would run, printed: nnU-Net's commands, lines for any scheduler, or SLURM's jobs."""

import shlex
from collections.abc import Mapping, Sequence

from nnunetv2_cfnet.jobs.experiment import Experiment, Training
from nnunetv2_cfnet.jobs.preparation import missing_steps
from nnunetv2_cfnet.jobs.records import CONCLUSION, PREPARATION
from nnunetv2_cfnet.jobs.training import INTERRUPTIBLE


def print_commands(experiment: Experiment) -> None:
    """The missing commands, in the order in which one machine runs them."""
    for step in missing_steps(experiment):
        print(shlex.join(step.command))
    for results in experiment.results:
        print(f"\nexport nnUNet_results={shlex.quote(str(results))}")
        for training in experiment.trainings:
            if training.results == results:
                print(_command_of(training))
    print(f"\n# and, when all are trained, {experiment.target}")


def print_lines(experiment: Experiment) -> None:
    """A line for each missing part, in the order in which they depend on each other, each a command of its own."""
    own_command = shlex.join(experiment.command)
    print(f"# 1. first\n{own_command} --prepare\n\n# 2. after 1, in any order and at the same time")
    for training in _missing(experiment):
        # --c starts anew where there is nothing to go on from: so a scheduler may start the same line again
        _, *arguments = (word for word in training.step().command if word != "--c")
        line = shlex.join([*INTERRUPTIBLE, *arguments, "--c"])
        print(f"nnUNet_results={shlex.quote(str(training.results))} {line}  # {training.title}")
    print(f"\n# 3. after all of 2\n{own_command}")


def print_jobs(experiment: Experiment, options: Sequence[str], in_queue: Mapping[str, str]) -> None:
    """SLURM's jobs.

    Args:
        options: of each job, as NAME=VALUE.
        in_queue: parts that are submitted already, and their jobs.
    """
    print(f"# each job has {', '.join(options) or 'the default options'}\n")
    for name, job in in_queue.items():
        print(f"# {name} is submitted already, as job {job}")
    steps = [] if PREPARATION in in_queue else missing_steps(experiment)
    if steps:
        print("# one job")
        for step in steps:
            print(shlex.join(step.command))
    if missing := [training for training in _missing(experiment) if training.name not in in_queue]:
        print(f"\n# an array of {len(missing)} jobs{', after that one' if steps else ''}")
        for training in missing:
            print(f"{_command_of(training)}  # {training.title}")
    if missing or CONCLUSION not in in_queue:
        print(f"\n# one job, after all of these: {experiment.target}")


def _missing(experiment: Experiment) -> list[Training]:
    return [training for training in experiment.trainings if not training.is_done]


def _command_of(training: Training) -> str:
    if training.is_done:
        return f"# {training.title} is done already"
    return shlex.join(training.step().command)
