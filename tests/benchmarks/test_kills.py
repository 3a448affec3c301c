"""The script that kills commands, on small programs that bear it well or badly."""

import random
import sys
from pathlib import Path
from types import ModuleType

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
WRITE = """
import pathlib, subprocess, sys, time
def write(name, text="whole"):
    pathlib.Path(name).write_text(text)
"""
LONG_S = 4  # more than the script waits


@pytest.fixture
def kills(monkeypatch) -> ModuleType:
    monkeypatch.syspath_prepend(BENCHMARKS)
    import kills

    monkeypatch.setattr(kills, "PATIENCE_S", 1)
    return kills


@pytest.fixture
def kill(kills, tmp_path):
    """What kill_once says of a program that it kills after half a second, by the files that it should write."""

    def kill(program: str, *expected: str) -> str:
        results = tmp_path / "results"
        command = kills.Command([sys.executable, "-c", WRITE + program])
        return kills.kill_once(command, results, dict.fromkeys(expected, ""), 0.5, random.Random(0))

    return kill


def test_a_program_that_is_done_is_whole_and_one_that_was_not_goes_on(kill):
    assert kill("write('result')", "result") == "whole at once"
    again = f"if pathlib.Path('begun').exists(): write('result')\nelse: write('begun'); time.sleep({LONG_S})"
    assert kill(again, "begun", "result") == "went on"


@pytest.mark.parametrize(
    ("program", "problem"),
    [
        ("write('half')", "result is missing; half is too much; the killed command exited with 0, and its result was"),
        ("write('result'); write('.result.work')", "results/.result.work was left"),
        ("sys.exit(2)", "the same command exited with 2"),
        (
            f"write('result'); subprocess.Popen(['sleep', '{LONG_S}'], start_new_session=True)",
            f"process sleep {LONG_S}  was left",
        ),
    ],
)
def test_what_is_wrong_is_said(kill, program, problem):
    assert problem in kill(program, "result")


def test_other_content_differs_but_where_undisturbed_runs_differ_themselves(kills, tmp_path):
    for name in ("same", "time"):
        (tmp_path / name).write_text(name)
    content = kills.content(tmp_path)
    (tmp_path / "same").write_text("other")
    (tmp_path / "time").write_text("later")
    assert kills.differences(tmp_path, {**content, "time": ""}) == ["same differs"]
