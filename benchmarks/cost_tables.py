"""The tables of docs/benchmarks.md, from what docs/benchmarks.json holds; cost.py writes both."""

import statistics
from collections.abc import Callable

# Ratios are over the first. The first two are compared run by run, the others measured beside them.
LABELS = {
    "own": "plan's own",
    "cfnet": "CFNet",
    "stored": "CFNet, nothing recomputed",
    "naive": "naive CFNet, full width",
    "primus": "Primus-M",
}
PAIR = ("own", "cfnet")
NOT_MEASURED = "stored"
PEAKS = {"step_peak": "Peak of that step", "patch_peak": "Peak of a step of the whole patch"}
GIB = 2**30

Ratio = Callable[[dict, str], float | None]


def tables(results: dict) -> str:
    """All tables as markdown."""
    counts = results["counts"]
    sections = ["### Budget", _budget(results), "### Counted", _counts(counts), _describe(counts["environment"])]
    sections += ["### Estimate of the plan", _estimate(counts["estimate"])]
    for device in ("cpu", "cuda"):
        if device in results:
            environments = {_describe(entry["environment"]): None for entry in results[device].values()}
            sections += [f"### Measured, {device.upper()}", _measured(results, device), *environments]
    return "\n\n".join(sections)


def paired_ratio(seconds: list[float], own: list[float]) -> float:
    """Median ratio of the runs of one round; the first rounds where one has fewer."""
    return statistics.median(a / b for a, b in zip(seconds, own, strict=False))


def ratio_of_counts(figure: str) -> Ratio:
    """CFNet's count over that of the plan's own network, for results and the name of a topology."""

    def ratio(results: dict, name: str) -> float | None:
        own, ours = (results["counts"]["topologies"][name]["networks"][network] for network in PAIR)
        return ours[figure] / own[figure]

    return ratio


def _measured_pair(results: dict, device: str, name: str, figure: str) -> list:
    networks = results.get(device, {}).get(name, {"networks": {}})["networks"]
    return [networks.get(network, {}).get(figure) for network in PAIR]


def _seconds(device: str, figure: str) -> Ratio:
    def ratio(results: dict, name: str) -> float | None:
        own, ours = _measured_pair(results, device, name, figure)
        return paired_ratio(ours, own) if ours and own else None

    return ratio


def _peak(device: str, figure: str, net: bool = False) -> Ratio:
    def ratio(results: dict, name: str) -> float | None:
        peaks = _measured_pair(results, device, name, figure)
        if not all(peak and "bytes" in peak for peak in peaks):
            return None
        own, ours = (peak["bytes"] - (peak["before_bytes"] if net else 0) for peak in peaks)
        return ours / own

    return ratio


# Figure, at most, aim, and how CFNet's is divided by that of the plan's own network.
BUDGET = (
    ("bytes stored for backward, patch, batch 2", 1.00, 0.9, ratio_of_counts("saved_bytes")),
    ("forward FLOPs", 1.00, 1.0, ratio_of_counts("forward_flops")),
    ("training step, CPU (3D: 64³), fp32", 1.10, 1.0, _seconds("cpu", "step_s")),
    ("peak memory of that training step, CPU", 1.10, 1.0, _peak("cpu", "step_peak")),
    ("– less what the process held before", 1.10, 1.0, _peak("cpu", "step_peak", net=True)),
    ("peak memory of a training step, CPU, 3D: 128³", 1.10, 1.0, _peak("cpu", "patch_peak")),
    ("– less what the process held before", 1.10, 1.0, _peak("cpu", "patch_peak", net=True)),
    ("inference forward, CPU, patch, batch 1", 1.10, 1.0, _seconds("cpu", "inference_s")),
    ("training step, CUDA, AMP, compiled, patch", 1.15, 1.0, _seconds("cuda", "step_s")),
    ("peak memory of that training step, CUDA", 1.05, 1.0, _peak("cuda", "step_peak")),
)


def _budget(results: dict) -> str:
    names = list(results["counts"]["topologies"])
    lines = [["CFNet over the plan's own network", *names, "at most", "aim", "met"]]
    for label, at_most, aim, ratio in BUDGET:
        values = [ratio(results, name) for name in names]
        found = [value for value in values if value is not None]
        verdict = ("yes" if max(found) <= at_most else "**no**") if found else "not measured"
        if 0 < len(found) < len(values):
            verdict += f" ({len(found)} of {len(values)})"
        cells = ["–" if value is None else f"{value:.3f}" for value in values]
        lines.append([label, *cells, f"{at_most:.2f}", f"{aim:.2f}", verdict])
    return _table(lines)


def _counts(counts: dict) -> str:
    units = {
        "parameters": (1e6, ".1f", "M"),
        "forward_flops": (1e9, ".1f", "GFLOP"),
        "saved_bytes": (GIB, ".3f", "GiB"),
    }
    lines = [["Topology", "Network", "Parameters", "Forward FLOPs a sample", "Stored for backward, batch 2, fp32"]]
    for name, topology in counts["topologies"].items():
        setting, rows = topology["setting"], topology["networks"]
        for network, row in rows.items():
            label = f"{LABELS[network]} ({setting['network']})" if network == "own" else LABELS[network]
            cells = [row.get("unavailable", "–"), "–", "–"]
            if "unavailable" not in row:
                cells = [
                    f"{row[figure] / unit:{digits}} {suffix} ({row[figure] / rows['own'][figure]:.2f}×)"
                    for figure, (unit, digits, suffix) in units.items()
                ]
            lines.append([f"{name}, {_shape(setting['input_channels'], setting['patch_size'])}", label, *cells])
    return _table(lines)


def _estimate(estimate: dict) -> str:
    lines = [["Network", "Topologies", "Stored bytes a value of compute_conv_feature_map_size", "Worst ratio to that"]]
    for network, fits in estimate.items():
        for dim, fit in fits.items():
            cells = [f"{fit['bytes_per_value']:.2f}", f"{fit['worst_ratio']:.3f}"]
            lines.append([LABELS[network], f"{len(fit['ratios'])} in {dim}", *cells])
    return _table(lines)


def _measured(results: dict, device: str) -> str:
    lines = [["Topology", "Step", "Network", "Training step", "Inference of a patch", *PEAKS.values()]]
    for name, counted in results["counts"]["topologies"].items():
        if name not in results[device]:
            continue
        setting, rows = counted["setting"], results[device][name]["networks"]
        size = setting["cpu_step_size" if device == "cpu" else "patch_size"]
        step = f"{setting['step_batch']} of {_shape(setting['input_channels'], size)}"
        for network, row in rows.items():
            seconds = [
                _seconds_cell(row.get(figure), row.get(f"own_{figure}", rows["own"].get(figure)))
                for figure in ("step_s", "inference_s")
            ]
            peaks = [_peak_cell(row.get(figure)) for figure in PEAKS]
            lines.append([name, step, LABELS[network], *seconds, *peaks])
    return _table(lines)


def _seconds_cell(seconds: list[float] | None, own: list[float] | None) -> str:
    if not seconds:
        return "–"
    ratio = f"{paired_ratio(seconds, own):.2f}×, " if own else ""
    return f"{statistics.median(seconds):.3g} s ({ratio}{len(seconds)} runs)"


def _peak_cell(peak: dict | None) -> str:
    if peak is None or "unavailable" in peak:
        return peak["unavailable"] if peak else "–"
    before = f" ({peak['before_bytes'] / GIB:.2f} before)" if "before_bytes" in peak else ""
    return f"{peak['bytes'] / GIB:.2f} GiB{before}"


def _shape(channels: int, size: list[int]) -> str:
    return "×".join(map(str, (channels, *size)))


def _describe(environment: dict) -> str:
    gpu = f"{environment['gpu']}; " if environment["gpu"] else ""
    versions = ", ".join(f"{package} {number}" for package, number in environment["versions"].items())
    return (
        f"{environment['date']}, commit {environment['commit']}, on {gpu}{environment['cpu']}, {environment['cores']} "
        f"cores, {environment['threads']} threads; {versions}."
    )


def _table(lines: list[list[str]]) -> str:
    head, *body = lines
    return "\n".join("| " + " | ".join(line) + " |" for line in (head, ["---"] * len(head), *body))
