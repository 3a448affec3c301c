"""The console script: help, version, exit codes, and errors without a traceback."""

import io
import os
import re
import signal
import subprocess
import sys
import sysconfig
from argparse import ArgumentParser
from collections.abc import Callable
from dataclasses import fields
from importlib import import_module, metadata
from inspect import getsource
from pathlib import Path

import pytest

from nnunetv2_cfnet import __version__, cli
from nnunetv2_cfnet.commands import demo
from nnunetv2_cfnet.errors import UserError
from nnunetv2_cfnet.files.whole import whole_folder
from nnunetv2_cfnet.jobs.ways import Way

COSTLY = ("torch", "nnunetv2", "pandas", "scipy", "SimpleITK")


def exit_code_of(*arguments: str) -> int:
    with pytest.raises(SystemExit) as stopped:
        cli.main(arguments)
    return int(str(stopped.value))


def test_help_lists_the_commands_that_have_a_module(capsys):
    assert exit_code_of("--help") == 0
    listed = capsys.readouterr().out
    assert all(name in listed for name in cli.COMMANDS)
    modules = {path.stem for path in Path(cli.__file__).with_name("commands").glob("*.py")}
    assert modules - {"__init__", "flags"} == set(cli.COMMANDS)


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_every_command_explains_itself(command, capsys):
    assert exit_code_of(command, "--help") == 0
    usage, _, rest = capsys.readouterr().out.partition("\n\n")
    assert usage.startswith(f"usage: nnunetv2_cfnet {command}")
    assert not re.search("cfnet [^a-z]|nnu-net", rest)  # names keep their capitals


def test_help_of_no_command_imports_what_takes_seconds():
    code = f"""
import sys
from nnunetv2_cfnet import cli
for command in cli.COMMANDS:
    try: cli.main([command, "--help"])
    except SystemExit: assert not set(sys.modules) & set({COSTLY}), command
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def test_a_missing_dataset_json_is_reported_before_what_takes_seconds_is_imported(tmp_path):
    folder = str(tmp_path)
    commands = [["evaluate", folder, folder], ["compare", "--predictions", f"a={folder}", f"b={folder}"]]
    commands[1] += ["--reference", folder]
    code = f"""
import sys
from nnunetv2_cfnet import cli
for command in {commands}:
    assert cli.main(command) == 2
    assert not set(sys.modules) & {{"torch", "monai", "nnunetv2"}}, command
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert result.stderr.count("dataset.json does not exist") == 2


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_every_flag_is_read_by_its_command(command):
    module, parser = import_module(f"nnunetv2_cfnet.commands.{command}"), ArgumentParser(add_help=False)
    module.add_arguments(parser)
    source = getsource(module.run)
    read = {field.name for field in fields(Way)} if "Way.of(options)" in source else set()
    assert [
        action.dest for action in parser._actions if action.dest not in read and f"options.{action.dest}" not in source
    ] == []


@pytest.mark.parametrize("library", ["numpy", "packaging", "filelock"])
def test_help_version_and_doctor_work_where_a_library_is_missing(library):
    """Doctor exits with 1, names what is missing, and checks the rest."""
    code = f"""
import runpy, sys
sys.modules[{library!r}] = None  # whoever imports it gets an ImportError
from nnunetv2_cfnet import cli
for arguments in (["--version"], ["--help"], *([command, "--help"] for command in cli.COMMANDS), ["doctor"]):
    sys.argv[1:] = arguments
    try: runpy.run_module("nnunetv2_cfnet", run_name="__main__")
    except SystemExit as stopped: assert stopped.code == (arguments == ["doctor"]), arguments
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert re.search(rf"✗ .*{library}.*fix it with: pip install --force-reinstall {library}", result.stdout)
    assert "nnUNet_results: " in result.stdout


def test_version_is_the_installed_one(capsys):
    assert exit_code_of("--version") == 0
    assert capsys.readouterr().out.strip() == f"nnunetv2_cfnet {__version__}"
    assert metadata.version("nnunetv2_cfnet") == __version__


@pytest.mark.parametrize(
    "arguments", [(), ("train",), ("demo", "-device", "tpu"), ("plan",), ("plan", "-d", "one"), ("plan", "-np", "2")]
)
def test_wrong_usage_exits_2_with_the_usage(arguments, capsys):
    assert exit_code_of(*arguments) == 2
    assert "usage: nnunetv2_cfnet" in capsys.readouterr().err


def test_a_user_error_is_one_message_and_exit_code_2_of_the_console_script():
    command = Path(sysconfig.get_path("scripts"), "nnunetv2_cfnet")
    result = subprocess.run([command, "compare", "-d", "1"], capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert (result.returncode, result.stdout) == (2, "")
    assert re.fullmatch("nnunetv2_cfnet compare: give either -d, -c and --models .*\n", result.stderr)


def raising(error) -> Callable[[object], int]:
    def run(options: object) -> int:
        raise error

    return run


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (UserError("out is no folder"), 2, "out is no folder"),
        (PermissionError(13, "Permission denied", "out"), 2, "[Errno 13] Permission denied: 'out'"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)
def test_what_stops_a_command_is_one_line_and_an_exit_code(monkeypatch, capsys, error, code, message):
    monkeypatch.setattr(demo, "run", raising(error))
    assert cli.main(["demo"]) == code
    assert capsys.readouterr().err == f"nnunetv2_cfnet demo: {message}\n"


def test_a_message_shows_control_characters_of_names_escaped(monkeypatch, capsys):
    monkeypatch.setattr(demo, "run", raising(UserError("2 problems:\n  a\x1b[2J\n  b\r\udce4 ä")))
    assert cli.main(["demo"]) == 2
    assert capsys.readouterr().err == "nnunetv2_cfnet demo: 2 problems:\n  a\\x1b[2J\n  b\\r\\udce4 ä\n"


def test_a_name_that_the_terminal_can_not_show_is_printed_escaped(monkeypatch):
    terminal = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.setattr(demo, "run", lambda options: print("ödem \udce4"))
    cli.main(["demo"])
    terminal.flush()
    assert terminal.buffer.getvalue() == b"\\xf6dem \\udce4\n"


@pytest.mark.parametrize("threshold", ["abc", "1.5", ""])
def test_a_threshold_that_is_no_number_says_what_to_give(capsys, threshold):
    assert exit_code_of("export_brats", "predictions", "-o", "out", "--et-threshold", threshold) == 2
    assert f"argument --et-threshold: {threshold!r}: give a number of voxels, or auto\n" in capsys.readouterr().err


def test_forked_processes_end_at_sigterm_as_ever(monkeypatch):
    """nnU-Net's pools end theirs so. One that is only just forked would lose a signal that we handle, and never end."""
    seen = []

    def run(options):
        reading, writing = os.pipe()
        if (child := os.fork()) == 0:
            os.write(writing, b"default" if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL else b"ours")
            os._exit(0)
        os.waitpid(child, 0)
        seen.extend([os.read(reading, 10), signal.getsignal(signal.SIGTERM) is signal.SIG_DFL])
        return 0

    monkeypatch.setattr(import_module("nnunetv2_cfnet.commands.doctor"), "run", run)
    assert cli.main(["doctor"]) == 0
    assert seen == [b"default", False]
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_command_that_is_told_to_end_leaves_nothing_half_done(monkeypatch, tmp_path, capsys, number):
    def run(options):
        with whole_folder(tmp_path / "model") as folder:
            (folder / "checkpoint_final.pth").touch()
            os.kill(os.getpid(), number)
        return 0

    monkeypatch.setattr(import_module("nnunetv2_cfnet.commands.doctor"), "run", run)
    before = signal.signal(number, signal.SIG_DFL)  # nohup has SIGHUP ignored
    try:
        assert cli.main(["doctor"]) == 128 + number
    finally:
        signal.signal(number, before)
    assert capsys.readouterr().err == "nnunetv2_cfnet doctor: interrupted\n"
    assert list(tmp_path.iterdir()) == []


def test_names_reach_no_terminal_as_commands_to_it(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("nnUNet_raw", str(tmp_path))
    assert cli.main(["convert_brats", f"{tmp_path}/\x1b]0;title\x07\u202e\udcff\u00f6", "-d", "1"]) == 2
    assert f"{tmp_path}/\\x1b]0;title\\x07\\u202e\\udcff\u00f6 is no folder" in capsys.readouterr().err


def test_names_that_the_terminal_has_no_characters_for_are_printed_all_the_same(tmp_path, monkeypatch):
    for name in ("stdout", "stderr"):
        monkeypatch.setattr(sys, name, (tmp_path / name).open("w", encoding="ascii"))
    monkeypatch.setattr(demo, "run", lambda options: print("\u00f6dem \udcff") or 0)
    assert cli.main(["demo", "-o", str(tmp_path)]) == 0
    sys.stdout.close()
    assert (tmp_path / "stdout").read_text() == "\\xf6dem \\udcff\n"


@pytest.mark.parametrize(
    "arguments",
    [
        ["export_brats", ".", "--edition", "2021"],
        ["make_phantom", "--edition", "2021", "--cases", "1"],
        ["compare", "--predictions", "a=.", "b=.", "--reference", "."],
    ],
)
def test_an_out_that_is_a_link_to_itself_is_one_message(arguments, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "loop").symlink_to("loop")
    assert cli.main([*arguments, "-o", "loop/below"]) == 2
    assert capsys.readouterr().err == (
        f"nnunetv2_cfnet {arguments[0]}: loop/below is a link that leads back to itself: choose another -o, or remove "
        "it.\n"
    )
