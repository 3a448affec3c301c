"""The ways to carry out an experiment: here, by SLURM, or only printed."""

from argparse import Namespace
from dataclasses import dataclass, fields
from typing import Any

from nnunetv2_cfnet.errors import UserError
from nnunetv2_cfnet.files.lock import locked
from nnunetv2_cfnet.jobs import dry_run, slurm
from nnunetv2_cfnet.jobs.carry_out import carry_out
from nnunetv2_cfnet.jobs.experiment import Experiment
from nnunetv2_cfnet.jobs.preparation import prepare
from nnunetv2_cfnet.jobs.records import Records
from nnunetv2_cfnet.jobs.steps import choose_device


@dataclass(frozen=True)
class Way:
    """How an experiment is to be carried out.

    Args:
        slurm: Options of its jobs, NAME=VALUE,..; None: on this machine.
        wait: Until the jobs have ended.
        cancel: End the jobs.
        prepare: Without trainings.
        dry_run: Print what would be run.
        format: Of a dry run: commands, or lines of shell.
    """

    slurm: str | None = None
    wait: bool = False
    cancel: bool = False
    prepare: bool = False
    dry_run: bool = False
    format: str = "commands"

    def __post_init__(self) -> None:
        if self.wait and self.slurm is None:
            raise UserError("--wait is for jobs: give it together with --slurm.")
        if self.format != "commands" and not self.dry_run:
            raise UserError(f"--format {self.format} is printed: give it together with --dry-run.")
        if sum((self.cancel, self.prepare, self.dry_run)) > 1 or (self.slurm is not None and self.prepare):
            raise UserError("--cancel, --prepare and --dry-run exclude each other, and --prepare has no jobs.")

    @classmethod
    def of(cls, options: Namespace) -> "Way":
        """Of a command's options (commands/flags.py: add_way)."""
        return cls(**{field.name: getattr(options, field.name) for field in fields(cls)})

    @property
    def options(self) -> dict[str, Any]:
        """Of SLURM's jobs."""
        return slurm.read_options(self.slurm or "")

    def device(self, device: str) -> str:
        """Turn auto into what the jobs ask for, or what is here."""
        if device != "auto":
            return device
        return choose_device(device) if self.slurm is None else slurm.device_of(self.options)


def carry_out_by(way: Way, experiment: Experiment) -> None:
    """Carry out an experiment.

    Raises:
        UserError: bad input, or what failed.
    """
    if way.cancel:
        slurm.cancel(experiment)
    elif way.dry_run and way.format == "shell":
        dry_run.print_lines(experiment)
    elif way.dry_run and way.slurm is not None:
        options = [f"{name}={value}" for name, value in way.options.items()]
        dry_run.print_jobs(experiment, options, slurm.in_queue(experiment))
    elif way.dry_run:
        dry_run.print_commands(experiment)
    elif way.prepare:
        with locked(Records(experiment.out).folder):
            prepare(experiment)
    elif way.slurm is not None:
        slurm.submit(experiment, way.options)
        if way.wait:
            slurm.wait(experiment)
    else:
        carry_out(experiment)
