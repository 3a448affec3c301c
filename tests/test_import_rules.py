"""The arrows between the parts of the package: imports only point down the layout list, wherever they stand."""

import ast
import sys
from collections.abc import Iterator
from importlib.metadata import requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

PACKAGE = Path(__file__).parents[1] / "nnunetv2_cfnet"

# From top to bottom. A part may import from the rows below its own, and from itself.
LAYERS = (
    ("__main__",),
    ("cli",),
    ("commands",),
    ("demo",),
    ("jobs",),
    ("report",),
    ("brats",),
    ("evaluation",),
    ("training",),
    ("planning",),
    ("architecture",),
    ("files",),
    ("host",),
    ("errors",),
)
LEVEL = {part: level for level, layer in enumerate(LAYERS) for part in layer}

# The boxes of the figure, which only cfnet.py puts together.
BOXES = ("encoders", "fusion", "context", "decoder")

DISTRIBUTIONS = {"sklearn": "scikit-learn"}  # where it is not the import's name

MODULES = sorted(PACKAGE.rglob("*.py"))
PARTS = {path.stem for path in PACKAGE.iterdir()} - {"__init__", "__pycache__"}


def module_name(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported(path: Path) -> Iterator[str]:
    """Every module that a file imports, inside functions too; `from a import b` counts as a.b, which b may be."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: a relative import hides where it points"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def imported_of_ours(path: Path) -> Iterator[list[str]]:
    """The dotted parts, below the package, of what a file imports from this package."""
    for name in imported(path):
        package, *parts = name.split(".")
        # `from nnunetv2_cfnet import __version__` names no part.
        if package == PACKAGE.name and parts and parts[0] in PARTS:
            yield parts


@pytest.mark.parametrize("path", MODULES, ids=module_name)
def test_imports_point_down(path: Path) -> None:
    _, *own = module_name(path).split(".")
    if not own:
        assert {tuple(parts) for parts in imported_of_ours(path)} == {("architecture", "cfnet", "CFNet")}, "lazily"
        return
    assert own[0] in LEVEL, f"{path} has no place in the layout list"
    for parts in imported_of_ours(path):
        assert parts[0] == own[0] or LEVEL[parts[0]] > LEVEL[own[0]], (
            f"{path} imports {'.'.join(parts)}, which is above"
        )


@pytest.mark.parametrize("path", sorted((PACKAGE / "architecture").glob("*.py")), ids=module_name)
def test_architecture_knows_neither_nnunetv2_nor_its_neighbours(path: Path) -> None:
    assert "nnunetv2" not in {name.split(".")[0] for name in imported(path)}
    if path.stem in BOXES:
        others = {parts[1] for parts in imported_of_ours(path) if len(parts) > 1} & set(BOXES) - {path.stem}
        assert not others, f"{path.name} imports {others}; cfnet.py is where the boxes meet"


@pytest.mark.parametrize("path", MODULES, ids=module_name)
def test_modules_import_names_and_have_one(path: Path) -> None:
    assert not [name for name in imported(path) if name.endswith(".*")], f"{path} has a wildcard import"
    assert path.stem not in {"utils", "util", "helpers", "misc"}, f"{path} has a name that says nothing"


def test_every_imported_library_is_a_declared_dependency() -> None:
    libraries = {name.split(".")[0] for path in MODULES for name in imported(path)}
    libraries -= {PACKAGE.name, *sys.stdlib_module_names}
    libraries = {DISTRIBUTIONS.get(library, library) for library in libraries}
    declared = {
        canonicalize_name(requirement.name)
        for requirement in map(Requirement, requires("nnunetv2_cfnet") or [])
        # what only some commands need is an extra; dev and docs are of no use to an installed package
        if not requirement.marker or requirement.marker.evaluate({"extra": "cluster"})
    }
    assert {canonicalize_name(library) for library in libraries} <= declared
