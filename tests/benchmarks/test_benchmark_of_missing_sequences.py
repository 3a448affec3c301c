"""The script that trains with and without modality dropout: its tables, its dropout, and a training of two steps."""

import json
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

PROJECT = Path(__file__).parents[2]
DOCS = PROJECT / "docs"
CHANNELS = ["T1", "T1ce", "T2", "FLAIR"]


@pytest.fixture
def missing_sequences(monkeypatch) -> ModuleType:
    monkeypatch.syspath_prepend(PROJECT / "benchmarks")
    import missing_sequences

    return missing_sequences


def test_tables_have_means_of_subsets_and_differences_over_seeds(missing_sequences):
    """CFNet with dropout finds all with T1ce, half without; the others a quarter, less 0.02 in the second seed."""

    def dice_of(network: str, seed: int) -> dict:
        with_t1ce, without = (1.0, 0.5) if network == "CFNet, dropout, masked" else (0.25 - 0.02 * seed,) * 2
        return {
            missing_sequences.subset_name(subset, CHANNELS): {
                case: dict.fromkeys(("WT", "ET"), with_t1ce if 1 in subset else without) for case in ("a", "b")
            }
            for subset in missing_sequences.all_subsets(CHANNELS)
        }

    environment = {"date": "today", "commit": "abc", "gpu": None, "cores": 2, "cpu": "C", "versions": {"torch": "2"}}
    text = missing_sequences.tables(
        {
            "setting": {
                **{"dataset": "D", "size": "small", "patch_size": [8, 8], "batch_size": 2, "steps": 9},
                **{"channels": CHANNELS, "modality_groups": [[0, 2], [1, 3]]},
            },
            "environment": environment,
            "networks": list(missing_sequences.NETWORKS),
            "runs": [
                {"network": network, "seed": seed, "commit": "abc", "loss": [0.0], "dice": dice_of(network, seed)}
                for network in missing_sequences.NETWORKS
                for seed in (0, 1)
            ],
        }
    )
    (header,) = [line for line in text.splitlines() if line.startswith("| network | mean")]
    means = ["mean of 15, all", "mean of 8, with T1ce", "mean of 7, without T1ce", "mean of 6, without a whole group"]
    assert header == f"| network | {' | '.join(means)} | all sequences | WT, all subsets | ET, all subsets |"
    assert "| CFNet, dropout, masked | 0.767 | 1.000 | 0.500 | 0.667 | 1.000 | 0.767 | 0.767 |" in text
    (row,) = [line for line in text.splitlines() if line.startswith("| CFNet, dropout, masked | U-Net, dropout")]
    # 0.26 -+ 12.71 * 0.01, Student's t of one degree of freedom
    assert "| +0.260 (+0.133 to +0.387) |" in row
    assert "| U-Net, dropout | U-Net | +0.000 (+0.000 to +0.000) |" in text
    assert "| T1ce | 0.240 | 0.240 | 0.240 | 0.240 | 1.000 |" in text


def test_samples_of_a_batch_lose_channels_of_their_own(missing_sequences):
    batch = torch.ones(64, 5, 2, 2)
    dropped = missing_sequences.with_dropout(batch, 4)
    kept = dropped.flatten(2).any(dim=2)
    assert batch.all()
    assert kept[:, :4].any(dim=1).all()
    assert kept[:, 4].all()
    assert len(set(map(tuple, kept.tolist()))) > 8


def test_the_page_shows_what_the_script_makes_of_its_results(missing_sequences):
    results = json.loads((DOCS / "missing_sequences.json").read_text())
    assert missing_sequences.tables(results) in (DOCS / "missing_sequences.md").read_text()


@pytest.mark.slow
@pytest.mark.usefixtures("planned_dataset")
def test_a_training_of_two_steps_is_written_and_not_repeated(missing_sequences, tmp_path, monkeypatch):
    """Training and scores are those of the ablation's script."""
    from ablation import Size

    monkeypatch.setitem(missing_sequences.SIZES, "small", Size(steps=2))
    monkeypatch.setattr(missing_sequences, "all_subsets", lambda channels: [(1,), (0, 1, 2, 3)])
    monkeypatch.setattr(missing_sequences, "tables", lambda results: f"{len(results['runs'])} runs")
    arguments = ["-d", 1, "--seeds", 0, "-device", "cpu", "-o", tmp_path / "out", "--docs", tmp_path]
    monkeypatch.setattr(sys, "argv", ["missing_sequences.py", *map(str, arguments)])
    missing_sequences.main()
    results = json.loads((tmp_path / "missing_sequences.json").read_text())
    assert sorted(run["network"] for run in results["runs"]) == sorted(missing_sequences.NETWORKS)
    losses = {run["network"]: run["loss"] for run in results["runs"]}
    assert all(len(curve) == 2 for curve in losses.values())
    assert losses["CFNet"] != losses["CFNet, dropout"]
    for run in results["runs"]:
        assert set(run["dice"]) == {"T1ce", "T1+T1ce+T2+FLAIR"}
        (case,) = run["dice"]["T1ce"].values()
        assert all(0 <= value <= 1 for value in case.values())
    assert "5 runs" in (tmp_path / "missing_sequences.md").read_text()

    monkeypatch.setattr(missing_sequences, "make_trainer", lambda *_, **__: pytest.fail("trained again"))
    missing_sequences.main()
    assert json.loads((tmp_path / "missing_sequences.json").read_text())["runs"] == results["runs"]


@pytest.mark.slow
@pytest.mark.usefixtures("planned_dataset")
def test_steps_with_dropout_are_timed_beside_those_without(missing_sequences, tmp_path, monkeypatch, capsys):
    import dropout_step

    monkeypatch.setitem(missing_sequences.SIZES, "small", missing_sequences.Size(steps=2))
    arguments = ["-d", 1, "--rounds", 2, "-device", "cpu", "-o", tmp_path]
    monkeypatch.setattr(sys, "argv", ["dropout_step.py", *map(str, arguments)])
    dropout_step.main()
    lines = [line for line in capsys.readouterr().out.splitlines() if line.endswith("2 pairs)")]
    assert [line.split(":")[0] for line in lines] == [
        "nnUNetTrainerModalityDropout over nnUNetTrainer",
        "nnUNetTrainerCFNetModalityDropout over nnUNetTrainerCFNet",
    ]
    assert all(float(line.split(": ")[1].split()[0]) > 0 for line in lines)
