"""What `nnunetv2_cfnet doctor` says and exits with, when all is well and when one thing is not."""

import io
import sys
from collections.abc import Callable
from importlib import metadata

import pytest

from nnunetv2_cfnet import host
from nnunetv2_cfnet.commands import doctor
from nnunetv2_cfnet.errors import UserError

FOLDERS = ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")
LIBRARIES = ("numpy", "filelock", "nnunetv2", "dynamic-network-architectures", "torch")
Doctor = Callable[[], tuple[int, dict[str, str]]]


@pytest.fixture
def ask(tmp_path, monkeypatch, capsys) -> Doctor:
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


def pretend_version(monkeypatch, distribution: str, answer: str | Exception) -> None:
    """Let the installed `distribution` have another version, or none."""

    def version(name: str) -> str:
        if name != distribution:
            return metadata.version(name)
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(doctor, "version", version)


def test_a_working_environment_gets_a_tick_for_each_thing(ask):
    code, lines = ask()
    assert code == 0
    assert list(lines) == ["python", *LIBRARIES, "device", "trainer", *FOLDERS]
    assert crosses(lines) == []
    assert sys.executable in lines["python"]
    for library in LIBRARIES:
        assert metadata.version(library) in lines[library]


@pytest.mark.parametrize("name", ["nnUNet_preprocessed", "nnUNet_results"])
def test_folders_are_left_to_nnunet_to_make(ask, name, tmp_path, monkeypatch):
    monkeypatch.setenv(name, str(tmp_path / "not" / "there"))
    code, lines = ask()
    assert code == 0
    assert "(will be made by nnU-Net)" in lines[name]
    assert sorted(path.name for path in tmp_path.rglob("*")) == sorted(FOLDERS)


@pytest.mark.parametrize(
    ("variable", "folder", "cross", "answer"),
    [
        *((name, None, name, f"is not set; fix it with: export {name}=") for name in FOLDERS),
        # nnU-Net only reads it: a missing one is a typing error, or the user's to make
        ("nnUNet_raw", "typo", "nnUNet_raw", "does not exist; fix it with: mkdir -p {}"),
        # below a file nobody can write, root included
        ("nnUNet_results", "a file/results", "nnUNet_results", "is a file, and a folder is to be written there"),
        ("nnUNet_extTrainer", None, "trainer", f'export nnUNet_extTrainer="{doctor.HOOK_FOLDER}"'),
    ],
)
def test_a_variable_that_is_not_right_is_a_cross_with_what_to_do(
    ask, variable, folder, cross, answer, tmp_path, monkeypatch
):
    (tmp_path / "a file").touch()
    monkeypatch.setenv(variable, str(tmp_path / str(folder)))
    if folder is None:
        monkeypatch.delenv(variable)
    code, lines = ask()
    assert code == 1
    assert crosses(lines) == [cross]
    assert answer.format(tmp_path / str(folder)) in lines[cross]


@pytest.mark.parametrize("version", ["2.7.0", "2.9.0", "3.0"])
def test_unsupported_nnunetv2_is_a_cross(ask, version, monkeypatch):
    pretend_version(monkeypatch, "nnunetv2", version)
    code, lines = ask()
    assert code == 1
    assert crosses(lines) == ["nnunetv2"]
    assert f"nnunetv2 {version} is not supported (supported: <2.9,>=2.8)" in lines["nnunetv2"]
    assert 'pip install "nnunetv2<2.9,>=2.8"' in lines["nnunetv2"]


@pytest.mark.parametrize("version", ["2.8.0", "2.8.1", "2.8.2.dev1", "2.8.10"])
def test_supported_nnunetv2_passes(version, monkeypatch):
    pretend_version(monkeypatch, "nnunetv2", version)
    assert doctor.check_version("nnunetv2") == version


def test_missing_package_metadata_is_a_user_error(monkeypatch):
    monkeypatch.setattr(host, "OURSELVES", "a_package_that_is_not_installed")
    with pytest.raises(UserError, match="a_package_that_is_not_installed is not installed in this Python"):
        doctor.check_version("nnunetv2")


@pytest.mark.parametrize("library", LIBRARIES)
def test_missing_library_is_a_cross(ask, library, monkeypatch):
    pretend_version(monkeypatch, library, metadata.PackageNotFoundError(library))
    code, lines = ask()
    assert code == 1
    assert f"{library} is not installed" in lines[library]
    assert f'pip install "{library}' in lines[library]


@pytest.mark.parametrize(
    ("library", "follow_up"),
    [("nnunetv2", {"trainer"}), ("dynamic_network_architectures", set()), ("torch", {"device"})],
)
def test_library_that_cannot_be_imported_is_a_cross(ask, library, follow_up, monkeypatch):
    for name in [name for name in sys.modules if name == library or name == "nnunetv2.utilities.find_objects"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, library, None)
    code, lines = ask()
    assert code == 1
    assert set(crosses(lines)) >= {library.replace("_", "-")} | follow_up
    assert "cannot be imported (ModuleNotFoundError" in lines[library.replace("_", "-")]


@pytest.mark.parametrize(
    "code", ["import a_library_that_is_not_there", "raise SystemExit('a_library_that_is_not_there')"]
)
def test_somebody_elses_broken_trainer_is_named(ask, code, tmp_path, monkeypatch):
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "their_trainer.py").write_text(code)
    monkeypatch.setenv("nnUNet_extTrainer", str(tmp_path / "theirs"))
    exit_code, lines = ask()
    assert exit_code == 1
    assert crosses(lines) == ["trainer"]
    assert "a_library_that_is_not_there" in lines["trainer"]
    assert "take its folder off nnUNet_extTrainer=" in lines["trainer"]


def test_another_trainer_of_the_same_name_is_a_cross(ask, tmp_path, monkeypatch):
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "their_namesake.py").write_text(
        "from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer\n"
        f"class {doctor.TRAINER}(nnUNetTrainer): pass\n"
    )
    monkeypatch.setenv("nnUNet_extTrainer", str(tmp_path / "theirs"))
    code, lines = ask()
    assert code == 1
    assert f"nnU-Net finds another {doctor.TRAINER}" in lines["trainer"]


def test_a_terminal_without_ticks_gets_words(monkeypatch, tmp_path):
    (tmp_path / "Bär").mkdir()
    monkeypatch.setenv("nnUNet_raw", str(tmp_path / "Bär"))
    monkeypatch.delenv("nnUNet_results", raising=False)
    terminal = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    assert doctor.run_doctor(terminal) == 1
    terminal.seek(0)
    text = terminal.read()
    assert "[ok] nnUNet_raw: " in text
    assert "B\\xe4r" in text
    assert "[FAILED] nnUNet_results: is not set; fix it with: export nnUNet_results=" in text
