"""Every command of the README and of docs/ is run by a test: block by block, in the order of the pages."""

import json
import re
import shutil
import zipfile
from argparse import ArgumentParser
from functools import partial
from importlib import import_module
from importlib.metadata import distribution
from pathlib import Path

import numpy as np
import pytest
import SimpleITK
import torch
from batchgenerators.utilities.file_and_folder_operations import load_json
from slurm_stand_in import FakeSlurm

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
MARKED = re.compile(r"^<!-- command: (\w+) -->\n" + FENCE.pattern[1:], re.MULTILINE | re.DOTALL)
# run by tests/demo/test_demo.py, .ci/run, tests/test_install.py, tests/commands/test_doctor.py, tests of the scripts in
# tests/benchmarks, and tests/docs/test_pages.py
ELSEWHERE = ["demo", "tests", "install", "doctor", "cost", "ablation", "missing_benchmark", "network"]
FROM_DOWNLOAD_TO_SUBMISSION = [
    *("phantom", "convert", "plan", "train", "baseline", "evaluate", "compare", "evaluate_subsets", "benchmark"),
    *("predict", "export", "share", "receive"),
]
CLUSTER = ["cluster", "cross_validate", "cluster_shell"]
OWN_DATA = ["own_data", "plan_cfnet", "train_cfnet_plans", "fine_tune"]
MISSING_SEQUENCES = ["missing", "train_missing", "fill_missing"]
PUBLISHED = ["train_published", "import_published", "fine_tune_published"]


def marked_blocks(page: Path) -> list[tuple[str, str]]:
    return [(name, block) for name, _, block in MARKED.findall(page.read_text())]


@pytest.fixture(scope="module")
def commands() -> dict[str, str]:
    return dict(marked for page in PAGES for marked in marked_blocks(page))


def test_every_command_has_a_test():
    names = [name for page in PAGES for name, _ in marked_blocks(page)]
    assert sorted(names) == sorted(
        [*ELSEWHERE, *FROM_DOWNLOAD_TO_SUBMISSION, *CLUSTER, *OWN_DATA, *MISSING_SEQUENCES, *PUBLISHED]
    )


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_block_of_commands_is_marked(page):
    text = page.read_text()
    fences = [(language, block) for language, block in FENCE.findall(text) if language != "json"]
    assert fences == [(language, block) for _, language, block in MARKED.findall(text)]
    assert {language for language, _ in fences} <= {"bash", "python"}
    assert not re.search(r"^(?: {4}|\t)\s*(?:nnUNetv2_|nnunetv2_cfnet |python|pip )", FENCE.sub("", text), re.MULTILINE)


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CONTRIBUTING.md"], ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_exist_and_have_the_flags_that_are_named(page):
    """In text too; what their values do is for the walk-throughs below."""
    text = page.read_text()
    code = [line for language, block in FENCE.findall(text) if language == "bash" for line in block.splitlines()]
    code += [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", FENCE.sub("", text))]
    nnunet = {script.name for script in distribution("nnunetv2").entry_points}
    assert {name for line in code for name in re.findall(r"\bnnUNetv2_\w+", line)} <= nnunet
    for line in code:
        for command, arguments in re.findall(r"\bnnunetv2_cfnet ([a-z]\w+)([^|&;]*)", line):
            parser = ArgumentParser()
            import_module(f"nnunetv2_cfnet.commands.{command}").add_arguments(parser)
            known = re.findall(r"(?<!\S)--?[\w-]+", parser.format_help())
            assert set(re.findall(r"(?<!\S)--?[a-z][\w-]*", arguments)) <= set(known), line


def test_fresh_machine_commands_are_one_line_with_all_their_set_up(commands):
    assert commands["demo"] == "python3 -m venv .venv && .venv/bin/pip install . && .venv/bin/nnunetv2_cfnet demo\n"
    assert commands["tests"] == 'python3 -m venv .venv && .venv/bin/pip install ".[dev]" && .venv/bin/pytest\n'
    assert commands["install"] == "pip install .\n"
    assert commands["doctor"] == "nnunetv2_cfnet doctor\n"


@pytest.mark.slow
def test_from_download_to_submission(commands, new_workspace):
    """A release's layout, five folds of two trainers, the best of them, ensembled, submitted, and shared."""
    workspace = new_workspace()
    workspace.dataset = "Dataset001_BraTS2020"
    as_here = partial(as_test, dataset=workspace.dataset)
    run = partial(workspace.run, "bash", "-euo", "pipefail", "-c")
    run(commands["phantom"])
    assert "6 with segmentation (imagesTr, labelsTr), 1 without (imagesTs)" in run(commands["convert"]).stdout
    assert "Ready to train" in run(commands["doctor"]).stdout
    workspace.extract_fingerprint()
    run(as_here(commands["plan"]))
    workspace.shrink_plans()
    splits = "splits_final.json"
    planned = load_json(str(workspace.preprocessed / workspace.dataset / splits))
    assert planned == load_json(str(workspace.raw / workspace.dataset / splits))
    run(as_here(commands["train"]), nnUNet_n_proc_DA="0")
    found = run(as_here(commands["baseline"]), nnUNet_n_proc_DA="0").stdout
    models = [f"{trainer}__nnUNetPlans__3d_fullres" for trainer in ("nnUNetTrainerCFNetTiny", "nnUNetTrainerTiny")]
    assert all(model in found for model in models)
    evaluated = run(as_here(commands["evaluate"])).stdout
    assert "6 cases. Written: " in evaluated
    assert "crossval_results_folds_0_1_2_3_4/report.html: " in evaluated
    compared = run(as_here(commands["compare"])).stdout
    assert "6 cases, 2 models. Written: " in compared
    assert "/cfnet_comparison/report.html, compare.md, compare.json" in compared
    quick = "--subsets T1,FLAIR --disable_tta -device cpu"  # all: end_to_end/test_evaluate_subsets.py
    missing = run(f"{as_here(commands['evaluate_subsets']).rstrip()} {quick}").stdout
    assert "6 cases, 1 subsets, 2 models. Written: " in missing
    models_of_benchmark = "--trainers nnUNetTrainerCFNetTiny nnUNetTrainerTiny -device cpu"
    run(as_here(commands["benchmark"]).replace("--epochs 250", models_of_benchmark), nnUNet_n_proc_DA="0")
    assert (workspace.root / "cfnet_benchmark" / "comparison" / "report.html").is_file()
    run(as_here(commands["predict"]))
    assert [path.name for path in (workspace.root / "predicted_both").glob("*.nii.gz")] == [
        "BraTS20_Validation_001.nii.gz"
    ]

    best = load_json(str(workspace.results / workspace.dataset / "inference_information.json"))[
        "best_model_or_ensemble"
    ]
    workspace.run(
        *("nnUNetv2_apply_postprocessing", "-i", "predicted_both", "-o", "final", "-np", 1),
        *("-pp_pkl_file", best["postprocessing_file"], "-plans_json", best["some_plans_file"]),
        *("-dataset_json", workspace.results / workspace.dataset / models[0] / "dataset.json"),
    )
    assert "Mean ET Dice of 6 cross-validation cases" in run(as_here(commands["export"])).stdout
    submitted = SimpleITK.ReadImage(str(workspace.root / "submission" / "BraTS20_Validation_001.nii.gz"))
    assert set(np.unique(SimpleITK.GetArrayViewFromImage(submitted))) <= {0, 1, 2, 4}
    with zipfile.ZipFile(workspace.root / "submission.zip") as archive:
        assert archive.namelist() == ["BraTS20_Validation_001.nii.gz"]

    run(as_here(commands["share"]))
    received = workspace.root / "received"
    received.mkdir()
    run(as_here(commands["receive"]), nnUNet_results=str(received))
    assert len(list((received / workspace.dataset / models[0]).glob("fold_*/checkpoint_final.pth"))) == 5


@pytest.mark.slow
def test_own_data_plans_for_cfnet_and_fine_tuning(commands, new_workspace):
    """CFNet's plans need no further preprocessing. The fine-tuned dataset has two labels in place of three regions: the
    heads start anew, the rest does not.
    """
    workspace = new_workspace()
    workspace.write_phantom(num_training=5, num_test=1)
    run = partial(workspace.run, "bash", "-euo", "pipefail", "-c")
    (workspace.root / "new_images").symlink_to(workspace.raw / workspace.dataset / "imagesTs")
    plan, train, predict = as_test(commands["own_data"]).splitlines()
    run(plan)
    workspace.shrink_plans()
    run(train, nnUNet_n_proc_DA="0")
    run(predict)
    assert len(list((workspace.root / "predicted").glob("*.nii.gz"))) == 1

    shown = run(as_test(commands["plan_cfnet"])).stdout
    assert "3d_fullres\n  patch size" in shown
    workspace.shrink_plans("nnUNetCFNetPlansM")
    run(as_test(commands["train_cfnet_plans"]), nnUNet_n_proc_DA="0")

    other = workspace.raw / "Dataset002_Labels"
    shutil.copytree(workspace.raw / workspace.dataset, other)
    dataset_json = json.loads((other / "dataset.json").read_text())
    dataset_json["labels"] = {"background": 0, "oedema": 1, "core": [2, 3]}
    dataset_json["regions_class_order"] = [1, 2]
    (other / "dataset.json").write_text(json.dumps(dataset_json))
    output = run(as_test(commands["fine_tune"]), nnUNet_n_proc_DA="0").stdout
    assert "Loading pretrained weights" in output
    model = "nnUNetTrainerCFNetTiny__nnUNetCFNetPlansM_of_1__3d_fullres"
    checkpoint = workspace.results / other.name / model / "fold_0" / "checkpoint_final.pth"
    assert checkpoint.is_file()
    assert (workspace.preprocessed / other.name / "nnUNetCFNetPlansM_of_1_nnUNetPlans_3d_fullres").is_dir()


@pytest.mark.slow
def test_many_trainings(commands, make_workspace, tmp_path):
    """On a cluster that is stood in for; end_to_end/test_benchmark_on_slurm.py trains on a real one."""
    workspace = make_workspace()
    slurm = FakeSlurm(tmp_path)
    path = f"{tmp_path}:{workspace.environment['PATH']}"
    run = partial(workspace.run, "bash", "-euo", "pipefail", "-c")
    submitted = run(as_test(commands["cluster"]), PATH=path).stdout
    assert "# an array of 45 jobs" in submitted
    assert "fold_4  waiting  0/1000" in submitted
    assert [job.get("dependency") for job in slurm.jobs] == [None, "afterok:1", "afterany:2"]
    lines = run(as_test(commands["cluster_shell"])).stdout.splitlines()
    assert len([line for line in lines if line.startswith("nnUNet_results=")]) == 15
    crossed = run(as_test(commands["cross_validate"]).replace("--npz", "--npz --folds 0 1")).stdout
    assert "done" in next(line for line in crossed.splitlines() if line.startswith("fold_1"))
    model = workspace.model("nnUNetTrainerCFNetTiny", "3d_fullres")
    assert (model / "crossval_results_folds_0_1" / "summary.json").is_file()
    assert len(list(model.glob("fold_*/validation/*.npz"))) == 2


@pytest.mark.slow
def test_missing_sequences(commands, make_workspace):
    workspace = make_workspace()
    run = partial(workspace.run, "bash", "-euo", "pipefail", "-c")
    incomplete = workspace.root / "incomplete"
    shutil.copytree(workspace.raw / workspace.dataset / "imagesTs", incomplete)
    first, _ = sorted(incomplete.glob("*_0001.nii.gz"))
    first.unlink()
    assert "1 of 2 cases lack a sequence: T1ce 1." in run(as_test(commands["missing"]), nnUNet_n_proc_DA="0").stdout
    assert len(list((workspace.root / "segmented").glob("*.nii.gz"))) == 2
    _, train_baseline = as_test(commands["train_missing"]).splitlines()  # the first is the README's
    run(train_baseline, nnUNet_n_proc_DA="0")
    run(as_test(commands["fill_missing"]))
    assert len(list((workspace.root / "predicted_filled").glob("*.nii.gz"))) == 2


@pytest.mark.slow
def test_published_network(commands, make_workspace, release_state_dict):
    """The phantom has three regions, the release four classes: fine-tuned, the head's last conv starts anew."""
    workspace = make_workspace()
    workspace.set_patch_size_2d(32, 32)
    run = partial(workspace.run, "bash", "-euo", "pipefail", "-c")
    run(as_test(commands["train_published"]), nnUNet_n_proc_DA="0")
    model = workspace.model("nnUNetTrainerCFNetPublishedTiny", "2d")
    assert (model / "fold_0" / "checkpoint_final.pth").is_file()
    torch.save(release_state_dict, workspace.root / "best.pth")
    run(as_test(commands["import_published"]))
    assert len(list((workspace.root / "predicted_published").glob("*.nii.gz"))) == 2
    assert "Loading pretrained weights" in run(as_test(commands["fine_tune_published"]), nnUNet_n_proc_DA="0").stdout
    assert (model / "fold_1" / "checkpoint_final.pth").is_file()


def as_test(block: str, dataset: str = "Dataset001_Phantom") -> str:
    """The pages' commands with short trainers, on the CPU and on a dataset of the test."""
    block = re.sub(r"\b(nnUNetTrainer(CFNet)?(Published|ModalityDropout)?)(?=\b|__)", r"\1Tiny", block)
    block = re.sub(r"\b(nnUNetv2_(train|predict|predict_from_modelfolder))\b", r"\1 -device cpu", block)
    block = re.sub(r"\b(nnunetv2_cfnet (evaluate|evaluate_subsets|compare|benchmark))\b", r"\1 -np 1", block)
    return block.replace("Dataset001_BraTS2020", dataset)
