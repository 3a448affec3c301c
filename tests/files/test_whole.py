"""Files and folders that are there whole or not at all, and what is refused before anything is written."""

import os
import signal
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import pytest

from nnunetv2_cfnet.errors import UserError
from nnunetv2_cfnet.files import whole
from nnunetv2_cfnet.files.whole import check_new_folder, check_place, whole_file, whole_folder


def test_a_file_gets_its_name_when_all_went_well(tmp_path):
    file = tmp_path / "table.csv"
    file.write_text("old")
    with whole_file(file) as unfinished:
        unfinished.write_text("new")
        assert unfinished.name.endswith("table.csv")  # writers go by the ending
        assert file.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["table.csv"]
    assert file.read_text() == "new"


def test_an_interrupted_file_leaves_what_was_there(tmp_path):
    (tmp_path / "in_work").mkdir()
    file = tmp_path / "table.csv"
    file.write_text("old")

    def interrupted(made_in: Path | None) -> None:
        with whole_file(file, made_in) as unfinished:
            assert unfinished.parent == (made_in or tmp_path / ".table.csv.work" / "unfinished")
            unfinished.write_text("torn")
            raise KeyboardInterrupt

    for made_in in (None, tmp_path / "in_work"):
        with pytest.raises(KeyboardInterrupt):
            interrupted(made_in)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["in_work", "table.csv"]
    assert file.read_text() == "old"


def test_what_a_killed_process_left_of_a_file_is_not_written_on(tmp_path):
    (tmp_path / "in_work").mkdir()
    (tmp_path / "in_work" / f".{os.getpid()}.link").symlink_to(tmp_path / "elsewhere")
    with whole_file(tmp_path / "link", tmp_path / "in_work") as unfinished:
        unfinished.write_text("mine")
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["in_work", "link"]
    assert not (tmp_path / "link").is_symlink()


@pytest.mark.host
def test_what_a_killed_process_left_of_a_file_is_cleared_by_the_next(tmp_path):
    program = f"""
import os, pathlib, signal
from nnunetv2_cfnet.files.whole import whole_file
with whole_file(pathlib.Path({str(tmp_path)!r}, "plans.json")) as unfinished:
    unfinished.write_text("torn")
    os.kill(os.getpid(), signal.SIGKILL)
"""
    assert subprocess.run([sys.executable, "-c", program]).returncode == -signal.SIGKILL
    assert "torn" in [path.read_text() for path in tmp_path.rglob("*") if path.is_file()]
    with whole_file(tmp_path / "plans.json") as unfinished:
        unfinished.write_text("whole")
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"plans.json": "whole"}


def test_a_link_is_replaced_by_the_file_and_what_it_leads_to_stays(tmp_path):
    (tmp_path / "annex").mkdir()
    (tmp_path / "annex" / "object").write_text("old")
    (tmp_path / "plans.json").symlink_to("annex/object")
    with whole_file(tmp_path / "plans.json") as unfinished:
        assert tmp_path / "annex" not in unfinished.parents  # which may take no files, or be of another disk
        unfinished.write_text("new")
    assert (tmp_path / "annex" / "object").read_text() == "old"
    assert not (tmp_path / "plans.json").is_symlink()


def test_a_folder_gets_its_name_when_all_went_well(tmp_path):
    with whole_folder(tmp_path / "new" / "out") as unfinished:
        (unfinished / "file").touch()
        assert not (tmp_path / "new" / "out").exists()
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["out"]
    assert (tmp_path / "new" / "out" / "file").exists()
    assert (tmp_path / "new" / "out").stat().st_mode == tmp_path.joinpath("new").stat().st_mode  # others may read it


def test_an_empty_folder_is_filled_behind_a_link_too(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to("empty")
    check_new_folder(tmp_path / "link")
    with whole_folder(tmp_path / "link") as unfinished:
        (unfinished / "file").touch()
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "empty" / "file").exists()


def test_an_interrupted_folder_is_absent(tmp_path):
    def interrupted() -> None:
        with whole_folder(tmp_path / "out") as unfinished:
            (unfinished / "file").touch()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert list(tmp_path.iterdir()) == []


def refusal(folder: Path) -> str:
    with pytest.raises(UserError) as refused:
        check_new_folder(folder, "--to")
    return str(refused.value)


def test_a_folder_that_is_not_new_or_empty_is_refused(tmp_path, monkeypatch):
    file = tmp_path / "note.txt"
    file.write_text("mine")
    for taken in (tmp_path, file):
        assert refusal(taken) == f"{taken} exists and is no empty folder: choose another one for --to, or remove it."
    assert refusal(file / "below") == (
        f"{file} is a file, and a folder is to be written there: choose another --to, or remove it."
    )
    (tmp_path / "loop").symlink_to("loop")
    assert refusal(tmp_path / "loop" / "below") == (
        f"{tmp_path / 'loop' / 'below'} is a link that leads back to itself: choose another --to, or remove it."
    )
    assert refusal(Path("/proc/new")).startswith("/proc can't be written (/proc: ")
    (tmp_path / "here").mkdir()
    with monkeypatch.context() as patch:
        patch.setattr(Path, "is_mount", lambda _: True)
        assert refusal(tmp_path / "here") == (
            f"{tmp_path / 'here'} is where a disk is mounted, and can't be replaced: give --to a new folder in it."
        )
    monkeypatch.chdir(tmp_path / "here")
    assert refusal(Path(".")) == ". is the folder that this runs in, which can't be replaced: give --to a new one."


def test_an_empty_folder_whose_parent_takes_no_other_is_refused(tmp_path, monkeypatch):
    """It is made beside it."""
    (tmp_path / "out").mkdir()
    probed = []
    monkeypatch.setattr(whole.tempfile, "TemporaryFile", lambda dir: probed.append(dir) or nullcontext())
    check_new_folder(tmp_path / "out")
    assert probed == [tmp_path]


def test_a_place_where_a_file_cannot_be_written_is_refused(tmp_path, monkeypatch):
    check_place(tmp_path / "new" / "folder", ["table.csv"])
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "table.csv").mkdir()
    with pytest.raises(
        UserError, match=r"table\.csv is a folder, and a file is to be written there: choose another -o"
    ):
        check_place(tmp_path, ["table.csv"])
    with pytest.raises(UserError, match=r"^/proc/new can't be written \(/proc: .*\): choose another -o\.$"):
        check_place(Path("/proc/new"), [])
