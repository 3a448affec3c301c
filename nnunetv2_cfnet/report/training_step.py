"""What a training step of one model costs: `python -m nnunetv2_cfnet.report.training_step FOLDER CONFIGURATION DEVICE`.

A process of its own for each model (model_cost.py starts it), so that all of them start from the same state. It builds
the very trainer that the model folder names from the folder's plans.json and dataset.json, and runs that trainer's own
train_step on a random batch. nnUNet_preprocessed and nnUNet_results must name an empty folder: trainers write there.

Each finding is printed at once, a line of JSON behind MARK: nnU-Net prints as well, and what was found before memory
ran out is not lost.
"""

import json
import sys
import traceback
from contextlib import suppress
from pathlib import Path

import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.label_handling.label_handling import determine_num_input_channels
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunetv2_cfnet.architecture.cost import count_forward_flops, count_parameters
from nnunetv2_cfnet.host import find_trainer
from nnunetv2_cfnet.planning.modality_groups import channel_names_of
from nnunetv2_cfnet.planning.plans import check_classes, check_sizes, read_plans
from nnunetv2_cfnet.report.model_cost import MARK

MOST_SKIPPED_STEPS = 20  # gradient scaling halves its factor, 65536 at first, with each


def main() -> None:
    """Measure what the command line names; of a failure, the last line on stderr says what it was."""
    folder, configuration, device = sys.argv[1:]
    with suppress(OSError):  # Linux: where memory runs out, this process is to be killed, not the one that waits for it
        Path("/proc/self/oom_score_adj").write_text("1000")
    try:
        measure(Path(folder), configuration, device)
    except Exception as error:
        traceback.print_exc()
        sys.exit(_in_one_line(error))


def measure(model_folder: Path, configuration: str, device: str) -> None:
    """Print forward FLOPs, parameters and the peak memory of a training step, as fields of Cost; and "note"s.

    On CUDA the peak is what torch allocated for a step at most, when compilation and the optimizer's state are there;
    on the CPU what the process grew by at most, from before the network was built to the end of a second step.

    Args: measure_cost's.
    """
    trainer = make_trainer(model_folder, configuration, device)
    try:
        _print_findings(forward_flops=forward_flops(trainer))
    except Exception as error:  # a user's network may not work on the meta device
        _print_findings(note=f"FLOPs could not be counted: {_in_one_line(error)}")
    torch.backends.cudnn.benchmark = True  # as nnUNetv2_train sets it
    before, _ = resident_bytes()
    trainer.initialize()
    _print_findings(parameters=count_parameters(trainer.network))
    trainer.set_deep_supervision_enabled(trainer.enable_deep_supervision)  # this and the next, as nnU-Net before epochs
    trainer.network.train()
    batch = random_batch(trainer)
    take_first_step(trainer, batch)
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        trainer.train_step(batch)
        name = torch.cuda.get_device_name()
        _print_findings(
            step_peak_bytes=torch.cuda.max_memory_allocated(), device=f"cuda ({name}), memory allocated by torch"
        )
    else:
        trainer.train_step(batch)
        _print_findings(step_peak_bytes=resident_bytes()[1] - before, device="cpu, resident memory")


def make_trainer(model_folder: Path, configuration: str, device: str) -> nnUNetTrainer:
    """The trainer that a model folder names, before initialize(), in nnU-Net's folders of the environment."""
    plans = read_plans(model_folder / "plans.json", "Copy it anew from where the model was trained.")
    planned = PlansManager(plans).get_configuration(configuration).configuration
    check_sizes(planned)
    check_classes(planned["architecture"])
    trainer_class = find_trainer(model_folder.name.split("__")[0])
    trainer = trainer_class(
        # the key is added by nnUNetv2_train, and every trainer takes it out again
        plans=plans | {"continue_training": False},
        configuration=configuration,
        fold=0,
        dataset_json=json.loads((model_folder / "dataset.json").read_text()),
        device=torch.device(device),
    )
    # initialize() looks at the endings of preprocessed cases, to choose how they would be read
    preprocessed = Path(trainer.preprocessed_dataset_folder)
    preprocessed.mkdir(parents=True, exist_ok=True)
    (preprocessed / "case.b2nd").touch()
    return trainer


def forward_flops(trainer: nnUNetTrainer) -> int:
    """FLOPs of the forward pass of one patch, without the outputs that only deep supervision needs."""
    plans, configuration = trainer.plans_manager, trainer.configuration_manager
    input_channels = determine_num_input_channels(plans, configuration, trainer.dataset_json)
    num_heads = trainer.label_manager.num_segmentation_heads
    with torch.device("meta"):
        network = trainer.build_network_architecture(
            plans, configuration, input_channels, num_heads, enable_deep_supervision=False
        )
    return count_forward_flops(network, input_channels, configuration.patch_size)


def random_batch(trainer: nnUNetTrainer) -> dict:
    """Noise and random labels as the trainer's data loader would batch them; the trainer is initialised.

    The trainer's own transforms for validation, which augment nothing, make targets of the labels: regions, the scales
    of deep supervision, and the previous stage of a cascade as more channels of the image.
    """
    labels = trainer.label_manager
    transforms = trainer.get_validation_transforms(
        trainer._get_deep_supervision_scales(),
        is_cascaded=trainer.is_cascaded,
        foreground_labels=labels.foreground_labels,
        regions=labels.foreground_regions if labels.has_regions else None,
        ignore_label=labels.ignore_label,
    )
    patch_size = trainer.configuration_manager.patch_size
    values = torch.tensor([*labels.all_labels, *([labels.ignore_label] if labels.has_ignore_label else [])])
    samples = []
    for _ in range(trainer.batch_size):
        indices = torch.randint(len(values), (1 + trainer.is_cascaded, *patch_size))
        image = torch.randn(len(channel_names_of(trainer.dataset_json)), *patch_size)
        samples.append(transforms(image=image, segmentation=values[indices].to(torch.int16)))
    targets = [sample["segmentation"] for sample in samples]
    by_scale = isinstance(targets[0], list)
    return {
        "data": torch.stack([sample["image"] for sample in samples]),
        "target": [torch.stack(scale) for scale in zip(*targets, strict=True)] if by_scale else torch.stack(targets),
    }


def take_first_step(trainer: nnUNetTrainer, batch: dict) -> None:
    """Train until the optimizer has made a step, and has its state.

    Raises:
        RuntimeError: gradient scaling skips step after step.
    """
    for _ in range(MOST_SKIPPED_STEPS):
        scaler = trainer.grad_scaler
        scale = scaler.get_scale() if scaler else None
        trainer.train_step(batch)
        if scale is None or scaler.get_scale() >= scale:  # it falls where gradients overflow and the step is skipped
            return
    raise RuntimeError(f"gradients overflow in each of {MOST_SKIPPED_STEPS} training steps")


def resident_bytes() -> tuple[int, int]:
    """Resident memory of this process: now, and at most so far."""
    status = Path("/proc/self/status")
    if not status.exists():
        import resource  # not on Windows

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # macOS: bytes; a process can't ask for more
        return peak, peak
    # getrusage's peak would be, on Linux, that of the process which started this one, where that is larger
    lines = dict(line.split(":", 1) for line in status.read_text().splitlines())
    now, peak = (1024 * int(lines[key].split()[0]) for key in ("VmRSS", "VmHWM"))
    return now, peak


def _in_one_line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())


def _print_findings(**findings: object) -> None:
    print(f"{MARK}{json.dumps(findings)}", flush=True)


if __name__ == "__main__":
    main()
