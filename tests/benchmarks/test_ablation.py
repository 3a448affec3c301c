"""The ablation's script: what it draws, counts and writes, and a training of two steps."""

import json
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from dynamic_network_architectures.architectures.unet import PlainConvUNet

from nnunetv2_cfnet.architecture.cfnet import CFNet

PROJECT = Path(__file__).parents[2]
BENCHMARKS, DOCS = PROJECT / "benchmarks", PROJECT / "docs"


@pytest.fixture
def ablation(monkeypatch) -> ModuleType:
    monkeypatch.syspath_prepend(BENCHMARKS)
    import ablation

    return ablation


def run_of(network: str, seed: int, dice: float, loss: float) -> dict:
    scales = {"gain": [[0.1, 0], [0.2 + 0.1 * seed, 0.05]]}
    parts = {"attention": {"mean": 0.1, "spread": 0.05, "changed": 0.01, "dice": -0.02, "scales": scales}}
    return {
        "network": network,
        "seed": seed,
        "commit": "abc",
        "loss": [0.0] * 35 + [loss] * 5,
        "dice": {f"case_{case}": {"WT": dice + 0.1, "TC": dice - 0.1} for case in range(5)},
        "parts": parts,
    }


@pytest.fixture
def results() -> dict:
    """CFNet is 0.1 better than the U-Net in one seed and 0.3 in the other, with a loss that is 0.2 lower."""
    cost = {"parameters": 2_000_000, "forward_flops": 3_000_000_000, "saved_bytes": 2**22}
    return {
        "setting": {"dataset": "D", "size": "small", "patch_size": [8, 8, 8], "batch_size": 2, "steps": 9},
        "environment": {
            "date": "today",
            "commit": "abc",
            "gpu": None,
            "cores": 2,
            "cpu": "C",
            "versions": {"torch": "2"},
        },
        "costs": {"CFNet": cost, "U-Net": cost},
        "absent": {"case_0": ["TC"], "case_1": ["WT", "TC"]},
        "runs": [
            run_of("CFNet", 0, 0.6, -0.7),
            run_of("CFNet", 1, 0.8, -0.7),
            run_of("U-Net", 0, 0.5, -0.5),
            run_of("U-Net", 1, 0.5, -0.5),
        ],
    }


def test_tables_have_means_differences_and_their_intervals(ablation, results):
    text = ablation.tables({"experiments": [results]})
    assert "| CFNet | 2 | 2.00 M | 3.00 GFLOP | 4 MiB | -0.700 | 0.800 | 0.600 | 0.700 | 0.725 |" in text
    (row,) = [line for line in text.splitlines() if line.startswith("| U-Net | +")]
    _, name, dice, interval, over_seeds, present, _, won, loss, of_loss, *regions, _ = (
        cell.strip() for cell in row.split("|")
    )
    assert (name, dice, won, loss, regions) == ("U-Net", "+0.200", "2 of 2", "-0.200", ["+0.200", "+0.200"])
    assert present == "+0.200"
    low, high = map(float, interval.split(" to "))
    assert 0.1 < low < 0.2 < high < 0.3
    assert over_seeds == "-1.071 to +1.471"  # 0.2 -+ 12.71 * 0.1, Student's t of one degree of freedom
    assert of_loss == "-0.200 to -0.200"
    assert "| attention | 0.1 | 0.05 | 0.01 | -0.02 | gain 0.100 → 0.250 ± 0.050 |" in text


def test_a_note_tells_experiments_of_one_setting_apart(ablation, results):
    noted = {**results, "setting": {**results["setting"], "note": "with a stem"}}
    text = ablation.tables({"experiments": [results, noted]})
    assert [line for line in text.splitlines() if line.startswith("###")] == [
        "### D, 9 steps",
        "### D, 9 steps, with a stem",
    ]


def test_results_are_written_between_the_markers_of_the_page(ablation, results, tmp_path):
    page = tmp_path / "ablation.md"
    from pages import markers

    begin, end = markers("ablation.py")
    page.write_text(f"Before.\n\n{begin}\nold\n{end}\n\nAfter.\n")
    results = {"experiments": [results]}
    ablation.write(results, tmp_path)
    text = page.read_text()
    assert text.startswith("Before.\n")
    assert text.endswith("\n\nAfter.\n")
    assert "old" not in text
    assert json.loads((tmp_path / "ablation.json").read_text()) == results
    assert (tmp_path / "ablation.svg").read_text().startswith("<?xml")


def test_results_replace_those_of_the_same_setting_and_keep_others(ablation, results, tmp_path):
    def with_steps(steps: int, **changed) -> dict:
        return {**results, "setting": {**results["setting"], "steps": steps}, **changed}

    file = tmp_path / "ablation.json"
    assert ablation.with_other_runs(results, file) == {"experiments": [results]}
    file.write_text(json.dumps({"experiments": [with_steps(20), with_steps(9), with_steps(5)]}))
    again = with_steps(9, runs=results["runs"][:2])
    kept = ablation.with_other_runs(again, file)
    assert kept == {"experiments": [with_steps(20), again, with_steps(5)]}


def test_networks_that_share_a_module_start_with_the_same_weights_there(ablation):
    from cost import Topology

    arguments = Topology((16, 16, 16), (1, 1, 1), residual=False).arguments

    def weights(network_class: type, seed: int, **options) -> dict[str, torch.Tensor]:
        network = network_class(4, num_classes=3, **arguments, **options)
        ablation.draw_weights(network, seed)
        return dict(network.named_parameters())

    full, plain = weights(CFNet, 0), weights(CFNet, 0, fusion="concatenation", context=False, communication=False)
    assert len(plain) < len(full)
    assert all(torch.equal(parameter, full[name]) for name, parameter in plain.items())
    unet, other_seed = weights(PlainConvUNet, 0), weights(CFNet, 1)
    assert torch.equal(unet["decoder.transpconvs.0.weight"], full["decoder.transpconvs.0.weight"])
    assert not torch.equal(other_seed["decoder.transpconvs.0.weight"], full["decoder.transpconvs.0.weight"])


@pytest.mark.parametrize(
    ("name", "heads"),
    [
        ("CFNet", [0, 0, 2, 4]),
        ("without attention", [0, 0, 2, 4]),
        ("attention at every scale", [1, 1, 2, 4]),
        ("attention at coarse scales", [0, 0, 0, 4]),
        ("token attention at coarse scales", [0, 0, 0, 4]),
        ("product", [1, 1, 2, 4]),
    ],
)
def test_networks_have_attention_at_the_scales_of_their_names(
    ablation, make_plans, dataset_json, monkeypatch, name, heads
):
    for variant, fusion in ablation.VARIANTS.items():
        monkeypatch.setitem(ablation.FUSIONS, variant, fusion)
    plans = ablation.network_plans(name, make_plans(), dataset_json, ablation.Size(steps=1))
    arguments = plans["configurations"]["3d_fullres"]["architecture"]["arch_kwargs"]
    assert arguments["fusion_heads"] == heads
    fusions = {"without attention": "concatenation", "token attention at coarse scales": "token attention"}
    assert arguments["fusion"] == {**fusions, "product": "product"}.get(name, "cross_attention")


def test_regions_that_a_reference_lacks_are_named_by_case(ablation, monkeypatch):
    class Dataset:
        identifiers = ("without", "complete")

        def __init__(self, folder: str) -> None:
            assert folder == "/D/preprocessed"

        def load_case(self, case: str) -> tuple:
            return None, np.array([[0, 1, 1] if case == "without" else [0, 1, 3]]), None, None

    monkeypatch.setattr("nnunetv2.training.dataloading.nnunet_dataset.infer_dataset_class", lambda folder: Dataset)
    monkeypatch.setattr(ablation, "nnunet_folder", lambda name: Path("/"))
    plans = {"dataset_name": "D", "configurations": {"3d_fullres": {"data_identifier": "preprocessed"}}}
    labels = {"background": 0, "WT": [1, 3], "ET": 3, "ignore": 4}
    assert ablation.absent_regions(plans, {"labels": labels}) == {"without": ["ET"]}


def test_results_of_other_plans_have_a_folder_of_their_own(ablation, tmp_path):
    folders = {
        ablation.run_folder(tmp_path, {"dataset_name": dataset, "plans_name": plans}, steps)
        for dataset in ("A", "B")
        for plans in ("nnUNetPlans", "nnUNetPlansAblation_small_2mm")
        for steps in (400, 1200)
    }
    assert len(folders) == 8


def test_results_of_another_network_of_that_name_are_not_taken(ablation, tmp_path):
    def entry(**arguments: bool) -> dict:
        return {"configurations": {"3d_fullres": {"architecture": {"arch_kwargs": arguments}}}}

    before, now = entry(residual_encoders=False), entry(residual_encoders=True)
    for number, (plans, seed) in enumerate([(before, 0), (now, 0), (now, 1)]):
        ablation.run_file(tmp_path, "without gates", plans, seed).write_text(json.dumps(number))
    ablation.run_file(tmp_path, "CFNet", now, 0).write_text("3")
    assert ablation.runs_of({"without gates": now}, tmp_path) == [1, 2]
    assert sorted(ablation.runs_of({"without gates": before, "CFNet": now}, tmp_path)) == [0, 3]


def test_the_page_shows_what_the_script_makes_of_its_results(ablation):
    results = json.loads((DOCS / "ablation.json").read_text())
    assert ablation.tables(results) in (DOCS / "ablation.md").read_text()


@pytest.mark.slow
@pytest.mark.usefixtures("planned_dataset")
def test_a_training_of_two_steps_tells_what_the_weights_of_parts_do(ablation, tmp_path, monkeypatch):
    monkeypatch.setitem(ablation.SIZES, "small", ablation.Size(steps=2))
    options = ["-d", 1, "--seeds", 0, "--networks", "U-Net", "-device", "cpu", "-o", tmp_path / "o", "--docs", tmp_path]
    monkeypatch.setattr(sys, "argv", ["ablation.py", *map(str, options)])
    ablation.main()
    written = json.loads((tmp_path / "ablation.json").read_text())
    (results,) = written["experiments"]
    assert list(results["costs"]) == ["CFNet", "U-Net"]
    cfnet, unet = results["runs"]
    assert (cfnet["network"], unet["network"]) == ("CFNet", "U-Net")
    assert len(cfnet["loss"]) == len(unet["loss"]) == 2
    assert cfnet["dice"].keys() == unet["dice"].keys()
    assert "parts" not in unet
    for part in ("attention", "context", "gates"):
        assert cfnet["parts"][part]["spread"] > 0
        assert cfnet["parts"][part]["changed"] > 0
        for before, after in cfnet["parts"][part]["scales"].values():
            assert before[1] < 1e-6  # all start as one
            assert after != before  # by little: a temperature moves by 1e-7 a step
    assert ablation.tables(written) in (tmp_path / "ablation.md").read_text()
