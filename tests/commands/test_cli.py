"""The console script: help, version, exit codes, and errors without a traceback."""

import os
import re
import subprocess
import sys
import sysconfig
from importlib import import_module, metadata
from inspect import signature
from pathlib import Path

import pytest

from nnunetv2_cfnet import __version__, cli, demo, host
from nnunetv2_cfnet.errors import UserError

COMMAND = Path(sysconfig.get_path("scripts"), "nnunetv2_cfnet")

SUBCOMMANDS = (
    "doctor",
    "demo",
    "plan",
    "plan_and_preprocess",
    "evaluate",
    "compare",
    "benchmark",
    "import_weights",
    "convert_brats",
    "export_brats",
    "make_phantom",
)


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([COMMAND, *arguments], capture_output=True, text=True, stdin=subprocess.DEVNULL)


def test_help_lists_the_subcommands() -> None:
    result = run("--help")
    assert result.returncode == 0
    assert all(name in result.stdout for name in SUBCOMMANDS)


@pytest.mark.parametrize("subcommand", SUBCOMMANDS)
def test_every_subcommand_explains_itself(subcommand: str) -> None:
    result = run(subcommand, "--help")
    assert result.returncode == 0
    assert result.stdout.startswith(f"usage: nnunetv2_cfnet {subcommand}")
    assert not re.search("cfnet [^a-z]|nnu-net", result.stdout.partition("\n\n")[2])  # names keep their capitals


def test_version_is_the_installed_one() -> None:
    assert run("--version").stdout.strip() == f"nnunetv2_cfnet {__version__}"
    assert metadata.version("nnunetv2_cfnet") == __version__


@pytest.mark.parametrize(
    "arguments", [(), ("train",), ("demo", "--device", "tpu"), ("plan",), ("plan", "-d", "one"), ("plan", "-np", "2")]
)
def test_wrong_usage_exits_2_with_the_usage(arguments: tuple[str, ...]) -> None:
    result = run(*arguments)
    assert result.returncode == 2
    assert "usage: nnunetv2_cfnet" in result.stderr
    assert "Traceback" not in result.stderr


def test_help_does_not_import_torch() -> None:
    code = (
        "import sys; from nnunetv2_cfnet.cli import main\n"
        "try: main(['--help'])\n"
        "finally: assert 'torch' not in sys.modules"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0


def test_wrong_planning_flags_are_one_message_without_a_traceback() -> None:
    result = run("plan", "-d", "1", "-gpu_memory_target", "-1")
    assert result.returncode == 2
    assert result.stderr == "nnunetv2_cfnet plan: -gpu_memory_target -1: give a positive number of GB.\n"


def test_user_error_is_one_message_on_stderr_and_exit_code_2(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def fail(out: Path, device: str) -> None:
        raise UserError(f"{out} is somebody else's folder; name another one with --out")

    monkeypatch.setattr(demo, "run_demo", fail)
    assert cli.main(["demo", "--out", str(tmp_path)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == f"nnunetv2_cfnet demo: {tmp_path} is somebody else's folder; name another one with --out\n"


def test_interruption_is_one_line_and_exit_code_130(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(out: Path, device: str) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(demo, "run_demo", interrupt)
    assert cli.main(["demo"]) == 130
    assert capsys.readouterr().err == "nnunetv2_cfnet demo: interrupted\n"


def test_demo_gets_its_options(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    monkeypatch.setattr(demo, "run_demo", lambda out, device: calls.append((out, device)))
    assert cli.main(["demo"]) == 0
    assert cli.main(["demo", "--out", "here", "--device", "cpu"]) == 0
    assert calls == [(Path("cfnet_demo"), "auto"), (Path("here"), "cpu")]


CONVERT = ("nnunetv2_cfnet.brats.convert", "convert_brats", ("release", "-d", "3"))
EXPORT = ("nnunetv2_cfnet.brats.export", "export_brats", ("predictions", "-o", "out"))
PHANTOM = ("nnunetv2_cfnet.demo.brats_phantom", "make_phantom", ("-o", "out", "--edition", "2020", "-n", "2"))
EVALUATE = ("nnunetv2_cfnet.evaluation.cases", "evaluate", ("labels", "predictions"))
BENCHMARK = ("nnunetv2_cfnet.jobs.benchmark", "benchmark", ("-d", "3"))
PROCESSES = min(8, os.cpu_count() or 1)
ARGUMENTS: dict[str, dict[str, object]] = {
    "evaluate": {
        "labels": Path("labels"),
        "predictions": Path("predictions"),
        "dataset_json_file": None,
        "out": None,
        "num_processes": PROCESSES,
    },
    "benchmark": {
        "dataset_id": 3,
        "configuration": "3d_fullres",
        "trainers": (
            "nnUNetTrainerCFNet__nnUNetPlans",
            "nnUNetTrainer__nnUNetPlans",
            "nnUNetTrainer__nnUNetResEncUNetMPlans",
        ),
        "folds": (0, 1, 2, 3, 4),
        "num_epochs": None,
        "replicates": 1,
        "out": Path("cfnet_benchmark"),
        "device": "auto",
        "num_processes": PROCESSES,
        "dry_run": False,
    },
    "convert_brats": {
        "source_folder": Path("release"),
        "dataset_id": 3,
        "name": None,
        "edition": "auto",
        "num_processes": PROCESSES,
        "symlink": False,
        "overwrite": False,
        "dry_run": False,
        "skip_bad": False,
        "fix_headers": False,
    },
    "export_brats": {
        "predictions": Path("predictions"),
        "out": Path("out"),
        "edition": None,
        "like": None,
        "et_threshold": None,
        "cv": None,
        "zip_archive": False,
    },
    "make_phantom": {
        "folder": Path("out"),
        "edition": "2020",
        "num_cases": 2,
        "plant": [],
        "seed": 0,
        "shape": (24, 28, 24),
    },
}


@pytest.mark.parametrize(
    ("command", "flags", "changed"),
    [
        (CONVERT, (), {}),
        (CONVERT, ("-d", "4"), {"dataset_id": 4}),
        (CONVERT, ("-n", "Tumours"), {"name": "Tumours"}),
        (CONVERT, ("--edition", "2021"), {"edition": "2021"}),
        (CONVERT, ("-np", "3"), {"num_processes": 3}),
        (CONVERT, ("--symlink",), {"symlink": True}),
        (CONVERT, ("--overwrite",), {"overwrite": True}),
        (CONVERT, ("--dry-run",), {"dry_run": True}),
        (CONVERT, ("--skip-bad",), {"skip_bad": True}),
        (CONVERT, ("--fix-headers",), {"fix_headers": True}),
        (EXPORT, (), {}),
        (EXPORT, ("--edition", "2021"), {"edition": "2021"}),
        (EXPORT, ("--like", "release"), {"like": Path("release")}),
        (EXPORT, ("--et-threshold", "200"), {"et_threshold": 200}),
        (EXPORT, ("--et-threshold", "auto"), {"et_threshold": "auto"}),
        (EXPORT, ("--cv", "model"), {"cv": Path("model")}),
        (EXPORT, ("--zip",), {"zip_archive": True}),
        (EVALUATE, (), {}),
        (EVALUATE, ("-djfile", "d.json"), {"dataset_json_file": Path("d.json")}),
        (EVALUATE, ("-o", "out"), {"out": Path("out")}),
        (EVALUATE, ("-np", "3"), {"num_processes": 3}),
        (BENCHMARK, (), {}),
        (BENCHMARK, ("-c", "2d"), {"configuration": "2d"}),
        (BENCHMARK, ("--trainers", "A", "B"), {"trainers": ["A", "B"]}),
        (BENCHMARK, ("--folds", "0", "2"), {"folds": [0, 2]}),
        (BENCHMARK, ("--epochs", "5"), {"num_epochs": 5}),
        (BENCHMARK, ("--replicates", "2"), {"replicates": 2}),
        (BENCHMARK, ("-o", "out"), {"out": Path("out")}),
        (BENCHMARK, ("-device", "cpu"), {"device": "cpu"}),
        (BENCHMARK, ("-np", "3"), {"num_processes": 3}),
        (BENCHMARK, ("--dry-run",), {"dry_run": True}),
        (PHANTOM, (), {}),
        (PHANTOM, ("--edition", "2021"), {"edition": "2021"}),
        (PHANTOM, ("-n", "5"), {"num_cases": 5}),
        (PHANTOM, ("--plant", "missing", "shape"), {"plant": ["missing", "shape"]}),
        (PHANTOM, ("--plant", "missing", "--plant", "shape"), {"plant": ["missing", "shape"]}),
    ],
)
def test_each_flag_reaches_its_parameter(
    monkeypatch: pytest.MonkeyPatch,
    command: tuple[str, str, tuple[str, ...]],
    flags: tuple[str, ...],
    changed: dict[str, object],
) -> None:
    module, function, required = command
    calls = []
    parameters = signature(getattr(import_module(module), function))

    def record(*positional: object, **keywords: object) -> list[str]:
        call = parameters.bind(*positional, **keywords)
        call.apply_defaults()
        calls.append(call.arguments)
        return []

    monkeypatch.setattr(f"{module}.{function}", record)
    assert cli.main([function, *required, *flags]) == 0
    assert calls == [{**ARGUMENTS[function], **changed}]


@pytest.mark.parametrize("threshold", ["abc", "1.5", ""])
def test_a_threshold_that_is_no_number_says_what_to_give(capsys: pytest.CaptureFixture[str], threshold: str) -> None:
    with pytest.raises(SystemExit) as error:
        cli.main(["export_brats", "predictions", "-o", "out", "--et-threshold", threshold])
    assert error.value.code == 2
    assert f"argument --et-threshold: {threshold!r}: give a number of voxels, or auto\n" in capsys.readouterr().err


@pytest.mark.parametrize("version", ["2.7.3", "2.9.0"])
def test_unsupported_nnunetv2_stops_a_command_before_it_does_anything(
    version: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(host, "version", lambda name: version)
    out = tmp_path / "out"
    assert cli.main(["demo", "--out", str(out)]) == 2
    error = capsys.readouterr().err
    assert f"nnunetv2 {version} is not supported (supported: <2.9,>=2.8)" in error
    assert 'pip install "nnunetv2<2.9,>=2.8"' in error
    assert not out.exists()


@pytest.mark.parametrize("version", ["2.8.0", "2.8.1", "2.8.2.dev1", "2.8.10"])
def test_supported_nnunetv2_passes(version: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "version", lambda name: version)
    assert host.check_version("nnunetv2") == version


def test_missing_package_metadata_is_a_user_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "OURSELVES", "a_package_that_is_not_installed")
    with pytest.raises(UserError, match="a_package_that_is_not_installed is not installed in this Python"):
        host.check_version("nnunetv2")
