"""The cost benchmark's script, on networks that take seconds."""

import json
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

PROJECT = Path(__file__).parents[2]
BENCHMARKS, DOCS, README = PROJECT / "benchmarks", PROJECT / "docs", PROJECT / "README.md"
PROSE = "What the tables mean."


@pytest.fixture
def cost(monkeypatch) -> ModuleType:
    monkeypatch.syspath_prepend(BENCHMARKS)
    import cost

    return cost


@pytest.fixture
def cost_markers(cost) -> tuple[str, str]:
    from pages import markers

    return markers("cost.py")


@pytest.fixture
def tiny(cost):
    """A plain 2D and a residual 3D plan of three and four stages."""
    return {
        "plain": cost.Topology((24, 16), (1, 1), residual=False, step_batch=1, cpu_step_size=(16, 16)),
        "residual": cost.Topology((32, 32, 32), (1, 1, 1), residual=True, step_batch=1),
    }


@pytest.fixture
def count_to(cost, tiny):
    def count(out: Path, measured: tuple[str, ...] = ()) -> dict:
        cost.run(tiny, list(tiny.values()), measured, device="cpu", runs=2, out=out)
        return json.loads((out / "benchmarks.json").read_text())

    return count


def test_counts_are_written_as_json_and_as_tables(count_to, tmp_path):
    counts = count_to(tmp_path)["counts"]
    page = (tmp_path / "benchmarks.md").read_text()
    for name, topology in counts["topologies"].items():
        assert list(topology["networks"]) == ["own", "cfnet", "stored", "naive"]
        for row in topology["networks"].values():
            assert all(row[figure] > 0 for figure in ("parameters", "forward_flops", "saved_bytes"))
            assert f"{row['parameters'] / 1e6:.1f} M" in page
        assert name in page
    assert all(fits[dim]["worst_ratio"] >= 1 for fits in counts["estimate"].values() for dim in ("2D", "3D"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["benchmarks.json", "benchmarks.md"]


def test_naive_network_stores_several_times_what_the_plan_does(count_to, tmp_path):
    networks = count_to(tmp_path)["counts"]["topologies"]["residual"]["networks"]
    assert networks["naive"]["saved_bytes"] > 2 * networks["own"]["saved_bytes"]


def test_rerun_keeps_the_prose_and_what_was_measured_before(cost, cost_markers, count_to, tmp_path):
    measured = {"environment": {**cost.environment("cpu"), "gpu": "A GPU"}, "networks": {"own": {"step_s": [2.0]}}}
    (tmp_path / "benchmarks.json").write_text(json.dumps({"cuda": {"plain": measured}}))
    begin, end = cost_markers
    (tmp_path / "benchmarks.md").write_text(f"# Benchmarks\n\n{begin}\nold\n{end}\n\n{PROSE}\n")
    assert count_to(tmp_path)["cuda"] == {"plain": measured}
    page = (tmp_path / "benchmarks.md").read_text()
    assert page.startswith("# Benchmarks\n")
    assert page.endswith(f"{PROSE}\n")
    assert "old" not in page
    assert "A GPU" in page


def test_network_that_the_library_lacks_says_so_in_its_row(cost, monkeypatch):
    monkeypatch.setitem(sys.modules, "dynamic_network_architectures.architectures.primus", None)
    topology = cost.Topology((32, 32, 32), (1, 1, 1), residual=False, with_primus=True)
    assert "primus" in cost.count(topology, "primus")["unavailable"]


def test_naive_network_gives_a_gradient_to_every_parameter(cost, tiny):
    topology = tiny["plain"]
    network = cost.build(topology, "naive", topology.patch_size, device="cpu")
    finest, *coarser = network(torch.randn(2, topology.input_channels, *topology.patch_size))
    assert finest.shape == (2, topology.num_classes, *topology.patch_size)
    sum(scale.square().mean() for scale in (finest, *coarser)).backward()
    assert all(parameter.grad is not None for parameter in network.parameters())


def test_page_shows_the_results_as_they_are_stored(cost, cost_markers):
    results = json.loads((DOCS / "benchmarks.json").read_text())
    page = (DOCS / "benchmarks.md").read_text()
    begin, end = cost_markers
    assert page.partition(begin)[2].partition(end)[0].strip() == cost.tables(results)


@pytest.mark.parametrize("name", ["3D-default", "3D-ResEncM", "2D-default", "2D-ResEncM"])
def test_stored_counts_are_what_the_network_costs_now(cost, name):
    counts = json.loads((DOCS / "benchmarks.json").read_text())["counts"]
    counted, here = counts["environment"]["versions"], cost.environment("cpu")["versions"]
    if any(counted[library] != here[library] for library in ("torch", "dynamic-network-architectures")):
        pytest.skip("counted with other versions of torch or dynamic-network-architectures")
    stored = counts["topologies"][name]["networks"]["cfnet"]
    assert stored == cost.count(cost.TOPOLOGIES[name], "cfnet"), "rerun benchmarks/cost.py"


def test_estimate_of_the_plan_tracks_the_stored_bytes_of_20_topologies(cost):
    for fit in cost.calibrate(cost.CALIBRATION, "cfnet").values():
        assert len(fit["ratios"]) == 10
        assert all(1 / 1.15 < ratio < 1.15 for ratio in fit["ratios"])


def test_readme_quotes_the_results(cost):
    from cost_tables import BUDGET, ratio_of_counts

    results = json.loads((DOCS / "benchmarks.json").read_text())
    readme = " ".join(README.read_text().split())
    ratios = {label: ratio for label, *_, ratio in BUDGET} | {"parameters": ratio_of_counts("parameters")}
    for label, quote in {
        "bytes stored for backward, patch, batch 2": "stores {} of the bytes",
        "forward FLOPs": "at {} of its forward FLOPs",
        "parameters": "{} times its parameters",
        "training step, CPU (3D: 64³), fp32": "A training step on 2 CPU cores takes {} times as long",
    }.items():
        found = [ratios[label](results, name) for name in cost.TOPOLOGIES]
        assert quote.format(f"{min(found):.2f} to {max(found):.2f}") in readme


@pytest.mark.slow
def test_every_network_is_timed_and_its_peak_taken_at_both_sizes(cost, count_to, tmp_path):
    rows = count_to(tmp_path, ("plain",))["cpu"]["plain"]["networks"]
    assert list(rows) == ["own", "cfnet", "naive"]
    for row in rows.values():
        assert len(row["step_s"]) == len(row["inference_s"]) == 2
        for figure in ("step_peak", "patch_peak"):
            assert row[figure]["bytes"] > row[figure]["before_bytes"] > 0
