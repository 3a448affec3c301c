"""Installing, finding and uninstalling, in real throw-away environments.

Each environment is a new venv whose heavy packages (torch and so on) are symbolic links to those of the running
Python; nnunetv2 and this package are left out of the links and installed with pip. Nothing is downloaded.
"""

import importlib.metadata
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[1]
TRAINER = "nnUNetTrainerCFNet"
HOOK = Path("nnunetv2_cfnet", "training", "hook")
OFFLINE = ("--no-index", "--no-build-isolation", "--disable-pip-version-check", "--quiet")

# Run in an environment: what nnU-Net's search finds there. Whether to spawn, and names, come in; JSON goes out.
PROBE = """
import contextlib, io, json, multiprocessing, os, pickle, sys

def find(name):
    from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name
    with contextlib.redirect_stdout(io.StringIO()):
        return recursive_find_trainer_class_by_name(name)

def describe(name):
    try:
        found = find(name)
    except RuntimeError as error:
        return {"error": str(error)}
    return {"module": found.__module__, "file": getattr(sys.modules.get(found.__module__), "__file__", None)}

if __name__ == "__main__":
    spawn, *names = sys.argv[1:]
    result = {name: describe(name) for name in names}
    result["variable"] = os.environ.get("nnUNet_extTrainer")
    if "module" in result.get("nnUNetTrainerCFNet", {}):
        found = find("nnUNetTrainerCFNet")
        from nnunetv2_cfnet.training.trainers import nnUNetTrainerCFNet

        result["is the installed class"] = found is nnUNetTrainerCFNet
        result["pickled by reference"] = pickle.loads(pickle.dumps(found)) is found
        if spawn == "True":
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                result["found in a spawned process"] = pool.apply(find, ["nnUNetTrainerCFNet"]) is found
    print(json.dumps(result))
"""


@dataclass(frozen=True)
class Environment:
    """A virtual environment, and a folder elsewhere from which its commands run."""

    folder: Path
    elsewhere: Path

    @property
    def bin(self) -> Path:
        return self.folder / "bin"

    @property
    def site_packages(self) -> Path:
        return self.folder / "lib" / f"python{sysconfig.get_python_version()}" / "site-packages"

    def run(self, *command: str | Path, check: bool = True, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run a command of this environment with none of the caller's settings but `variables`."""
        program, *arguments = map(str, command)
        dropped = {"PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "PYTHONDONTWRITEBYTECODE"}
        kept = {k: v for k, v in os.environ.items() if k not in dropped and not k.startswith("nnUNet_")}
        result = subprocess.run(
            [str(self.bin / program), *arguments],
            env={**kept, **variables},
            cwd=self.elsewhere,
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
        )
        assert result.returncode == 0 or not check, f"{command} failed:\n{result.stdout}\n{result.stderr}"
        return result

    def pip(self, *arguments: str | Path) -> None:
        """Run the caller's pip on this environment: it needs none of its own, which is slow to set up."""
        command = [sys.executable, "-m", "pip", "--python", str(self.bin / "python"), *map(str, arguments)]
        result = subprocess.run(command, capture_output=True, text=True, cwd=self.elsewhere, stdin=subprocess.DEVNULL)
        assert result.returncode == 0, f"{command} failed:\n{result.stdout}\n{result.stderr}"

    def search(self, *trainers: str, spawn: bool = False, **variables: str) -> dict:
        """Let nnU-Net search for trainers in this environment; see PROBE for the answer."""
        probe = self.elsewhere / "probe.py"
        probe.write_text(PROBE)
        return json.loads(self.run("python", probe, str(spawn), *trainers, **variables).stdout.splitlines()[-1])

    def start(self, **variables: str) -> tuple[str, str]:
        """Start Python alone; return nnUNet_extTrainer as it sees it, and what it says on stderr."""
        result = self.run("python", "-c", "import os; print(os.environ.get('nnUNet_extTrainer', ''))", **variables)
        return result.stdout.strip(), result.stderr

    def files(self) -> set[str]:
        """Every file and folder of the environment; links to the heavy packages are not followed."""
        return {
            str(Path(folder, name).relative_to(self.folder))
            for folder, folders, files in os.walk(self.folder)
            for name in (*folders, *files)
        }


def new_environment(folder: Path, **options: bool) -> Environment:
    venv.create(folder, with_pip=False, symlinks=True, **options)
    elsewhere = folder.with_name(folder.name + " elsewhere")
    elsewhere.mkdir()
    return Environment(folder, elsewhere)


def link_heavy_packages(environment: Environment) -> None:
    """Link the running Python's packages into the environment, without nnunetv2, this package and .pth files."""
    for site_packages in (Path(entry) for entry in sys.path if entry.endswith("-packages")):
        for source in site_packages.iterdir():
            target = environment.site_packages / source.name
            ours = source.name.lower().startswith(("nnunetv2", "__editable__", "pip"))
            if not (ours or source.suffix == ".pth" or target.is_symlink()):
                target.symlink_to(source)


def copy_project(folder: Path) -> Path:
    """Copy what an installation takes, so that builds leave nothing in the clone."""
    for name in ("pyproject.toml", "setup.py", "nnunetv2_cfnet.pth", "README.md", "LICENSE"):
        if (PROJECT / name).exists():
            folder.mkdir(parents=True, exist_ok=True)
            shutil.copy(PROJECT / name, folder)
    shutil.copytree(PROJECT / "nnunetv2_cfnet", folder / "nnunetv2_cfnet", ignore=shutil.ignore_patterns("__pycache__"))
    return folder


def copy_nnunetv2(folder: Path) -> Path:
    """Lay out the running nnunetv2 as a source folder that pip can install, editable or not."""
    spec = importlib.util.find_spec("nnunetv2")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    shutil.copytree(
        next(iter(spec.submodule_search_locations)), folder / "nnunetv2", ignore=shutil.ignore_patterns("__pycache__")
    )
    distribution = importlib.metadata.distribution("nnunetv2")
    scripts = "".join(f'{e.name} = "{e.value}"\n' for e in distribution.entry_points if e.group == "console_scripts")
    (folder / "pyproject.toml").write_text(
        '[build-system]\nrequires = ["setuptools"]\nbuild-backend = "setuptools.build_meta"\n'
        f'[project]\nname = "nnunetv2"\nversion = "{distribution.version}"\n[project.scripts]\n{scripts}'
        '[tool.setuptools.packages.find]\ninclude = ["nnunetv2*"]\n'
    )
    return folder


@pytest.fixture(scope="module")
def nnunetv2_source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copy_nnunetv2(tmp_path_factory.mktemp("sources") / "nnunetv2")


def build_wheel(project: Path, folder: Path) -> Path:
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", *OFFLINE, "--wheel-dir", str(folder), str(project)]
    subprocess.run(command, check=True, capture_output=True, stdin=subprocess.DEVNULL)
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    return build_wheel(copy_project(folder / "project"), folder)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory, nnunetv2_source: Path) -> Environment:
    """`pip install .` beside a plain nnunetv2."""
    folder = tmp_path_factory.mktemp("plain")
    environment = new_environment(folder / "venv")
    link_heavy_packages(environment)
    environment.pip("install", "--no-compile", *OFFLINE, nnunetv2_source)
    environment.pip("install", *OFFLINE, copy_project(folder / "project"))
    return environment


@pytest.fixture(scope="module")
def user_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of the user's own trainers."""
    folder = tmp_path_factory.mktemp("user trainers")
    (folder / "user_trainer.py").write_text(
        "from nnunetv2_cfnet.training.trainers import nnUNetTrainerCFNet\n"
        "from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer\n"
        "class nnUNetTrainerOfTheUser(nnUNetTrainer): pass\n"
        "class nnUNetTrainerCFNetOfTheUser(nnUNetTrainerCFNet): pass\n"
    )
    return folder


def assert_found_whole(answer: dict, file: Path) -> None:
    """The search found the class of the package that lies at `file`, and that class can be pickled by reference."""
    assert answer[TRAINER] == {"module": "nnunetv2_cfnet.training.trainers", "file": str(file)}
    assert answer["is the installed class"]
    assert answer["pickled by reference"]


def test_trainer_is_found_beside_a_plain_nnunetv2(plain: Environment) -> None:
    missing = ("nnUNetTrainerNobodyWrote", f"{TRAINER}_7epochs")
    answer = plain.search(TRAINER, "nnUNetTrainer", "nnUNetTrainer_5epochs", *missing, spawn=True)
    assert_found_whole(answer, plain.site_packages / "nnunetv2_cfnet" / "training" / "trainers.py")
    assert answer["found in a spawned process"]
    assert answer["variable"] == str(plain.site_packages / HOOK)
    assert answer["nnUNetTrainer"]["module"] == "nnunetv2.training.nnUNetTrainer.nnUNetTrainer"
    assert answer["nnUNetTrainer_5epochs"]["module"].startswith("nnunetv2.training.nnUNetTrainer.")
    for name in missing:  # nnU-Net's own error, for our prefix too
        assert answer[name]["error"].startswith(f"Could not find requested nnunet trainer {name} ")


def test_users_own_entries_come_first_and_keep_working(plain: Environment, user_folder: Path) -> None:
    names = ("nnUNetTrainerOfTheUser", "nnUNetTrainerCFNetOfTheUser", TRAINER)
    answer = plain.search(*names, nnUNet_extTrainer=str(user_folder))
    assert answer["variable"] == f"{user_folder}{os.pathsep}{plain.site_packages / HOOK}"
    assert answer["nnUNetTrainerOfTheUser"]["module"] == "user_trainer"
    assert answer["nnUNetTrainerCFNetOfTheUser"]["module"] == "user_trainer"
    assert_found_whole(answer, plain.site_packages / "nnunetv2_cfnet" / "training" / "trainers.py")


def test_doctor_passes_in_a_fresh_environment(plain: Environment, tmp_path: Path) -> None:
    folders = {name: str(tmp_path / name) for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")}
    (tmp_path / "nnUNet_raw").mkdir()
    doctor = plain.run("nnunetv2_cfnet", "doctor", check=False, **folders)
    assert doctor.returncode == 0, doctor.stdout + doctor.stderr
    assert str(plain.site_packages / "nnunetv2") in doctor.stdout


def test_trainer_is_found_beside_an_editable_nnunetv2(tmp_path: Path, nnunetv2_source: Path) -> None:
    environment = new_environment(tmp_path / "venv")
    link_heavy_packages(environment)
    environment.pip("install", *OFFLINE, "--editable", nnunetv2_source)
    environment.pip("install", *OFFLINE, copy_project(tmp_path / "project"))
    answer = environment.search(TRAINER, "nnUNetTrainer")
    assert_found_whole(answer, environment.site_packages / "nnunetv2_cfnet" / "training" / "trainers.py")
    assert answer["nnUNetTrainer"]["file"].startswith(str(nnunetv2_source))


def test_trainer_is_found_after_an_editable_install_and_gone_after_uninstalling(
    tmp_path: Path, nnunetv2_source: Path, plain: Environment
) -> None:
    environment = new_environment(tmp_path / "venv")
    link_heavy_packages(environment)
    environment.pip("install", "--no-compile", *OFFLINE, nnunetv2_source)
    project = copy_project(tmp_path / "project")
    environment.pip("install", *OFFLINE, "--editable", project)
    answer = environment.search(TRAINER, spawn=True)
    assert_found_whole(answer, project / "nnunetv2_cfnet" / "training" / "trainers.py")
    assert answer["found in a spawned process"]
    assert answer["variable"] == str(project / HOOK)

    environment.pip("uninstall", "--yes", "nnunetv2_cfnet")
    assert environment.start() == ("", "")
    # The variable of an environment that has our package leaks into this one, which has not: nobody's search breaks.
    user_folder = tmp_path / "user trainers"
    user_folder.mkdir()
    (user_folder / "plain_trainer.py").write_text(
        "from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer\n"
        "class nnUNetTrainerPlain(nnUNetTrainer): pass\n"
    )
    leaked = os.pathsep.join(map(str, (plain.site_packages / HOOK, user_folder)))
    answer = environment.search(TRAINER, "nnUNetTrainer", "nnUNetTrainerPlain", nnUNet_extTrainer=leaked)
    assert f"Could not find requested nnunet trainer {TRAINER} " in answer[TRAINER]["error"]
    assert answer["nnUNetTrainer"]["module"] == "nnunetv2.training.nnUNetTrainer.nnUNetTrainer"
    assert answer["nnUNetTrainerPlain"]["module"] == "plain_trainer"


@pytest.mark.parametrize("editable", [False, True], ids=["plain", "editable"])
def test_uninstalling_leaves_nothing_behind(tmp_path: Path, editable: bool) -> None:
    environment = new_environment(tmp_path / "venv")
    link_heavy_packages(environment)
    before = environment.files()
    project = copy_project(tmp_path / "project")
    environment.pip("install", "--no-deps", *OFFLINE, *(["--editable"] if editable else []), project)
    # The hook runs from its folder, as nnU-Net runs it, and so leaves bytecode there. It has nnunetv2 to miss here, and
    # that is said, not swallowed.
    hook, _ = environment.start()
    ask = (
        "import nnunetv2_cfnet_trainer_hook as hook; assert not hasattr(hook, 'nnUNetTrainer'); hook.nnUNetTrainerCFNet"
    )
    asked = environment.run("python", "-c", ask, check=False, PYTHONPATH=hook)
    assert "ModuleNotFoundError: No module named 'nnunetv2'" in asked.stderr
    assert environment.files() != before

    environment.pip("uninstall", "--yes", "nnunetv2_cfnet")
    assert environment.files() == before
    assert environment.start() == ("", "")


@pytest.fixture(scope="module")
def light(tmp_path_factory: pytest.TempPathFactory, wheel: Path) -> Environment:
    """This package alone, in a folder whose name has what breaks careless quoting."""
    environment = new_environment(tmp_path_factory.mktemp("light") / 'it\'s a "light" {venv}')
    environment.pip("install", "--no-deps", *OFFLINE, wheel)
    return environment


def test_variable_is_set_once_behind_the_users_entries(light: Environment) -> None:
    hook = str(light.site_packages / HOOK)
    assert light.start() == (hook, "")
    assert light.start(nnUNet_extTrainer="") == (hook, "")
    assert light.start(nnUNet_extTrainer=hook) == (hook, "")
    assert light.start(nnUNet_extTrainer="/a") == (f"/a{os.pathsep}{hook}", "")
    both = os.pathsep.join((hook, "/a b"))
    assert light.start(nnUNet_extTrainer=both) == (both, "")


def test_start_imports_nothing_more(light: Environment) -> None:
    list_modules = "import sys; print(sorted(sys.modules))"
    with_package = light.run("python", "-c", list_modules).stdout
    pth = light.site_packages / "nnunetv2_cfnet.pth"
    pth.rename(pth.with_suffix(".off"))
    try:
        assert light.run("python", "-c", list_modules).stdout == with_package
    finally:
        pth.with_suffix(".off").rename(pth)


def test_start_is_clean_when_only_the_pth_is_left(light: Environment) -> None:
    package = light.site_packages / "nnunetv2_cfnet"
    package.rename(package.with_name("elsewhere"))
    try:
        assert light.start() == ("", "")
    finally:
        package.with_name("elsewhere").rename(package)


def test_user_site_and_system_site_packages_give_one_hook(tmp_path: Path, wheel: Path) -> None:
    environment = new_environment(tmp_path / "venv", system_site_packages=True)
    user = {"PYTHONUSERBASE": str(tmp_path / "user base")}
    user_site = Path(environment.run("python", "-m", "site", "--user-site", check=False, **user).stdout.strip())
    environment.pip("install", "--no-deps", *OFFLINE, "--target", user_site, wheel)
    assert environment.start(**user) == (str(user_site / HOOK), "")
    environment.pip("install", "--no-deps", "--ignore-installed", *OFFLINE, wheel)
    assert environment.start(**user) == (str(environment.site_packages / HOOK), "")


def test_wheel_holds_all_that_is_no_module(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    page = {
        f"nnunetv2_cfnet/report/{file}" for file in ("report.html.jinja", "forest.svg.jinja", "report.css", "report.js")
    }
    assert {"nnunetv2_cfnet.pth", "nnunetv2_cfnet/py.typed", *page} <= set(names)
    assert [name for name in names if name.startswith(HOOK.as_posix())] == [
        (HOOK / "nnunetv2_cfnet_trainer_hook.py").as_posix()
    ]


def test_a_module_that_was_deleted_since_the_last_build_is_not_installed(tmp_path: Path, wheel: Path) -> None:
    project = copy_project(tmp_path / "project")
    ghost = project / "build" / "lib" / HOOK / "ghost.py"
    ghost.parent.mkdir(parents=True)
    ghost.touch()
    assert set(zipfile.ZipFile(build_wheel(project, tmp_path)).namelist()) == set(zipfile.ZipFile(wheel).namelist())
    assert any(project.glob("build/lib/nnunetv2_cfnet/*.py"))  # so this is the folder that the build takes


def test_source_distribution_holds_the_pth(tmp_path: Path) -> None:
    project = copy_project(tmp_path / "project")
    code = f"import setuptools.build_meta as backend; backend.build_sdist({str(tmp_path)!r})"
    subprocess.run([sys.executable, "-c", code], cwd=project, check=True, capture_output=True)
    with tarfile.open(next(tmp_path.glob("*.tar.gz"))) as archive:
        names = {Path(name).name for name in archive.getnames()}
    assert {"nnunetv2_cfnet.pth", "nnunetv2_cfnet_trainer_hook.py", "setup.py", "LICENSE"} <= names
