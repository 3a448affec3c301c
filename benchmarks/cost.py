"""What CFNet costs beside the plan's own network: `python benchmarks/cost.py [--only counts|TOPOLOGY]`.

Counts parameters, FLOPs and the bytes stored for backward (a minute, the same on any machine), then measures training
steps, inference and peak memory on one device, in alternating runs. Writes benchmarks.json and, between two markers,
the tables of benchmarks.md. A run replaces what it measured and keeps the rest: other topologies, the other device.
Needs Linux, whose /proc has the memory.
"""

import argparse
import json
import multiprocessing
import os
import platform
import random
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from datetime import date
from functools import partial
from importlib.metadata import version
from math import sqrt
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch
from cost_tables import GIB, LABELS, NOT_MEASURED, PAIR, tables
from dynamic_network_architectures.architectures.unet import PlainConvUNet, ResidualEncoderUNet
from dynamic_network_architectures.building_blocks.helper import convert_dim_to_conv_op, get_matching_instancenorm
from naive_cfnet import NaiveCFNet
from nnunetv2.experiment_planning.experiment_planners.network_topology import get_pool_and_conv_props
from nnunetv2.training.loss.compound_losses import DC_and_BCE_loss
from nnunetv2.training.loss.deep_supervision import DeepSupervisionWrapper
from nnunetv2.training.loss.dice import MemoryEfficientSoftDiceLoss
from pages import write_between_markers
from torch import nn
from torch.nn import functional as F
from tqdm import tqdm

from nnunetv2_cfnet.architecture.cfnet import CFNet
from nnunetv2_cfnet.architecture.cost import count_forward_flops, count_parameters, count_saved_bytes
from nnunetv2_cfnet.files.whole import whole_file

PROJECT = Path(__file__).parents[1]
PACKAGES = ("torch", "nnunetv2", "dynamic-network-architectures", "nnunetv2_cfnet")
# On CUDA: compilation, cuDNN's search, and the first steps, which gradient scaling skips.
WARM_UPS = {"cpu": 1, "cuda": 10}
ROUNDS_OF_OTHERS = 3  # of those that are not in PAIR


@dataclass(frozen=True)
class Topology:
    """A plan, and the sizes at which its network is measured (voxels)."""

    patch_size: tuple[int, ...]
    spacing_mm: tuple[float, ...]
    residual: bool
    input_channels: int = 4
    num_classes: int = 3
    step_batch: int = 2
    cpu_step_size: tuple[int, ...] | None = None  # None: the patch
    with_primus: bool = False

    @property
    def network_class(self) -> type[nn.Module]:
        return ResidualEncoderUNet if self.residual else PlainConvUNet

    @property
    def arguments(self) -> dict:
        """Kernels and strides by nnU-Net's rule, depths and widths of its default and ResEnc planners."""
        dim = len(self.patch_size)
        _, strides, kernel_sizes, padded, _ = get_pool_and_conv_props(self.spacing_mm, self.patch_size, 4, 999999)
        if tuple(padded) != self.patch_size:
            raise ValueError(f"patch_size={self.patch_size} is not divisible by the strides; {padded} is.")
        n_stages, conv_op = len(strides), convert_dim_to_conv_op(dim)
        if self.residual:
            depths = {"n_blocks_per_stage": [1, 3, 4, *[6] * n_stages][:n_stages]}
        else:
            depths = {"n_conv_per_stage": [2] * n_stages}
        return {
            "n_stages": n_stages,
            "features_per_stage": [min(32 * 2**stage, {2: 512, 3: 320}[dim]) for stage in range(n_stages)],
            "conv_op": conv_op,
            "kernel_sizes": kernel_sizes,
            "strides": strides,
            **depths,
            "n_conv_per_stage_decoder": [1 if self.residual else 2] * (n_stages - 1),
            "conv_bias": True,
            "norm_op": get_matching_instancenorm(conv_op),
            "norm_op_kwargs": {"eps": 1e-5, "affine": True},
            "nonlin": nn.LeakyReLU,
            "nonlin_kwargs": {"inplace": True},
        }

    def step_size(self, device: str) -> tuple[int, ...]:
        return self.cpu_step_size or self.patch_size if device == "cpu" else self.patch_size

    def setting(self) -> dict:
        """What the tables say about it."""
        return {
            "network": self.network_class.__name__,
            "input_channels": self.input_channels,
            "patch_size": self.patch_size,
            "step_batch": self.step_batch,
            "cpu_step_size": self.step_size("cpu"),
        }


brats = partial(Topology, (128, 128, 128), (1, 1, 1), cpu_step_size=(64, 64, 64))
slices = partial(Topology, (192, 160), (1, 1), step_batch=12)  # nnU-Net's reference batch in 2D
TOPOLOGIES = {
    "3D-default": brats(residual=False, with_primus=True),
    "3D-ResEncM": brats(residual=True),
    "2D-default": slices(residual=False),
    "2D-ResEncM": slices(residual=True),
}
# Cubes, thick slices, small and large patches, 4 to 9 stages: patch size, spacing, residual, input channels, classes.
CALIBRATION = (
    Topology((128, 128, 128), (1, 1, 1), False, 4, 3),
    Topology((128, 128, 128), (1, 1, 1), True, 4, 3),
    Topology((96, 160, 160), (1, 0.8, 0.8), False, 1, 5),
    Topology((80, 192, 160), (1.5, 0.8, 0.8), True, 1, 2),
    Topology((20, 320, 256), (3.6, 0.6, 0.6), False, 2, 3),
    Topology((16, 320, 320), (10, 0.8, 0.8), True, 2, 2),
    Topology((40, 56, 40), (1, 1, 1), False, 1, 3),
    Topology((48, 192, 192), (5, 0.8, 0.8), True, 3, 4),
    Topology((32, 32, 32), (2, 2, 2), True, 5, 2),
    Topology((64, 256, 256), (2.5, 0.8, 0.8), False, 2, 5),
    Topology((192, 160), (1, 1), False, 4, 3),
    Topology((192, 160), (1, 1), True, 4, 3),
    Topology((512, 512), (0.8, 0.8), False, 1, 5),
    Topology((512, 512), (0.8, 0.8), True, 1, 2),
    Topology((320, 256), (0.6, 0.6), False, 2, 3),
    Topology((256, 224), (1.2, 1.2), True, 1, 4),
    Topology((56, 40), (1, 1), False, 1, 3),
    Topology((64, 64), (2, 2), True, 5, 2),
    Topology((384, 96), (0.5, 2), False, 3, 4),
    Topology((1024, 640), (0.3, 0.3), True, 3, 2),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=("counts", *TOPOLOGIES), help="measure nothing, or one topology")
    parser.add_argument("--device", choices=WARM_UPS, default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--runs", type=int, default=10, help="rounds of alternating runs (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=PROJECT / "docs", help="folder to write to (default: docs)")
    arguments = parser.parse_args()
    measured = [name for name in TOPOLOGIES if arguments.only in (None, name)]
    run(TOPOLOGIES, CALIBRATION, measured, device=arguments.device, runs=arguments.runs, out=arguments.out)


def run(
    topologies: dict[str, Topology],
    calibration: Sequence[Topology],
    measured: Sequence[str],
    *,
    device: str,
    runs: int,
    out: Path,
) -> None:
    """Count all topologies and measure some; everything is written after each, so that a run can be cut short."""
    environments = {name: environment(name) for name in {"cpu", device}}  # before what is written changes the tree
    file = out / "benchmarks.json"
    results = json.loads(file.read_text()) if file.is_file() else {}
    counts = {
        name: {
            "setting": topology.setting(),
            "networks": {
                network: count(topology, network) for network in LABELS if network != "primus" or topology.with_primus
            },
        }
        for name, topology in tqdm(topologies.items(), desc="count")
    }
    estimate = {network: calibrate(calibration, network) for network in tqdm(PAIR, desc="calibrate")}
    results["counts"] = {"environment": environments["cpu"], "topologies": counts, "estimate": estimate}
    write(results, out)
    for name in measured:
        rows = counts[name]["networks"].items()
        networks = [network for network, row in rows if network != NOT_MEASURED and "unavailable" not in row]
        results.setdefault(device, {})[name] = {
            "environment": environments[device],
            "networks": measure(topologies[name], networks, device=device, runs=runs, description=name),
        }
        write(results, out)
    print(tables(results))


def build(
    topology: Topology, network: str, size: Sequence[int], deep_supervision: bool = True, device: str = "meta"
) -> nn.Module:
    """One of LABELS, initialised as nnU-Net does it; Primus has to know the size of its input and has one output."""
    channels, classes = topology.input_channels, topology.num_classes
    with torch.device(device):
        if network == "primus":
            from dynamic_network_architectures.architectures.primus import PrimusM  # not in every release

            return PrimusM(channels, classes, (8, 8, 8), tuple(size), drop_path_rate=0.2)  # as nnU-Net's trainer
        cfnet = partial(CFNet, residual_encoders=len(topology.patch_size) == 3)  # as plans are translated
        network_class = {
            "own": topology.network_class,
            "cfnet": cfnet,
            "stored": partial(cfnet, recompute=False),
            "naive": NaiveCFNet,
        }[network]
        built = network_class(channels, num_classes=classes, deep_supervision=deep_supervision, **topology.arguments)
        return built.apply(built.initialize) if network in PAIR else built


def count(topology: Topology, network: str) -> dict:
    """Parameters, FLOPs and stored bytes of the patch, or why a network other than PAIR can't be built."""
    size = topology.patch_size
    try:
        inference = build(topology, network, size, deep_supervision=False)
    except (ImportError, TypeError) as error:
        if network in PAIR:
            raise
        return {"unavailable": f"{type(error).__name__}: {error}"}
    with fused_attention():
        flops = count_forward_flops(inference, topology.input_channels, size)
    return {
        "parameters": count_parameters(inference),
        "forward_flops": flops,
        "saved_bytes": stored_bytes(topology, network, size, batch_size=2),
    }


def stored_bytes(topology: Topology, network: str, size: Sequence[int], batch_size: int) -> int:
    with fused_attention():
        return count_saved_bytes(build(topology, network, size), topology.input_channels, size, batch_size)


def fused_attention() -> AbstractContextManager:
    """Count Primus as devices run it: left alone, the meta device stores every attention matrix."""

    def attend(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, **_: object) -> torch.Tensor:
        return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(query, key, value)[0]

    return patch.object(F, "scaled_dot_product_attention", attend)


def calibrate(topologies: Sequence[Topology], network: str) -> dict:
    """How well compute_conv_feature_map_size estimates the bytes stored for one sample, after one factor for 2D and 3D.

    The factor is the geometric mean of the smallest and the largest ratio, which makes the worst one the least.
    """
    fits = {}
    for dim in (2, 3):
        ratios = [
            stored_bytes(topology, network, topology.patch_size, batch_size=1)
            / int(build(topology, network, topology.patch_size).compute_conv_feature_map_size(topology.patch_size))
            for topology in topologies
            if len(topology.patch_size) == dim
        ]
        factor = sqrt(min(ratios) * max(ratios))
        fits[f"{dim}D"] = {
            "bytes_per_value": factor,
            "worst_ratio": max(ratios) / factor,
            "ratios": [ratio / factor for ratio in ratios],
        }
    return fits


class TrainingStep:
    """nnU-Net's training step on a random batch: its loss, optimizer, clipping, and on CUDA autocast and compilation.

    Args:
        topology: the plan.
        network: a key of LABELS; Primus has the recipe of nnU-Net's trainers for it.
        size: spatial size of the batch.
        device: "cpu" or "cuda".
    """

    def __init__(self, topology: Topology, network: str, size: Sequence[int], device: str) -> None:
        built = build(topology, network, size, device=device).train()
        self.parameters = list(built.parameters())
        dice = {"batch_dice": len(size) == 2, "do_bg": True, "smooth": 1e-5, "ddp": False}
        self.loss: nn.Module = DC_and_BCE_loss({}, dice, dice_class=MemoryEfficientSoftDiceLoss)
        batch_size, strides = topology.step_batch, topology.arguments["strides"]
        self.data = torch.randn(batch_size, topology.input_channels, *size, device=device)
        self.target = [
            torch.rand(batch_size, topology.num_classes, *(np.asarray(size) // stride), device=device) < 0.3
            for stride in np.cumprod(strides, axis=0)[:-1]
        ]
        if device == "cuda":
            self.loss.dc = torch.compile(self.loss.dc)
        if network == "primus":
            self.max_norm = 1
            self.optimizer: torch.optim.Optimizer = torch.optim.AdamW(
                self.parameters, 3e-4, weight_decay=5e-2, betas=(0.9, 0.98), fused=True
            )
        else:
            weights = [*(2.0**-scale for scale in range(len(strides) - 2)), 0]
            self.loss, self.max_norm = DeepSupervisionWrapper(self.loss, [w / sum(weights) for w in weights]), 12
            self.optimizer = torch.optim.SGD(self.parameters, 1e-2, weight_decay=3e-5, momentum=0.99, nesterov=True)
        self.network = torch.compile(built) if device == "cuda" else built
        self.autocast = torch.autocast("cuda") if device == "cuda" else nullcontext()
        self.scaler = torch.amp.GradScaler(device, enabled=device == "cuda")

    def __call__(self) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        with self.autocast:
            logits = self.network(self.data)
            loss = self.loss(logits, self.target if isinstance(logits, list) else self.target[0])
        self.scaler.scale(loss).backward()
        self.scaler.unscale_(self.optimizer)
        torch.nn.utils.clip_grad_norm_(self.parameters, self.max_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()


class Inference:
    """A forward pass of one patch as nnU-Net predicts: autocast on CUDA, not compiled. Arguments of TrainingStep."""

    def __init__(self, topology: Topology, network: str, size: Sequence[int], device: str) -> None:
        self.network = build(topology, network, size, deep_supervision=False, device=device).eval()
        self.autocast = torch.autocast("cuda") if device == "cuda" else nullcontext()
        self.data = torch.randn(1, topology.input_channels, *size, device=device)

    def __call__(self) -> None:
        with torch.inference_mode(), self.autocast:
            self.network(self.data)


def measure(
    topology: Topology, networks: Sequence[str], *, device: str, runs: int, description: str
) -> dict[str, dict]:
    """Seconds of every run and bytes of every peak for each network; what does not fit says so in its place."""
    step_size, patch_size = topology.step_size(device), topology.patch_size
    rows: dict[str, dict] = {network: {} for network in networks}
    if device == "cpu":  # while this process is small
        sizes = {"step_peak": step_size} | ({"patch_peak": patch_size} if patch_size != step_size else {})
        for network in tqdm(networks, desc=f"{description}, peak memory"):
            rows[network] |= {figure: peak_on_cpu(topology, network, size) for figure, size in sizes.items()}
    torch.backends.cudnn.benchmark = True  # as nnU-Net sets it
    # The pair alone, as a training process has its network alone: what a larger one leaves to the allocator saves those
    # after it the page faults of their maps, a third of a step's time on a CPU.
    pair = {network: rows[network] for network in PAIR}
    measure_times(topology, pair, device=device, runs=runs, description=description)
    if others := [network for network in networks if network not in PAIR]:
        beside = {"own": {}, **{network: rows[network] for network in others}}
        rounds = min(runs, ROUNDS_OF_OTHERS)
        measure_times(topology, beside, device=device, runs=rounds, description=f"{description}, others")
        own = {f"own_{figure}": beside["own"][figure] for figure in ("step_s", "inference_s")}
        for network in others:
            rows[network] |= own
    return rows


def measure_times(topology: Topology, rows: dict[str, dict], *, device: str, runs: int, description: str) -> None:
    """Add to each network's row the seconds of its training steps and of its predictions, taken in turns."""
    measure_steps(topology, rows, device=device, runs=runs, description=f"{description}, training step")
    predictions = {network: Inference(topology, network, topology.patch_size, device) for network in rows}
    for predict in tqdm(predictions.values(), desc=f"{description}, warm-up"):
        _repeat(predict, WARM_UPS[device])
    for network, seconds in alternate(predictions, runs, f"{description}, inference").items():
        rows[network]["inference_s"] = seconds


def measure_steps(topology: Topology, rows: dict[str, dict], *, device: str, runs: int, description: str) -> None:
    """Add to each network's row the seconds of its training steps, and on CUDA the peak memory of one."""
    steps: dict[str, Callable[[], None]] = {}
    for network, row in tqdm(rows.items(), desc=f"{description}, warm-up"):
        if "unavailable" in row.get("step_peak", {}):
            continue
        held = torch.cuda.memory_allocated()  # by the networks before it
        try:
            step = TrainingStep(topology, network, topology.step_size(device), device)
            _repeat(step, WARM_UPS[device])
            if device == "cuda":
                torch.cuda.reset_peak_memory_stats()
                step()
                row["step_peak"] = {"bytes": torch.cuda.max_memory_allocated() - held}
            steps[network] = step
        except torch.cuda.OutOfMemoryError:
            row["step_peak"] = {"unavailable": "out of memory"}
        step = None  # what did not fit is not held while the next is measured
    for network, seconds in alternate(steps, runs, description).items():
        rows[network]["step_s"] = seconds


def alternate(calls: Mapping[str, Callable[[], None]], runs: int, description: str) -> dict[str, list[float]]:
    """Seconds of every run: each round calls all, in a new random order."""
    seconds: dict[str, list[float]] = {network: [] for network in calls}
    for _ in tqdm(range(runs), desc=description):
        for network in random.sample(list(calls), k=len(calls)):
            _synchronise()
            begin = time.perf_counter()
            calls[network]()
            _synchronise()
            seconds[network].append(time.perf_counter() - begin)
    return seconds


def _repeat(call: Callable[[], None], times: int) -> None:
    for _ in range(times):
        call()


def _synchronise() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def peak_on_cpu(topology: Topology, network: str, size: Sequence[int]) -> dict:
    """Peak resident memory of a fresh process that takes two training steps, unless it would not fit."""
    stored = stored_bytes(topology, network, size, topology.step_batch)
    # half as much again for what lives for a moment; weights, gradients and up to two moments of the optimizer
    needed = 1.5 * stored + 4 * 4 * count_parameters(build(topology, network, size))
    available = _proc_bytes("/proc/meminfo", "MemAvailable")
    if needed > available:
        return {"unavailable": f"would need about {needed / GIB:.0f} GiB, {available / GIB:.0f} are free"}
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as fresh_process:
        try:
            return fresh_process.submit(_peak_of_two_steps, topology, network, size).result()
        except BrokenProcessPool:
            return {"unavailable": "killed, most likely out of memory"}


def _peak_of_two_steps(topology: Topology, network: str, size: Sequence[int]) -> dict:
    # not getrusage's ru_maxrss, which a process inherits from the one that started it
    before = _proc_bytes("/proc/self/status", "VmHWM")
    _repeat(TrainingStep(topology, network, size, "cpu"), 2)  # the optimizer's state exists from the first on
    return {"bytes": _proc_bytes("/proc/self/status", "VmHWM"), "before_bytes": before}


def _proc_bytes(file: str, key: str) -> int:
    return next(1024 * int(line.split()[1]) for line in Path(file).read_text().splitlines() if line.startswith(key))


def environment(device: str) -> dict:
    """The machine and the versions that figures depend on."""
    describe = ("git", "describe", "--always", "--dirty", "--exclude=*")
    commit = subprocess.run(describe, cwd=PROJECT, capture_output=True, text=True).stdout.strip()
    models = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    return {
        "date": date.today().isoformat(),
        "commit": commit or None,
        "cpu": models[0].partition(": ")[2] if models else platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if device == "cuda" else None,
        "versions": {"python": platform.python_version(), **{package: version(package) for package in PACKAGES}},
    }


def write(results: dict, out: Path) -> None:
    """Write benchmarks.json, and its tables into benchmarks.md; what stands around the markers is kept."""
    with whole_file(out / "benchmarks.json") as file:
        file.write_text(json.dumps(results, indent=1) + "\n")
    write_between_markers(out / "benchmarks.md", Path(__file__).name, tables(results))


if __name__ == "__main__":
    main()
