"""The console script: help, version, exit codes, and errors without a traceback."""

import re
import subprocess
import sys
import sysconfig
from importlib import metadata
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
