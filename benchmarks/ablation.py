"""What each part of CFNet earns: `python benchmarks/ablation.py [-d ID] [--size small|plan] [-device cpu|cuda]`.

Trains the plan's U-Net, residual ones, CFNet, CFNet without each of its parts, and CFNet with attention at other scales
or of other forms (fusion_variants.py), with nnU-Net's own trainer: its data loader, augmentation, loss, optimizer and
schedule. The cases that the fold leaves out are predicted by its own sliding window and scored in the preprocessed
space. All networks of a seed see the same batches at the same time. Initial weights are drawn a module at a time, by
the seed and the module's name, so that networks that share a module start with the same weights there, and differ in
what they vary alone.

Seed k trains and predicts fold k of nnU-Net's split, from the first again after the last. Each network of a seed is a
file in OUT/runs: the same command goes on where an interrupted one was, and adds seeds. Writes ablation.json,
ablation.svg, and the tables between two markers of ablation.md; what was measured in another setting is kept.
"""

import argparse
import json
import os
import random
import sys
import zlib
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from copy import deepcopy
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ablation_tables import figure, tables
from cost import environment
from fusion_variants import VARIANTS
from pages import write_between_markers
from torch import nn
from tqdm import tqdm

from nnunetv2_cfnet.architecture.context import MultiScaleContext
from nnunetv2_cfnet.architecture.cost import count_forward_flops, count_parameters, count_saved_bytes
from nnunetv2_cfnet.architecture.decoder import CommunicationGate
from nnunetv2_cfnet.architecture.fusion import FUSIONS, ChannelContext
from nnunetv2_cfnet.demo.phantom import write_dataset
from nnunetv2_cfnet.errors import UserError
from nnunetv2_cfnet.evaluation.metrics import overlap_metrics
from nnunetv2_cfnet.files.whole import whole_file
from nnunetv2_cfnet.host import dataset_name, nnunet_folder
from nnunetv2_cfnet.jobs.steps import Step, run_step

PROJECT = Path(__file__).parents[1]
CONFIGURATION = "3d_fullres"
PHANTOM_ID, PHANTOM_CASES, PHANTOM_SHAPE = 1, 40, (40, 40, 40)
PROBED_BATCHES = 8  # over which data-dependent weights are averaged
CURVE_POINTS = 40  # of a loss curve, at most
NO_REGIONS = ("background", "ignore")  # among the labels of a dataset
# part -> what the scales are called that it learns -> the ends of their parameters' names
SCALES = {
    "attention": {"gain": ("gain_1", "gain_2"), "log temperature": ("log_temperature",)},
    "context": {"gain": ("context.gain",)},
    "gates": {"openness": ("openness",)},
}

# heads of up to seven stages
EVERY_SCALE = {"fusion_heads": [1, 1, 2, 4, 8, 8, 8]}  # from stride 2 on, as published
COARSE_SCALES = {"fusion_heads": [0, 0, 0, 4, 8, 8, 8]}  # from stride 8 on, where voxels are few and channels many
PUBLISHED_PAIRS = {"modality_groups": [[0, 2], [1, 3]]}  # in nnU-Net's order of BraTS
# name -> what is changed in the plan's CFNet
CFNETS: dict[str, dict[str, Any]] = {
    "CFNet": {},
    "without attention": {"fusion": "concatenation"},
    "without context": {"context": False},
    "without gates": {"communication": False},
    "without all three": {"fusion": "concatenation", "context": False, "communication": False},
    "plain encoders": {"residual_encoders": False},
    "published pairs": PUBLISHED_PAIRS,
    "published pairs, attention at every scale": {**PUBLISHED_PAIRS, **EVERY_SCALE},
    "published pairs, without attention": {**PUBLISHED_PAIRS, "fusion": "concatenation"},
    "attention at every scale": EVERY_SCALE,
    "attention at coarse scales": COARSE_SCALES,
    "token attention at coarse scales": {"fusion": "token attention", **COARSE_SCALES},
    **{name: {"fusion": name, **EVERY_SCALE} for name in VARIANTS},
}
# blocks of each encoder stage, convs of each decoder stage: nnU-Net's ResEncUNetPlanner; two convs each, as the plan's
RESIDUAL_UNETS = {"ResEnc U-Net": ((1, 3, 4, 6, 6, 6, 6), (1,) * 7), "residual U-Net": ((1,) * 7, (2,) * 7)}
NETWORKS = ("CFNet", "U-Net", *RESIDUAL_UNETS, *list(CFNETS)[1:])  # the first is compared with the others


@dataclass(frozen=True)
class Size:
    """How large networks and trainings are; what is None is nnU-Net's."""

    steps: int
    memory_target_gb: float | None = None
    base_features: int | None = None
    initial_lr: float | None = None
    momentum: float | None = None


SIZES = {
    # patches of about 32^3; nnU-Net's momentum of 0.99 averages over half as many steps as there are here
    "small": Size(steps=400, memory_target_gb=0.5, base_features=8, initial_lr=3e-2, momentum=0.9),
    "plan": Size(steps=25_000),
}


def main() -> None:
    options = _parser().parse_args()
    size = SIZES[options.size]
    steps = options.steps or size.steps
    if unknown := set(options.networks) - set(NETWORKS):
        sys.exit(f"--networks {', '.join(sorted(unknown))}: choose from {', '.join(NETWORKS)}")
    work = options.o.resolve()
    plans, dataset_json = prepare(work, options.d, options.size, options.spacing)
    setting = {
        "dataset": plans["dataset_name"],
        "size": options.size,
        "steps": steps,
        **{name: value for name, value in asdict(size).items() if name != "steps"},
        "patch_size": plans["configurations"][CONFIGURATION]["patch_size"],
        "batch_size": plans["configurations"][CONFIGURATION]["batch_size"],
    }
    runs = run_folder(work / "runs", plans, steps)
    networks = dict.fromkeys((NETWORKS[0], *options.networks))
    entries = {name: network_plans(name, plans, dataset_json, size) for name in networks}
    for seed in options.seeds:
        missing = {name: entry for name, entry in entries.items() if not run_file(runs, name, entry, seed).is_file()}
        if missing:
            run_seed(missing, dataset_json, size, steps=steps, seed=seed, device=options.device, runs=runs)
    results = {
        "setting": setting,
        "environment": environment(options.device),
        "costs": {name: costs(entry, dataset_json) for name, entry in entries.items()},
        "absent": absent_regions(plans, dataset_json),
        "runs": runs_of(entries, runs),
    }
    write(with_other_runs(results, options.docs / "ablation.json"), options.docs)
    print(f"Written: {options.docs / 'ablation.json'}, ablation.svg and ablation.md")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-d", type=int, metavar="ID", help="dataset in nnUNet_raw (default: a phantom in OUT)")
    parser.add_argument("--spacing", type=float, metavar="MM", help="to resample -d to (default: as planned)")
    parser.add_argument("--size", choices=SIZES, default="small", help="(default: %(default)s)")
    parser.add_argument("--steps", type=int, help="of each training (default: the size's)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4], metavar="K", help="(default: 0 to 4)")
    parser.add_argument("--networks", nargs="+", default=NETWORKS, metavar="NAME", help=f"of {', '.join(NETWORKS)}")
    parser.add_argument("-device", choices=("cpu", "cuda"), default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("-o", type=Path, default=Path("cfnet_ablation"), metavar="OUT", help="(default: %(default)s)")
    parser.add_argument("--docs", type=Path, default=PROJECT / "docs", help="where results go (default: docs/)")
    return parser


# Data and plans


def prepare(work: Path, dataset_id: int | None, size_name: str, spacing_mm: float | None) -> tuple[dict, dict]:
    """Plans and dataset.json; what nnU-Net's commands have not made yet is made."""
    size = SIZES[size_name]
    if dataset_id is None:
        dataset_id = PHANTOM_ID
        os.environ |= {f"nnUNet_{name}": str(work / name) for name in ("raw", "preprocessed")}
        raw = work / "raw" / f"Dataset{PHANTOM_ID:03d}_Phantom"
        if not raw.exists():
            write_dataset(raw, PHANTOM_CASES, 0, seed=0, shape=PHANTOM_SHAPE)
    os.environ["nnUNet_results"] = str(work / "results")
    (work / "results").mkdir(parents=True, exist_ok=True)
    (work / "logs").mkdir(exist_ok=True)
    name = dataset_name(dataset_id)
    plans_name = "nnUNetPlans"
    if size.memory_target_gb or spacing_mm:
        plans_name += f"Ablation_{size_name}" + (f"_{spacing_mm:g}mm" if spacing_mm else "")
    preprocessed = nnunet_folder("nnUNet_preprocessed") / name
    plan = ["-overwrite_plans_name", plans_name]
    if size.memory_target_gb:
        plan += ["-gpu_memory_target", str(size.memory_target_gb)]
    if spacing_mm:
        plan += ["-overwrite_target_spacing", *[str(spacing_mm)] * 3]
    dataset = ["-d", str(dataset_id)]
    for step in (
        Step("fingerprint", ["nnUNetv2_extract_fingerprint", *dataset], preprocessed / "dataset_fingerprint.json"),
        Step("plan", ["nnUNetv2_plan_experiment", *dataset, *plan], preprocessed / f"{plans_name}.json"),
        Step(
            "preprocess",
            ["nnUNetv2_preprocess", *dataset, "-plans_name", plans_name, "-c", CONFIGURATION],
            preprocessed / f"{plans_name}_{CONFIGURATION}",
        ),
    ):
        if not step.product.exists():
            run_step(step, os.environ, work / "logs")
    os.environ["nnUNet_n_proc_DA"] = "0"  # batches are made in this process, so that the seed decides them
    os.environ["nnUNet_compile"] = "false"
    plans = json.loads((preprocessed / f"{plans_name}.json").read_text())
    return plans, json.loads((nnunet_folder("nnUNet_raw") / name / "dataset.json").read_text())


def network_plans(name: str, plans: Mapping, dataset_json: Mapping, size: Size) -> dict:
    """The plans with the architecture of one of NETWORKS, at the size's width."""
    from nnunetv2_cfnet.planning.plans import cfnet_plans

    plans = deepcopy(dict(plans))
    architecture = plans["configurations"][CONFIGURATION]["architecture"]
    arguments = architecture["arch_kwargs"]
    n_stages = arguments["n_stages"]
    if size.base_features:
        arguments["features_per_stage"] = [min(320, size.base_features * 2**stage) for stage in range(n_stages)]
    if name in RESIDUAL_UNETS:
        del arguments["n_conv_per_stage"]
        blocks, decoder_convs = RESIDUAL_UNETS[name]
        arguments |= {"n_blocks_per_stage": blocks[:n_stages], "n_conv_per_stage_decoder": decoder_convs[1:n_stages]}
        architecture["network_class_name"] = "dynamic_network_architectures.architectures.unet.ResidualEncoderUNet"
    if name in CFNETS:
        arguments |= CFNETS[name]
        if "fusion_heads" in arguments:
            arguments["fusion_heads"] = arguments["fusion_heads"][:n_stages]
        plans = cfnet_plans(plans, dataset_json, CONFIGURATION).plans
    return plans


def costs(plans: Mapping, dataset_json: Mapping) -> dict[str, int]:
    """Parameters, forward FLOPs of a patch, and bytes that a training step stores for backward."""
    from nnunetv2_cfnet.planning.plans import network_on_meta

    configuration, channels = plans["configurations"][CONFIGURATION], len(dataset_json["channel_names"])
    size, batch = configuration["patch_size"], configuration["batch_size"]
    network = network_on_meta(configuration["architecture"], channels, len(dataset_json["labels"]) - 1)
    network.decoder.deep_supervision = True
    return {
        "parameters": count_parameters(network),
        "saved_bytes": count_saved_bytes(network, channels, size, batch),
        "forward_flops": count_forward_flops(network, channels, size),
    }


# Training


def run_seed(
    entries: Mapping[str, dict],
    dataset_json: dict,
    size: Size,
    *,
    steps: int,
    seed: int,
    device: str,
    runs: Path,
) -> None:
    """Train networks on the same batches, score each, and write a file for each."""
    trainers = {
        name: make_trainer(plans, dataset_json, size, steps=steps, seed=seed, device=device)
        for name, plans in entries.items()
    }
    probes: deque[torch.Tensor] = deque(maxlen=PROBED_BATCHES)

    def seen(batch: dict) -> dict[str, dict]:
        probes.append(batch["data"])
        return dict.fromkeys(trainers, batch)

    commit = environment(device)["commit"]
    before = learned_scales(trainers[NETWORKS[0]].network) if NETWORKS[0] in trainers else {}
    curves = train(trainers, seed=seed, steps=steps, seen=seen)
    for name, trainer in trainers.items():
        run = {"network": name, "seed": seed, "commit": commit, "loss": curves[name], "dice": score(trainer)}
        if name == NETWORKS[0]:
            inputs = [probe.to(trainer.device) for probe in probes]
            after = learned_scales(trainer.network)
            run["parts"] = {
                part: {
                    **replaced_by_mean(trainer, weights, inputs, run["dice"]),
                    "scales": {scale: [before[part][scale], after[part][scale]] for scale in SCALES[part]},
                }
                for part, weights in data_dependent_weights(trainer.network).items()
            }
        with whole_file(run_file(runs, name, entries[name], seed)) as file:
            file.write_text(json.dumps(run))


def train(
    trainers: Mapping[str, Any], *, seed: int, steps: int, seen: Callable[[dict], Mapping[str, dict]]
) -> dict[str, list[float]]:
    """Train networks on the same batches, and make them ready to predict.

    Args:
        trainers: by the network's name, see make_trainer.
        seed: of the batches.
        steps: of each training.
        seen: makes of a batch what each network sees of it, by its name.

    Returns:
        The loss curve of each network, of at most CURVE_POINTS means.
    """
    losses: dict[str, list[float]] = {name: [] for name in trainers}
    for step, batch in enumerate(tqdm(batches(next(iter(trainers.values())), seed, steps), f"seed {seed}", steps)):
        for name, own_batch in seen(batch).items():
            trainers[name].lr_scheduler.step(step)
            losses[name].append(float(trainers[name].train_step(own_batch)["loss"]))
    for trainer in trainers.values():
        trainer.network.eval()
        trainer.network.decoder.deep_supervision = False
    return {
        name: [float(np.mean(part)) for part in np.array_split(values, min(CURVE_POINTS, steps))]
        for name, values in losses.items()
    }


def make_trainer(plans: dict, dataset_json: dict, size: Size, *, steps: int, seed: int, device: str) -> Any:
    """nnU-Net's trainer with a seeded network; its epochs are steps, so that its schedule moves at each.

    On a CPU, where memory is at hand and time is not, nothing is recomputed and weights have the layout of its convs.
    """
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    class QuietTrainer(nnUNetTrainer):
        def print_to_log_file(self, *args: Any, **kwargs: Any) -> None:
            """Nothing: a bar shows the progress."""

    plans = deepcopy(plans)
    arguments = plans["configurations"][CONFIGURATION]["architecture"]["arch_kwargs"]
    if device == "cpu" and "recompute" in arguments:
        arguments["recompute"] = False
    splits = nnunet_folder("nnUNet_preprocessed") / plans["dataset_name"] / "splits_final.json"
    num_folds = len(json.loads(splits.read_text())) if splits.is_file() else 5
    trainer = QuietTrainer(
        {**plans, "continue_training": False}, CONFIGURATION, seed % num_folds, dataset_json, torch.device(device)
    )
    trainer.num_epochs = steps
    trainer.initial_lr = size.initial_lr or trainer.initial_lr
    trainer.initialize()
    for group in trainer.optimizer.param_groups:
        group["momentum"] = size.momentum or group["momentum"]
    draw_weights(trainer.network, seed)
    if device == "cpu":
        for parameter in trainer.network.parameters():
            if parameter.ndim == 5:
                parameter.data = parameter.data.contiguous(memory_format=torch.channels_last_3d)
    return trainer


def draw_weights(network: nn.Module, seed: int) -> None:
    """nnU-Net's initialisation, the random numbers of each module by seed and name."""
    for name, module in network.named_modules():
        torch.manual_seed(zlib.crc32(f"{seed} {name}".encode()))
        network.initialize(module)


def batches(trainer: Any, seed: int, steps: int) -> Iterator[dict]:
    """The training batches of a seed: the same whatever networks are trained on them."""
    _seed_everything(seed)
    loader, _ = trainer.get_dataloaders()
    for step in range(steps):
        _seed_everything((seed + 1) * 1_000_003 + step)  # whatever else has drawn numbers in between
        yield next(loader)


def _seed_everything(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


# Scores


def score(trainer: Any, channels: Sequence[int] | None = None) -> dict[str, dict[str, float]]:
    """Dice of each region of each case that the fold leaves out.

    Args:
        trainer: with a trained network.
        channels: those that the network sees, the others being zero; None: all.
    """
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    predictor = nnUNetPredictor(use_mirroring=False, device=trainer.device, allow_tqdm=False)
    predictor.manual_initialization(
        trainer.network,
        trainer.plans_manager,
        trainer.configuration_manager,
        None,
        trainer.dataset_json,
        type(trainer).__name__,
        None,
    )
    labels = regions_of(trainer.dataset_json)
    _, dataset = trainer.get_tr_and_val_datasets()
    dice = {}
    for case in dataset.identifiers:
        data, reference, _, _ = dataset.load_case(case)
        image = torch.from_numpy(np.array(data[:]))
        if channels is not None:
            image[[channel for channel in range(len(image)) if channel not in channels]] = 0
        with torch.inference_mode():
            logits = predictor.predict_sliding_window_return_logits(image).float()
        predicted = trainer.label_manager.convert_logits_to_segmentation(logits.cpu().numpy())
        reference = np.asarray(reference[:])[0]
        dice[str(case)] = {
            region: overlap_metrics(np.isin(reference, values), np.isin(predicted, values), reference.size)["dice"]
            for region, values in labels.items()
        }
    return dice


def absent_regions(plans: Mapping, dataset_json: Mapping) -> dict[str, list[str]]:
    """The regions that the reference of a case lacks, whose Dice is 0 or 1: case -> regions."""
    from nnunetv2.training.dataloading.nnunet_dataset import infer_dataset_class

    data_identifier = plans["configurations"][CONFIGURATION]["data_identifier"]
    folder = nnunet_folder("nnUNet_preprocessed") / plans["dataset_name"] / data_identifier
    dataset = infer_dataset_class(str(folder))(str(folder))
    absent = {}
    for case in dataset.identifiers:
        reference = np.asarray(dataset.load_case(case)[1][:])
        absent[str(case)] = [
            region for region, values in regions_of(dataset_json).items() if not np.isin(reference, values).any()
        ]
    return {case: regions for case, regions in absent.items() if regions}


def regions_of(dataset_json: Mapping) -> dict[str, Any]:
    """What is scored: name -> label or labels."""
    return {name: values for name, values in dataset_json["labels"].items() if name not in NO_REGIONS}


def data_dependent_weights(network: nn.Module) -> dict[str, list[nn.Module]]:
    """The modules of CFNet whose outputs are weights: part -> modules."""
    modules = list(network.modules())
    return {
        "attention": [module for module in modules if isinstance(module, ChannelContext)],
        "context": [module.select for module in modules if isinstance(module, MultiScaleContext)],
        "gates": [module.attention for module in modules if isinstance(module, CommunicationGate)],
    }


def learned_scales(network: nn.Module) -> dict[str, dict[str, tuple[float, float]]]:
    """Mean and standard deviation of each of SCALES, over all of its parameters: part -> scale -> both."""
    parameters = list(network.named_parameters())

    def mean_and_deviation(ends: tuple[str, ...]) -> tuple[float, float]:
        values = torch.cat([value.detach().flatten() for name, value in parameters if name.endswith(ends)])
        return float(values.mean()), float(values.std(correction=0))

    return {
        part: {scale: mean_and_deviation(ends) for scale, ends in scales.items()} for part, scales in SCALES.items()
    }


def replaced_by_mean(
    trainer: Any, weights: Sequence[nn.Module], probes: Sequence[torch.Tensor], dice: Mapping
) -> dict[str, float]:
    """What a part's weights do: how they spread, and what changes where their mean over inputs and voxels stands.

    Returns:
        mean and spread: of the weights; the spread is the standard deviation over inputs and voxels, of each entry.
        changed: mean absolute change of the probabilities of patches. dice: change of the mean Dice.
    """
    with torch.inference_mode():
        outputs: dict[nn.Module, list[torch.Tensor]] = {module: [] for module in weights}
        with hooked({module: lambda _, __, output, seen=seen: seen.append(output) for module, seen in outputs.items()}):
            before = torch.cat([trainer.network(probe).sigmoid() for probe in probes])
        maps = {module: torch.cat(seen) for module, seen in outputs.items()}
        # (blocks, h, d, d) of attention is averaged over the blocks alone
        axes = {
            module: (0,)
            if isinstance(module, ChannelContext)
            else (0, *range(value.ndim - probes[0].ndim + 2, value.ndim))
            for module, value in maps.items()
        }
        means = {module: value.mean(dim=axes[module], keepdim=True) for module, value in maps.items()}
        spread = [value.std(dim=axes[module]).mean() for module, value in maps.items()]
        with hooked(
            {module: lambda _, __, output, mean=mean: mean.expand_as(output) for module, mean in means.items()}
        ):
            after = torch.cat([trainer.network(probe).sigmoid() for probe in probes])
            dice_after = score(trainer)
    return {
        "mean": float(np.mean([value.mean().item() for value in maps.values()])),
        "spread": float(torch.stack(spread).mean()),
        "changed": float((after - before).abs().mean()),
        "dice": float(np.mean([list(case.values()) for case in dice_after.values()]))
        - float(np.mean([list(case.values()) for case in dice.values()])),
    }


@contextmanager
def hooked(hooks: Mapping[nn.Module, Callable]) -> Iterator[None]:
    """Forward hooks for the time of a with block."""
    with ExitStack() as stack:
        for module, hook in hooks.items():
            stack.callback(module.register_forward_hook(hook).remove)
        yield


# Results


def run_folder(runs: Path, plans: Mapping, steps: int) -> Path:
    """Where the results of all trainings of one dataset, plan and length are kept."""
    folder = runs / f"{plans['dataset_name']}_{plans['plans_name']}_{steps}"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def run_file(runs: Path, network: str, entry: Mapping, seed: int | str) -> Path:
    """Where the results of one training are kept: another one where the network of that name is another.

    Args:
        runs: see run_folder.
        network: its name.
        entry: its plans.
        seed: of the training, or * for all.
    """
    architecture = json.dumps(entry["configurations"][CONFIGURATION]["architecture"], sort_keys=True)
    return runs / f"{network.replace(' ', '_')}_{zlib.crc32(architecture.encode()):08x}_{seed}.json"


def runs_of(entries: Mapping[str, Mapping], runs: Path) -> list[dict]:
    """The results of all trainings of these networks, whatever the seed."""
    files = [file for name, entry in entries.items() for file in runs.glob(run_file(runs, name, entry, "*").name)]
    return [json.loads(file.read_text()) for file in sorted(files)]


def with_other_runs(results: dict, file: Path) -> dict:
    """The results of a file with these among them, in place of what was measured with the same setting."""
    kept = json.loads(file.read_text())["experiments"] if file.is_file() else []
    others = [experiment for experiment in kept if experiment["setting"] != results["setting"]]
    longest_first = sorted([results, *others], key=lambda experiment: -experiment["setting"]["steps"])
    return {"experiments": longest_first}


def write(results: dict, docs: Path) -> None:
    """ablation.json, ablation.svg and the tables of ablation.md; what stands around the markers is kept."""
    with whole_file(docs / "ablation.json") as file:
        file.write_text(json.dumps(results, indent=1) + "\n")
    with whole_file(docs / "ablation.svg") as file:
        figure(results["experiments"][0], file)
    write_between_markers(docs / "ablation.md", Path(__file__).name, tables(results))


if __name__ == "__main__":
    FUSIONS.update(VARIANTS)  # here, since a test that imports this goes on with the package's own
    try:
        main()
    except UserError as error:
        sys.exit(f"ablation.py: {error}")
