"""What pyproject.toml declares, compared with what the modules import."""

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import tomli

ROOT = Path(__file__).parent.parent
PROJECT = tomli.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]

# Import packages whose distribution has another name; elsewhere the two differ by `-` and `_` alone.
DISTRIBUTION = {
    "yaml": "pyyaml",
    **dict.fromkeys(("pywintypes", "servicemanager", "win32evtlog", "win32service", "winerror"), "pywin32"),
}

# The only places that may import what an extra brings: without the extra, the others must still run.
EXTRAS_OF = {
    "hvbridge/admin": "admin",
    "hvbridge/cli/run.py": "watch",
    "hvbridge/service/windows": "windows",
}


def declared(requirements: list[str]) -> set[str]:
    """The names of the distributions."""
    found = {re.split(r"[\s\[<>=!~;]", requirement)[0].lower() for requirement in requirements}
    return found - {"hvbridge"}


def imported(module: Path) -> Iterator[str]:
    """The names of the third-party distributions that a module imports anywhere in it."""
    for node in ast.walk(ast.parse(module.read_bytes())):
        match node:
            case ast.Import(names=names):
                packages = [alias.name for alias in names]
            case ast.ImportFrom(module=str(name), level=0):
                packages = [name]
            case ast.Call(func=ast.Attribute(attr="importorskip"), args=[ast.Constant(value=str(name)), *_]):
                packages = [name]
            case _:
                continue
        for package in (name.partition(".")[0] for name in packages):
            if package not in sys.stdlib_module_names and package not in ("hvbridge", "tests", "bench"):
                yield DISTRIBUTION.get(package, package.lower().replace("_", "-"))


def imports_by_module(*folders: str) -> Iterator[tuple[str, set[str]]]:
    """Path from the root, and what it imports, of each module in the folders."""
    for folder in folders:
        for path in sorted((ROOT / folder).rglob("*.py")):
            yield path.relative_to(ROOT).as_posix(), set(imported(path))


CORE = declared(PROJECT["dependencies"])
EXTRAS = {name: declared(requirements) for name, requirements in PROJECT["optional-dependencies"].items()}


def test_every_import_is_declared() -> None:
    """A module of hvbridge imports what a plain install has; three places also what their extra brings."""
    undeclared = {}
    for path, packages in imports_by_module("hvbridge"):
        extras = [EXTRAS[extra] for place, extra in EXTRAS_OF.items() if path.startswith(place)]
        if missing := packages - CORE.union(*extras):
            undeclared[path] = missing
    assert undeclared == {}


@pytest.mark.parametrize("extra", [None, *EXTRAS_OF.values()])
def test_every_dependency_is_imported(extra: str | None) -> None:
    """Nothing is installed for hvbridge that no module of it imports, but for cffi, which trio needs on Windows."""
    used = set().union(*(packages for _, packages in imports_by_module("hvbridge")))
    wanted = EXTRAS[extra] if extra else CORE - {"cffi"}
    assert wanted - used == set()


def test_every_import_of_the_tests_is_declared() -> None:
    """Tests and bench import what hvbridge itself needs, its extras, and what the extras dev and ci bring."""
    everything = CORE.union(*EXTRAS.values())
    undeclared = {path: packages - everything for path, packages in imports_by_module("tests", "bench")}
    assert {path: packages for path, packages in undeclared.items() if packages} == {}


def test_the_constraints_have_every_dependency() -> None:
    """constraints.txt names one version of all that CI installs on Linux, and no place to get it from."""
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    assert [pin for pin in pins if not re.fullmatch(r"[\w.-]+==[\w.]+", pin)] == []
    pinned = {pin.partition("==")[0].lower().replace("_", "-") for pin in pins}
    on_linux = CORE.union(*(EXTRAS[extra] for extra in ("admin", "watch", "dev", "ci"))) - {"cffi"}
    assert on_linux - pinned == set()
