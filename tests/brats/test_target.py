"""The dataset's folder: taken as a whole, kept when interrupted, and killed at every step of the way."""

import shutil
from collections import namedtuple
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import pytest

from nnunetv2_cfnet.brats import target as module
from nnunetv2_cfnet.brats.target import Target
from nnunetv2_cfnet.errors import UserError

FILES = {"dataset.json", "imagesTr/case_0000.nii.gz"}
OLD = {"dataset.json": "old"}


@pytest.fixture
def target(tmp_path) -> Target:
    return Target(tmp_path / "Dataset007_Small")


def write(target: Target, missing: str = "") -> None:
    """A conversion, as convert_brats goes about it."""
    target.restore()
    with target.kept(0):
        target.begin({"edition": "2021"})
        for name in FILES - {missing}:
            (target.unfinished / name).parent.mkdir(exist_ok=True)
            (target.unfinished / name).write_text("new")
        target.finish(FILES)


def content(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in sorted(folder.rglob("*")) if path.is_file()}


class Killed(BaseException):
    pass


@pytest.mark.parametrize("replaces", [False, True])
def test_killed_at_any_step_the_old_dataset_or_the_new_one_is_whole_and_the_same_command_goes_on(
    target, replaces, monkeypatch
):
    new = dict.fromkeys(sorted(FILES), "new")
    num_steps = 0

    def killed_at(step: int) -> Callable:
        def count(function: Callable) -> Callable:
            def counted(*arguments, **more):
                nonlocal num_steps
                num_steps += 1
                if num_steps == step:
                    raise Killed
                return function(*arguments, **more)

            return counted

        return count

    step = 0
    while True:
        step, num_steps = step + 1, 0
        shutil.rmtree(target.folder, ignore_errors=True)
        if replaces:
            target.folder.mkdir()
            (target.folder / "dataset.json").write_text("old")
        with monkeypatch.context() as patch:
            count = killed_at(step)
            patch.setattr(module.shutil, "rmtree", count(shutil.rmtree))
            for name in ("rename", "unlink", "mkdir"):
                patch.setattr(Path, name, count(getattr(Path, name)))
            try:
                write(target)
                break
            except Killed:
                pass
        target.restore()
        if not target.folder.exists() or content(target.folder) == OLD:  # otherwise it was killed with all done
            assert target.folder.exists() == replaces
            write(target)
        assert content(target.folder) == new, step
        assert {path.name for path in target.folder.parent.iterdir()} == {target.folder.name}, step
    assert step > 6 + replaces


@pytest.mark.parametrize(
    ("missing", "extra", "problem"),
    [
        ("imagesTr/case_0000.nii.gz", "", "of 2 files, 1 files are not there: imagesTr/case_0000.nii.gz."),
        ("", "imagesTr/other.nii.gz", "of 2 files, 1 are not ours: imagesTr/other.nii.gz."),
    ],
)
def test_a_dataset_gets_its_name_only_with_all_its_files_and_no_others(target, missing, extra, problem):
    if extra:
        begin = target.begin

        def begin_beside_another(conversion: dict) -> None:
            begin(conversion)
            (target.unfinished / "imagesTr").mkdir()
            (target.unfinished / extra).touch()

        target.begin = begin_beside_another
    with pytest.raises(UserError) as refused:
        write(target, missing)
    assert problem in str(refused.value)
    assert not target.folder.exists()
    if missing:
        write(target)
        assert target.folder.exists()


def test_a_link_to_a_dataset_is_replaced_and_what_it_leads_to_stays(target, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    target.folder.symlink_to(tmp_path / "elsewhere")
    write(target)
    assert not target.folder.is_symlink()
    assert sorted(path.name for path in tmp_path.iterdir()) == [target.folder.name, "elsewhere"]


def test_a_disk_with_too_little_space_is_refused_with_what_is_needed_and_free(target, monkeypatch):
    usage = namedtuple("usage", "free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(1_230_000_000))
    with pytest.raises(UserError) as refused:
        target.check_unfinished(2_000_000_000)
    assert str(refused.value) == (
        f"{target.unfinished} needs about 2 GB, and 1.23 GB are free: make room, then the same command goes on."
    )
    assert not target.unfinished.exists()
    target.unfinished.mkdir()
    with (target.unfinished / "done.nii.gz").open("wb") as file:
        file.truncate(1_000_000_000)
    target.check_unfinished(2_000_000_000)


def test_an_error_of_the_disk_says_that_the_same_command_goes_on_and_what_it_needs(target, monkeypatch):
    usage = namedtuple("usage", "free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(0))
    with (
        pytest.raises(
            UserError, match=r"No space left.* is kept: the same command .* about 3 GB more; 0 GB are free\.$"
        ),
        target.kept(3_000_000_000),
    ):
        raise OSError(28, "No space left on device")


@pytest.mark.parametrize("stopped_by", [PermissionError(13, "Permission denied"), KeyboardInterrupt()])
def test_what_stops_the_earlier_datasets_removal_does_not_call_the_new_one_unfinished(
    target, stopped_by, monkeypatch, capsys
):
    target.folder.mkdir()
    rmtree = shutil.rmtree

    def stopped(folder: Path, **more) -> None:
        if folder == target.replaced:
            raise stopped_by
        rmtree(folder, **more)

    monkeypatch.setattr(module.shutil, "rmtree", stopped)
    with pytest.raises(KeyboardInterrupt) if isinstance(stopped_by, KeyboardInterrupt) else nullcontext():
        write(target)
    assert content(target.folder) == dict.fromkeys(FILES, "new")
    said = capsys.readouterr().err
    assert "is kept" not in said
    assert said.endswith(f"remove {target.replaced}.\n") or isinstance(stopped_by, KeyboardInterrupt)
