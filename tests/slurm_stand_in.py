"""Commands that stand in for SLURM's, for submitit to call: nothing runs, and every job stays in the queue."""

from pathlib import Path

SBATCH = """
[ -e refuse ] && { echo "sbatch: error: invalid partition specified: gpu" >&2; exit 1; }
number=$(($(ls | grep -c '^job_') + 1))
cat "$1" > "job_$number"
last=$(sed -n 's/^#SBATCH --array=0-\\([0-9]*\\)%.*/\\1/p' "$1")
if [ "$last" ]; then for task in $(seq 0 "$last"); do echo "${number}_$task"; done; else echo "$number"; fi >> queue
echo "Submitted batch job $number"
"""


class FakeSlurm:
    """A folder with the scripts that were submitted and the queue; every job stays in it until a test takes it out."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name, script in {
            "sbatch": SBATCH,
            "squeue": "cat queue",
            "scancel": 'for job in "$@"; do sed -i "/^$job$/d" queue; done',
            "srun": "exit 1",
            "scontrol": "exit 1",
        }.items():
            file = folder / name
            file.write_text(f"#!/bin/sh\ncd {folder}\n{script}\n")
            file.chmod(0o755)
        self.queue = []

    @property
    def queue(self) -> list[str]:
        return (self.folder / "queue").read_text().split()

    @queue.setter
    def queue(self, jobs: list[str]) -> None:
        (self.folder / "queue").write_text("".join(f"{job}\n" for job in jobs))

    @property
    def jobs(self) -> list[dict[str, str]]:
        """The options of each script, in the order of submission."""
        scripts = sorted(self.folder.glob("job_*"), key=lambda file: int(file.name.partition("_")[2]))
        return [self.options(script.read_text()) for script in scripts]

    @staticmethod
    def options(script: str) -> dict[str, str]:
        lines = [line.removeprefix("#SBATCH --") for line in script.splitlines() if line.startswith("#SBATCH --")]
        return {name: value for name, _, value in (line.partition("=") for line in lines)}
