"""What modality dropout and masking earn: `python benchmarks/missing_sequences.py [-d ID] [--size small|plan]`.

Trains the plan's U-Net and CFNet, each with and without modality dropout, and CFNet with dropout whose missing modality
groups are masked, as benchmarks/ablation.py trains networks: on the same batches, of which all lose the same sequences.
The cases that the fold leaves out are predicted from every subset of their sequences. Absent ones are zero after
preprocessing, where nnU-Net's z-score leaves a zero image zero.

Each network of a seed is a file in OUT/missing_sequences: the same command goes on where an interrupted one was, and
adds seeds. Writes missing_sequences.json, and the tables between two markers of missing_sequences.md.
"""

import argparse
import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from ablation import (
    CONFIGURATION,
    PROJECT,
    SIZES,
    Size,
    make_trainer,
    network_plans,
    prepare,
    run_file,
    run_folder,
    runs_of,
    score,
    train,
)
from cost import environment
from missing_sequences_tables import tables
from pages import write_between_markers
from tqdm import tqdm

from nnunetv2_cfnet.errors import UserError
from nnunetv2_cfnet.evaluation.subsets import all_subsets, subset_name
from nnunetv2_cfnet.files.whole import whole_file
from nnunetv2_cfnet.training.modality_dropout import draw_subset


@dataclass(frozen=True)
class Network:
    """One of the networks that are compared."""

    architecture: str  # of ablation.NETWORKS
    dropout: bool = False
    masked: bool = False


NETWORKS = {
    "U-Net": Network("U-Net"),
    "U-Net, dropout": Network("U-Net", dropout=True),
    "CFNet": Network("CFNet"),
    "CFNet, dropout": Network("CFNet", dropout=True),
    "CFNet, dropout, masked": Network("CFNet", dropout=True, masked=True),
}


def main() -> None:
    options = _parser().parse_args()
    size = SIZES[options.size]
    steps = options.steps or size.steps
    work = options.o.resolve()
    plans, dataset_json = prepare(work, options.d, options.size, options.spacing)
    runs = run_folder(work / "missing_sequences", plans, steps)
    entries = {name: entry_of(network, plans, dataset_json, size) for name, network in NETWORKS.items()}
    for seed in options.seeds:
        missing = {name: entry for name, entry in entries.items() if not run_file(runs, name, entry, seed).is_file()}
        if missing:
            run_seed(missing, dataset_json, size, steps=steps, seed=seed, device=options.device, runs=runs)
    configuration = plans["configurations"][CONFIGURATION]
    results = {
        "setting": {
            "dataset": plans["dataset_name"],
            "size": options.size,
            "steps": steps,
            "patch_size": configuration["patch_size"],
            "batch_size": configuration["batch_size"],
            "channels": list(dataset_json["channel_names"].values()),
            "modality_groups": _arguments(entries["CFNet"])["modality_groups"],
        },
        "environment": environment(options.device),
        "networks": list(NETWORKS),
        "runs": runs_of(entries, runs),
    }
    with whole_file(options.docs / "missing_sequences.json") as file:
        file.write_text(json.dumps(results) + "\n")
    write_between_markers(options.docs / "missing_sequences.md", Path(__file__).name, tables(results))
    print(f"Written: {options.docs / 'missing_sequences.json'} and missing_sequences.md")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-d", type=int, metavar="ID", help="dataset in nnUNet_raw (default: a phantom in OUT)")
    parser.add_argument("--spacing", type=float, metavar="MM", help="to resample -d to (default: as planned)")
    parser.add_argument("--size", choices=SIZES, default="small", help="(default: %(default)s)")
    parser.add_argument("--steps", type=int, help="of each training (default: the size's)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], metavar="K", help="(default: 0 to 2)")
    parser.add_argument("-device", choices=("cpu", "cuda"), default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("-o", type=Path, default=Path("cfnet_ablation"), metavar="OUT", help="(default: %(default)s)")
    parser.add_argument("--docs", type=Path, default=PROJECT / "docs", help="where results go (default: docs/)")
    return parser


def entry_of(network: Network, plans: Mapping, dataset_json: Mapping, size: Size) -> dict:
    """The plans of one of NETWORKS."""
    entry = network_plans(network.architecture, plans, dataset_json, size)
    if network.masked:
        _arguments(entry)["mask_missing_groups"] = True
    return entry


def _arguments(plans: Mapping) -> dict:
    return plans["configurations"][CONFIGURATION]["architecture"]["arch_kwargs"]


def run_seed(
    entries: Mapping[str, dict], dataset_json: dict, size: Size, *, steps: int, seed: int, device: str, runs: Path
) -> None:
    """Train networks on the same batches, score each with every subset, and write a file for each."""
    trainers = {
        name: make_trainer(plans, dataset_json, size, steps=steps, seed=seed, device=device)
        for name, plans in entries.items()
    }
    channels = list(dataset_json["channel_names"].values())

    def seen(batch: dict) -> dict[str, dict]:
        dropped = {**batch, "data": with_dropout(batch["data"], len(channels))}
        return {name: dropped if NETWORKS[name].dropout else batch for name in trainers}

    commit = environment(device)["commit"]
    curves = train(trainers, seed=seed, steps=steps, seen=seen)
    for name, trainer in tqdm(trainers.items(), f"seed {seed}, subsets"):
        dice = {subset_name(subset, channels): score(trainer, subset) for subset in all_subsets(channels)}
        with whole_file(run_file(runs, name, entries[name], seed)) as file:
            run = {"network": name, "seed": seed, "commit": commit, "loss": curves[name], "dice": dice}
            file.write_text(json.dumps(run))


def with_dropout(images: torch.Tensor, num_channels: int) -> torch.Tensor:
    """What nnUNetTrainerModalityDropout makes of a batch of samples that have all their channels: (B, C, *S)."""
    images = images.clone()
    for image in images:
        image[:num_channels][~draw_subset(torch.ones(num_channels, dtype=torch.bool))] = 0
    return images


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(f"missing_sequences.py: {error}")
