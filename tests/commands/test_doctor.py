"""What `nnunetv2_cfnet doctor` says and exits with, when all is well and when one thing is not."""

import io
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import pytest

from nnunetv2_cfnet.commands import doctor
from nnunetv2_cfnet.errors import UserError

FOLDERS = ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")
LIBRARIES = ("nnunetv2", "dynamic-network-architectures", "torch")
Doctor = Callable[[], tuple[int, dict[str, str]]]


@pytest.fixture
def ask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Doctor:
    """Run the doctor with all three folders in place; return its exit code and its lines by what they are about."""
    for name in FOLDERS:
        monkeypatch.setenv(name, str(tmp_path / name))
        (tmp_path / name).mkdir()

    def run() -> tuple[int, dict[str, str]]:
        code = doctor.run_doctor()
        *lines, verdict = capsys.readouterr().out.splitlines()
        assert ("Ready to train" in verdict) == (code == 0)
        return code, {line.split(":")[0][2:]: line for line in lines}

    return run


def crosses(lines: dict[str, str]) -> list[str]:
    return [name for name, line in lines.items() if not line.startswith("✓ ")]


def pretend_version(monkeypatch: pytest.MonkeyPatch, distribution: str, answer: str | Exception) -> None:
    """Let the installed `distribution` have another version, or none."""

    def version(name: str) -> str:
        if name != distribution:
            return metadata.version(name)
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(doctor, "version", version)


def test_a_working_environment_gets_a_tick_for_each_thing(ask: Doctor) -> None:
    code, lines = ask()
    assert code == 0
    assert list(lines) == ["python", *LIBRARIES, "device", "trainer", *FOLDERS]
    assert crosses(lines) == []
    assert sys.executable in lines["python"]
    for library in LIBRARIES:
        assert metadata.version(library) in lines[library]


@pytest.mark.parametrize("name", ["nnUNet_preprocessed", "nnUNet_results"])
def test_folders_are_left_to_nnunet_to_make(
    ask: Doctor, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, str(tmp_path / "not" / "there"))
    code, lines = ask()
    assert code == 0
    assert "(will be made by nnU-Net)" in lines[name]
    assert sorted(path.name for path in tmp_path.rglob("*")) == sorted(FOLDERS)


def test_a_raw_folder_that_is_not_there_is_a_cross(
    ask: Doctor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """nnU-Net only reads it: a missing one is a typing error, or the user's to make."""
    monkeypatch.setenv("nnUNet_raw", str(tmp_path / "typo"))
    code, lines = ask()
    assert code == 1
    assert crosses(lines) == ["nnUNet_raw"]
    assert f"does not exist; mend it with: mkdir -p {tmp_path / 'typo'}" in lines["nnUNet_raw"]


@pytest.mark.parametrize("name", FOLDERS)
def test_unset_folder_is_a_cross_with_what_to_do(ask: Doctor, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(name)
    code, lines = ask()
    assert code == 1
    assert crosses(lines) == [name]
    assert f"is not set; mend it with: export {name}=" in lines[name]


def test_unwritable_folder_is_a_cross(ask: Doctor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Below a file nobody can write, root included.
    (tmp_path / "a file").touch()
    monkeypatch.setenv("nnUNet_results", str(tmp_path / "a file" / "results"))
    code, lines = ask()
    assert code == 1
    assert crosses(lines) == ["nnUNet_results"]
    assert "a file/results cannot be written to" in lines["nnUNet_results"]


@pytest.mark.parametrize("version", ["2.7.0", "2.9.0", "3.0"])
def test_unsupported_nnunetv2_is_a_cross(ask: Doctor, version: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend_version(monkeypatch, "nnunetv2", version)
    code, lines = ask()
    assert code == 1
    assert crosses(lines) == ["nnunetv2"]
    assert f"nnunetv2 {version} is not supported (supported: <2.9,>=2.8)" in lines["nnunetv2"]
    assert 'pip install "nnunetv2<2.9,>=2.8"' in lines["nnunetv2"]


@pytest.mark.parametrize("version", ["2.8.0", "2.8.1", "2.8.2.dev1", "2.8.10"])
def test_supported_nnunetv2_passes(version: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend_version(monkeypatch, "nnunetv2", version)
    assert doctor.check_version("nnunetv2") == version


def test_missing_package_metadata_is_a_user_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "OURSELVES", "a_package_that_is_not_installed")
    with pytest.raises(UserError, match="a_package_that_is_not_installed is not installed in this Python"):
        doctor.check_version("nnunetv2")


@pytest.mark.parametrize("library", LIBRARIES)
def test_missing_library_is_a_cross(ask: Doctor, library: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend_version(monkeypatch, library, metadata.PackageNotFoundError(library))
    code, lines = ask()
    assert code == 1
    assert f"{library} is not installed" in lines[library]
    assert f'pip install "{library}' in lines[library]


@pytest.mark.parametrize(
    ("library", "follow_up"),
    [("nnunetv2", {"trainer"}), ("dynamic_network_architectures", set()), ("torch", {"device"})],
)
def test_library_that_cannot_be_imported_is_a_cross(
    ask: Doctor, library: str, follow_up: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name == library or name == "nnunetv2.utilities.find_objects"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, library, None)
    code, lines = ask()
    assert code == 1
    assert set(crosses(lines)) >= {library.replace("_", "-")} | follow_up
    assert "cannot be imported (ModuleNotFoundError" in lines[library.replace("_", "-")]


def test_trainer_that_the_search_cannot_see_is_a_cross(ask: Doctor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("nnUNet_extTrainer")
    code, lines = ask()
    assert code == 1
    assert crosses(lines) == ["trainer"]
    assert f'export nnUNet_extTrainer="{doctor.HOOK_FOLDER}"' in lines["trainer"]


@pytest.mark.parametrize(
    "code", ["import a_library_that_is_not_there", "raise SystemExit('a_library_that_is_not_there')"]
)
def test_somebody_elses_broken_trainer_is_named(
    ask: Doctor, code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "their_trainer.py").write_text(code)
    monkeypatch.setenv("nnUNet_extTrainer", str(tmp_path / "theirs"))
    exit_code, lines = ask()
    assert exit_code == 1
    assert crosses(lines) == ["trainer"]
    assert "a_library_that_is_not_there" in lines["trainer"]
    assert "take its folder off nnUNet_extTrainer=" in lines["trainer"]


def test_another_trainer_of_the_same_name_is_a_cross(
    ask: Doctor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "their_namesake.py").write_text(
        "from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer\n"
        f"class {doctor.TRAINER}(nnUNetTrainer): pass\n"
    )
    monkeypatch.setenv("nnUNet_extTrainer", str(tmp_path / "theirs"))
    code, lines = ask()
    assert code == 1
    assert f"nnU-Net finds another {doctor.TRAINER}" in lines["trainer"]


def test_a_terminal_without_ticks_gets_words(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "Bär").mkdir()
    monkeypatch.setenv("nnUNet_raw", str(tmp_path / "Bär"))
    monkeypatch.delenv("nnUNet_results", raising=False)
    terminal = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    assert doctor.run_doctor(terminal) == 1
    terminal.seek(0)
    text = terminal.read()
    assert "[ok] nnUNet_raw: " in text
    assert "B\\xe4r" in text
    assert "[FAILED] nnUNet_results: nnUNet_results is not set" in text
